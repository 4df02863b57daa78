"""The command line: `pd-proxy`, or `python -m proxy`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from proxy.errors import SettingsError
from proxy.settings_flags import parser, read
from proxy.settings_loading import load
from proxy.settings_text import effective, markdown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the proxy until it is told to end.

    Returns:
        The exit status: 2 where a setting is wrong.
    """
    try:
        line = read(sys.argv[1:] if argv is None else argv)
        if line.wants == "help":
            print(parser().format_help(), end="")
            return 0
        if line.wants == "version":
            print(f"pd-proxy {_version()}")
            return 0
        if line.wants == "print-docs":
            print(markdown(), end="")
            return 0
        loaded = load(line, os.environ)
    except SettingsError as error:
        print(f"pd-proxy: {error.message}", file=sys.stderr)
        return 2
    if line.wants == "print-config":
        print(effective(loaded), end="")
        return 0
    for notice in loaded.notices:
        print(f"pd-proxy: note: {notice}", file=sys.stderr)
    from proxy.app import run  # why: --help and a wrong setting need none of what it imports

    return run(loaded.settings)


def _version() -> str:
    try:
        return version("pd-proxy")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
