#!/usr/bin/env bash
# Build the release: wheel and sdist of this version in dist/, checked with twine. Install the wheel into a fresh
# environment of each supported Python that this machine has, and run the quick start there, outside of the checkout.
# PYTHONS names other interpreters. Nothing is uploaded or tagged.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

if [ -n "$(git status --porcelain 2>/dev/null)" ]; then
    echo "the checkout has changes that are not committed; commit them first" >&2
    exit 1
fi

find_pythons() {
    # A shim of pyenv exists for versions that are not chosen too: ask it to run.
    local version candidate
    for version in 3.11 3.12 3.13 3.14; do
        for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            if "$candidate" -P -c '' 2>/dev/null; then
                echo "$candidate"
                break
            fi
        done
    done
}

make_environment() {
    # Debian's Python may lack ensurepip; pip can install into an environment from outside.
    "$1" -P -m venv "$2" 2>/dev/null && return
    rm -rf "$2"
    "$1" -P -m venv --without-pip "$2" && "$1" -P -m pip --python "$2/bin/python" install --quiet pip
}

install() {
    "$1/bin/python" -P -m pip install --quiet --disable-pip-version-check "${@:2}"
}

run_quick_start() {
    local python=$1/bin/python tda=$1/bin/panic-tda sample
    sample=$("$python" -P -c 'import panic_tda, pathlib; print(pathlib.Path(panic_tda.__file__).parent / "sample")')
    export PANIC_TDA_DB=$1/session.sqlite
    "$tda" --version
    "$tda" import-embeddings "$sample"/*.parquet --quiet
    "$tda" cluster-embeddings --quiet
    "$tda" show-clustering latest --model MiniLM --limit 3 --quiet
    "$tda" assign-embeddings --quiet
    "$tda" report-clustering latest --model MiniLM --output "$1/page.html" --quiet
    "$tda" doctor --quiet
    "$tda" help > "$1/topics.txt"
    "$tda" help quickstart > "$1/quickstart.txt"
    "$temporary/tools/bin/python" -P -m mypy --strict --python-executable "$python" "$temporary/typed_program.py"
    "$python" -P "$temporary/typed_program.py" "$PANIC_TDA_DB"
}

mapfile -t pythons < <(if [ -n "${PYTHONS:-}" ]; then tr ' ' '\n' <<< "$PYTHONS"; else find_pythons; fi)
if [ "${#pythons[@]}" = 0 ]; then
    echo "no Python from 3.11 to 3.14 was found; name one in PYTHONS" >&2
    exit 1
fi

make_environment "${pythons[0]}" "$temporary/tools"
install "$temporary/tools" 'build>=1.2' 'mypy>=1.14' 'pipx>=1.7' 'twine>=6'
rm -rf dist
# Build from a copy of the commit: other files of the checkout do not belong in a release.
git archive --prefix=source/ HEAD | tar -x -C "$temporary"
"$temporary/tools/bin/python" -P -m build --outdir dist "$temporary/source"
"$temporary/tools/bin/python" -P -m twine check --strict dist/*
wheel=$(echo "$root"/dist/*.whl)
for licence in LICENSE panic_tda/report/vendor/d3-quadtree/LICENSE; do
    "$temporary/tools/bin/python" -P -m zipfile -l "$wheel" | grep -q "dist-info/licenses/$licence "
done
cp scripts/typed_program.py "$temporary"
cd "$temporary"

for python in "${pythons[@]}"; do
    echo "--- $("$python" -P --version)"
    make_environment "$python" "$temporary/fresh"
    install "$temporary/fresh" "$wheel[report]"
    run_quick_start "$temporary/fresh"
    rm -rf "$temporary/fresh"
done

echo "--- extras and pipx"
install "$temporary/tools" --dry-run "$wheel[dask,density,dynamics,figure,postgres]"
PIPX_HOME=$temporary/pipx "$temporary/tools/bin/python" -P -m pipx run --spec "$wheel" panic-tda --version
cd "$root"
echo "The release is in dist/:"
ls dist
