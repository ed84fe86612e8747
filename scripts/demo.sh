#!/usr/bin/env bash
# Imports the sample (48 caption trajectories in two embedding models) into db/demo.sqlite, clusters it,
# lists and shows the clusters. Running it again imports nothing anew and adds one more clustering a model.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

export PANIC_TDA_DB=db/demo.sqlite
tda=.venv/bin/panic-tda
$tda import-embeddings panic_tda/sample/captions_minilm.parquet panic_tda/sample/captions_lsa.parquet
$tda cluster-embeddings
$tda list-clusterings
$tda show-clustering latest --limit 5
