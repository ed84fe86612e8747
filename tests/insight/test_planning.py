"""Test that a plan estimates what a clustering takes, and changes nothing."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda import cluster_all_data
from panic_tda.clustering import phases, placement
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter, NeedsUpgrade, NoEmbeddings, UnknownModel, UnsupportedOnBackend
from panic_tda.files.importing import import_embeddings, sample_files
from panic_tda.insight import planning
from panic_tda.insight.costs import Costs, PhaseTime
from panic_tda.insight.planning import plan_clustering
from panic_tda.insight.plans import factor_between, smallest_within
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import Database, open_database
from tests.conftest import MakeFile
from tests.faults.runs import file_of_models
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import snapshot

times = st.dictionaries(st.integers(1, 10**6), st.none() | st.floats(0.01, 1e6), min_size=1, max_size=6)


@given(seconds=times, within=st.floats(0.01, 1e6))
def test_the_smallest_factor_in_time_is_the_smallest_of_those_in_time(
    seconds: dict[int, float | None], within: float
) -> None:
    in_time = []
    for factor in sorted(seconds):
        taken = seconds[factor]
        if taken is not None and not taken > within:
            in_time.append(factor)
    assert smallest_within(seconds, within) == (in_time[0] if in_time else None)
    assert smallest_within(seconds, None) is None


@given(seconds=times, within=st.floats(0.01, 1e6))
def test_the_next_factor_lies_between_the_last_too_long_and_the_first_in_time(
    seconds: dict[int, float | None], within: float
) -> None:
    next_factor, best = factor_between(seconds, within), smallest_within(seconds, within)
    smaller = [factor for factor in seconds if best is not None and factor < best]
    if best is None or not smaller or best - max(smaller) == 1:
        assert next_factor is None
    else:
        assert next_factor is not None
        assert max(smaller) < next_factor < best


@settings(deadline=None)
@given(growth=st.floats(0.5, 2), n_total=st.integers(10**5, 10**8), answer=st.integers(2, 900))
def test_the_smallest_factor_is_found_if_time_is_a_power_of_the_rows(
    growth: float, n_total: int, answer: int
) -> None:
    def taken(factor: int) -> float:
        return 1e-3 * (n_total / factor) ** growth

    within = taken(answer) * (1 + 1e-9)
    seconds: dict[int, float | None] = {factor: taken(factor) for factor in (1, 10, 100, 1_000)}
    # The law is guessed at once; the others are its neighbours.
    for _ in range(3):
        if (factor := factor_between(seconds, within)) is not None:
            seconds[factor] = taken(factor)
    assert factor_between(seconds, within) is None
    assert smallest_within(seconds, within) == answer


def test_factors_that_cannot_run_are_left_out() -> None:
    assert factor_between({1: None, 100: 5.0}, 10.0) == 10
    assert factor_between({1: 50.0, 100: None}, 10.0) is None


@pytest.fixture
def sample(tmp_path: Path) -> Database:
    database = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings(sample_files(), database)
    return database


def test_a_plan_of_the_sample_matches_its_clustering(sample: Database) -> None:
    plan = plan_clustering(sample, ["MiniLM"], downsamples=[50, 1, 4, 1])
    (model,) = plan.models
    assert (model.embedding_model, model.n_total, model.dimensions, model.longest_run) == (
        "MiniLM",
        2400,
        384,
        50,
    )
    assert [plan.downsample for plan in model.plans] == [1, 4, 50]
    before = math.inf
    for model_plan in model.plans:
        (outcome,) = cluster_all_data(sample, ["MiniLM"], downsample=model_plan.downsample)
        assert (model_plan.n_rows, model_plan.backend) == (outcome.n_embeddings, outcome.backend)
        assert (model_plan.measured_rows, model_plan.measured_runs) == (model_plan.n_rows, 48)
        assert model_plan.seconds is not None
        assert min(model_plan.seconds.load, model_plan.seconds.fit, model_plan.seconds.save) > 0
        assert (
            model_plan.seconds.total
            == model_plan.seconds.load + model_plan.seconds.fit + model_plan.seconds.save
        )
        assert model_plan.seconds.save < before
        before = model_plan.seconds.save
        assert plan.totals[model_plan.downsample] == model_plan.seconds.total
        assert model_plan.memory[model_plan.backend or ""].fits
    assert model.calibration.n_rows == 2400 + 48 * 13 + 48
    assert 0 < model.calibration.counting_seconds < model.calibration.seconds < plan.seconds
    assert plan.smallest_factor_within is model.smallest_factor_within is plan.within_seconds is None
    (note,) = model.notes
    assert note == "factors from 50 on keep only the first outputs: the longest run has 50"


@pytest.fixture
def slow_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine on which a fit takes 3 s per row and everything else no time."""
    chosen = placement.choose_placement(ClusteringParameters(), 200, 16)
    law = Costs(chosen, 200, 16, 50, {phases.HIERARCHY: PhaseTime(600.0, 600.0)}, start=0.0)
    monkeypatch.setattr(planning, "measure", lambda *_, **__: law)


@pytest.mark.usefixtures("slow_fits")
def test_within_finds_the_smallest_factor_that_ends_in_time(sample: Database) -> None:
    # Two models of 48 runs of 50 outputs: factor 7 keeps 8 of each, 8 keeps 7.
    plan = plan_clustering(sample, within=2 * 3 * 48 * 7.5)
    assert sorted(plan.totals) == [1, 7, 8, 10, 100, 1000]
    assert plan.totals[8] == pytest.approx(2 * 3 * 48 * 7, rel=0.02)
    assert plan.smallest_factor_within == 8
    # Each of them alone has twice the time.
    assert [model.smallest_factor_within for model in plan.models] == [7, 7]
    assert [[plan.downsample for plan in model.plans] for model in plan.models] == [sorted(plan.totals)] * 2


@pytest.mark.usefixtures("slow_fits")
def test_only_named_factors_are_planned(sample: Database) -> None:
    plan = plan_clustering(sample, ["LSA"], within=3 * 48 * 15.0, downsamples=[1, 25])
    assert sorted(plan.totals) == [1, 25]
    assert plan.smallest_factor_within == 25
    assert plan_clustering(sample, within=1.0, downsamples=[1, 25]).smallest_factor_within is None


@pytest.mark.usefixtures("slow_fits", "stand_in")
def test_devices_share_the_models(sample: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = plan_clustering(sample, downsamples=[1], devices=())
    assert alone.totals[1] == pytest.approx(2 * 3 * 2400, rel=0.02)
    monkeypatch.setattr(cuda, "count", lambda: 2)
    assert plan_clustering(sample, downsamples=[1]).totals[1] == pytest.approx(3 * 2400, rel=0.02)


@pytest.mark.parametrize("read_only", [False, True])
def test_planning_changes_nothing(upgraded: MakeFile, read_only: bool) -> None:
    file = upgraded(EVERYTHING)
    if read_only:
        file.path.chmod(0o444)
    before = snapshot(file.path)
    plan = plan_clustering(file.database, within=3600.0)
    assert [model.embedding_model for model in plan.models] == file.facts.models
    assert plan.smallest_factor_within == 1
    assert snapshot(file.path) == before
    assert not file.database.work_root.exists()


def work_of_planning(path: Path, n_models: int) -> tuple[int, int, int]:
    """Plan a database with so many models; count statements, garbage collections, files of metadata."""
    file_of_models(path, 100 * n_models)
    statements: list[str] = []
    collections: list[str] = []
    versions: list[str] = []
    read_version = importlib.metadata.version

    def note_statement(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    def note_collection(phase: str, _about: object) -> None:
        collections.append(phase)

    def note_version(name: str) -> str:
        versions.append(name)
        return read_version(name)

    gc.disable()
    gc.callbacks.append(note_collection)
    sa.event.listen(sa.Engine, "before_cursor_execute", note_statement)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", note_version)
        try:
            plan_clustering(path, parameters=ClusteringParameters(backend="sklearn"))
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note_statement)
            gc.callbacks.remove(note_collection)
            gc.enable()
    return len(statements), len(collections), len(versions)


def test_each_further_model_takes_as_many_steps(tmp_path: Path) -> None:
    """A garbage collection goes through everything that is loaded, and was done for every factor."""
    work_of_planning(tmp_path / "first.sqlite", 2)
    few, more, most = (work_of_planning(tmp_path / f"{n}.sqlite", n) for n in (4, 8, 12))
    assert most[0] - more[0] == more[0] - few[0] > 0
    assert few[1:] == more[1:] == most[1:] == (0, 0)


def test_the_real_field_file_is_planned(real_file: Database) -> None:
    plan = plan_clustering(real_file, downsamples=[1, 10], within=3600.0)
    assert plan.smallest_factor_within == 1
    for model in plan.models:
        (all_rows, part) = model.plans
        (outcome,) = cluster_all_data(real_file, [model.embedding_model], downsample=10)
        assert (all_rows.n_rows, part.n_rows) == (model.n_total, outcome.n_sampled)
        assert (part.measured_rows, part.backend) == (part.n_rows, outcome.backend)


def test_counts_follow_the_sampling_rule_and_invalid_vectors_are_reported(upgraded: MakeFile) -> None:
    file = upgraded(EVERYTHING)
    plan = plan_clustering(file.database, downsamples=[1, 2])
    for model in plan.models:
        assert model.n_total == file.facts.count(model.embedding_model)
        for model_plan in model.plans:
            sampled = file.facts.sample(model.embedding_model, model_plan.downsample)
            assert model_plan.n_rows == sum(row.kind not in ("null", "short") for row in sampled)
    notes = {model.embedding_model: model.notes for model in plan.models}
    assert "3 of " in notes["Nomic"][0]
    assert "without --skip-invalid the model fails" in notes["Nomic"][0]
    assert notes["STSBMpnet"] == ()


def test_models_of_few_rows_are_planned(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(dummy_rows=1))
    plan = plan_clustering(file.database, downsamples=[1, 1000], within=60.0)
    dummy = next(model for model in plan.models if model.embedding_model == "Dummy")
    assert [(plan.n_rows, plan.backend, plan.seconds) for plan in dummy.plans] == [(1, None, None)] * 2
    assert dummy.plans[0].reason == "at least 2 rows are needed"
    assert plan.smallest_factor_within == 1


def test_copies_of_one_text_are_planned(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(duplicates=1.0, text_models=("Nomic",)))
    (model,) = plan_clustering(file.database, downsamples=[1]).models
    assert model.plans[0].seconds is not None
    assert model.plans[0].seconds.fit > 0


def test_rows_without_direction_are_not_measured(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",), nan_vectors=40))
    (model,) = plan_clustering(file.database, downsamples=[1]).models
    (plan,) = model.plans
    assert (plan.n_rows, plan.measured_rows) == (40, 0)
    assert plan.seconds is None
    assert plan.reason == "all rows that were read are zero vectors"


def test_a_backend_that_refuses_says_why(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upgraded(FieldSpec(runs=3))
    monkeypatch.setattr("panic_tda.clustering.backends.sklearn.MAX_ROWS", 20)
    parameters = ClusteringParameters(backend="sklearn")
    plan = plan_clustering(file.database, ["Nomic"], parameters=parameters, downsamples=[1, 10], within=60.0)
    refused, taken = plan.models[0].plans
    assert refused.seconds is refused.backend is None
    assert "accepts up to 20 rows" in (refused.reason or "")
    assert refused.memory["sklearn"].reason == refused.reason
    assert (taken.backend, taken.reason) == ("sklearn", None)
    assert plan.smallest_factor_within == 10


def test_a_factor_that_does_not_fit_into_memory_is_not_in_time(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded(FieldSpec(runs=40))
    monkeypatch.setattr(placement, "host_memory", lambda: (1 << 40, 1 << 20))
    parameters = ClusteringParameters(backend="sklearn")
    plan = plan_clustering(file.database, ["Nomic"], parameters=parameters, downsamples=[1, 10], within=1e6)
    all_rows, part = plan.models[0].plans
    assert all_rows.seconds is not None
    assert "but 1 MiB are available" in (all_rows.reason or "")
    assert (part.reason, plan.smallest_factor_within) == (None, 10)
    assert plan.totals[1] is None


def test_wrong_arguments_are_refused_before_anything_is_measured(
    tmp_path: Path, upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "measure", lambda *_, **__: pytest.fail("measured"))
    file = upgraded()
    with pytest.raises(UnknownModel, match="the database has: Nomic, STSBMpnet"):
        plan_clustering(file.database, ["Nomic", "none"])
    for factors in ([0], [1, -3], [2**70]):
        with pytest.raises(InvalidParameter, match="downsample must be"):
            plan_clustering(file.database, downsamples=factors)
    with pytest.raises(UnsupportedOnBackend, match="backend cuml cannot run here"):
        plan_clustering(file.database, parameters=ClusteringParameters(backend="cuml"), devices=())
    with pytest.raises(NeedsUpgrade):
        plan_clustering(write_field_file(tmp_path / "old.sqlite").path)
    with pytest.raises(NoEmbeddings):
        plan_clustering(open_database(tmp_path / "empty.sqlite", create=True))


def run(path: Path, *words: str) -> str:
    result = CliRunner().invoke(main, ["plan-clustering", *words, "--db", str(path)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_the_fields_of_the_plan(upgraded: MakeFile) -> None:
    file = upgraded(EVERYTHING)
    printed = json.loads(run(file.path, "Nomic", "Dummy", "--downsample", "3", "--within", "1h30m", "--json"))
    assert set(printed) == {
        "models", "within_seconds", "smallest_factor_within", "totals", "start_seconds", "busy_cores",
        "seconds",
    }  # fmt: skip
    assert (printed["within_seconds"], printed["smallest_factor_within"]) == (5400, 3)
    nomic, _ = printed["models"]
    assert set(nomic) == {
        "embedding_model", "n_total", "dimensions", "longest_run", "calibration", "plans",
        "smallest_factor_within", "notes",
    }  # fmt: skip
    (plan,) = nomic["plans"]
    assert plan["downsample"] == 3
    assert set(plan["memory"]) == {"cuml", "sklearn", "tiled"}
    assert set(plan["memory"]["tiled"]) == {"bytes", "on_device", "fits", "reason"}
    assert plan["seconds"]["total"] == pytest.approx(
        sum(plan["seconds"][name] for name in ("load", "fit", "save"))
    )


def test_the_text_has_one_line_per_plan_and_the_answer(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(null_vectors=1, length=50))
    result = run(file.path, "--within", "2h")
    lines = result.splitlines()
    assert lines[0].split()[:4] == ["model", "factor", "rows", "backend"]
    assert lines[1].split()[:4] == ["Nomic", "1", "99", "tiled"]
    assert len([line for line in lines if line.startswith(("Nomic ", "STSBMpnet "))]) == 8
    assert "Nomic: factors from 25 on keep only the first outputs" in result
    assert "Nomic: 1 of 100 vectors are missing" in result
    assert "all models: factor 1 ends within 2.0 h, in about" in result
    named = run(file.path, "Nomic", "--within", "0s", "--downsample", "2")
    assert "Nomic: none of these factors ends within 0 s; the fastest is factor 2, in about" in named
    assert "ends within" not in run(file.path, "Nomic", "--downsample", "2")


def test_a_busy_machine_is_reported(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = upgraded().path
    for load, is_busy in ((0.0, False), (1000.0, True)):
        monkeypatch.setattr(planning, "busy_cores", lambda load=load: load)
        result = run(path, "Nomic", "--downsample", "10")
        assert ("The machine was busy (load average 1000.0, " in result) == is_busy


@pytest.mark.parametrize("text", ["", "8", "h", "1h 2", "-1h", "1d", "soon"])
def test_an_invalid_time_is_wrong_usage(upgraded: MakeFile, text: str) -> None:
    result = CliRunner().invoke(main, ["plan-clustering", "--within", text, "--db", str(upgraded().path)])
    assert result.exit_code == 2
    assert f"a time must be such as 8h, 30m, 90s or 1h30m; got {text!r}" in result.stderr


def test_planning_reads_pieces_of_runs_of_what_is_large(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded(FieldSpec(runs=40, length=60))
    monkeypatch.setattr(planning, "rows_to_measure", lambda _placement, n_rows: min(n_rows, 200))
    (plan,) = plan_clustering(file.database, ["Nomic"], downsamples=[1]).models[0].plans
    assert plan.n_rows == 1200
    assert 100 <= plan.measured_rows <= 200
    assert plan.measured_runs >= 16
    assert plan.seconds is not None
    assert np.isfinite(plan.seconds.total)
