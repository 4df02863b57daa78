#!/usr/bin/env bash
# Usage: venv.sh FOLDER all|run [PYTHON]
# Makes the virtual environment FOLDER with what requirements.lock pins (all), or with the quarter of it that
# `make run` needs (requirements-run.lock), and this project in it, editable.
# FOLDER/.ready-all or .ready-run is written last: make takes its absence as "not done".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=${1:?usage: venv.sh FOLDER all|run [PYTHON]}
part=${2:?usage: venv.sh FOLDER all|run [PYTHON]}
wanted=${3:-}
case $part in
    all) lock=requirements.lock ;;
    run) lock=requirements-run.lock ;;
    *) echo "venv.sh: $part is neither all nor run" >&2; exit 2 ;;
esac

fail() {
    printf 'set-up: %s\n' "$@" >&2
    exit 1
}

# A version manager's shim may exist and not run: ask the interpreter itself.
is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

choose_python() {
    local candidate
    if [ -n "$wanted" ]; then
        is_new_enough "$wanted" || fail "PYTHON=$wanted does not run, or is older than Python 3.11."
        echo "$wanted"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer on the PATH." \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3"
}

make_environment() {
    local python version
    python=$(choose_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "Python $version ($python) has no venv module." \
            "On Debian and Ubuntu it is a package of its own: apt-get install python$version-venv"
    echo "set-up: environment $folder with Python $version"
    "$python" -m venv --clear "$folder"
}

install() {
    # Twice quiet: errors only. What pip warns of here (its own age, unused index locations) helps nobody.
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check "$@"
}

# An environment whose interpreter has gone (an upgrade, a moved folder) is made anew, and so is one
# of another Python than the one asked for.
is_usable() {
    is_new_enough "$folder/bin/python" || return 1
    [ -z "$wanted" ] || [ "$(version_of "$wanted")" = "$(version_of "$folder/bin/python")" ]
}

version_of() {
    "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null
}

is_up_to_date() {
    local input
    is_usable || return 1
    for input in "$lock" pyproject.toml deploy/local/venv.sh; do
        [ "$folder/.ready-$part" -nt "$input" ] || return 1
    done
}

! is_up_to_date || exit 0
rm -f "$folder"/.ready-*
is_usable || make_environment
echo "set-up: installing what $lock pins"
install --require-hashes -r "$lock" || fail "pip could not install $lock (see above)."
install --no-deps --no-build-isolation -e . || fail "pip could not install this project (see above)."
# Who has all has what `make run` needs.
[ "$part" = run ] || touch "$folder/.ready-run"
touch "$folder/.ready-$part"
