#!/usr/bin/env python3
"""Kill and stop every stage at random moments, and see that nothing is lost.

Of each stage (import, upgrade, load, fit, save, delete; plan and models have many models): one
undisturbed run; then runs that get SIGKILL, SIGTERM or SIGINT at moments
drawn from its duration and from the phases that the log names, each on a fresh copy. After each: the file is
sound, every clustering in it agrees with its record, the same command completes
the work, and what it comes to is what the undisturbed run came to, number by number. SIGTERM and SIGINT must
exit 143 and 130 within 5 s. Exit 0: all of it held.

Usage: fault_matrix.py [STAGE…] [--kills K] [--signals S] [--rows N] [--seed S] [--folder F]
"""

from __future__ import annotations

import argparse
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
    left_over,
    longest,
    make_template,
    prepared,
    require_whole,
    run,
)

MOST_SECONDS = 5.0
ATTEMPTS = 4
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def main() -> None:
    """Go through the stages."""
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
            found, seconds = disturb(name, Path(folder), args)
            faults += found
            slowest = max(slowest, seconds)
    print(f"the slowest exit after SIGTERM or SIGINT took {slowest:.2f} s")
    if slowest > MOST_SECONDS:
        faults.append(f"an exit took {slowest:.2f} s, more than {MOST_SECONDS:g}")
    print("\n".join(faults) or "nothing was lost")
    sys.exit(1 if faults else 0)


def disturb(name: str, folder: Path, args: argparse.Namespace) -> tuple[list[str], float]:
    """Disturb one stage; return what went wrong, and the slowest exit after a signal."""
    stage, draw = STAGES[name], random.Random(f"{args.seed} {name}")
    template = make_template(stage, folder / f"{name}-template", args.rows)
    with prepared(stage, template, folder / "whole") as path:
        # Once for whatever is compiled and cached, once for the time.
        undisturbed = run(path, stage.words)
    with prepared(stage, template, folder / "whole") as path:
        undisturbed = run(path, stage.words)
        if undisturbed.code:
            return [f"{name}: undisturbed it exits {undisturbed.code}: {undisturbed.stderr}"], 0.0
        require_whole(path)
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
                    done = run(path, stage.words, after=after, phase=phase, number=number)
                    said = check(stage, path, done, number, expected)
                except AssertionError as error:
                    faults.append(f"{name}, {number.name} {after:.2f} s into {phase or 'the run'}: {error}")
                    said = f"FAULT {error}"
            print(f"  {number.name} {after:6.2f} s into {phase or 'the run'}: {said}", flush=True)
            if number in CODES and done.code == CODES[number]:
                slowest = max(slowest, done.seconds - done.signalled)
            if done.code:
                break
            # The undisturbed run met a busier machine than this one.
            after /= 3
    return faults, slowest


def moment(stage: Stage, undisturbed: Run, draw: random.Random, turn: int) -> tuple[float, str | None]:
    """Draw a moment: of the whole run in turn, and of a phase."""
    if turn % 2:
        phase = stage.phases[turn // 2 % len(stage.phases)]
        return draw.uniform(0, longest(undisturbed, phase)), phase
    return draw.uniform(0, undisturbed.seconds), None


def check(stage: Stage, path: Path, done: Run, number: signal.Signals, expected: object) -> str:
    """Check what a disturbed run left behind, complete its work, and say where it was."""
    if done.code == 0:
        said = "it was done before"
    else:
        # Before its first lines Python itself answers, by the signal.
        expected_codes = {-number, CODES.get(number, -number)}
        assert done.code in expected_codes, f"exit {done.code}: {done.stderr}"
        said = f"exit {done.code} in {done.where!r}"
        if number in CODES:
            said += f", {done.seconds - done.signalled:.2f} s after the signal"
    n_whole = require_whole(path)
    # A kill in the middle of saving keeps nothing, an exit in the middle of it keeps a file.
    for kept in path.parent.glob(f"{path.name}.pending-*.arrow"):
        assert number in CODES, "a kill kept a result"
        again = run(path, ("save-pending", kept.name))
        assert again.code == 0, again.stderr
        said += ", kept and saved"
    completed = run(path, stage.words)
    assert completed.code == 0, f"the run after it exits {completed.code}: {completed.stderr}"
    require_whole(path)
    assert stage.outcome(path) == expected, "the run after it came to something else"
    others = [one for one in left_over(path) if one != "import.parquet"]
    assert not others, f"left over: {others}"
    return f"{said}; {n_whole} whole clusterings, then completed"


if __name__ == "__main__":
    main()
