"""The settings as text: the effective ones as TOML, and the pages of docs/configuration.md."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import SecretStr

from proxy.settings_catalogue import LEAVES, SECTIONS, Leaf, shown
from proxy.settings_flags import flags_of
from proxy.settings_loading import Loaded


def effective(loaded: Loaded) -> str:
    """The settings in use, as a TOML file that can be given back; secrets and what is unset are comments."""
    lines: list[str] = []
    for section in SECTIONS:
        lines.append(f"{chr(10) if lines else ''}[{section}]")
        for leaf in (leaf for leaf in LEAVES.values() if leaf.section == section):
            value = getattr(getattr(loaded.settings, section), leaf.name)
            origin = loaded.origins.get(leaf.dotted, "default")
            hidden = value is None or leaf.secret
            text = shown(leaf, value) if hidden else _toml(value)
            lines.append(f"{'# ' if hidden else ''}{leaf.name} = {text}  # {origin}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        if hasattr(value, "_fields"):
            return "[" + ", ".join(_toml(item) for item in value if item is not None) + "]"
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, SecretStr):
        raise TypeError("a secret is never written")
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def markdown() -> str:
    """docs/configuration.md."""
    parts = [_INTRODUCTION]
    for section, model in SECTIONS.items():
        rows = [_row(leaf) for leaf in LEAVES.values() if leaf.section == section]
        parts.append(f"## {section}\n\n{model.__doc__}\n\n{_HEAD}" + "\n".join(rows) + "\n")
    return "\n".join([*parts, _ROUTER])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _row(leaf: Leaf) -> str:
    names = ", ".join(f"`{name}`" for name in flags_of(leaf))
    default = f"`{shown(leaf, leaf.default)}`"
    return f"| `{leaf.name}` | {_cell(leaf.description)} | {_cell(leaf.allowed)} | {default} | {names} |"


_HEAD = "| name | what | allowed | default | flags |\n|---|---|---|---|---|\n"

_INTRODUCTION = """\
# Configuration

<!-- Generated from the settings tree: `python -m proxy --print-docs > docs/configuration.md`. -->

Each setting can be given in four places; the first of them wins:

1. a **flag**: `--limits-body-bytes 1GiB`
2. an **environment variable**, `PD_` + section + `_` + name in capitals: `PD_LIMITS_BODY_BYTES=1GiB`
3. a **TOML file**, named by `--config` or `PD_CONFIG`: `body_bytes = "1GiB"` under `[limits]`
4. the **default**

All is validated once, at the start; an error names the setting, what was given and where, and what is
allowed, and the process ends with status 2. Unknown flags, sections and keys are refused. A variable that
begins like ours but is no setting is told of on stderr and does nothing: Kubernetes makes such for a Service
whose name begins with `pd-` (set `enableServiceLinks: false` where a Service is called `pd-server`, for
its `PD_SERVER_PORT` would be read as ours).

Names that end in `_s` are seconds, those in `_bytes` bytes; both take units (`150ms`, `30s`, `5m`, `1h`;
`64KiB`, `512MiB`, `4GB`). `none` unsets what may be unset. Lists are TOML arrays, or separated by commas;
their flags may be repeated.

**Secrets** have no flag of their own, for everybody on a host can read command lines: give them by
environment variable, in the TOML file, or in a file of their own (`--server-admin-key-file FILE`,
`PD_SERVER_ADMIN_KEY_FILE`, `admin_key_file` in TOML). They are never printed. The one exception is
sglang-router's own `--api-key`, kept for its users.

`pd-proxy --print-config` shows the settings as they would be used, with the origin of each.
"""

_ROUTER = """\
## The flags of sglang-router 0.3.2

`pd-proxy` takes the command line of `python -m sglang_router.launch_router --pd-disaggregation`. Where a flag
is left out, the default above holds, not theirs. What cannot be honoured is refused by name.
[Flag by flag](upgrading-from-sglang-router.md).
"""
