"""Test the work folder: what is kept there, what is removed, and runs without one."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from panic_tda import parameters
from panic_tda.clustering import checkpoint as checkpoint_module
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.types import CLUSTERED, FAILED
from tests.conftest import MakeFile
from tests.field_files import FieldSpec

TILED = ClusteringParameters(backend="tiled")
TWO_MODELS = FieldSpec(text_models=("A", "B"), runs=8, length=60)


def leave_states(root: Path) -> None:
    """Write the states of killed runs with two sets of parameters."""
    for k in (3, 4):
        checkpoint = Checkpoint(root, "rows")
        checkpoint.open(k=k)
        checkpoint.save("neighbours", rows=np.zeros(3))


def states(root: Path) -> list[Path]:
    return list(root.rglob("*.state"))


@pytest.mark.parametrize("checkpoints", [True, False])
def test_states_of_the_clustered_models_are_discarded_on_request(
    upgraded: MakeFile, tmp_path: Path, checkpoints: bool
) -> None:
    database, work = upgraded(TWO_MODELS).database, tmp_path / "work"
    for model in ("A", "B"):
        leave_states(work / model)
    resources = Resources(work_dir=work, checkpoints=checkpoints)
    (outcome,) = cluster_all_data(database, ["A"], parameters=TILED, resources=resources)
    assert outcome.status == CLUSTERED
    assert len(states(work / "A")) == len(states(work / "B")) == 2
    discarded = Resources(work_dir=work, checkpoints=checkpoints, discard_checkpoints=True)
    (outcome,) = cluster_all_data(database, ["A"], parameters=TILED, resources=discarded)
    assert outcome.status == CLUSTERED
    assert not (work / "A").exists()
    assert len(states(work / "B")) == 2


def test_discard_checkpoints_removes_states(upgraded: MakeFile, tmp_path: Path) -> None:
    file, work = upgraded(TWO_MODELS), tmp_path / "work"
    words = ["cluster-embeddings", "A", "--db", str(file.path), "--work-dir", str(work)]
    for option, left in (([], 2), (["--discard-checkpoints"], 0)):
        leave_states(work / "A")
        result = CliRunner().invoke(main, [*words, *option])
        assert result.exit_code == 0, result.output
        assert len(states(work)) == left


@pytest.mark.parametrize("discard", [True, False])
def test_a_work_folder_that_is_a_file_disables_states_but_not_the_run(
    upgraded: MakeFile, discard: bool
) -> None:
    file = upgraded(TWO_MODELS)
    beside = file.path.with_name(f"{file.path.name}.panic-tda")
    beside.write_text("mine")
    outcomes = cluster_all_data(
        file.database, parameters=TILED, resources=Resources(discard_checkpoints=discard)
    )
    assert [outcome.status for outcome in outcomes] == [CLUSTERED, CLUSTERED]
    assert beside.read_text() == "mine"


@pytest.mark.parametrize("discard", [True, False])
def test_a_work_folder_that_cannot_be_made_does_not_fail_the_run(
    upgraded: MakeFile, tmp_path: Path, discard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """No file system takes names of 300 characters; models may have such."""
    database = upgraded(replace(TWO_MODELS, text_models=("A" * 300, "B"))).database
    for work in (None, tmp_path / ("w" * 300)):
        resources = Resources(work_dir=work, discard_checkpoints=discard)
        outcomes = cluster_all_data(database, parameters=TILED, resources=resources)
        assert [outcome.status for outcome in outcomes] == [CLUSTERED, CLUSTERED]
    assert "could not be removed" not in caplog.text


def test_an_unusable_work_folder_is_an_error_if_files_are_needed(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "LEAST_MEMORY", 1)
    file = upgraded(TWO_MODELS)
    beside = file.path.with_name(f"{file.path.name}.panic-tda")
    beside.write_text("mine")
    limited = Resources(memory_limit=1000)
    for outcome in cluster_all_data(file.database, parameters=TILED, resources=limited):
        assert outcome.status == FAILED
        assert f"could not be made in {beside}" in (outcome.reason or "")
        assert "--work-dir" in (outcome.reason or "")


def test_without_checkpoints_large_files_lie_in_the_work_folder_too(
    upgraded: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The neighbour lists were in the temporary folder, which is often in memory."""
    file = upgraded(TWO_MODELS)
    monkeypatch.setattr(parameters, "LEAST_MEMORY", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not" / "for" / "this"))
    (tmp_path / "not").write_text("a file, so that nothing can be made below it")
    resources = Resources(memory_limit=1000, work_dir=tmp_path / "work", checkpoints=False)
    with caplog.at_level(logging.INFO, "panic_tda"):
        outcomes = cluster_all_data(file.database, parameters=TILED, resources=resources)
    assert [outcome.status for outcome in outcomes] == [CLUSTERED, CLUSTERED]
    assert f"go into a file in {tmp_path / 'work' / 'A'}" in caplog.text
    assert not any((tmp_path / "work").iterdir())


def plant(folder: Path) -> dict[str, bytes]:
    """Fill another user's folder with files like states, and return its contents."""
    (folder / ("a" * 16)).mkdir(parents=True)
    for place in (folder, folder / ("a" * 16)):
        for name in ("neighbours.npz", "finished-tree.state", "checkpoint.json", "x.panic-tda.partial"):
            (place / name).write_bytes(b"precious")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("discard", [True, False])
@pytest.mark.parametrize("link", ["root", "model", "key"])
def test_links_in_the_work_folder_are_not_followed(
    upgraded: MakeFile, tmp_path: Path, link: str, discard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(TWO_MODELS)
    root = file.path.with_name(f"{file.path.name}.panic-tda")
    target = tmp_path / "theirs"
    precious = plant(target)
    planted = {"root": root, "model": root / "A", "key": root / "A" / ("b" * 16)}[link]
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to(target)
    (outcome,) = cluster_all_data(
        file.database, ["A"], parameters=TILED, resources=Resources(discard_checkpoints=discard)
    )
    assert outcome.status == CLUSTERED
    assert contents(target) == precious
    if discard or link != "key":
        assert str(planted) in caplog.text
        assert "symbolic link" in caplog.text


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "fifo", "folder"])
def test_an_existing_file_with_the_name_of_a_partial_state_is_not_written_to(
    tmp_path: Path, kind: str
) -> None:
    checkpoint = Checkpoint(tmp_path / "work", "rows")
    checkpoint.open(k=3)
    checkpoint.save("state", rows=np.arange(3))
    target, partial = tmp_path / "theirs", checkpoint.folder / "state.panic-tda.partial"
    target.write_bytes(b"precious")
    if kind == "link":
        partial.symlink_to(target)
    elif kind == "dangling link":
        partial.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        partial.hardlink_to(target)
    elif kind == "fifo":
        os.mkfifo(partial)
    else:
        partial.mkdir()
    checkpoint.save("state", rows=np.arange(4))
    assert target.read_bytes() == b"precious"
    assert not (tmp_path / "new").exists()
    stored = checkpoint.load("state")
    assert stored is not None
    # Where nothing could be saved, the state is what it was.
    assert stored["rows"].tolist() == list(range(3 if kind == "folder" else 4))


def test_a_link_in_place_of_the_state_folder_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = Checkpoint(tmp_path / "theirs", "rows")
    theirs.open(k=3)
    theirs.save("state", rows=np.arange(3))
    ours = Checkpoint(tmp_path / "work", "rows")
    ours.open(k=3)
    ours.root.mkdir()
    ours.folder.symlink_to(theirs.folder)
    before = contents(tmp_path / "theirs")
    assert ours.load("state") is None
    ours.save("state", rows=np.arange(4))
    ours.remove("state")
    with pytest.raises(OSError, match="symbolic link"):
        ours.remove_all()
    assert contents(tmp_path / "theirs") == before
    assert caplog.text.count(str(ours.folder)) >= 2


def test_the_named_work_folder_may_be_a_link(
    upgraded: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "LEAST_MEMORY", 1)
    (tmp_path / "scratch").mkdir()
    work = tmp_path / "work"
    work.symlink_to(tmp_path / "scratch")
    leave_states(work / "A")
    resources = Resources(work_dir=work, memory_limit=1000, discard_checkpoints=True)
    (outcome,) = cluster_all_data(upgraded(TWO_MODELS).database, ["A"], parameters=TILED, resources=resources)
    assert outcome.status == CLUSTERED
    assert list((tmp_path / "scratch").iterdir()) == []


def test_states_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    leave_states(tmp_path / "work" / "A")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "work").rglob("*") if path.is_dir()} == {
        0o700
    }


def test_states_of_an_earlier_version_are_logged_and_removed_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint_module, "FORMAT", 2)
        old = Checkpoint(tmp_path, "rows")
        old.open(k=3)
        old.save("state", rows=np.arange(3))
    new = Checkpoint(tmp_path, "rows")
    new.open(k=3)
    assert f"the states in {old.folder} are of an earlier version of panic_tda" in caplog.text
    assert new.load("state") is None
    new.remove_all()
    assert not old.folder.exists()
