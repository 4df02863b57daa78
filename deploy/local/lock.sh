#!/usr/bin/env bash
# Usage: lock.sh [--upgrade]
# Writes the lock files from pyproject.toml, each for every Python from 3.11 on, with hashes:
#   requirements.lock          everything that developing, testing and running need
#   requirements-run.lock      what `make run` needs, at the same versions
#   requirements-runtime.lock  what the package itself needs, at the same versions: for images
# Pins that still satisfy pyproject.toml stay; --upgrade moves them to the newest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/python" -m pip install -qq --disable-pip-version-check uv

lock() {
    "$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate "$@" pyproject.toml
}

lock --group dev "$@" --output-file requirements.lock
lock --group local --constraint requirements.lock --output-file requirements-run.lock
lock --constraint requirements.lock --output-file requirements-runtime.lock
echo "The lock files are written; 'make setup' installs requirements.lock."
