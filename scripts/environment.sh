# Sourced by the other scripts: change to the root of the repository, and create or update .venv from a lock file in
# env/. PANIC_TDA_ENV names the lock file (cpu, cuda12 or cuda13). Without it, an existing .venv keeps its lock file,
# and a new one gets the lock file for the NVIDIA driver. Needs Python 3.11 or later and pip.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local name
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        [ -n "$name" ] || continue
        if "$name" -P -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
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
    # Debian's Python lacks ensurepip without the package python3-venv; pip can install into a venv from outside.
    "$python" -P -m venv .venv 2>/dev/null && return
    rm -rf .venv
    "$python" -P -m venv --without-pip .venv && "$python" -P -m pip --python .venv/bin/python install --quiet pip
}

choose_lock() {
    local name=${PANIC_TDA_ENV:-} version
    [ -n "$name" ] || name=$(cat .venv/panic_tda.env 2>/dev/null)
    # Environments of older versions do not record their lock file.
    if [ -z "$name" ] && [ -e .venv/panic_tda.lock ] && [ ! -e .venv/panic_tda.env ]; then
        name=cpu
        # Tell the user that the device of this machine is not used.
        nvidia-smi >/dev/null 2>&1 &&
            echo "keeping env/cpu.txt, though there is an NVIDIA driver (PANIC_TDA_ENV=cpu, cuda12 or cuda13 chooses)" >&2
    fi
    if [ -z "$name" ]; then
        name=cpu
        # The newest CUDA that the driver runs, such as 13.0.
        version=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9]*\)\..*/\1/p' | head -n 1)
        [ "${version:-0}" -ge 12 ] && name=cuda12
        [ "${version:-0}" -ge 13 ] && name=cuda13
        [ -z "$version" ] ||
            echo "the driver runs CUDA $version: taking env/$name.txt (PANIC_TDA_ENV=cpu, cuda12 or cuda13 chooses)" >&2
    fi
    if [ ! -e "env/$name.txt" ]; then
        echo "PANIC_TDA_ENV must be cpu, cuda12 or cuda13; got $name" >&2
        return 1
    fi
    echo "$name"
}

compile_kernels() {
    .venv/bin/python -P -c 'from panic_tda.clustering.warm_up import compile_everything; compile_everything()' ||
        echo "the compiled loops could not be prepared; the first clustering will try again" >&2
}

install_packages() {
    local pip=(.venv/bin/python -P -m pip --disable-pip-version-check)
    # uv takes a quarter of pip's time for the same wheels, but it does not know the index of pip's configuration.
    if ! "${pip[@]}" config list 2>/dev/null | grep -q '\.index-url=' &&
        "${pip[@]}" install --quiet uv 2>/dev/null &&
        .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python -r "$1" 2>/dev/null; then
        return
    fi
    # pip compiles sources on one core; some packages have sources for other versions of Python, which fail.
    "${pip[@]}" install --quiet --no-compile -r "$1" || return 1
    .venv/bin/python -P -W ignore -m compileall -qq -j 0 .venv/lib || true
}

make_environment() {
    local name lock wanted
    name=$(choose_lock) || return 1
    lock=env/$name.txt
    wanted=$(cat "$lock" pyproject.toml | cksum)
    [ "$(cat .venv/panic_tda.lock 2>/dev/null)" = "$wanted" ] && return
    if [ -e .venv ] && [ ! -e .venv/panic_tda.lock ]; then
        echo "$PWD/.venv was not made by these scripts; move it away, and they make their own there" >&2
        return 1
    fi
    echo "installing $lock into .venv (once)" >&2
    # Update a working environment in place: a long run may be using it.
    .venv/bin/python -P -m pip --version >/dev/null 2>&1 || new_environment || return 1
    echo unfinished > .venv/panic_tda.lock
    echo "$name" > .venv/panic_tda.env
    install_packages "$lock" || return 1
    .venv/bin/python -P -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . || return 1
    # Compile now, so that the first clustering does not have to.
    [ "${kernels:-}" = later ] || compile_kernels
    echo "$wanted" > .venv/panic_tda.lock
}

make_environment || exit 1
