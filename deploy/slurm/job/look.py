"""What a node looks like before the job starts there. One line of JSON a node, on Slurm's own channel."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

import msgspec

from deploy.slurm.job import services
from deploy.slurm.job.address import own_address, resolve
from deploy.slurm.job.layout import Place, ports
from deploy.slurm.job.settings import JobSettings, catalogue
from workers.doctor.checks import check
from workers.doctor.finding import Finding, Level, failure, ok
from workers.doctor.node import examine, why_not_listen
from workers.settings import read_settings
from workers.weights import Weights, candidates, locate

_OURS = ("weights", "same weights")
"""Checks of the doctor that are made here for every node and engine."""


class Look(msgspec.Struct, frozen=True):
    """One node. None: not known, or there is none."""

    node: str
    """Its name in Slurm."""
    failed: str = ""
    """Why nothing else is known: written by the step's own shell where the container could not start."""
    address: str | None = None
    """At which others reach it."""
    head_address: str | None = None
    """What the name of rank 0's node means here."""
    weights: str | None = None
    """Their folder."""
    fingerprint: str | None = None
    image: str | None = None
    """The image's id."""
    engine_version: str | None = None
    findings: tuple[Finding, ...] = ()


def look(settings: JobSettings, place: Place, head: str, environ: Mapping[str, str]) -> Look:
    """Looks at this node for its part in the job; with a real engine up to a few minutes."""
    found = own_address(settings, head)
    weights, findings = _weights(settings, place)
    findings = [*_ports(settings, place), *_folder(settings), *_programs(place), *findings]
    if found.address is None:
        findings.append(failure("address", found.problem, "see docs/slurm.md, Addresses"))
    version = None
    if place.role is not None and settings.engine == "sglang":
        version, more = _doctor(settings, place, found.address, weights, environ)
        findings += more
    return Look(
        node=place.node,
        address=found.address,
        head_address=resolve(head),
        weights=str(weights.path) if weights else None,
        fingerprint=weights.fingerprint if weights else None,
        image=environ.get("PD_JOB_IMAGE_ID") or None,
        engine_version=version,
        findings=tuple(findings),
    )


def as_line(seen: Look) -> str:
    """For the step's stdout."""
    return msgspec.json.encode(seen).decode()


def read_looks(text: str) -> dict[str, Look]:
    """The looks among a step's output, by node; other lines are not ours."""
    found: dict[str, Look] = {}
    for line in text.splitlines():
        try:
            seen = msgspec.json.decode(line, type=Look)
        except msgspec.MsgspecError:
            continue
        found[seen.node] = seen
    return found


def needs_weights(settings: JobSettings, place: Place) -> bool:
    """Workers do; the proxy's node only for the benchmark's tokenizer."""
    return place.role is not None or not (settings.skip_benchmark or settings.benchmark_tokenizer)


def _weights(settings: JobSettings, place: Place) -> tuple[Weights | None, list[Finding]]:
    if not needs_weights(settings, place):
        return None, []
    folders = catalogue(settings).folders_of(settings.model)
    places = candidates(settings.model, folders, settings.model_path, settings.model_folders)
    found = locate(places)
    if found is None:
        looked = ", ".join(map(str, places))
        said = f"no weights of {settings.model} (looked for config.json in {looked})"
        return None, [failure("weights", said, "copy them to this node, or set MODEL_PATH or MODEL_DIR")]
    if found.missing:
        said = f"{found.path} lacks {', '.join(found.missing[:3])}"
        return found, [failure("weights", said, "copy the folder anew, whole")]
    return found, [ok("weights", f"{found.path}, {found.fingerprint}")]


def _ports(settings: JobSettings, place: Place) -> Iterator[Finding]:
    for port, owner in ports(settings, place).items():
        reason = why_not_listen("", port)
        if reason is not None:
            advice = f"ss -ltnp 'sport = :{port}' on that node shows who has it; or set another port"
            yield failure(f"port {port} of {owner}", reason, advice)


def _folder(settings: JobSettings) -> Iterator[Finding]:
    try:
        settings.logs.mkdir(parents=True, exist_ok=True)
        probe = settings.logs / f".writable-{os.getpid()}-{socket.gethostname()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield failure("logs", f"cannot write in {settings.logs}: {error.strerror}", "set LOG_PATH")


def _programs(place: Place) -> Iterator[Finding]:
    if place.has_etcd and services.etcd_binary() is None:
        yield failure("etcd", "there is none on the PATH", "install it, or use the image, which has it")


def _doctor(
    settings: JobSettings,
    place: Place,
    address: str | None,
    weights: Weights | None,
    environ: Mapping[str, str],
) -> tuple[str | None, list[Finding]]:
    """Limits, devices, fabric, engine and plan, as `pd-worker doctor` finds them."""
    service = services.worker(
        settings, place, address or "127.0.0.1", str(weights.path) if weights else None, ()
    )
    launch = read_settings(list(service.argv[services.WORKER_WORDS :])).launch_or_node()
    node = examine(launch, environ)
    left_out = {*_OURS, *(() if weights else ("plan",))}
    findings = [one for one in check(node) if one.check not in left_out and not one.check.startswith("port ")]
    return node.engine_version, findings


def failures(seen: Look) -> list[Finding]:
    """What will not work there."""
    return [one for one in seen.findings if one.level is Level.FAILURE]
