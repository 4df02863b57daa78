"""Settings of `pd-worker`: flags, then PD_WORKER_* variables, then a TOML file, then defaults."""

from __future__ import annotations

import argparse
import os
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from proxy import errors
from proxy.discovery.etcd import EtcdRules
from proxy.roster import Role
from workers.engine.config import EngineConfig
from workers.errors import ConfigurationError
from workers.launch_settings import LaunchOptions, LaunchSettings
from workers.run_settings import RunSettings

_PROGRAM = "pd-worker"


class WorkerSettings(BaseSettings, RunSettings, LaunchOptions, EngineConfig):
    """Runs one worker: an SGLang engine, and its place in the registry.

    `--engine sglang` launches sglang.launch_server and watches it; what stands after `--` is for it.
    `--engine simulated` behaves as an SGLang server without a GPU: same routes, same errors, a real bootstrap
    handshake between prefill and decode, faults on demand at /simulate/faults.
    """

    model_config = SettingsConfigDict(
        env_prefix="PD_WORKER_",
        cli_prog_name=_PROGRAM,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        extra="forbid",
        frozen=True,
    )

    engine: Literal["simulated", "sglang"] = Field(default="simulated", description="what serves")
    config: Path | None = Field(
        default=None, description="TOML file with these settings, names with underscores"
    )
    incremental_streaming_output: bool = Field(
        default=False,
        validation_alias=AliasChoices("incremental_streaming_output", "stream_output"),
        description="stream disjoint deltas on /generate (0.5.2 calls it --stream-output)",
    )
    bootstrap_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("bootstrap_port", "disaggregation_bootstrap_port"),
        description="prefill: port of the bootstrap server; 0 takes any free one",
    )
    worker_id: str | None = Field(default=None, description="name in the registry; by default role-host-port")
    etcd_endpoints: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="etcd URLs, separated by commas; none: the worker is not registered"
    )
    etcd_user: str | None = Field(default=None, description="user of etcd")
    etcd_password: str | None = Field(default=None, description="password of etcd")
    etcd_cafile: str | None = Field(default=None, description="PEM of etcd's authority")
    etcd_certfile: str | None = Field(default=None, description="PEM of the client's certificate for etcd")
    etcd_keyfile: str | None = Field(default=None, description="PEM of its key")
    registry_root: str = Field(default="pd", description="root of the keys in etcd")
    registry_ttl_s: int = Field(default=15, ge=2, description="seconds that the key outlives the worker")

    @field_validator("etcd_endpoints", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come before all of these; `init_settings` is the file."""
        return env_settings, init_settings

    def engine_config(self) -> EngineConfig:
        """What of it is the engine's."""
        return EngineConfig(**{name: getattr(self, name) for name in EngineConfig.model_fields})

    def launch(self) -> LaunchSettings:
        """What of it the launch plan is made of: what was not said is left to the catalogue.

        Raises:
            ConfigurationError: the role or the model was not said.
        """
        for name, example in (("role", "--role prefill or --role decode"), ("model", "--model Qwen3-32B")):
            if name not in self.model_fields_set:
                raise ConfigurationError(f"{name}: --engine sglang needs it: {example}")
        return self.launch_or_node()

    def launch_or_node(self) -> LaunchSettings:
        """The same where only the node is looked at: without a role, a prefill; without a model, none."""
        said = {
            name: getattr(self, name) for name in LaunchSettings.model_fields if name in self.model_fields_set
        }
        return LaunchSettings(**({"role": Role.PREFILL, "model": ""} | said))

    def etcd_rules(self) -> EtcdRules | None:
        """None: the worker is not registered.

        Raises:
            ValueError: an endpoint is no URL, or half a pair of settings is missing.
        """
        if not self.etcd_endpoints:
            return None
        return EtcdRules(
            endpoints=self.etcd_endpoints,
            user=self.etcd_user,
            password=self.etcd_password,
            cafile=self.etcd_cafile,
            certfile=self.etcd_certfile,
            keyfile=self.etcd_keyfile,
        )


def _file(arguments: list[str]) -> dict[str, Any]:
    """What the file says that `--config` or PD_WORKER_CONFIG names; nothing without one."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=os.environ.get("PD_WORKER_CONFIG"))
    named = finder.parse_known_args(arguments)[0].config
    if named is None:
        return {}
    try:
        return tomllib.loads(Path(named).read_text())
    except OSError as error:
        raise errors.SettingsError(f"config: cannot read {named}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise errors.SettingsError(f"config: {named} is not TOML: {error}") from None


def _with_engine_arguments(arguments: list[str]) -> list[str]:
    """What stands after `--`, as one setting."""
    if "--" not in arguments:
        return arguments
    at = arguments.index("--")
    return [*arguments[:at], f"--engine-arguments={shlex.join(arguments[at + 1 :])}"]


def read_settings(arguments: list[str]) -> WorkerSettings:
    """The settings of this run.

    Raises:
        errors.SettingsError: one is wrong; the message names it, one line each.
        SystemExit: `--help`, or a flag that does not exist.
    """
    arguments = _with_engine_arguments(arguments)
    try:
        return CliApp.run(WorkerSettings, cli_args=arguments, **_file(arguments))
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']} (got {one['input']!r})"
            for one in error.errors()
        ]
        raise errors.SettingsError("\n".join(lines)) from None
    except (SettingsError, ValueError) as error:
        raise errors.SettingsError(str(error)) from None
