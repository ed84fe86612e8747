"""Saved states: taken up only by the run they belong to, never half written, never in anybody's way."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.arrays.mapped import new_array
from panic_tda.clustering.checkpoint import Checkpoint, discard_all
from tests import strict_arrays

ROWS = np.eye(5, 3, dtype=np.float32)


def opened(root: Path, input_sha256: str = "rows", **parameters: Any) -> Checkpoint:
    checkpoint = Checkpoint(root, input_sha256)
    checkpoint.open(**parameters)
    return checkpoint


def test_states_come_back_for_the_same_input_and_parameters(tmp_path: Path) -> None:
    opened(tmp_path / "work", k=3).save("state", rows=ROWS, done=3)
    stored = opened(tmp_path / "work", k=3).load("state")
    assert stored is not None
    assert stored["done"] == 3
    np.testing.assert_array_equal(stored["rows"], ROWS)


def test_a_state_is_read_into_what_is_there(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((3000, 300), dtype=np.float32)
    opened(tmp_path).save("state", rows=rows, done=3)
    for there in (np.empty_like(rows), new_array(rows.shape, rows.dtype, tmp_path / "files")):
        tracemalloc.start()
        try:
            stored = opened(tmp_path).load("state", {"rows": there})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert stored is not None
        assert stored["rows"] is there
        assert int(stored["done"]) == 3
        np.testing.assert_array_equal(there, rows)
        # A second one would be 3.6 MB.
        assert peak < rows.nbytes


def test_a_state_is_read_into_memory_of_another_library(tmp_path: Path) -> None:
    opened(tmp_path).save("state", rows=ROWS)
    there = strict_arrays.namespace.zeros(ROWS.shape, dtype=np.float32)
    assert opened(tmp_path).load("state", {"rows": there}) is not None
    np.testing.assert_array_equal(there.get(), ROWS)


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("rows", np.empty((5, 4), dtype=np.float32)),
        ("rows", np.empty((4, 3), dtype=np.float32)),
        ("rows", np.empty((5, 3), dtype=np.int32)),
        ("sims", np.empty((5, 3), dtype=np.float32)),
    ],
)
def test_a_state_of_another_shape_is_none(tmp_path: Path, name: str, there: np.ndarray) -> None:
    opened(tmp_path).save("state", rows=ROWS)
    assert opened(tmp_path).load("state", {name: there}) is None


def test_a_state_with_a_wrong_byte_is_none(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    path = checkpoint.folder / "state.npz"
    content = bytearray(path.read_bytes())
    place = content.index(ROWS.tobytes()) + 8
    content[place] ^= 1
    path.write_bytes(bytes(content))
    assert checkpoint.load("state") is None
    assert checkpoint.load("state", {"rows": np.empty_like(ROWS)}) is None


def test_states_of_all_parameters_can_be_discarded_and_nothing_else(tmp_path: Path) -> None:
    opened(tmp_path / "work", k=3).save("state", rows=ROWS)
    opened(tmp_path / "work", "others", k=4).save("state", rows=ROWS)
    (tmp_path / "work" / "mine").mkdir()
    (tmp_path / "work" / "mine" / "state.npz").write_text("mine")
    np.savez(tmp_path / "work" / "vectors.npz", rows=ROWS)
    discard_all(tmp_path / "work")
    left = sorted(path.name for path in (tmp_path / "work").rglob("*"))
    assert left == ["mine", "state.npz", "vectors.npz"]


@pytest.mark.parametrize("place", ["nothing", "file", "states"])
def test_discarding_all_ends_no_run(tmp_path: Path, place: str) -> None:
    if place == "file":
        (tmp_path / "work").write_text("mine")
    elif place == "states":
        opened(tmp_path / "work").save("state", rows=ROWS)
    discard_all(tmp_path / "work")
    assert (tmp_path / "work").exists() == (place == "file")


def test_a_run_says_from_where_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = opened(tmp_path, k=3)
    first.save("state", rows=ROWS)
    with caplog.at_level(logging.INFO, "panic_tda"):
        assert opened(tmp_path, k=4).load("state") is None
        assert caplog.text == ""
        opened(tmp_path, k=3).load("state")
    assert f"going on from the state {first.folder}" in caplog.text


@pytest.mark.parametrize("other", [{"input_sha256": "others"}, {"k": 4}, {"k": 3, "format": 2}])
def test_states_of_another_run_are_neither_taken_nor_removed(tmp_path: Path, other: dict[str, Any]) -> None:
    first, second = opened(tmp_path, k=3), opened(tmp_path, **{"k": 3} | other)
    first.save("state", rows=ROWS)
    assert second.load("state") is None
    second.save("state", rows=2 * ROWS)
    second.discard()
    stored = opened(tmp_path, k=3).load("state")
    assert stored is not None
    np.testing.assert_array_equal(stored["rows"], ROWS)


def test_people_can_read_whose_states_these_are(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, k=3)
    checkpoint.save("state", rows=ROWS)
    about = json.loads((checkpoint.folder / "checkpoint.json").read_text())
    assert about["input_sha256"] == "rows"
    assert about["parameters"] == {"k": 3}


@pytest.mark.parametrize("content", [b"", b"PK", b"null", None])
def test_half_a_state_is_none(tmp_path: Path, content: bytes | None) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    path = checkpoint.folder / "state.npz"
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    assert checkpoint.load("state") is None


@pytest.mark.parametrize("content", ["null", "[]", "3", "{", ""])
def test_what_people_read_is_not_needed(tmp_path: Path, content: str) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    (checkpoint.folder / "checkpoint.json").write_text(content)
    again = opened(tmp_path)
    assert again.load("state") is not None
    again.discard()
    assert list(tmp_path.glob("*")) == []


def test_discarding_leaves_other_files_and_folders_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", rows=ROWS)
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    (checkpoint.folder / "notes.txt").write_text("mine")
    checkpoint.discard()
    kept = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["notes.txt", "vectors.npz"]
    (checkpoint.folder / "notes.txt").unlink()
    checkpoint.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npz"]


def test_discarding_what_was_never_opened_removes_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", rows=ROWS)
    Checkpoint(tmp_path, "rows").discard()
    assert (tmp_path / "vectors.npz").exists()


def test_a_folder_that_is_a_file_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    checkpoint = opened(tmp_path / "work")
    with caplog.at_level(logging.WARNING, "panic_tda"):
        checkpoint.save("state", rows=ROWS)
    assert "could not be saved" in caplog.text
    assert checkpoint.load("state") is None
    checkpoint.remove("state")
    checkpoint.discard()
    assert (tmp_path / "work").read_text() == "a file where the folder should be"


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_due(tmp_path: Path, seconds: float) -> None:
    assert Checkpoint(tmp_path, "rows", save_seconds=seconds).due() == (seconds == 0)
