#!/usr/bin/env bash
# What a CUDA device does here: check_gpu.sh [options of bench_gpu.py]
# Runs the tests that need a device (pytest -m gpu), then scripts/bench/bench_gpu.py, in under 8 minutes together.
# Writes gpu-tests.txt, bench_gpu.md and bench_gpu.json into the folder CHECK_GPU_OUT (default logs/gpu) and
# exits 1 when either failed. Takes the Python named in PYTHON, or python3, when it has CuPy; otherwise the
# environment in .venv, which it makes (see environment.sh).
set -euo pipefail
began=$SECONDS
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${CHECK_GPU_OUT:-$root/logs/gpu}")

python=$(command -v "${PYTHON:-python3}" || true)
if [ -z "$python" ] || ! "$python" -P -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("cupy"))'; then
    source "$root/scripts/environment.sh"
    python=$root/.venv/bin/python
    began=$SECONDS  # installing is done once, and does not count
fi
cd "$root"
mkdir -p "$out"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
echo "Python $python; results go to $out"

status=0
if "$python" -P -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pytest"))'; then
    # Half of the time at most is the tests'.
    timeout 240 "$python" -P -m pytest -q -m gpu -p no:cacheprovider --continue-on-collection-errors 2>&1 | tee "$out/gpu-tests.txt" || status=1
else
    echo "tests skipped: $python has no pytest" | tee "$out/gpu-tests.txt"
fi
"$python" scripts/bench/bench_gpu.py --budget $((455 - SECONDS + began)) --out "$out" "$@" || status=1
exit $status
