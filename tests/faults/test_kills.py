"""Test that after a kill at any moment the file is sound, holds complete results, and the next run completes.

`scripts/fault_matrix.py` does the same with hundreds of moments of larger work.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.main import main
from tests.faults.runs import (
    STAGES,
    find_leftover_files,
    longest,
    make_template,
    prepared,
    require_complete,
    run,
)

ROWS = 1200
MOMENTS = {
    "import": [("import", 0.6)],
    "upgrade": [("upgrade", 0.7)],
    # `clustering/tiled/test_resume.py` kills in the passes of a fit.
    "fit": [("save", 0.4)],
    "delete": [("delete", 0.3)],
}
"""Phases, and how far into them the kill comes."""


@pytest.mark.parametrize("name", MOMENTS)
def test_a_killed_run_is_completed_by_the_next(tmp_path: Path, name: str) -> None:
    stage = STAGES[name]
    template = make_template(stage, tmp_path / "template", ROWS)
    with prepared(stage, template, tmp_path / "whole") as path:
        undisturbed = run(path, stage.words)
        assert undisturbed.code == 0, undisturbed.stderr
        n_whole = require_complete(path)
        expected = stage.outcome(path)
    for phase, share in MOMENTS[name]:
        # The undisturbed run may have met a busy machine: earlier and earlier, until it is early enough.
        for turn in range(5):
            with prepared(stage, template, tmp_path / "killed") as path:
                killed = run(
                    path, stage.words, after=share * longest(undisturbed, phase) / 4**turn, phase=phase
                )
                assert killed.code in (0, -signal.SIGKILL), killed.stderr
                assert require_complete(path) <= max(2, n_whole)
                if killed.code == 0:
                    continue
                command, *words = map(str, stage.words)
                with contextlib.chdir(path.parent):
                    completed = CliRunner().invoke(main, [command, "--db", str(path), *words])
                assert completed.exit_code == 0, completed.output
                require_complete(path)
                assert stage.outcome(path) == expected
                assert find_leftover_files(path) in ([], ["import.parquet"])
                break
        else:
            pytest.fail(f"no run was killed in {phase!r}")
