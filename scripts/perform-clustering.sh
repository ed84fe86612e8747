#!/usr/bin/env bash
# Start a clustering that continues after logout: perform-clustering.sh [DOWNSAMPLE] [EPSILON] [more options]
# Leading numbers are the sampling factor (default 1) and epsilon (default 0.4). Other arguments go to
# cluster-embeddings (--db FILE, model names, ...). Prints the process id and the log file; the last line of the log
# is the exit status. If the clustering ends within 3 s, as after a wrong option, the script shows the end of the
# log and exits with the same status.
set -euo pipefail
# Relative paths in the options start at the user's working folder.
from=$PWD
source "$(dirname "$0")/environment.sh"

number='^[0-9]+([.][0-9]+)?$'
downsample=1 epsilon=0.4
if [[ ${1:-} =~ $number ]]; then downsample=$1; shift; fi
if [[ ${1:-} =~ $number ]]; then epsilon=$1; shift; fi

log=$PWD/logs/clustering-$(date +%Y%m%d-%H%M%S)-$$.log
mkdir -p logs
# The database may be private, and the log describes its contents.
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
