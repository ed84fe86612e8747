"""The work folder: what is kept there and what goes, and runs that have none."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from panic_tda import parameters
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
    """Leave what killed runs with two sets of parameters leave."""
    for k in (3, 4):
        checkpoint = Checkpoint(root, "rows")
        checkpoint.open(k=k)
        checkpoint.save("neighbours", rows=np.zeros(3))


def states(root: Path) -> list[Path]:
    return list(root.rglob("*.npz"))


@pytest.mark.parametrize("checkpoints", [True, False])
def test_states_of_the_models_that_are_clustered_are_discarded_when_that_is_said(
    upgraded: MakeFile, tmp_path: Path, checkpoints: bool
) -> None:
    database, work = upgraded(TWO_MODELS).database, tmp_path / "work"
    for model in ("A", "B"):
        leave_states(work / model)
    kept = Resources(work_dir=work, checkpoints=checkpoints)
    (outcome,) = cluster_all_data(database, ["A"], parameters=TILED, resources=kept)
    assert outcome.status == CLUSTERED
    assert len(states(work / "A")) == len(states(work / "B")) == 2
    discarded = Resources(work_dir=work, checkpoints=checkpoints, discard_checkpoints=True)
    (outcome,) = cluster_all_data(database, ["A"], parameters=TILED, resources=discarded)
    assert outcome.status == CLUSTERED
    assert not (work / "A").exists()
    assert len(states(work / "B")) == 2


def test_the_command_discards_when_it_is_told_to(upgraded: MakeFile, tmp_path: Path) -> None:
    file, work = upgraded(TWO_MODELS), tmp_path / "work"
    asked = ["cluster-embeddings", "A", "--db", str(file.path), "--work-dir", str(work)]
    for option, left in (([], 2), (["--discard-checkpoints"], 0)):
        leave_states(work / "A")
        done = CliRunner().invoke(main, [*asked, *option])
        assert done.exit_code == 0, done.output
        assert len(states(work)) == left


@pytest.mark.parametrize("discard", [True, False])
def test_a_work_folder_that_is_a_file_costs_the_chance_to_go_on_and_not_the_run(
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
def test_a_work_folder_that_cannot_be_made_costs_no_run(
    upgraded: MakeFile, tmp_path: Path, discard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """No file system takes names of 300 characters; models may have such."""
    database = upgraded(replace(TWO_MODELS, text_models=("A" * 300, "B"))).database
    for work in (None, tmp_path / ("w" * 300)):
        resources = Resources(work_dir=work, discard_checkpoints=discard)
        outcomes = cluster_all_data(database, parameters=TILED, resources=resources)
        assert [outcome.status for outcome in outcomes] == [CLUSTERED, CLUSTERED]
    assert "could not be removed" not in caplog.text


def test_where_a_file_is_needed_such_a_folder_is_an_error_that_names_the_option(
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
    """The neighbour lists went into the temporary folder, which is often memory itself."""
    file = upgraded(TWO_MODELS)
    monkeypatch.setattr(parameters, "LEAST_MEMORY", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not" / "for" / "this"))
    (tmp_path / "not").write_text("a file, so that nothing can be made below it")
    asked = Resources(memory_limit=1000, work_dir=tmp_path / "work", checkpoints=False)
    with caplog.at_level(logging.INFO, "panic_tda"):
        outcomes = cluster_all_data(file.database, parameters=TILED, resources=asked)
    assert [outcome.status for outcome in outcomes] == [CLUSTERED, CLUSTERED]
    assert f"go into a file in {tmp_path / 'work' / 'A'}" in caplog.text
    assert not any((tmp_path / "work").iterdir())
