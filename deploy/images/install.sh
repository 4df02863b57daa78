#!/bin/sh
# Usage: install.sh dependencies|project PYTHON
# Makes /opt/pd/.venv with PYTHON, in two steps, so that an edit of the source costs only the second:
#   dependencies  what requirements-runtime.lock pins, by hash, as wheels
#   project       the source in /opt/pd, in place (a .pth file), with its command lines
# The environment gets no pip: that of PYTHON installs into it.
set -eu
cd /opt/pd
step=$1 python=$2
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Build secrets: authorities to trust, and pip's settings (an index of your own, with its password).
[ ! -f /run/secrets/ca ] || export PIP_CERT=/run/secrets/ca
[ ! -f /run/secrets/pip ] || export PIP_CONFIG_FILE=/run/secrets/pip

into_environment() {
    "$python" -m pip --quiet --python .venv/bin/python "$@"
}

case $step in
dependencies)
    "$python" -m venv --without-pip .venv
    into_environment install --require-hashes --only-binary :all: -r requirements-runtime.lock
    ;;
project)
    # The build backend, from the big lock file: its lines, and those of its hashes.
    sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock >/tmp/backend
    into_environment install --require-hashes --only-binary :all: -r /tmp/backend
    into_environment install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
    into_environment uninstall --yes setuptools
    rm -rf /tmp/backend build ./*.egg-info deploy/images/offline
    # why -I: a PYTHONPATH that the base image sets for its own Python is not for ours.
    sed -i '1s|$| -I|' .venv/bin/pd-proxy .venv/bin/pd-worker
    .venv/bin/python -m compileall -q proxy workers deploy
    ;;
*)
    echo "install.sh: no step $step" >&2
    exit 2
    ;;
esac
