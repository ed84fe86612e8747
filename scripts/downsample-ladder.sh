#!/usr/bin/env bash
# How far down can this machine go? downsample-ladder.sh [HOURS] [options of cluster-embeddings]
# Asks plan-clustering for the smallest sampling factor at which all models end within HOURS (default 8) in all,
# clusters with it, and prints what it took. The table goes to stdout, the plan and progress to stderr. Exit 1
# where no factor ends in time; nothing is clustered then.
set -euo pipefail
# Paths in the options are meant from where the user stands.
from=$PWD
source "$(dirname "$0")/environment.sh"

hours=8
if [[ ${1:-} =~ ^[0-9]+([.][0-9]+)?$ ]]; then hours=$1; shift; fi

tda=$PWD/.venv/bin/panic-tda python=$PWD/.venv/bin/python
[ -n "${PANIC_TDA_DB:-}" ] || [[ " $* " == *" --db"* ]] || export PANIC_TDA_DB=$PWD/db/trajectory_data.sqlite
cd "$from"

# What the clustering will be told, so far as a plan depends on it.
plan=$("$python" -P - "$hours" "$@" <<'PYTHON'
import sys

import click

from panic_tda.main import main

hours, *words = sys.argv[1:]
asked, plan = (main.commands[name] for name in ("cluster-embeddings", "plan-clustering"))
try:
    context = asked.make_context(asked.name, words)
except click.UsageError as error:
    error.show()
    sys.exit(error.exit_code)
known = {one.name: context.params.get(one.name) for one in plan.params if one.expose_value}
with context:
    plan.callback(**known | {"downsamples": (), "within": f"{hours}h", "as_json": True})
PYTHON
) || exit

# Answers the factor, and says what each of those that were planned would take.
factor=$("$python" -P - "$hours" "$plan" <<'PYTHON'
import json, sys

hours, plan = sys.argv[1], json.loads(sys.argv[2])
factor = plan["smallest_factor_within"]
for one, seconds in sorted(plan["totals"].items(), key=lambda item: int(item[0])):
    would = "does not fit here" if seconds is None else f"would take about {seconds / 3600:.2g} h"
    print(f"factor {one} {would}", file=sys.stderr)
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
