#!/usr/bin/env python3
"""Tabulates a sweep's log: python3 benchmark_parser.py LOG [--csv [FILE]] [--compact] [--no-screen] [--plot].

Needs Python 3.8 or newer, and the folder `benchmark` beside it; nothing else.
"""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    if not (Path(__file__).resolve().parent / "benchmark" / "parser.py").is_file():
        sys.exit("benchmark_parser.py: the folder `benchmark` is missing beside it: copy both")
    sys.exit(import_module("benchmark.parser").main())
