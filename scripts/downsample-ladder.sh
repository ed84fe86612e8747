#!/usr/bin/env bash
# Cluster with the smallest sampling factor that ends in time: downsample-ladder.sh [HOURS] [options of cluster-embeddings]
# plan-clustering chooses the smallest factor at which all models together end within HOURS (default 8). Then the
# script clusters with this factor, and prints rows, seconds and clusters as a table on stdout. The plan and progress
# go to stderr. Exits 1 without clustering if no factor ends in time.
set -euo pipefail
# Relative paths in the options start at the user's working folder.
from=$PWD
source "$(dirname "$0")/environment.sh"

hours=8
if [[ ${1:-} =~ ^[0-9]+([.][0-9]+)?$ ]]; then hours=$1; shift; fi

tda=$PWD/.venv/bin/panic-tda python=$PWD/.venv/bin/python
[ -n "${PANIC_TDA_DB:-}" ] || [[ " $* " == *" --db"* ]] || export PANIC_TDA_DB=$PWD/db/trajectory_data.sqlite
cd "$from"

# Plan with those options of the clustering that plan-clustering has too.
plan=$("$python" -P - "$hours" "$@" <<'PYTHON'
import sys

import click

from panic_tda.main import main

hours, *words = sys.argv[1:]
cluster, plan = (main.commands[name] for name in ("cluster-embeddings", "plan-clustering"))
try:
    context = cluster.make_context(cluster.name, words)
except click.UsageError as error:
    error.show()
    sys.exit(error.exit_code)
known = {option.name: context.params.get(option.name) for option in plan.params if option.expose_value}
with context:
    plan.callback(**known | {"downsamples": (), "within": f"{hours}h", "as_json": True})
PYTHON
) || exit

# Print the chosen factor on stdout, and the time of each planned factor on stderr.
factor=$("$python" -P - "$hours" "$plan" <<'PYTHON'
import json, sys

hours, plan = sys.argv[1], json.loads(sys.argv[2])
factor = plan["smallest_factor_within"]
for planned, seconds in sorted(plan["totals"].items(), key=lambda item: int(item[0])):
    would = "does not fit here" if seconds is None else f"would take about {seconds / 3600:.2g} h"
    print(f"factor {planned} {would}", file=sys.stderr)
if factor is None:
    sys.exit(f"no factor ends within {hours} h; nothing was clustered")
print(f"clustering with factor {factor}", file=sys.stderr)
print(factor)
PYTHON
)

answer=$("$tda" cluster-embeddings "$@" --json --downsample "$factor") || {
    echo "factor $factor failed; the reasons are above" >&2
    exit 1
}
"$python" -P - "$factor" "$answer" <<'PYTHON'
import json, sys

results = json.loads(sys.argv[2])["results"]
rows, clusters = (sum(result[name] for result in results) for name in ("n_embeddings", "n_clusters"))
seconds = sum(sum(result["seconds"].values()) for result in results)
print(f"{'factor':>10} {'rows':>12} {'seconds':>10} {'clusters':>10}")
print(f"{sys.argv[1]:>10} {rows:>12} {seconds:>10.1f} {clusters:>10}")
PYTHON
