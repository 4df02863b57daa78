#!/usr/bin/env bash
# Usage: lock.sh [--upgrade]
# Writes requirements.lock from pyproject.toml: one file for every Python from 3.11 on, with hashes.
# Pins that still satisfy pyproject.toml stay; --upgrade moves them to the newest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/python" -m pip install -qq --disable-pip-version-check uv
"$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --group dev "$@" pyproject.toml --output-file requirements.lock
echo "requirements.lock is written; 'make setup' installs it."
