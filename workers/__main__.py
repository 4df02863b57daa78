"""`pd-worker`: runs one worker until SIGTERM or SIGINT, then drains, withdraws and ends."""

from __future__ import annotations

import os
import sys

import uvloop

from proxy.errors import SettingsError
from workers.settings import WorkerSettings, read_settings

_BAD_SETTING = 2


def main() -> None:
    """The console script."""
    if sys.argv[1:2] == ["doctor"]:
        from workers.doctor.report import main as doctor  # why here: it looks at the node, and runs nothing

        sys.exit(doctor(sys.argv[2:]))
    try:
        settings = read_settings(sys.argv[1:])
        settings.etcd_rules()
        code = _sglang(settings) if settings.engine == "sglang" else _simulated(settings)
    except (SettingsError, ValueError) as error:
        for line in str(error).splitlines():
            print(f"pd-worker: {line}", file=sys.stderr)
        code = _BAD_SETTING
    sys.exit(code)


def _simulated(settings: WorkerSettings) -> int:
    from workers.simulation import simulate

    return uvloop.run(simulate(settings))


def _sglang(settings: WorkerSettings) -> int:
    """Plans, and shows the plan or follows it; the exit code.

    Raises:
        SettingsError: it cannot work, and nothing was launched.
    """
    from workers.facts import gather  # why here: neither engine needs what the other imports
    from workers.plan import make_plan
    from workers.service import serve

    launch = settings.launch()
    plan = make_plan(launch, gather(launch, os.environ))
    if settings.dry_run:
        print(plan.render(), end="")
        return 0
    return uvloop.run(serve(settings, plan, os.environ))


if __name__ == "__main__":
    main()
