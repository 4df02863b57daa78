#!/usr/bin/env bash
# Usage: run.sh PYTHON [words for pytest]
# Installs the real SGLang where it is not yet, and runs the tests against it. Where it cannot be installed, says
# why and succeeds: PD_REAL_SGLANG=FOLDER names an installation made elsewhere by install.sh.
set -euo pipefail
python=${1:?usage: run.sh PYTHON [words for pytest]}
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PD_REAL_SGLANG=${PD_REAL_SGLANG:-tests/e2e/.cache/real-sglang}
code=0
tests/real/install.sh "$PD_REAL_SGLANG" || code=$?
if [ "$code" = 77 ]; then
    echo "skipped"
    exit 0
fi
[ "$code" = 0 ] || exit "$code"
exec "$python" -m pytest -vv tests/real "$@"
