#!/usr/bin/env bash
# Lint, imports, types, and tests by three processes.
#   scripts/test.sh           a quick answer: all tests but the slow ones (SLOW in tests/conftest.py)
#   scripts/test.sh --all     every test, as CI runs them
#   scripts/test.sh WORDS     the tests that pytest makes of WORDS: scripts/test.sh -n 0 -k hierarchy
# COVERAGE=1 also says which lines of the package the quick tests do not reach, and fails where these are more
# than pyproject.toml allows. The slow ones are not measured: to trace them takes minutes, and what they add is
# faults, processes, servers and sizes rather than lines.
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

run_tests() {
    local python=("$1" "$2")
    shift 2
    # One process more than CI has cores: they also wait for locks, signals and a browser.
    "${python[@]}" -m pytest --quiet -n 3 --dist loadgroup -o tmp_path_retention_policy=failed "$@"
}

words=("$@")
[ $# -gt 0 ] || words=(-m "not slow")
if [ -z "${COVERAGE:-}" ]; then
    [ "$*" != --all ] || words=()
    run_tests .venv/bin/python -P "${words[@]}"
else
    [ "$*" != --all ] || words=(-m "not slow")
    export COVERAGE_FILE=$PWD/.coverage
    .venv/bin/coverage erase
    run_tests .venv/bin/coverage run "${words[@]}"
    # What a killed process was writing cannot be read, which is no news here.
    .venv/bin/coverage combine --quiet 2>/dev/null || true
    .venv/bin/coverage report
    [ "$*" != --all ] || run_tests .venv/bin/python -P -m slow
fi
