#!/usr/bin/env bash
# Uses a growing database as a hurried user would, kills included, and fails on the first inconsistency:
# scripts/soak.sh MINUTES [--seed N] [--folder FOLDER]
set -euo pipefail
source "$(dirname "$0")/environment.sh"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python scripts/soak.py "${@:?minutes}"
