#!/usr/bin/env bash
# Starts a clustering that outlives the login: perform-clustering.sh [DOWNSAMPLE] [EPSILON] [more options]
# Leading numbers are the sampling factor (default 1) and epsilon (default 0.4); everything else goes to
# cluster-embeddings (--db FILE, model names, ...). Prints the process id and the log; the log's last line is
# the exit status. What ends within the first seconds, such as a wrong option, is shown here, with its status.
set -euo pipefail
# Paths in the options are meant from where the user stands.
from=$PWD
source "$(dirname "$0")/environment.sh"

number='^[0-9]+([.][0-9]+)?$'
downsample=1 epsilon=0.4
if [[ ${1:-} =~ $number ]]; then downsample=$1; shift; fi
if [[ ${1:-} =~ $number ]]; then epsilon=$1; shift; fi

log=$PWD/logs/clustering-$(date +%Y%m%d-%H%M%S)-$$.log
mkdir -p logs
# A database may be for its owner alone, and the log says what is in it.
(umask 077 && : > "$log")
tda=$PWD/.venv/bin/panic-tda
[ -n "${PANIC_TDA_DB:-}" ] || [[ " $* " == *" --db"* ]] || export PANIC_TDA_DB=$PWD/db/trajectory_data.sqlite
cd "$from"
# shellcheck disable=SC2016  (expanded by the inner shell)
nohup bash -c '
    "$@" & child=$!
    trap "kill -TERM $child" TERM
    while :; do
        status=0; wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    echo "exit status $status"
    exit "$status"
' perform-clustering "$tda" cluster-embeddings --downsample "$downsample" --epsilon "$epsilon" "$@" \
    > "$log" 2>&1 < /dev/null &
pid=$!
echo "PID $pid"
echo "log $log"
for _ in 1 2 3; do
    sleep 1
    kill -0 "$pid" 2>/dev/null && continue
    tail -n 8 "$log" >&2
    wait "$pid"
    exit
done
