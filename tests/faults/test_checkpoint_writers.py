"""Test two runs with one input and one set of parameters that share a folder of states."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from panic_tda.clustering.checkpoint import Checkpoint
from tests.snapshots import REPOSITORY

HOLDING = """
import sys
import numpy as np
from pathlib import Path
from panic_tda.clustering import checkpoint

state = checkpoint.Checkpoint(Path(sys.argv[1]), "rows")
state.open(k=3)
write_state = checkpoint.write_state

def write_and_wait(file, about, arrays):
    write_state(file, about, arrays)
    print("half way", flush=True)
    sys.stdin.readline()

checkpoint.write_state = write_and_wait
state.save("state", rows=np.full(1000, 1.0))
"""


def opened(root: Path) -> Checkpoint:
    checkpoint = Checkpoint(root, "rows")
    checkpoint.open(k=3)
    return checkpoint


def start_saving(root: Path) -> subprocess.Popen[str]:
    """Start a process that stops half way through saving a state."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(root)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    return process


def test_two_processes_saving_at_once_leave_one_complete_state(tmp_path: Path) -> None:
    """Both wrote to one partial file, and the first to finish renamed it."""
    process = start_saving(tmp_path)
    ours = opened(tmp_path)
    ours.save("state", rows=np.full(2000, 2.0))
    assert ours.load("state") is None
    process.communicate("go on\n", timeout=180)
    assert process.returncode == 0
    stored = ours.load("state")
    assert stored is not None
    np.testing.assert_array_equal(stored["rows"], np.full(1000, 1.0))
    ours.save("state", rows=np.full(2000, 2.0))
    stored = ours.load("state")
    assert stored is not None
    np.testing.assert_array_equal(stored["rows"], np.full(2000, 2.0))


def test_a_partial_state_of_a_killed_run_is_overwritten(tmp_path: Path) -> None:
    process = start_saving(tmp_path)
    process.kill()
    process.communicate()
    ours = opened(tmp_path)
    assert len(list(ours.folder.glob("*.partial"))) == 1
    ours.save("state", rows=np.arange(5))
    assert sorted(path.name for path in ours.folder.iterdir()) == ["checkpoint.json", "state.state"]
    stored = ours.load("state")
    assert stored is not None
    assert stored["rows"].tolist() == [0, 1, 2, 3, 4]
