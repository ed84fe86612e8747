#!/usr/bin/env bash
# How far down can this machine go? downsample-ladder.sh [HOURS] [options of cluster-embeddings]
# Clusters with factor 10,000, 1,000, ... 1 until the next step would not finish within HOURS (default 8) in
# all, and prints what each step took. The time of the next step is taken to grow with the square of its rows.
# The table goes to stdout, progress to stderr; every step's clusterings are kept.
set -euo pipefail
# Paths in the options are meant from where the user stands.
from=$PWD
source "$(dirname "$0")/environment.sh"

hours=8
if [[ ${1:-} =~ ^[0-9]+([.][0-9]+)?$ ]]; then hours=$1; shift; fi

tda=$PWD/.venv/bin/panic-tda python=$PWD/.venv/bin/python
[ -n "${PANIC_TDA_DB:-}" ] || [[ " $* " == *" --db"* ]] || export PANIC_TDA_DB=$PWD/db/trajectory_data.sqlite
cd "$from"

printf '%10s %12s %10s %10s\n' factor rows seconds clusters
began=$(date +%s)
for factor in 10000 1000 100 10 1; do
    answer=$("$tda" cluster-embeddings --json --downsample "$factor" "$@") || {
        echo "factor $factor failed; the reasons are above" >&2
        exit 1
    }
    elapsed=$(($(date +%s) - began))
    # Prints the table's row, and answers whether the next step fits (or is needed at all).
    { next=$("$python" - "$factor" "$hours" "$elapsed" "$answer" <<'PYTHON'
import json, sys

factor, hours, elapsed = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
results = json.loads(sys.argv[4])["results"]
rows = sum(result["n_embeddings"] for result in results)
seconds = sum(sum(result["seconds"].values()) for result in results)
clusters = sum(result["n_clusters"] for result in results)
with open(3, "w") as table:
    print(f"{factor:>10} {rows:>12} {seconds:>10.1f} {clusters:>10}", file=table)
more = max((min(10.0, r["n_total"] / r["n_embeddings"]) for r in results if r["n_embeddings"]), default=1.0)
predicted = seconds * more**2
fits = elapsed + predicted <= hours * 3600
if factor > 1 and not fits:
    print(f"factor {factor // 10} would take about {predicted / 3600:.1f} h more", file=sys.stderr)
print("go on" if fits else "stop")
PYTHON
    ); } 3>&1
    [ "$next" = "go on" ] || break
done
