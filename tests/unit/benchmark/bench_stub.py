"""Stands in for `sglang.bench_serving`: same arguments, same files, and what the plan says it shall do.

The folder in $STUB holds `plan` (one word a call, the last one for all further calls) and gets `calls`.
Words: ok, crash, silent (ends well without a result), hang, stubborn (hangs, and takes no SIGTERM), and
lose=N (N requests fail).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

BASE_MS = 100.0


def main() -> int:
    folder = Path(os.environ["STUB"])
    with open(folder / "calls", "a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    number = len((folder / "calls").read_text().splitlines())
    plan = (folder / "plan").read_text().split()
    word, _, lost = plan[min(number, len(plan)) - 1].partition("=")
    print(f"call {number}: {word}", end="", flush=True)  # No line end: as a progress bar leaves it.
    if word == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if word in ("hang", "stubborn"):
        (folder / "hangs").write_text(str(os.getpid()))
        time.sleep(600)
    if word == "crash":
        sys.stderr.write("\nValueError: Warmup failed\n")
        return 1
    if word == "silent":
        return 0
    parser = argparse.ArgumentParser()
    for flag in ("--max-concurrency", "--num-prompts", "--output-file"):
        parser.add_argument(flag)
    said, _ = parser.parse_known_args()
    completed = int(said.num_prompts) - int(lost or 0)
    _report(int(said.max_concurrency), completed, BASE_MS + number, Path(said.output_file))
    return 0


def _report(concurrency: int, completed: int, ttft_ms: float, output: Path) -> None:
    print(f"\n{' Serving Benchmark Result ':=^50}")
    print(f"{'Max request concurrency:':<40} {concurrency:<10}")
    print(f"{'Successful requests:':<40} {completed:<10}")
    print(f"{'Mean TTFT (ms):':<40} {ttft_ms:<10.2f}")
    print("=" * 50)
    result = {"max_concurrency": concurrency, "completed": completed, "mean_ttft_ms": ttft_ms + 0.0625}
    with open(output, "a") as file:
        file.write(json.dumps(result) + "\n")


sys.exit(main())
