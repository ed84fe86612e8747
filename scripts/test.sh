#!/usr/bin/env bash
# Lint, imports, types, and tests by three processes.
#   scripts/test.sh           a quick answer: all tests but the slow ones (SLOW in tests/conftest.py)
#   scripts/test.sh --all     every test, as CI runs them
#   scripts/test.sh WORDS     the tests that pytest makes of WORDS: scripts/test.sh -n 0 -k hierarchy
# COVERAGE=1 scripts/test.sh --all also says which lines of the package no test reaches, and fails above 3 %. It
# takes a quarter longer, also for what is no line but a process, a server or a fault: before a release, not in CI.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mypy
# It cannot be told to be quiet.
imports=$(.venv/bin/lint-imports --no-logo 2>&1) || { echo "$imports" >&2; exit 1; }

# Most of what the tests wait for is a disk: their folders lie in memory where it has room, and programs may run.
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
# One process more than CI has cores: they also wait for locks, signals and a browser.
"${run[@]}" -m pytest --quiet -n 3 --dist loadgroup --no-loadscope-reorder \
    -o tmp_path_retention_policy=failed "$@"
if [ -n "${COVERAGE:-}" ]; then
    # What a killed process was writing cannot be read, which is no news here.
    .venv/bin/coverage combine --quiet 2>/dev/null || true
    .venv/bin/coverage report
fi
