#!/usr/bin/env bash
# Update env/cpu.txt, env/cuda12.txt and env/cuda13.txt to the newest versions that pyproject.toml allows.
# Nothing is installed: pip only resolves. Run it with the oldest supported Python.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    local report
    report=$(mktemp)
    python3 -P -m pip install --quiet --dry-run --ignore-installed --report "$report" "setuptools>=77" ".[$2]"
    python3 -P - "$report" "$2" > "env/$1.txt" <<'PYTHON'
import json, platform, sys

installed = json.load(open(sys.argv[1]))["install"]
pins = sorted({f"{package['metadata']['name'].lower()}=={package['metadata']['version']}" for package in installed})
version = ".".join(platform.python_version_tuple()[:2])
print(f"# The extras {sys.argv[2]}, resolved for Python {version} and later by scripts/lock.sh.")
print("\n".join(pin for pin in pins if not pin.startswith("panic_tda")))
PYTHON
    rm -f "$report"
    echo "env/$1.txt: $(grep -c == "env/$1.txt") packages"
}

for name in "${@:-cpu}"; do
    case $name in
        # Never beside CUDA: see pyproject.toml.
        cpu) lock cpu dev,figure,nvrtc ;;
        cuda12 | cuda13) lock "$name" "$name,dev" ;;
        *) echo "cpu, cuda12 or cuda13; got $name" >&2; exit 2 ;;
    esac
done
