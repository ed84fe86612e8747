"""Compare trajectories with the definitions, step by step: the sample, field files, planted runs."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import InvalidParameter, WrongUsage
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.milestones import FLAGS
from panic_tda.insight.run_groups import RunSummary
from panic_tda.insight.trajectories import (
    GROUPINGS,
    TrajectoryStudy,
    find_run,
    study_trajectories,
)
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from panic_tda.types import OUTLIER
from tests.conftest import MakeFile
from tests.field_files import EVERYTHING, FieldSpec
from tests.insight import reference_trajectories as reference
from tests.insight.planted import PlantedRun, plant, read_trajectories, run_id
from tests.snapshots import REPOSITORY, opened

# Every shape in one file, so that groups have several runs of several fates.
A, B, C = "a cat", "a dog", "a cow"
FATES = {
    "fixed point": PlantedRun([0] * 5 + [1] * 25, [*"abcde", *[A] * 25]),
    "loop of two": PlantedRun([0, 1] * 20, [*"abcd", *[A, B] * 18]),
    "loop of three": PlantedRun([2, 2, 1] * 12, [*"fg", *[A, B, C] * 11, A], stored="texts"),
    "a loop left again": PlantedRun([0] * 30, [*[A, B] * 12, *"uvwxyz"], stored="every"),
    "no core": PlantedRun([-1] * 30, [A] * 30, prompt="nothing"),
    "entering and in transit": PlantedRun([-1, -1, 3, -1, 3, -1, 4, 4, -1, -1] * 3, prompt="nothing"),
    "holes": PlantedRun(
        [None, 0, 0, None, 1, 1, *[None] * 7, 1, -1, 2, 2, None, 2], [*"abcdefghijklmn", *[A] * 6]
    ),
    "a hole in the loop": PlantedRun(
        [0] * 12 + [None] + [0] * 5, [A, B] * 9, network=("SDXLTurbo", "Moondream")
    ),
    "weak members": PlantedRun(
        [0] * 10 + [1] * 10 + [2] * 10, probabilities=[0.9] * 9 + [0.2] * 12 + [0.5] * 9, prompt="nothing"
    ),
    "one step": PlantedRun([3], network=("SDXLTurbo", "Moondream")),
    "long": PlantedRun([0, 1, -1, 2] * 55 + [3] * 24, [f"{step % 17}" for step in range(244)]),
}
NUMBERS = {name: number for number, name in enumerate(FATES)}


def same(actual: Any, expected: Any, at: str = "") -> None:
    """Compare two answers, numbers up to rounding."""
    if isinstance(expected, float) and not isinstance(actual, bool):
        # The likeliest shape is a maximum, which two searches find to half the digits.
        likeliest = any(name in at for name in ("shape", "ratio", "p_value"))
        assert actual == pytest.approx(expected, rel=1e-4 if likeliest else 1e-9, abs=1e-7), at
    elif isinstance(expected, dict):
        assert list(actual) == list(expected) or set(actual) == set(expected), at
        for name, value in expected.items():
            same(actual[name], value, f"{at}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), at
        for position, value in enumerate(expected):
            same(actual[position], value, f"{at}[{position}]")
    else:
        assert actual == expected, at
        assert type(actual) is type(expected), at


def study_is_the_references(
    database: Database, clustering: ClusteringSummary, **options: Any
) -> TrajectoryStudy:
    """Study trajectories, and compare everything printed with the reference."""
    study = study_trajectories(database, clustering, **options)
    assert database.path is not None
    lag = options.pop("lag", None) or clustering.record.downsample
    expected = reference.report(database.path, str(clustering.id), lag=lag, **options)
    answer = study.to_dict() | {"runs": [run.to_dict() for run in study.runs]}
    # Intervals, rates of clusters and the Markov model have tests of their own.
    del answer["clusters"], answer["markov"]
    for group in [*answer["groups"], *([answer["total"]] if answer["total"] else [])]:
        del group["intervals"]
        # They come from simulated visits, and have tests of their own.
        for name in ("expected_shape", "p_value", "heavier_than_exponential"):
            del group["dwell"][name]
    same(answer, expected)
    return study


def planted(folder: Path, name: str, downsample: int = 1, **options: Any) -> RunSummary:
    """Study one planted run."""
    database, clustering = plant(folder / "one.sqlite", [FATES[name]], downsample=downsample)
    (run,) = study_is_the_references(database, clustering, **options).runs
    return run


# ---------------------------------------------------------------------------- against the reference


@pytest.fixture(scope="module")
def sample(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, int], tuple[Database, ClusteringSummary]]:
    """The sample in both models, clustered whole and every tenth output."""
    database = open_database(tmp_path_factory.mktemp("sample") / "sample.sqlite", create=True)
    import_embeddings(sorted((REPOSITORY / "panic_tda" / "sample").glob("*.parquet")), database)
    sampled_runs = {}
    for downsample in (1, 10):
        # The few rows of every tenth output are far apart.
        parameters = ClusteringParameters(min_cluster_size=None if downsample == 1 else 2)
        for outcome in cluster_all_data(database, parameters=parameters, downsample=downsample):
            with database.session() as session:
                clustering = find_clustering(session, str(outcome.id))
            sampled_runs[outcome.embedding_model, downsample] = database, clustering
    return sampled_runs


@pytest.mark.parametrize(
    ("model", "downsample", "options"),
    [
        ("MiniLM", 1, {}),
        ("MiniLM", 1, {"by": "network,prompt", "core_probability": 0.5}),
        ("MiniLM", 10, {"by": "prompt"}),
        ("MiniLM", 10, {"lag": 20}),
        ("LSA", 1, {"by": "prompt", "lag": 7, "core_probability": 1.0}),
        ("LSA", 10, {"core_probability": 0.3}),
    ],
    ids=str,
)
def test_the_sample_matches_the_reference(
    sample: dict[tuple[str, int], tuple[Database, ClusteringSummary]],
    model: str,
    downsample: int,
    options: dict[str, Any],
) -> None:
    study = study_is_the_references(*sample[model, downsample], **options)
    assert study.total.n_runs == 48
    assert study.total.n_steps == 2400 // downsample
    assert study.total.dwell.visits > 48
    assert sum(study.total.periodic_runs.values()) == 9


@pytest.fixture(scope="module")
def all_fates(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Database, ClusteringSummary]]:
    """Databases with all planted runs, by downsample."""
    folder, runs = tmp_path_factory.mktemp("fates"), list(FATES.values())
    return {factor: plant(folder / f"{factor}.sqlite", runs, downsample=factor) for factor in (1, 10)}


@pytest.mark.parametrize("downsample", [1, 10])
@pytest.mark.parametrize("by", [by for by in GROUPINGS if by != "model"])
@pytest.mark.parametrize("core_probability", [0.0, 0.5])
def test_planted_runs_match_the_reference(
    all_fates: dict[int, tuple[Database, ClusteringSummary]],
    downsample: int,
    by: str,
    core_probability: float,
) -> None:
    database, clustering = all_fates[downsample]
    study = study_is_the_references(database, clustering, by=by, core_probability=core_probability)
    # At every tenth step one run has but holes.
    assert study.total.n_runs == len(FATES) - (downsample == 10)
    assert {run.period for run in study.runs} >= {None, 1, 2, 3}


@pytest.mark.parametrize("downsample", [1, 10])
def test_planted_runs_match_the_reference_at_another_lag(
    all_fates: dict[int, tuple[Database, ClusteringSummary]], downsample: int
) -> None:
    study_is_the_references(*all_fates[downsample], lag=3 * downsample)


@pytest.mark.parametrize("factor", [1, 3])
def test_field_files_match_the_reference(upgraded: MakeFile, factor: int) -> None:
    file = upgraded(replace(EVERYTHING, orphan_invocations=20, duplicates=0.5))
    for outcome in cluster_all_data(file.database, downsample=factor, skip_invalid=True):
        if outcome.id is None:
            continue
        with file.database.session() as session:
            clustering = find_clustering(session, str(outcome.id))
        for by in ("network", "prompt"):
            study_is_the_references(file.database, clustering, by=by)


# ---------------------------------------------------------------------------- planted, by name


def test_a_fixed_point_is_found(tmp_path: Path) -> None:
    study = planted(tmp_path, "fixed point")
    assert (study.period, study.absorbed_at, study.distinct_texts, study.returns) == (1, 5, 6, 24)
    assert (study.settled_in, study.settled_at) == (1, 5)
    assert study.visits.tolist() == [[0, 0, 5], [1, 5, 25]]


def test_a_loop_of_two_is_found(tmp_path: Path) -> None:
    study = planted(tmp_path, "loop of two")
    assert (study.period, study.absorbed_at, study.distinct_texts) == (2, 4, 6)
    assert (study.settled_in, len(study.visits)) == (None, 40)


def test_a_loop_of_three_is_found_without_stored_images(tmp_path: Path) -> None:
    study = planted(tmp_path, "loop of three")
    assert (study.period, study.absorbed_at) == (3, 2)


def test_a_loop_that_was_left_again_does_not_count(tmp_path: Path) -> None:
    study = planted(tmp_path, "a loop left again")
    assert (study.period, study.absorbed_at, study.distinct_texts, study.returns) == (None, None, 8, 22)
    assert study.visits.tolist() == [[0, 0, 30]]


def test_a_run_without_a_core_step_is_all_transit(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [FATES["no core"]])
    study = study_is_the_references(database, clustering)
    (run,) = study.runs
    assert run.visits.tolist() == [[-1, 0, 30]]
    assert (run.settled_in, run.transit_steps, run.period) == (None, 30, 1)
    assert (study.total.dwell.visits, study.total.dwell.median) == (0, None)
    assert len(study.transitions.counts) == 0
    steps = read_trajectories(database, clustering)
    assert {FLAGS[flag] for flag in steps.flags} == {"entering"}


def test_entering_and_transit_belong_to_a_state(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [FATES["entering and in transit"]])
    steps = read_trajectories(database, clustering)
    once = "entering entering core transit core transit core core transit transit"
    assert [FLAGS[flag] for flag in steps.flags[:10]] == once.split()
    assert steps.states[:13].tolist() == [3] * 6 + [4] * 6 + [3]
    assert steps.visits[:13].tolist() == [0] * 6 + [1] * 6 + [2]
    assert steps.steps.tolist() == list(range(30))
    assert steps.sequence_numbers.tolist() == list(range(1, 61, 2))
    assert steps.run_ids == (run_id(0),)
    # As export finds the embedding of a step: by its place among the assignments.
    with closing(sqlite3.connect(tmp_path / "one.sqlite")) as connection:
        ids = [row[0] for row in connection.execute("SELECT embedding_id FROM embeddingcluster ORDER BY 1")]
        numbers = dict(
            connection.execute(
                "SELECT e.id, i.sequence_number FROM embedding e JOIN invocation i ON i.id = e.invocation_id"
            )
        )
    assert [numbers[ids[row]] for row in steps.rows] == steps.sequence_numbers.tolist()


def test_missing_steps_count_as_time(tmp_path: Path) -> None:
    study = planted(tmp_path, "holes")
    assert study.visits.tolist() == [[0, 1, 3], [1, 4, 11], [2, 15, 4]]
    # Nobody knows what stood in the hole.
    assert (study.period, study.absorbed_at, study.n_steps) == (None, None, 9)


def test_a_hole_ends_a_loop_backwards(tmp_path: Path) -> None:
    study = planted(tmp_path, "a hole in the loop")
    assert (study.period, study.absorbed_at) == (2, 13)


def test_only_members_above_the_core_probability_are_core(tmp_path: Path) -> None:
    study = planted(tmp_path, "weak members", core_probability=0.5)
    assert study.visits.tolist() == [[0, 0, 21], [2, 21, 9]]
    assert study.transit_steps == 12


def test_a_run_may_have_one_step(tmp_path: Path) -> None:
    study = planted(tmp_path, "one step")
    assert study.visits.tolist() == [[3, 0, 1]]
    assert (study.settled_in, study.period) == (None, None)


@pytest.mark.parametrize(
    ("n_steps", "n_final", "settled"),
    [
        (25, 5, True),
        (25, 4, False),
        (500, 3, False),
        (500, 99, False),
        (500, 100, True),
        (10, 2, False),
        (3, 3, True),
    ],
)
def test_settled_is_for_a_fifth_of_a_run(tmp_path: Path, n_steps: int, n_final: int, settled: bool) -> None:
    labels = [0] * (n_steps - n_final) + [1] * n_final
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun(labels)])
    (run,) = study_is_the_references(database, clustering).runs
    assert run.settled_in == (1 if settled else None)


@pytest.mark.parametrize(
    ("labels", "settled"),
    [
        # The only visit, of which nine steps of ten are in transit.
        ([2, *[OUTLIER] * 9] * 5, None),
        # Left for good, however long the visit is said to last.
        ([0] * 10 + [2] * 10 + [OUTLIER] * 30, None),
        # Half is not most; one more is.
        ([0] * 10 + [2, OUTLIER] * 20, None),
        ([0] * 10 + [2, OUTLIER] * 20 + [2], 2),
        # Before the first core a run is in none.
        ([OUTLIER] * 30 + [2] * 30, None),
        ([OUTLIER] * 30 + [2] * 31, 2),
        # What came before the final visit does not count, for or against.
        ([OUTLIER] * 90 + [0] + [OUTLIER] * 90 + [2] * 50, 2),
        ([0] * 100 + [2] * 12 + [OUTLIER] * 13, None),
    ],
)
def test_a_run_settles_in_its_most_frequent_cluster(
    tmp_path: Path, labels: list[int], settled: int | None
) -> None:
    for downsample in (1, 3):
        stretched = [label for label in labels for _ in range(downsample)]
        runs = [PlantedRun(stretched, network=("FluxDev", name)) for name in ("BLIP2", "Moondream")]
        database, clustering = plant(tmp_path / f"{downsample}.sqlite", runs, downsample=downsample)
        study = study_is_the_references(database, clustering)
        assert [run.settled_in for run in study.runs] == [settled] * 2
        assert study.total.settled_runs == 2 * (settled is not None)
        assert [group.settled_runs for group in study.groups] == [settled is not None] * 2


def test_weak_members_do_not_count_for_settling(tmp_path: Path) -> None:
    run = PlantedRun([2] * 30, probabilities=[0.9] * 14 + [0.1] * 16)
    database, clustering = plant(tmp_path / "weak.sqlite", [run])
    assert study_is_the_references(database, clustering).runs[0].settled_in == 2
    (run_summary,) = study_is_the_references(database, clustering, core_probability=0.5).runs
    assert (run_summary.settled_in, run_summary.transit_steps) == (None, 16)


def test_the_last_sampled_step_alone_does_not_settle_a_run(tmp_path: Path) -> None:
    # One look at every twenty-fifth step says nothing of the steps after it; two say that it stayed.
    for n_steps, settled in ((51, None), (76, 1)):
        labels = [0] * 50 + [1] * (n_steps - 50)
        database, clustering = plant(tmp_path / f"{n_steps}.sqlite", [PlantedRun(labels)], downsample=25)
        (run,) = study_is_the_references(database, clustering).runs
        assert run.settled_in == settled
        assert run.visits.tolist() == [[0, 0, 50], [1, 50, n_steps - 50]]


def test_time_is_counted_in_output_steps_at_every_sampling_factor(tmp_path: Path) -> None:
    run = PlantedRun([0] * 30 + [1] * 40, [*"abcdefg", *[A] * 63])
    for stored in ("images", "texts", "every"):
        for downsample in (1, 10):
            database, clustering = plant(
                tmp_path / f"{stored}{downsample}.sqlite",
                [PlantedRun(run.labels, run.texts, stored=stored)],
                downsample=downsample,
            )
            study = study_is_the_references(database, clustering)
            (run_summary,) = study.runs
            assert run_summary.visits[:, :2].tolist() == [[0, 0], [1, 30]], (stored, downsample)
            assert run_summary.visits[0, 2] == 30
            # All texts count, not the sampled ones only.
            assert (run_summary.period, run_summary.absorbed_at, run_summary.distinct_texts) == (1, 7, 8)
            assert (study.lag, study.sampling, run_summary.n_steps) == (
                downsample,
                downsample,
                70 // downsample,
            )
            assert sum(study.transitions.counts) == run_summary.n_steps - 1


# ---------------------------------------------------------------------------- groups


def test_runs_are_grouped_by_the_model_that_generated_the_sampled_outputs(tmp_path: Path) -> None:
    runs = [
        PlantedRun([0] * 6, network=("FluxDev", "BLIP2")),
        PlantedRun([0] * 6, network=("FluxDev", "Moondream")),
        PlantedRun([0] * 6, network=("SDXLTurbo", "BLIP2")),
        PlantedRun([0] * 6, network=("FluxDev", "BLIP2", "FluxDev", "Moondream")),
    ]
    database, _ = plant(tmp_path / "one.sqlite", runs)
    with opened(tmp_path / "one.sqlite") as connection:
        connection.execute(
            "UPDATE invocation SET model = 'BLIP2' WHERE run_id = ? AND sequence_number % 4 = 1", (run_id(3),)
        )
    with database.session() as session:
        clustering = find_clustering(session)
    study = study_trajectories(database, clustering, by="model")
    assert [(group.group, group.n_runs) for group in study.groups] == [
        ({"model": "BLIP2"}, 2),
        ({"model": "BLIP2, Moondream"}, 1),
        ({"model": "Moondream"}, 1),
    ]


def test_images_are_grouped_by_the_model_that_generated_them(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(vision_models=("NomicVision",), text_models=("Nomic",)))
    for model, writer in (("NomicVision", "SDXLTurbo"), ("Nomic", "BLIP2")):
        (outcome,) = cluster_all_data(file.database, [model])
        with file.database.session() as session:
            clustering = find_clustering(session, str(outcome.id))
        (group,) = study_trajectories(file.database, clustering, by="model").groups
        assert (group.group, group.n_runs) == ({"model": writer}, 4)


def test_deleted_runs_are_a_group_of_their_own(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0] * 6), PlantedRun([1] * 6)])
    with opened(tmp_path / "one.sqlite") as connection:
        connection.execute("DELETE FROM run WHERE id = ?", (run_id(1),))
    study = study_is_the_references(database, clustering, by="network,prompt")
    assert [group.group for group in study.groups] == [
        {"network": ["FluxDev", "BLIP2"], "prompt": "a red apple"},
        {"network": None, "prompt": None},
    ]


# ---------------------------------------------------------------------------- dead ends


def test_a_clustering_without_clusters_has_only_transit(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([-1] * 6), PlantedRun([-1])])
    study = study_is_the_references(database, clustering)
    assert (study.total.transit_steps, study.total.dwell.visits) == (7, 0)


def test_a_clustering_whose_embeddings_were_deleted_has_no_runs(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0] * 6)])
    with opened(tmp_path / "one.sqlite") as connection:
        connection.execute("DELETE FROM embeddingcluster")
    study = study_trajectories(database, clustering)
    assert (study.runs, study.groups, study.total.n_steps) == ((), (), 0)
    assert math.isclose(sum(study.transitions.counts), 0)


def test_runs_without_texts_have_no_fixed_point(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(vision_models=("NomicVision",)))
    with opened(file.path) as connection:
        connection.execute("DELETE FROM embedding WHERE embedding_model <> 'NomicVision'")
        connection.execute("DELETE FROM invocation WHERE type = 'TEXT'")
    (outcome,) = cluster_all_data(file.database)
    with file.database.session() as session:
        clustering = find_clustering(session, str(outcome.id))
    study = study_is_the_references(file.database, clustering)
    assert {(run.period, run.distinct_texts, run.n_steps) for run in study.runs} == {(None, 0, 10)}


# ---------------------------------------------------------------------------- what is asked for


def test_a_lag_without_pairs_is_refused(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0] * 31)], downsample=10)
    for lag, reason in ((15, "a multiple of 10"), (0, "a multiple of 10"), (40, "at most 30")):
        with pytest.raises(InvalidParameter, match=f"lag must be {reason}.*got {lag}"):
            study_trajectories(database, clustering, lag=lag)
    study = study_trajectories(database, clustering, lag=30)
    assert study.transitions.counts.tolist() == [1]
    single, of_one = plant(tmp_path / "two.sqlite", [PlantedRun([0])])
    assert len(study_trajectories(single, of_one).transitions.counts) == 0
    with pytest.raises(InvalidParameter, match="at most 0"):
        study_trajectories(single, of_one, lag=1)


def test_an_unknown_grouping_is_refused(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0])])
    with pytest.raises(InvalidParameter, match=r"by must be one of network; prompt;.*got 'seed'"):
        study_trajectories(database, clustering, by="seed")


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_core_probability_outside_0_and_1_is_refused(tmp_path: Path, probability: float) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0])])
    with pytest.raises(InvalidParameter, match="from 0 to 1"):
        study_trajectories(database, clustering, core_probability=probability)


def test_a_run_is_found_by_a_prefix_of_its_id(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0])] * 17)
    study = study_trajectories(database, clustering)
    for reference_ in (run_id(2), str(UUID(run_id(2))), "00000003", "00000003-aa", "00000003AA"):
        assert find_run(study, reference_).run_id == run_id(2)
    for reference_, n_found in (("", "none"), ("ffff", "none"), ("0000001", "2"), ("-", "none")):
        with pytest.raises(WrongUsage, match=f"{n_found} of the 17 runs.*--runs lists"):
            find_run(study, reference_)
