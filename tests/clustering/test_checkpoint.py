"""Test saved states: used only by the run they belong to, never partial, never an obstacle."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.arrays.mapped import new_array
from panic_tda.clustering import checkpoint as checkpoint_module
from panic_tda.clustering.checkpoint import (
    Checkpoint,
    find_saved_states,
    remove_all_states,
    remove_states_of_input,
)
from tests import strict_arrays

ROWS = np.eye(5, 3, dtype=np.float32)


def opened(root: Path, input_sha256: str = "rows", **parameters: Any) -> Checkpoint:
    checkpoint = Checkpoint(root, input_sha256)
    checkpoint.open(**parameters)
    return checkpoint


def test_states_are_read_for_the_same_input_and_parameters(tmp_path: Path) -> None:
    opened(tmp_path / "work", k=3).save("state", rows=ROWS, done=3)
    stored = opened(tmp_path / "work", k=3).load("state")
    assert stored is not None
    assert stored["done"] == 3
    np.testing.assert_array_equal(stored["rows"], ROWS)


def test_the_order_of_parameters_does_not_matter(tmp_path: Path) -> None:
    opened(tmp_path, k=3, floor=0.1).save("state", rows=ROWS)
    assert opened(tmp_path, floor=0.1, k=3).load("state") is not None


def test_a_state_of_another_format_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).save("state", rows=ROWS)
    monkeypatch.setattr(checkpoint_module, "FORMAT", checkpoint_module.FORMAT + 1)
    assert opened(tmp_path).load("state") is None


def test_a_later_state_replaces_an_earlier_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    checkpoint.save("state", rows=2 * ROWS)
    stored = checkpoint.load("state")
    assert stored is not None
    np.testing.assert_array_equal(stored["rows"], 2 * ROWS)
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == ["checkpoint.json", "state.state"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_state_is_on_the_disk_before_it_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = opened(tmp_path)
    synced: list[tuple[bool, bool]] = []

    def sync(file: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
        synced.append((is_folder, (checkpoint.folder / "state.state").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    checkpoint.save("state", rows=ROWS)
    # What is written about it before; then the file while it has no name yet, the folder once it has.
    assert (False, True) not in synced
    assert synced[-2:] == [(False, False), (True, True)]


def test_a_state_that_cannot_be_saved_leaves_nothing_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = opened(tmp_path)
    (checkpoint.folder / "state.state").mkdir(parents=True)  # nothing can take its place
    checkpoint.save("state", rows=ROWS)
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == ["checkpoint.json", "state.state"]
    folder = re.escape(str(checkpoint.folder))
    warning = (
        rf"the state of 0 MiB could not be saved in {folder}, .* are free, "
        r"the run continues without it: \[Errno "
    )
    assert re.match(warning, caplog.messages[0])


def test_a_removed_state_is_not_found_and_others_stay(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    for name in ("first", "second"):
        checkpoint.save(name, rows=ROWS)
    checkpoint.remove("first")
    checkpoint.remove("never saved")
    assert checkpoint.load("first") is None
    assert checkpoint.load("second") is not None


def test_a_state_is_read_into_existing_arrays(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((3000, 300), dtype=np.float32)
    opened(tmp_path).save("state", rows=rows, done=3)
    for there in (np.empty_like(rows), new_array(rows.shape, rows.dtype, tmp_path / "files")):
        tracemalloc.start()
        try:
            stored = opened(tmp_path).load("state", into={"rows": there})
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
    assert opened(tmp_path).load("state", into={"rows": there}) is not None
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
def test_a_state_of_another_shape_is_not_used(tmp_path: Path, name: str, there: np.ndarray) -> None:
    opened(tmp_path).save("state", rows=ROWS)
    assert opened(tmp_path).load("state", into={name: there}) is None


def test_a_state_with_a_wrong_byte_is_not_used(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    path = checkpoint.folder / "state.state"
    content = bytearray(path.read_bytes())
    place = content.index(ROWS.tobytes()) + 8
    content[place] ^= 1
    path.write_bytes(bytes(content))
    assert checkpoint.load("state") is None
    assert checkpoint.load("state", into={"rows": np.empty_like(ROWS)}) is None


def test_states_of_all_parameters_can_be_discarded_and_nothing_else(tmp_path: Path) -> None:
    opened(tmp_path / "work", k=3).save("state", rows=ROWS)
    opened(tmp_path / "work", "others", k=4).save("state", rows=ROWS)
    (tmp_path / "work" / "mine").mkdir()
    (tmp_path / "work" / "mine" / "state.state").write_text("mine")
    np.savez(tmp_path / "work" / "vectors.npz", rows=ROWS)
    remove_all_states(tmp_path / "work")
    left = sorted(path.name for path in (tmp_path / "work").rglob("*"))
    assert left == ["mine", "state.state", "vectors.npz"]


def test_every_removed_folder_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = opened(tmp_path).folder
    opened(tmp_path).save("state", rows=ROWS)
    with caplog.at_level(logging.INFO, "panic_tda"):
        remove_all_states(tmp_path)
    assert caplog.messages == [f"discarded the states in {folder}"]


def test_a_state_that_cannot_be_removed_does_not_fail_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = opened(tmp_path)
    (checkpoint.folder / "state.state").mkdir(parents=True)
    remove_all_states(tmp_path)
    (message,) = caplog.messages
    assert message.startswith(f"not all states in {tmp_path} could be discarded: [Errno ")
    assert str(checkpoint.folder / "state.state") in message


@pytest.mark.parametrize("place", ["nothing", "file", "states"])
def test_removing_all_states_does_not_fail_the_run(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    if place == "file":
        (tmp_path / "work").write_text("mine")
    elif place == "states":
        opened(tmp_path / "work").save("state", rows=ROWS)
    remove_all_states(tmp_path / "work")
    assert (tmp_path / "work").exists() == (place == "file")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_run_logs_the_state_it_continues_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = opened(tmp_path, k=3)
    first.save("state", rows=ROWS)
    with caplog.at_level(logging.INFO, "panic_tda"):
        assert opened(tmp_path, k=4).load("state") is None
        assert caplog.text == ""
        path = first.folder / "state.state"
        os.utime(path, (0, 1e9))
        opened(tmp_path, k=3).load("state")
    saved = time.strftime("%H:%M:%S", time.localtime(1e9))
    assert caplog.messages == [f"going on from the state {path}, saved {saved}"]


@pytest.mark.parametrize("parameters", [{"input_sha256": "others"}, {"k": 4}, {"k": 3, "format": 2}])
def test_states_of_another_run_are_neither_used_nor_removed(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    first, second = opened(tmp_path, k=3), opened(tmp_path, **{"k": 3} | parameters)
    first.save("state", rows=ROWS)
    assert second.load("state") is None
    second.save("state", rows=2 * ROWS)
    second.remove_all()
    stored = opened(tmp_path, k=3).load("state")
    assert stored is not None
    np.testing.assert_array_equal(stored["rows"], ROWS)


def test_the_state_folder_names_its_input_and_parameters(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, k=3)
    checkpoint.save("state", rows=ROWS)
    about = json.loads((checkpoint.folder / "checkpoint.json").read_text())
    assert about["input_sha256"] == "rows"
    assert about["parameters"] == {"k": 3}
    assert about["format"] == checkpoint_module.FORMAT


def test_saved_states_are_logged_with_input_size_and_time(tmp_path: Path) -> None:
    for input_sha256, k in (("rows", 3), ("rows", 4), ("others", 3)):
        checkpoint = opened(tmp_path / "work" / "model", input_sha256, k=k)
        checkpoint.save("state", rows=ROWS)
        checkpoint.save("more", rows=ROWS)
        os.utime(checkpoint.folder / "state.state", (0, 1e9))
        os.utime(checkpoint.folder / "more.state", (0, 1e9 - k))
        os.utime(checkpoint.folder / "checkpoint.json", (0, 1e9 - 100))
    opened(tmp_path / "work" / "nothing saved")
    saved_states = find_saved_states(tmp_path / "work")
    assert [state.folder for state in saved_states] == sorted((tmp_path / "work" / "model").iterdir())
    assert sorted(str(state.input_sha256) for state in saved_states) == ["others", "rows", "rows"]
    assert {state.saved_at for state in saved_states} == {1e9}
    for state in saved_states:
        assert state.n_bytes == sum(path.stat().st_size for path in state.folder.iterdir())
    assert find_saved_states(tmp_path / ("long" * 100)) == []


@pytest.mark.parametrize("content", ["null", "[]", "3", "{", "{}", ""])
def test_a_saved_state_without_its_input_is_logged_too(tmp_path: Path, content: str) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    (checkpoint.folder / "checkpoint.json").write_text(content)
    (state,) = find_saved_states(tmp_path)
    assert state.input_sha256 is None
    assert state.parameters == {}
    assert state.n_bytes > ROWS.nbytes


def test_the_states_of_one_input_and_some_parameters_can_be_discarded(tmp_path: Path) -> None:
    work = tmp_path / "work"
    ours = [opened(work / place, k=3, tile=tile) for place, tile in (("a", 1), ("a", 2), ("b", 1))]
    others = [opened(work / "a", k=4, tile=1), opened(work / "b", "others", k=3, tile=1)]
    for checkpoint in (*ours, *others):
        checkpoint.save("state", rows=ROWS)
    remove_states_of_input(work, "rows", {"k": 3})
    assert [state.folder for state in find_saved_states(tmp_path)] == [
        checkpoint.folder for checkpoint in others
    ]
    remove_states_of_input(work, "rows", {"k": 4, "more": 1})
    assert len(find_saved_states(tmp_path)) == 2
    remove_states_of_input(work, "rows", {"k": 4})
    assert sorted(path.name for path in work.iterdir()) == ["b"]
    remove_states_of_input(work, "others", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK", b"null", None])
def test_a_partial_state_is_not_used(tmp_path: Path, content: bytes | None) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    path = checkpoint.folder / "state.state"
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    assert checkpoint.load("state") is None


@pytest.mark.parametrize("content", ["null", "[]", "3", "{", ""])
def test_the_readable_description_is_not_needed(tmp_path: Path, content: str) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    (checkpoint.folder / "checkpoint.json").write_text(content)
    again = opened(tmp_path)
    assert again.load("state") is not None
    again.remove_all()
    assert list(tmp_path.glob("*")) == []


def test_discarding_leaves_other_files_and_folders_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", rows=ROWS)
    checkpoint = opened(tmp_path)
    checkpoint.save("state", rows=ROWS)
    (checkpoint.folder / "notes.txt").write_text("mine")
    checkpoint.remove_all()
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["notes.txt", "vectors.npz"]
    (checkpoint.folder / "notes.txt").unlink()
    checkpoint.remove_all()
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npz"]


def test_discarding_what_was_never_opened_removes_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", rows=ROWS)
    Checkpoint(tmp_path, "rows").remove_all()
    assert (tmp_path / "vectors.npz").exists()


def test_a_folder_with_too_long_a_name_stores_no_state_and_fails_no_run(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path / ("long" * 100))
    checkpoint.save("state", rows=ROWS)
    assert checkpoint.load("state") is None
    checkpoint.remove("state")
    checkpoint.remove_all()
    remove_all_states(checkpoint.root)


def test_a_folder_that_is_a_file_does_not_fail_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    checkpoint = opened(tmp_path / "work")
    with caplog.at_level(logging.WARNING, "panic_tda"):
        checkpoint.save("state", rows=ROWS)
    assert "could not be saved" in caplog.text
    assert checkpoint.load("state") is None
    checkpoint.remove("state")
    checkpoint.remove_all()
    assert (tmp_path / "work").read_text() == "a file where the folder should be"


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_save_is_due_after_the_interval(tmp_path: Path, seconds: float) -> None:
    checkpoint = Checkpoint(tmp_path, "rows", save_seconds=seconds)
    assert checkpoint.due() == (seconds == 0)
    checkpoint.open()
    checkpoint.save("state", rows=ROWS)
    assert checkpoint.due() == (seconds == 0)


def test_a_save_restarts_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    checkpoint = Checkpoint(tmp_path, "rows", save_seconds=60)
    checkpoint.open()
    now += 59
    assert not checkpoint.due()
    now += 1
    assert checkpoint.due()
    checkpoint.save("state", rows=ROWS)
    now += 59
    assert not checkpoint.due()
    now += 2
    assert checkpoint.due()


def test_a_link_among_states_does_not_prevent_removing_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = tmp_path / "work"
    checkpoint = opened(work)
    checkpoint.save("state", rows=ROWS)
    (tmp_path / "theirs").mkdir()
    (work / ("0" * 16)).symlink_to(tmp_path / "theirs")
    remove_all_states(work)
    assert [path.name for path in work.iterdir()] == ["0" * 16]
    assert f"{work / ('0' * 16)}" in caplog.text
