"""Saved states: taken up only by the run they belong to, never half written."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering.checkpoint import Checkpoint, fingerprint

ROWS = np.eye(5, 3, dtype=np.float32)
ONES = np.ones(5, dtype=np.int64)


def test_states_come_back_under_the_same_key(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path / "work")
    first.open("key")
    first.save("state", rows=ROWS, done=3)
    second = Checkpoint(tmp_path / "work")
    second.open("key")
    stored = second.load("state")
    assert stored is not None
    assert stored["done"] == 3
    np.testing.assert_array_equal(stored["rows"], ROWS)


def test_another_key_removes_them(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path / "work")
    first.open("key")
    first.save("state", rows=ROWS)
    second = Checkpoint(tmp_path / "work")
    second.open("other")
    assert second.load("state") is None
    assert not (tmp_path / "work").exists()


def test_states_without_a_key_are_not_taken_up(tmp_path: Path) -> None:
    """A kill in the middle of removing states leaves files whose key has gone."""
    first = Checkpoint(tmp_path)
    first.open("key")
    first.save("state", rows=ROWS)
    (tmp_path / "checkpoint.json").unlink()
    second = Checkpoint(tmp_path)
    second.open("key")
    assert second.load("state") is None


def test_half_a_state_is_none(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.open("key")
    checkpoint.save("state", rows=ROWS)
    path = tmp_path / "state.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoint.load("state") is None


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint = Checkpoint(tmp_path)
    checkpoint.open("key")
    checkpoint.save("state", rows=ROWS)
    checkpoint.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_save_that_fails_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    checkpoint = Checkpoint(tmp_path / "work")
    checkpoint.open("key")
    with caplog.at_level(logging.WARNING, "panic_tda"):
        checkpoint.save("state", rows=ROWS)
    assert "could not be saved" in caplog.text


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_due(tmp_path: Path, seconds: float) -> None:
    assert Checkpoint(tmp_path, save_seconds=seconds).due() == (seconds == 0)


def test_fingerprint_sees_every_change() -> None:
    changed = ROWS.copy()
    changed[4, 2] = 1e-30
    heavier = ONES.copy()
    heavier[2] = 2
    prints = [
        fingerprint(ROWS, ONES, k=1),
        fingerprint(ROWS, ONES, k=2),
        fingerprint(changed, ONES, k=1),
        fingerprint(ROWS, heavier, k=1),
        fingerprint(ROWS.reshape(3, 5), ONES, k=1),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(ROWS.copy(), ONES.copy(), k=1) == prints[0]


def test_arrays_of_the_user_are_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", rows=ROWS)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.open("key")
    checkpoint.save("state", rows=ROWS)
    checkpoint.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npz"]


def test_a_run_never_takes_up_the_state_of_another_in_the_same_folder(tmp_path: Path) -> None:
    """The second run replaces the first one's states; the first goes on, and claims the folder again."""
    first, second = Checkpoint(tmp_path), Checkpoint(tmp_path)
    first.open("one")
    second.open("two")
    second.save("cores", rows=2 * ROWS)
    first.save("tree", rows=ROWS)
    again = Checkpoint(tmp_path)
    again.open("one")
    assert again.load("tree") is not None
    assert again.load("cores") is None
