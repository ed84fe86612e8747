#!/usr/bin/env bash
# Import the sample (48 caption trajectories in two embedding models) into db/demo.sqlite, cluster it,
# list and show the clusters, and write a report. A second run imports nothing and adds one more clustering per
# model.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

export PANIC_TDA_DB=db/demo.sqlite
tda=.venv/bin/panic-tda
$tda import-embeddings panic_tda/sample/captions_minilm.parquet panic_tda/sample/captions_lsa.parquet
$tda cluster-embeddings
$tda list-clusterings
$tda show-clustering latest --limit 5
# The report needs the extra [report].
if .venv/bin/python -P -c 'import jinja2, PIL' 2>/dev/null; then
    $tda report-clustering latest --model MiniLM -o db/demo.html --force --quiet
    echo "The report of MiniLM's clustering is in $PWD/db/demo.html; open it in a browser."
else
    echo "No report: it needs the extra, .venv/bin/python -m pip install -e '.[report]' in $PWD."
fi
