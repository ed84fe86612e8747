# Sourced by the other scripts: goes to the repository's root and makes .venv from the lock in env/ where
# it is missing or older than the lock. Needs Python 3.11 or later and pip.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local name
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        [ -n "$name" ] || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or later is needed; install it, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

new_environment() {
    local python
    python=$(find_python) || return 1
    rm -rf .venv
    # Debian's Python comes without ensurepip, unless python3-venv is there; pip can fill a venv from outside.
    "$python" -m venv .venv 2>/dev/null && return
    rm -rf .venv
    "$python" -m venv --without-pip .venv && "$python" -m pip --python .venv/bin/python install --quiet pip
}

make_environment() {
    local lock=env/cpu.txt wanted
    wanted=$(cat "$lock" pyproject.toml | cksum)
    [ "$(cat .venv/panic_tda.lock 2>/dev/null)" = "$wanted" ] && return
    if [ -e .venv ] && [ ! -e .venv/panic_tda.lock ]; then
        echo "$PWD/.venv was not made by these scripts; move it away, and they make their own there" >&2
        return 1
    fi
    echo "installing $lock into .venv (once)" >&2
    # An environment that works is brought up to date in place: a long run may be using it.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || new_environment || return 1
    echo unfinished > .venv/panic_tda.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$lock" || return 1
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . || return 1
    echo "$wanted" > .venv/panic_tda.lock
}

make_environment || exit 1
