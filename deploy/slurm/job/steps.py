"""The job's srun commands: what each runtime needs for a part to run on a node, and no more."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from deploy.slurm.job.layout import Place
from deploy.slurm.job.settings import JobSettings, Runtime

IMAGE_PYTHON = ("/opt/pd/.venv/bin/python", "-I")
"""Ours; isolated, because a PYTHONPATH that the image sets for SGLang's Python is not for it."""
_SRUN = (
    *("srun", "--no-kill", "--overlap", "--kill-on-bad-exit=0", "--export=ALL"),
    *("--cpu-bind=quiet,none", "--mpi=none"),
)
"""--no-kill: without it the loss of one node ends the steps of all."""
_NOFILE = "--ulimit=nofile=1048576:1048576"
"""why: three sockets a request, and a sweep runs up to 1,024 at once."""
_FOR_A_WORKER = ("--cap-add=IPC_LOCK", "--ulimit=memlock=-1", "--ulimit=stack=67108864")
"""why: RDMA pins the KV cache; SGLang's threads have deep stacks. The proxy needs neither, nor a device."""
_LABEL = "pd-job"
_TOLD_BY_SRUN = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURMD_NODENAME")
_NO_IMAGE = (
    "image {image} is not on this node: {runtime} pull it, or build it here: docker build -t {image} ."
)


def of_node(settings: JobSettings, place: Place, plan: str, passed: Sequence[str]) -> tuple[str, ...]:
    """The step that runs a node's agent.

    Args:
        settings: the job's.
        place: the node's part.
        plan: its plan as JSON.
        passed: names of environment variables for the container.
    """
    where = ("--nodes=1", "--ntasks=1", f"--nodelist={place.node}")
    if settings.runtime in (Runtime.DOCKER, Runtime.PODMAN):
        command = _command("node", "--line", plan)
        name = f"{_name(settings)}-node{place.rank}"
        return (
            *_SRUN,
            *where,
            "bash",
            "-c",
            _in_container(settings, place, name, command, passed, line=True),
        )
    return (*_SRUN, *where, *_pyxis(settings, passed), *_command("node", plan, settings=settings))


def of_look(settings: JobSettings, place: Place, passed: Sequence[str]) -> tuple[str, ...]:
    """The step in which a node looks at itself; one a node, for srun mixes the long lines of several."""
    where = ("--nodes=1", "--ntasks=1", f"--nodelist={place.node}")
    if settings.runtime in (Runtime.DOCKER, Runtime.PODMAN):
        name = f"{_name(settings)}-look{place.rank}"
        return (*_SRUN, *where, "bash", "-c", _in_container(settings, place, name, _command("look"), passed))
    return (*_SRUN, *where, *_pyxis(settings, passed), *_command("look", settings=settings))


def of_cleaning(settings: JobSettings, places: Sequence[Place]) -> tuple[str, ...]:
    """The step that removes what is left of this job's own containers; empty where there are none."""
    if settings.runtime is Runtime.NONE:
        return ()
    runtime = settings.runtime.value
    if settings.runtime is Runtime.ENROOT:  # pyxis puts words before the name, and may keep it for ever
        remove = (
            f"enroot list | grep -E '(^|_){_name(settings)}$' | xargs --no-run-if-empty enroot remove --force"
        )
    else:
        mine = f"{runtime} ps --all --quiet --filter label={_LABEL}={settings.job}"
        remove = f"{mine} | xargs --no-run-if-empty {runtime} rm --force"
    return (*_SRUN, *_everywhere(places), "bash", "-c", remove)


def _name(settings: JobSettings) -> str:
    """Of the job's container on a node, or its beginning."""
    return f"pd-{settings.job}"


def _everywhere(places: Sequence[Place]) -> tuple[str, ...]:
    count = len(places)
    return (
        *(f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"),
        f"--nodelist={','.join(place.node for place in places)}",
    )


def _command(*words: str, settings: JobSettings | None = None) -> tuple[str, ...]:
    """The job's own program, in the image or (runtime none) in the checkout."""
    outside = settings is not None and settings.runtime is Runtime.NONE
    python = (sys.executable,) if outside else IMAGE_PYTHON
    return (*python, "-m", "deploy.slurm.job", *words)


def _pyxis(settings: JobSettings, passed: Sequence[str]) -> tuple[str, ...]:
    """Flags that the plugin pyxis adds to srun; it gives devices and limits of the node by itself."""
    if settings.runtime is not Runtime.ENROOT:
        return ()
    mounts = [f"{settings.log_path}:{settings.log_path}"]
    mounts += [f"{folder}:{folder}:ro" for folder in _read_only(settings)]
    return (
        *(f"--container-image={settings.image}", f"--container-name={_name(settings)}"),
        *(f"--container-mounts={','.join(mounts)}", "--container-writable", "--no-container-mount-home"),
        f"--container-env={','.join(sorted({*passed, *_TOLD_BY_SRUN}))}",
        *settings.runtime_arguments,
    )


def _in_container(
    settings: JobSettings,
    place: Place,
    name: str,
    command: Sequence[str],
    passed: Sequence[str],
    *,
    line: bool = False,
) -> str:
    """One line of bash for a node's host, which may have no Python.

    Devices and folders differ between nodes, so each node looks for those that it has. With `line`, the
    container's stdin is open for as long as this step lives: the agent ends when it closes, however that
    came, so that no container outlives its job.
    """
    runtime, image = settings.runtime.value, settings.image or ""
    missing = _NO_IMAGE.format(image=image, runtime=runtime)
    tell = f"""printf '{{"node": "%s", "failed": "%s"}}\\n' "$SLURMD_NODENAME" {shlex.quote(missing)}"""
    inspect = f"{runtime} image inspect --format '{{{{.Id}}}}' {shlex.quote(image)}"
    flags = [
        *("--rm", "--pull=never", f"--name={name}", f"--label={_LABEL}={settings.job}", "--network=host"),
        *("--security-opt=no-new-privileges", _NOFILE),
        *((f"--shm-size={settings.shm}", *_FOR_A_WORKER) if place.role else ()),
        *(f"--env={one}" for one in sorted({*passed, *_TOLD_BY_SRUN, "PD_JOB_IMAGE_ID"})),
        f"--mount=type=bind,src={settings.logs},dst={settings.logs}",
        *(("--interactive",) if line else ()),
        *(("--group-add=keep-groups",) if settings.runtime is Runtime.PODMAN else ()),
    ]
    commands = [
        f"PD_JOB_IMAGE_ID=$({inspect}) || {{ {tell}; exit 3; }}",
        "export PD_JOB_IMAGE_ID",
        f"mkdir -p {shlex.quote(str(settings.logs))}",
        f"flags=({shlex.join(flags)})",
        _each(settings.devices, '--device="$one"') if place.role else "",
        _each(_read_only(settings), '--mount="type=bind,src=$one,dst=$one,readonly"'),
        "if [[ -e /dev/nvidiactl ]]; then flags+=(--gpus=all); fi" if place.role else "",
        f"flags+=({shlex.join(settings.runtime_arguments)})" if settings.runtime_arguments else "",
        f'exec {runtime} run "${{flags[@]}}" {shlex.quote(image)} {shlex.join(command)}'
        + (" < <(exec sleep infinity)" if line else " < /dev/null"),
    ]
    return "; ".join(one for one in commands if one)


def _each(paths: Sequence[object], flag: str) -> str:
    """For each path that is there, a flag."""
    if not paths:
        return ""
    names = shlex.join(map(str, paths))
    return f"for one in {names}; do if [[ -e $one ]]; then flags+=({flag}); fi; done"


def _read_only(settings: JobSettings) -> tuple[object, ...]:
    own = (settings.catalogue,) if settings.catalogue else ()
    return (*settings.weights_mounts, *own)
