#!/usr/bin/env python3
"""Kill and stop every stage at random moments, and check that nothing is lost.

Each stage (import, upgrade, load, fit, save, delete; plan and models have many models) runs once undisturbed.
Then it runs on fresh copies and gets SIGKILL, SIGTERM or SIGINT at random moments of its duration and of the
phases in its log. After each run the database must be sound, and every clustering must agree with its record.
The same command must then complete the work, with exactly the result of the undisturbed run. After SIGTERM
and SIGINT the exit codes must be 143 and 130, within 5 s (on a machine that does nothing else: a process
that gets a tenth of a processor takes ten times as long). Exit code 0: all checks passed.

Usage: fault_matrix.py [STAGE…] [--kills K] [--signals S] [--rows N] [--seed S] [--folder F]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.runs import (  # noqa: E402 (the tests are not installed)
    STAGES,
    Run,
    Stage,
    find_leftover_files,
    longest,
    make_template,
    prepared,
    require_complete,
    run,
)

MOST_SECONDS = 5.0
ATTEMPTS = 4
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def main() -> None:
    """Disturb the chosen stages, print the faults, and exit 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of each stage")
    parser.add_argument("--signals", type=int, default=6, help="SIGTERMs and SIGINTs of each stage")
    parser.add_argument("--rows", type=int, default=20_000, help="of each of two models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    faults: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name in args.stages:
            stage_faults, seconds = disturb(name, Path(folder), args)
            faults += stage_faults
            slowest = max(slowest, seconds)
    load = os.getloadavg()[0]
    print(f"the slowest exit after SIGTERM or SIGINT took {slowest:.2f} s (load average {load:.1f})")
    if slowest > MOST_SECONDS:
        faults.append(f"an exit took {slowest:.2f} s, more than {MOST_SECONDS:g}")
    print("\n".join(faults) or "nothing was lost")
    sys.exit(1 if faults else 0)


def disturb(name: str, folder: Path, args: argparse.Namespace) -> tuple[list[str], float]:
    """Disturb one stage; return what went wrong, and the slowest exit after a signal."""
    stage, draw = STAGES[name], random.Random(f"{args.seed} {name}")
    template = make_template(stage, folder / f"{name}-template", args.rows)
    with prepared(stage, template, folder / "whole") as path:
        # The first run fills caches of compiled code, the second measures the time.
        undisturbed = run(path, stage.words)
    with prepared(stage, template, folder / "whole") as path:
        undisturbed = run(path, stage.words)
        if undisturbed.code:
            return [f"{name}: undisturbed it exits {undisturbed.code}: {undisturbed.stderr}"], 0.0
        require_complete(path)
        expected = stage.outcome(path)
    print(f"{name}: undisturbed {undisturbed.seconds:.1f} s", flush=True)
    numbers = [signal.SIGKILL] * args.kills + [
        (signal.SIGTERM, signal.SIGINT)[turn % 2] for turn in range(args.signals)
    ]
    faults, slowest = [], 0.0
    for turn, number in enumerate(numbers):
        after, phase = moment(stage, undisturbed, draw, turn)
        for attempt in range(ATTEMPTS):
            with prepared(stage, template, folder / f"{name}-{turn}-{attempt}") as path:
                try:
                    result = run(path, stage.words, after=after, phase=phase, number=number)
                    status = check(stage, path, result, number, expected)
                except AssertionError as error:
                    faults.append(f"{name}, {number.name} {after:.2f} s into {phase or 'the run'}: {error}")
                    status = f"FAULT {error}"
            print(f"  {number.name} {after:6.2f} s into {phase or 'the run'}: {status}", flush=True)
            if number in CODES and result.code == CODES[number]:
                slowest = max(slowest, result.seconds - result.signalled)
            if result.code:
                break
            # The run ended before the signal: the machine is less busy now. Send it earlier.
            after /= 3
    return faults, slowest


def moment(stage: Stage, undisturbed: Run, draw: random.Random, turn: int) -> tuple[float, str | None]:
    """Return a random moment, by turns of the run and of a phase."""
    if turn % 2:
        phase = stage.phases[turn // 2 % len(stage.phases)]
        return draw.uniform(0, longest(undisturbed, phase)), phase
    return draw.uniform(0, undisturbed.seconds), None


def check(stage: Stage, path: Path, result: Run, number: signal.Signals, expected: object) -> str:
    """Check the files after a disturbed run, complete its work, and return where it was stopped."""
    if result.code == 0:
        status = "it was done before"
    else:
        # Before the first line of the program, the signal ends the interpreter.
        expected_codes = {-number, CODES.get(number, -number)}
        assert result.code in expected_codes, f"exit {result.code}: {result.stderr}"
        status = f"exit {result.code} in {result.where!r}"
        if number in CODES:
            status += (
                f", {result.seconds - result.signalled:.2f} s after the signal, of which "
                f"{result.cpu_seconds - result.cpu_signalled:.2f} s of processor time"
            )
    n_whole = require_complete(path)
    # SIGKILL during saving leaves no pending file; an exit during saving leaves one.
    for pending in path.parent.glob(f"{path.name}.pending-*.arrow"):
        assert number in CODES, "a kill kept a result"
        again = run(path, ("save-pending", pending.name))
        assert again.code == 0, again.stderr
        status += ", kept and saved"
    completed = run(path, stage.words)
    assert completed.code == 0, f"the run after it exits {completed.code}: {completed.stderr}"
    require_complete(path)
    assert stage.outcome(path) == expected, "the run after it came to something else"
    leftovers = [name for name in find_leftover_files(path) if name != "import.parquet"]
    assert not leftovers, f"left over: {leftovers}"
    return f"{status}; {n_whole} whole clusterings, then completed"


if __name__ == "__main__":
    main()
