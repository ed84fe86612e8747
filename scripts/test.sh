#!/usr/bin/env bash
# Lint, types, tests. Arguments go to pytest: scripts/test.sh -k hierarchy
set -euo pipefail
source "$(dirname "$0")/environment.sh"

.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mypy
.venv/bin/python -m pytest --quiet "$@"
