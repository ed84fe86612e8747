#!/usr/bin/env bash
# Lint, imports, types, tests by two processes. Arguments go to pytest: scripts/test.sh -n 0 -k hierarchy
# COVERAGE=1 scripts/test.sh also says which lines of the package no test reaches, and fails above 3 %.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mypy
# It cannot be told to be quiet.
imports=$(.venv/bin/lint-imports --no-logo 2>&1) || { echo "$imports" >&2; exit 1; }
run=(.venv/bin/python -P)
if [ -n "${COVERAGE:-}" ]; then
    export COVERAGE_FILE=$PWD/.coverage
    .venv/bin/coverage erase
    run=(.venv/bin/coverage run)
fi
"${run[@]}" -m pytest --quiet -n 2 --dist loadgroup "$@"
if [ -n "${COVERAGE:-}" ]; then
    # What a killed process was writing cannot be read, which is no news here.
    .venv/bin/coverage combine --quiet 2>/dev/null || true
    .venv/bin/coverage report
fi
