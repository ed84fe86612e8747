#!/usr/bin/env bash
# Lint, imports, types, tests by two processes, and which lines of the package they reach.
# With arguments, which go to pytest, lines are not counted: scripts/test.sh -n 0 -k hierarchy
set -euo pipefail
source "$(dirname "$0")/environment.sh"

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mypy
# It cannot be told to be quiet.
imports=$(.venv/bin/lint-imports --no-logo 2>&1) || { echo "$imports" >&2; exit 1; }
tests=(-m pytest --quiet -n 2 --dist loadgroup)
if [ $# -gt 0 ]; then
    exec .venv/bin/python "${tests[@]}" "$@"
fi
export COVERAGE_FILE=$PWD/.coverage
.venv/bin/coverage erase
.venv/bin/coverage run "${tests[@]}"
# Lines of compiled loops count where they are not compiled, which is slow: the tests with the least data.
NUMBA_DISABLE_JIT=1 .venv/bin/coverage run "${tests[@]}" tests/clustering/test_trees.py \
    tests/clustering/test_hierarchy_rules.py
# What a killed process was writing cannot be read, which is no news here.
.venv/bin/coverage combine --quiet 2>/dev/null
.venv/bin/coverage report
