#!/usr/bin/env bash
# Find code that the tests do not check: mutmut changes a module in one place at a time, and runs the tests of the
# module on each change. Prints the changes that no test detects, except for those that
# scripts/mutation_survivors.txt explains. Exits 1 if there are any.
#   scripts/mutation.sh medoids        medoids, sampling, results, checkpoint, condensed or hierarchy; none: all
# Needs mutmut: .venv/bin/python -m pip install 'mutmut>=3.8'. A module takes minutes, by one process.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
python=$PWD/.venv/bin/python explained=$PWD/scripts/mutation_survivors.txt
"$python" -P -c 'import mutmut' 2>/dev/null ||
    { echo "mutmut is missing: .venv/bin/python -m pip install 'mutmut>=3.8'" >&2; exit 2; }

# Compiled loops run as plain Python here, which is too slow for the large tests.
slow_without_compiler="by_thresholds or grid or chain_of or 50_000 or 10_000 or order_and_choice or rounding_of"
export OMP_NUM_THREADS=1 NUMBA_DISABLE_JIT=1
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mutate() {
    local name=$1 module=$2 change lines n_changes n_explained=0 n_unseen=0
    shift 2
    mkdir "$work/$name"
    git ls-files -z --cached --others --exclude-standard panic_tda tests scripts env README.md pyproject.toml |
        xargs -0 cp --parents --target-directory "$work/$name"
    cd "$work/$name"
    # mutmut skips decorated functions; without a compiler this decorator does nothing.
    sed -i '/^@compiled$/d' panic_tda/clustering/{condensed,hierarchy}.py
    sed -i "s|^\[tool.mutmut\]|&\nonly_mutate = [\"$module\"]\npytest_add_cli_args_test_selection = [$(printf '"%s", ' "$@")]|" \
        pyproject.toml
    nice "$python" -m mutmut run --max-children 1 > log 2>&1 || { tail -c 3000 log >&2; exit 1; }
    for change in $("$python" -m mutmut results | sed -n 's/^ *\(.*\): \(survived\|no tests\|suspicious\)$/\1/p'); do
        "$python" -m mutmut show "$change" > shown
        lines=$(sed -n 's/^+ *\([^+ ].*\)/\1/p' shown)
        [ -n "$lines" ] || lines=$(sed -n 's/^- *\([^- ].*\)/removed: \1/p' shown)
        if grep --quiet --invert-match --line-regexp --fixed-strings --file="$explained" <<< "$lines"; then
            cat shown
            n_unseen=$((n_unseen + 1))
        else
            n_explained=$((n_explained + 1))
        fi
    done
    n_changes=$(tr '\r' '\n' < log | sed -n 's|.* \([0-9]*\)/\1 .*|\1|p' | tail -n 1)
    cd - > /dev/null
    echo "$name: $n_changes changes, $n_explained explained, $n_unseen unseen"
    [ "$n_unseen" = 0 ] || failed=1
}

[ $# -gt 0 ] || set -- medoids sampling results checkpoint condensed hierarchy
failed=0
for name in "$@"; do
    case $name in
        medoids | checkpoint)
            mutate "$name" "panic_tda/clustering/$name.py" "tests/clustering/test_$name.py" ;;
        condensed | hierarchy)
            mutate "$name" "panic_tda/clustering/$name.py" tests/clustering/test_hierarchy{,_rules}.py \
                -k "not ($slow_without_compiler)" ;;
        sampling)
            mutate "$name" panic_tda/storage/schema/sampling.py tests/storage/test_sampling.py \
                tests/storage/test_query_plans.py -k "not through_rows" ;;
        results) mutate "$name" panic_tda/storage/read/results.py tests/storage/test_results{,_lookup}.py ;;
        *) echo "medoids, sampling, results, checkpoint, condensed or hierarchy; got $name" >&2; exit 2 ;;
    esac
done
exit "$failed"
