#!/usr/bin/env bash
# Test and benchmark the CUDA device of this machine: check_gpu.sh [options of bench_gpu.py]
# Runs the tests that need a device (pytest -m gpu), then scripts/bench/bench_gpu.py, together within 8 minutes.
# Writes gpu-tests.txt, bench_gpu.md and bench_gpu.json into the folder CHECK_GPU_OUT (default logs/gpu). Exits 1
# if one of them failed. Uses the Python named in PYTHON, or python3, if it has CuPy; otherwise the environment
# .venv, which it creates (see environment.sh).
set -euo pipefail
began=$SECONDS
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${CHECK_GPU_OUT:-$root/logs/gpu}")

python=$(command -v "${PYTHON:-python3}" || true)
if [ -z "$python" ] || ! "$python" -P -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("cupy"))'; then
    source "$root/scripts/environment.sh"
    python=$root/.venv/bin/python
    began=$SECONDS  # installing happens once, and does not count
fi
cd "$root"
mkdir -p "$out"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
echo "Python $python; results go to $out"

status=0
if "$python" -P -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pytest"))'; then
    # The tests get at most half of the time.
    timeout 240 "$python" -P -m pytest -q -m gpu -p no:cacheprovider --continue-on-collection-errors 2>&1 | tee "$out/gpu-tests.txt" || status=1
else
    echo "tests skipped: $python has no pytest" | tee "$out/gpu-tests.txt"
fi
"$python" scripts/bench/bench_gpu.py --budget $((455 - SECONDS + began)) --out "$out" "$@" || status=1
exit $status
