#!/usr/bin/env bash
# Build the release: wheel and sdist of this version in dist/, checked with twine. Install the wheel into a fresh
# environment and run the quick start there, outside of the checkout. Nothing is uploaded or tagged.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

if [ -n "$(git status --porcelain 2>/dev/null)" ]; then
    echo "the checkout has changes that are not committed; commit them first" >&2
    exit 1
fi

make_environment() {
    # Debian's Python may lack ensurepip; pip can install into an environment from outside.
    "$python" -P -m venv "$1" 2>/dev/null && return
    rm -rf "$1"
    "$python" -P -m venv --without-pip "$1" && "$python" -P -m pip --python "$1/bin/python" install --quiet pip
}

make_environment "$temporary/tools"
"$temporary/tools/bin/python" -P -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6'
rm -rf dist
# Build from a copy of the commit: other files of the checkout do not belong in a release.
git archive --prefix=source/ HEAD | tar -x -C "$temporary"
"$temporary/tools/bin/python" -P -m build --outdir dist "$temporary/source"
"$temporary/tools/bin/python" -P -m twine check --strict dist/*

make_environment "$temporary/fresh"
"$temporary/fresh/bin/python" -P -m pip install --quiet --disable-pip-version-check dist/*.whl
cd "$temporary"
tda=$temporary/fresh/bin/panic-tda
sample=$("$temporary/fresh/bin/python" -P -c 'import panic_tda, pathlib; print(pathlib.Path(panic_tda.__file__).parent / "sample")')
export PANIC_TDA_DB=$temporary/session.sqlite
"$tda" --version
"$tda" import-embeddings "$sample"/*.parquet --quiet
"$tda" cluster-embeddings --quiet
"$tda" show-clustering latest --model MiniLM --limit 3
"$tda" help > topics.txt
"$tda" help quickstart > /dev/null
cd - > /dev/null
echo "The release is in dist/:"
ls dist
