#!/usr/bin/env bash
# Lint, imports, types, tests by two processes. Arguments go to pytest: scripts/test.sh -n 0 -k hierarchy
set -euo pipefail
source "$(dirname "$0")/environment.sh"

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mypy
# It cannot be told to be quiet.
imports=$(.venv/bin/lint-imports --no-logo 2>&1) || { echo "$imports" >&2; exit 1; }
.venv/bin/python -m pytest --quiet -n 2 --dist loadgroup "$@"
