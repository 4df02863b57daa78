"""Settings of a job: the recipe's environment variables under their own names, and ours, PD_JOB_*."""

from __future__ import annotations

import difflib
import ipaddress
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from proxy.errors import SettingsError
from workers.catalogue import Catalogue, load

OWN_PREFIX = "PD_JOB_"
INTERNAL = frozenset(
    ("PD_JOB_NODES", "PD_JOB_SECRET", "PD_JOB_PASSED", "PD_JOB_CHECKOUT", "PD_JOB_PYTHON", "PD_JOB_IMAGE_ID")
)
"""Between the batch script and its parts; PD_JOB_CHECKOUT and PD_JOB_PYTHON are the script's own settings."""


class Runtime(StrEnum):
    """What the parts run in on every node."""

    DOCKER = "docker"
    PODMAN = "podman"
    ENROOT = "enroot"
    NONE = "none"


class Layout(StrEnum):
    """Where the proxy is: on a node of its own, or beside the first prefill."""

    SEPARATE = "separate"
    COLOCATED = "colocated"


def _list(value: Any) -> Any:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


def _as_in_a_shell(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path: it is looked for on every node")
    if set(str(path)) & set(",:\n"):
        raise ValueError("must have no comma, colon or line break in it: container runtimes split there")
    return path


def _subnet(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


Folder = Annotated[Path, AfterValidator(_absolute)]
Folders = Annotated[tuple[Folder, ...], BeforeValidator(_list)]
Words = Annotated[tuple[str, ...], BeforeValidator(_as_in_a_shell)]
Seconds = Annotated[int, Field(ge=1, le=86400 * 7)]
Port = Annotated[int, Field(ge=1, le=65000)]


class JobSettings(BaseModel):
    """One job. Each field's alias is the environment variable; an empty variable counts as unset."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    image: str | None = Field(None, alias="DOCKER_IMAGE_NAME", pattern=r"^[^\s-]\S*$")
    prefills: int = Field(1, ge=1, le=512, alias="xP")
    decodes: int = Field(1, ge=1, le=512, alias="yD")
    model: str = Field(alias="MODEL_NAME")
    log_path: Folder = Field(alias="LOG_PATH")
    job: str = Field("0", alias="SLURM_JOB_ID", pattern=r"^\w+$")
    model_path: Folder | None = Field(None, alias="MODEL_PATH")
    model_dir: Folder | None = Field(None, alias="MODEL_DIR")
    ib_devices: str = Field("auto", alias="IB_DEVICES")
    transfer: Literal["mooncake", "nixl", "mori"] = Field("mooncake", alias="KV_TRANSFER_BACKEND")
    skip_benchmark: bool = Field(False, alias="SKIP_BENCHMARK")
    benchmark_tokenizer: str | None = Field(None, alias="BENCHMARK_TOKENIZER")

    runtime: Runtime = Field(Runtime.DOCKER, alias="PD_JOB_RUNTIME")
    runtime_arguments: Words = Field((), alias="PD_JOB_RUNTIME_ARGS")
    devices: Folders = Field(
        (Path("/dev/kfd"), Path("/dev/dri"), Path("/dev/infiniband")), alias="PD_JOB_DEVICES"
    )
    shm: str = Field("32g", alias="PD_JOB_SHM", pattern=r"^\d+[bkmg]?$")
    layout: Layout = Field(Layout.SEPARATE, alias="PD_JOB_LAYOUT")
    etcd_members: Literal["1", "3"] = Field("1", alias="PD_JOB_ETCD_MEMBERS")
    interface: str | None = Field(None, alias="PD_JOB_INTERFACE", pattern=r"^[\w.:-]{1,15}$")
    subnet: Annotated[str, AfterValidator(_subnet)] | None = Field(None, alias="PD_JOB_SUBNET")
    model_dirs: Folders = Field((), alias="PD_JOB_MODEL_DIRS")
    catalogue: Folder | None = Field(None, alias="PD_JOB_CATALOGUE")
    engine: Literal["sglang", "simulated"] = Field("sglang", alias="PD_JOB_ENGINE")
    engine_python: str = Field("python3", alias="PD_JOB_ENGINE_PYTHON")
    allow_tcp: bool = Field(False, alias="PD_JOB_ALLOW_TCP")
    preflight: Literal["full", "warn"] = Field("full", alias="PD_JOB_PREFLIGHT")
    prefill_arguments: Words = Field((), alias="PD_JOB_PREFILL_ARGS")
    decode_arguments: Words = Field((), alias="PD_JOB_DECODE_ARGS")
    proxy_arguments: Words = Field((), alias="PD_JOB_PROXY_ARGS")
    proxy_port: Port = Field(30000, alias="PD_JOB_PROXY_PORT")
    worker_port: Port = Field(30000, alias="PD_JOB_WORKER_PORT")
    bootstrap_port: Port = Field(8998, alias="PD_JOB_BOOTSTRAP_PORT")
    etcd_port: Port = Field(2379, alias="PD_JOB_ETCD_PORT")
    look_s: Seconds = Field(240, alias="PD_JOB_LOOK_S")
    start_s: Seconds = Field(3600, alias="PD_JOB_START_S")
    unserved_s: Seconds = Field(600, alias="PD_JOB_UNSERVED_S")
    orphaned_s: Seconds = Field(120, alias="PD_JOB_ORPHANED_S")

    @property
    def nodes(self) -> int:
        """How many the job needs."""
        return self.prefills + self.decodes + (self.layout is Layout.SEPARATE)

    @property
    def logs(self) -> Path:
        """The folder of all the job's logs."""
        return self.log_path / self.job

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Folders of models, in the order of search; MODEL_PATH comes before them."""
        return self.model_dirs + ((self.model_dir,) if self.model_dir else ())

    @property
    def weights_mounts(self) -> tuple[Path, ...]:
        """Every folder in which weights may be."""
        own = (self.model_path,) if self.model_path else ()
        return tuple(dict.fromkeys(own + self.model_folders))


VARIABLES = {str(field.alias): name for name, field in JobSettings.model_fields.items()}
"""Environment variable -> field."""


def read_settings(environ: Mapping[str, str]) -> JobSettings:
    """The settings of a job, all of them checked.

    Raises:
        SettingsError: some are wrong: one line each, which begins with the variable's name.
    """
    given = {name: environ[name].strip() for name in VARIABLES if environ.get(name, "").strip()}
    try:
        settings = JobSettings.model_validate(given)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_line, error.errors()))) from None
    problems = [*_strangers(environ), *_contradictions(settings), *_model(settings)]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _line(detail: Any) -> str:
    variable = str(detail["loc"][0])
    if detail["type"] == "missing":
        known = f": one of {', '.join(load().names)}" if variable == "MODEL_NAME" else ""
        return f"{variable}: must be set{known}"
    return f"{variable}: {detail['msg'].removeprefix('Value error, ')} (got {detail['input']!r})"


def _strangers(environ: Mapping[str, str]) -> list[str]:
    """A misspelt setting of ours would otherwise do nothing, and nobody would know."""
    problems = []
    for name in environ:
        if name.startswith(OWN_PREFIX) and name not in VARIABLES and name not in INTERNAL:
            close = difflib.get_close_matches(name, VARIABLES, n=1)
            problems.append(f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return problems


def _contradictions(settings: JobSettings) -> list[str]:
    problems = []
    if settings.image is None and settings.runtime is not Runtime.NONE:
        problems.append(
            f"DOCKER_IMAGE_NAME: must be set for PD_JOB_RUNTIME={settings.runtime}, as in "
            "export DOCKER_IMAGE_NAME=sglang_disagg_pd_image"
        )
    if settings.interface and settings.subnet:
        problems.append("PD_JOB_SUBNET: set beside PD_JOB_INTERFACE: leave one of them out")
    if settings.etcd_members == "3" and settings.nodes < 3:
        problems.append(f"PD_JOB_ETCD_MEMBERS: 3 members need 3 nodes, the job has {settings.nodes}")
    owners: dict[int, str] = {}
    for name, port in (
        ("PD_JOB_ETCD_PORT", settings.etcd_port),
        ("PD_JOB_ETCD_PORT", settings.etcd_port + 1),  # for its peers
        ("PD_JOB_PROXY_PORT", settings.proxy_port),
        ("PD_JOB_BOOTSTRAP_PORT", settings.bootstrap_port),
        ("PD_JOB_WORKER_PORT", settings.worker_port),
    ):
        other = owners.setdefault(port, name)
        if other != name and (other, name) != ("PD_JOB_PROXY_PORT", "PD_JOB_WORKER_PORT"):
            problems.append(f"{name}: {port} belongs to {other}: give it another port")
    return problems


def _model(settings: JobSettings) -> list[str]:
    try:
        names = catalogue(settings).names
    except SettingsError as error:
        return [f"PD_JOB_CATALOGUE: {error.message}"]
    problems = []
    if settings.model not in names:
        close = difflib.get_close_matches(settings.model, names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        problems.append(
            f"MODEL_NAME: {settings.model!r} is not known.{hint} Known: {', '.join(names)}. "
            "PD_JOB_CATALOGUE=FILE adds models of your own"
        )
    if not settings.weights_mounts:
        problems.append(
            "MODEL_PATH: nothing says where the weights are: set MODEL_PATH to their folder, or MODEL_DIR or "
            "PD_JOB_MODEL_DIRS to folders of models"
        )
    return problems


def catalogue(settings: JobSettings) -> Catalogue:
    """The models known to this job.

    Raises:
        SettingsError: the file of the user's own models is wrong.
    """
    return load(settings.catalogue)
