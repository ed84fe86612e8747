#!/usr/bin/env bash
# Run random commands on a growing database, kill some of them, and fail on the first inconsistency:
# scripts/soak.sh MINUTES [--seed N] [--folder FOLDER]
set -euo pipefail
source "$(dirname "$0")/environment.sh"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python scripts/soak.py "${@:?minutes}"
