"""What benchmark_xPyD.sh runs. Needs Python 3.8 or newer, and the folder `benchmark` beside it."""

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.exit(import_module("benchmark.sweeper").main())
