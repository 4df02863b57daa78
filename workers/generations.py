"""What differs between SGLang's versions: its number, and flags that came, went or were renamed.

Flags are (name, values) here, the name with its dashes. Read in the `server_args.py` of the releases 0.5.2rc1
to 0.5.23; a flag is only listed if a worker of a prefill/decode pair is likely to be given it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from workers.errors import ConfigurationError


class Flag(NamedTuple):
    """One flag of sglang.launch_server, as it will stand on its command line."""

    name: str
    values: tuple[str, ...] = ()


_VERSION = re.compile(
    r"v?(\d+)\.(\d+)\.(\d+)"
    r"(?:\.?(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?(?:\+[\w.\-]+)?"
)
_STAGES = {"a": 0, "b": 1, "rc": 2}
_RELEASED = 3


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """An SGLang version, ordered as Python packages are: dev < rc < release < post."""

    release: tuple[int, int, int]
    stage: tuple[int, int] = (_RELEASED, 0)
    post: int = 0
    development: float = float("inf")
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Reads `0.5.2rc1`, `0.5.15.post1`, `0.5.3.dev12+gab12cd`, each with or without a leading v.

        Raises:
            ConfigurationError: it has another form.
        """
        found = _VERSION.fullmatch(text.strip())
        if found is None:
            raise ConfigurationError(
                f"engine_version: {text!r} is no version of SGLang: give it with --engine-version, as 0.5.23"
            )
        major, minor, patch, stage, number, post, development = found.groups()
        if stage is not None:
            level = (_STAGES[stage], int(number))
        elif development is not None and post is None:
            level = (-1, 0)
        else:
            level = (_RELEASED, 0)
        return cls(
            release=(int(major), int(minor), int(patch)),
            stage=level,
            post=int(post or 0),
            development=float("inf") if development is None else int(development),
            text=text.strip().removeprefix("v"),
        )

    def __str__(self) -> str:
        return self.text


OLDEST = Version.parse("0.5.2rc1")
NEWEST = Version.parse("0.5.23")
"""The newest whose flags were read; a later one is taken for it, with a note."""


@dataclass(frozen=True, slots=True)
class _Rename:
    """From `at` on, `old` is written as `new`; where a new one has no values, it takes the old one's."""

    old: str
    new: tuple[Flag, ...]
    at: Version


def _renamed(old: str, new: str, at: str) -> _Rename:
    return _Rename(old, (Flag(new),), Version.parse(at))


_RENAMES = (
    _renamed("--stream-output", "--incremental-streaming-output", "0.5.10"),
    _renamed("--cuda-graph-bs", "--cuda-graph-bs-decode", "0.5.14"),
    _renamed("--cuda-graph-max-bs", "--cuda-graph-max-bs-decode", "0.5.14"),
    _Rename(
        "--disable-cuda-graph",
        (
            Flag("--cuda-graph-backend-decode", ("disabled",)),
            Flag("--cuda-graph-backend-prefill", ("disabled",)),
        ),
        Version.parse("0.5.14"),
    ),
)
_FORWARD: Mapping[str, _Rename] = MappingProxyType({one.old: one for one in _RENAMES})
_BACKWARD: Mapping[str, _Rename] = MappingProxyType(
    {one.new[0].name: one for one in _RENAMES if len(one.new) == 1}
)

_GONE: Mapping[str, tuple[Version, str]] = MappingProxyType(
    {
        "--disaggregation-decode-tp": (Version.parse("0.5.10"), "the sides tell each other their sizes"),
        "--disaggregation-decode-dp": (Version.parse("0.5.10"), "the sides tell each other their sizes"),
        "--disaggregation-prefill-pp": (Version.parse("0.5.10"), "the sides tell each other their sizes"),
        "--prefill-round-robin-balance": (Version.parse("0.5.20"), "the request's room chooses the rank"),
    }
)
"""Flags that may be left out where they are gone: nothing is lost by it."""

_CAME: Mapping[str, Version] = MappingProxyType(
    {
        "--disaggregation-decode-polling-interval": Version.parse("0.5.3"),
        "--disaggregation-decode-enable-offload-kvcache": Version.parse("0.5.3"),
        "--disaggregation-decode-enable-radix-cache": Version.parse("0.5.11"),
        "--cuda-graph-bs-prefill": Version.parse("0.5.14"),
        "--cuda-graph-max-bs-prefill": Version.parse("0.5.14"),
        "--disable-prefill-cuda-graph": Version.parse("0.5.14"),
        "--disable-decode-cuda-graph": Version.parse("0.5.14"),
        "--cuda-graph-backend-decode": Version.parse("0.5.14"),
        "--cuda-graph-backend-prefill": Version.parse("0.5.14"),
        "--disaggregation-decode-extra-slots": Version.parse("0.5.14"),
        "--disaggregation-decode-retraction-backup": Version.parse("0.5.18"),
        "--enable-pd-role-switch": Version.parse("0.5.21"),
        "--disaggregation-decode-host-receive-threshold": Version.parse("0.5.21"),
        "--disaggregation-enable-kv-checksum": Version.parse("0.5.21"),
        "--attn-dp-size": Version.parse("0.5.22"),
        "--disaggregation-decode-allocation-policy": Version.parse("0.5.22"),
    }
)

_BACKENDS: Mapping[str, Version] = MappingProxyType(
    {"mooncake": OLDEST, "nixl": OLDEST, "mori": Version.parse("0.5.9")}
)
TRANSFER_BACKENDS = tuple(_BACKENDS)
_ATTENTION_DP_SIZE = Version.parse("0.5.22")


@dataclass(frozen=True, slots=True)
class Translated:
    """Flags as one version spells them, and what was changed on the way, for people."""

    flags: tuple[Flag, ...]
    notes: tuple[str, ...]


def translate(flags: Iterable[Flag], version: Version) -> Translated:
    """Spells flags of any supported version as `version` does.

    Raises:
        ConfigurationError: a flag has no meaning there; the message says since or until when it has.
    """
    spelt: list[Flag] = []
    notes: list[str] = []
    for flag in flags:
        gone = _GONE.get(flag.name)
        if gone is not None and version >= gone[0]:
            notes.append(f"{flag.name} left out: gone since SGLang {gone[0]}, {gone[1]}")
            continue
        _check(flag, version)
        new = _respelt(flag, version)
        if new != (flag,):
            notes.append(f"{flag.name} is {' '.join(one.name for one in new)} in SGLang {version}")
        spelt.extend(new)
    return Translated(tuple(spelt), tuple(notes))


def _check(flag: Flag, version: Version) -> None:
    came = _CAME.get(flag.name)
    if came is not None and version < came:
        raise ConfigurationError(
            f"{flag.name}: came with SGLang {came}, and the engine is {version}: leave it out, or update"
        )


def _respelt(flag: Flag, version: Version) -> tuple[Flag, ...]:
    forward = _FORWARD.get(flag.name)
    if forward is not None and version >= forward.at:
        return tuple(Flag(new.name, new.values or flag.values) for new in forward.new)
    backward = _BACKWARD.get(flag.name)
    if backward is not None and version < backward.at:
        return (Flag(backward.old, flag.values),)
    return (flag,)


def attention_dp(dp_size: int, version: Version) -> tuple[Flag, ...]:
    """Data parallel attention of `dp_size` groups within the tensor parallel ranks."""
    if version >= _ATTENTION_DP_SIZE:
        return (Flag("--attn-dp-size", (str(dp_size),)),)
    return (Flag("--dp-size", (str(dp_size),)), Flag("--enable-dp-attention"))


def check_supported(version: Version, transfer_backend: str) -> tuple[str, ...]:
    """Refuses what cannot work.

    Returns:
        Notes: what is doubtful.

    Raises:
        ConfigurationError: the engine is too old, or does not have the backend.
    """
    if version < OLDEST:
        raise ConfigurationError(
            f"engine_version: SGLang {version} is older than {OLDEST}, the first that this worker knows how "
            "to launch: update it, or name a newer one with --engine-python"
        )
    came = _BACKENDS.get(transfer_backend)
    if came is None:
        raise ConfigurationError(
            f"transfer_backend: {transfer_backend!r} is not one of {', '.join(TRANSFER_BACKENDS)}"
        )
    if version < came:
        raise ConfigurationError(
            f"transfer_backend: {transfer_backend} came with SGLang {came}, and the engine is {version}: "
            "use mooncake, or update"
        )
    if version.release > NEWEST.release:
        return (f"SGLang {version} is newer than {NEWEST}, the newest known here: launched like that one",)
    return ()
