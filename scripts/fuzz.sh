#!/usr/bin/env bash
# Fuzz the importer or the command line: scripts/fuzz.sh importer|arguments [FOLDER] [SECONDS]
# FOLDER (default: a temporary one) keeps the corpus and the crashing inputs; SECONDS is 600 by default.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

target=${1:?importer or arguments}
folder=${2:-$(mktemp -d)}
# The wheels of the fuzzer need Linux and Python 3.11 to 3.13.
.venv/bin/python -P -c 'import atheris' 2>/dev/null || .venv/bin/python -P -m pip install --quiet 'atheris>=3'
export PYTHONPATH=$PWD
.venv/bin/python scripts/fuzz.py "$target" "$folder" "${3:-600}"
echo "no crash; the corpus is in $folder"
