#!/usr/bin/env bash
# Run the linters, the type checker, and the tests in three processes.
#   scripts/test.sh           all tests except for the slow ones (see SLOW in tests/conftest.py)
#   scripts/test.sh --all     every test, as CI runs them
#   scripts/test.sh ARGS      pytest with these arguments: scripts/test.sh -n 0 -k hierarchy
# COVERAGE=1 scripts/test.sh --all also lists the lines of the package that no test reaches, and fails above 3 %. It
# takes a quarter longer: run it before a release, not in CI.
set -euo pipefail
# Hundreds of processes of the tests would compile the sources again.
unset PYTHONDONTWRITEBYTECODE
kernels=later
source "$(dirname "$0")/environment.sh"

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
check_types() {
    .venv/bin/mypy || return 1
    # lint-imports has no quiet option.
    local imports
    imports=$(.venv/bin/lint-imports --no-logo 2>&1) || { echo "$imports" >&2; return 1; }
    # In a new checkout, each of the test processes would compile all files of the tests.
    [ -e tests/__pycache__ ] || .venv/bin/python -P -m pytest --quiet --collect-only >/dev/null 2>&1 || true
}
# One core works on these for a minute on a new machine; the other one compiles, and begins the tests.
check_types &
checks=$!
# Once, and not by each of the test processes at the same time.
compile_kernels

# The tests wait mostly for the disk: put their folders into memory if it has room and allows programs.
in_memory=/dev/shm
room=$(df --output=avail "$in_memory" 2>/dev/null | tail -n 1) || room=0
if [ "${room:-0}" -ge 4000000 ] && folder=$(mktemp -d "$in_memory/panic-tda-tests.XXXXXX"); then
    trap 'rm -rf "$folder"' EXIT
    printf '#!/bin/sh\n' > "$folder/program" && chmod +x "$folder/program"
    "$folder/program" 2>/dev/null && export PYTEST_DEBUG_TEMPROOT=$folder
fi

run=(.venv/bin/python -P)
if [ -n "${COVERAGE:-}" ]; then
    export COVERAGE_FILE=$PWD/.coverage
    .venv/bin/coverage erase
    run=(.venv/bin/coverage run)
fi
[ $# -gt 0 ] || set -- -m "not slow"
[ "$*" != --all ] || set --
# One process more than the cores of CI: the tests also wait for locks, signals and a browser.
status=0
"${run[@]}" -m pytest --quiet -n 3 --dist loadgroup --no-loadscope-reorder \
    -o tmp_path_retention_policy=failed "$@" || status=$?
wait "$checks" || { echo "mypy or lint-imports failed: see above" >&2; exit 1; }
[ "$status" = 0 ] || exit "$status"
if [ -n "${COVERAGE:-}" ]; then
    # Data files of killed processes are unreadable, which is expected.
    .venv/bin/coverage combine --quiet 2>/dev/null || true
    .venv/bin/coverage report
fi
