#!/usr/bin/env bash
# Measures the service of a Slurm job over input/output lengths and concurrencies, with SGLang's bench_serving.
#
#   export xP=1 yD=1 MODEL_NAME=Qwen3-32B MODEL_PATH=<its folder> LOG_PATH=<logs>
#   bash benchmark_xPyD.sh            # benchmark_xPyD.sh --help: every setting, as a variable and as a flag
#
# BENCHMARK_PYTHON: the interpreter for the sweep itself (3.8 or newer); BENCHMARK_COMMAND: what it runs.
set -euo pipefail
exec "${BENCHMARK_PYTHON:-python3}" "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/benchmark_sweep.py" "$@"
