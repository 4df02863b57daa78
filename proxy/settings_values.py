"""The kinds of values that settings take, and how people may write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeVar
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, FilePath, SecretStr

from proxy.roster import Role, Worker

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting allows, in words: stands in errors, in --help and in the docs."""

    text: str
    metavar: str


_UNITS_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{infix}b": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for infix, base in (("", 1000), ("i", 1024))
}
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = re.compile(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _amount(text: str, units: dict[str, float] | dict[str, int]) -> float | int:
    found = _AMOUNT.fullmatch(text.strip())
    unit = units.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"{text!r} is not a number with a unit of {', '.join(filter(None, units))}")
    number = float(found[1]) if "." in found[1] else int(found[1])
    return number * unit


def _seconds(value: object) -> object:
    return float(_amount(value, _UNITS_S)) if isinstance(value, str) else value


def _size_bytes(value: object) -> object:
    return int(_amount(value, _UNITS_BYTES)) if isinstance(value, str) else value


def _listed(value: object) -> object:
    """A comma-separated string is a list; so is a repeated flag, whose items may hold commas in turn."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list):
        return [item for each in value for item in _as_list(each)]
    return value


def _as_list(item: object) -> list[object]:
    return [part.strip() for part in item.split(",") if part.strip()] if isinstance(item, str) else [item]


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    lowered = _lower(value)
    return "warning" if lowered == "warn" else lowered


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of an HTTP header")
    return value.lower()


def _worker_url(value: str) -> str:
    url = value.rstrip("/")
    Worker(worker_id=url, url=url, role=Role.DECODE)
    return url


def _endpoint(value: str) -> str:
    url = (value if "://" in value else f"http://{value}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port is None or parts.path:
        raise ValueError(f"{value!r} is not of the form http://host:port")
    return url


def _bearer(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ValueError("a key is printable ASCII without spaces, for it travels in a header")
    return value


class StaticPrefill(NamedTuple):
    """A prefill of the static list; without a bootstrap port the engine uses its own (8998)."""

    url: str
    bootstrap_port: int | None


def _static_prefill(value: object) -> object:
    """Takes "URL", "URL PORT", [URL], [URL, PORT]; the port may be "none", as in sglang-router."""
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= 2 or not isinstance(parts[0], str):
        raise ValueError(f"{value!r} is not URL [BOOTSTRAP_PORT]")
    url = _worker_url(parts[0])
    port = parts[1] if len(parts) == 2 else None
    if port is None or str(port).lower() == "none":
        return StaticPrefill(url, None)
    if not str(port).isdecimal():
        raise ValueError(f"bootstrap port {port!r} is not a number (nor none)")
    Worker(worker_id=url, url=url, role=Role.PREFILL, bootstrap_port=int(port))
    return StaticPrefill(url, int(port))


class VersionPair(NamedTuple):
    """Two engine versions that may work together."""

    one: str
    other: str


def _version_pair(value: object) -> object:
    parts = value.split("=") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not all(parts):
        raise ValueError(f"{value!r} is not VERSION=VERSION")
    return VersionPair(str(parts[0]).strip(), str(parts[1]).strip())


_DURATION = 'seconds, or with a unit as "150ms", "30s", "5m", "1h"'
_SIZE = 'bytes, or with a unit as "64KiB", "512MiB", "4GB"'

Port = Annotated[int, Ge(0), Le(65535), Kind("a port, 0 to 65535 (0: any free one)", "PORT")]
Seconds = Annotated[
    float, BeforeValidator(_seconds), Ge(0), Le(1e9), Kind(f"{_DURATION}; 0 or more", "SECONDS")
]
Timeout = Annotated[
    float, BeforeValidator(_seconds), Gt(0), Le(1e9), Kind(f"{_DURATION}; more than 0", "SECONDS")
]
Size = Annotated[int, BeforeValidator(_size_bytes), Ge(1024), Kind(f"{_SIZE}; at least 1024", "BYTES")]
Share = Annotated[float, Ge(0), Le(1), Kind("a number from 0 to 1", "SHARE")]
Rate = Annotated[float, Ge(0), Le(1e6), Kind("a number, 0 or more", "PER_SECOND")]
RateAboveZero = Annotated[float, Gt(0), Le(1e6), Kind("a number above 0", "PER_SECOND")]
Count = Annotated[int, Ge(1), Kind("a whole number, 1 or more", "N")]
CountOrZero = Annotated[int, Ge(0), Kind("a whole number, 0 or more", "N")]
Text = Annotated[str, Kind("a text", "TEXT")]
Host = Annotated[str, Kind("an address or host name", "HOST")]
UrlPath = Annotated[str, Kind("a path that starts with /", "PATH")]
HeaderName = Annotated[str, AfterValidator(_header), Kind("an HTTP header's name", "HEADER")]
WorkerUrl = Annotated[str, AfterValidator(_worker_url), Kind("http://host:port", "URL")]
EndpointUrl = Annotated[str, AfterValidator(_endpoint), Kind("http://host:port or https://host:port", "URL")]
ReadableFile = Annotated[FilePath, Kind("a file that exists", "FILE")]
Prefill = Annotated[
    StaticPrefill, BeforeValidator(_static_prefill), Kind("URL [BOOTSTRAP_PORT]", "URL [BOOTSTRAP_PORT]")
]
Versions = Annotated[VersionPair, BeforeValidator(_version_pair), Kind("VERSION=VERSION", "VERSION=VERSION")]
Key = Annotated[SecretStr, AfterValidator(_bearer), Kind("printable ASCII without spaces", "SECRET")]
Password = Annotated[SecretStr, Kind("a secret", "SECRET")]
LowerCase = BeforeValidator(_lower)
LevelName = BeforeValidator(_level)
Listed = Annotated[tuple[_T, ...], BeforeValidator(_listed)]
