"""Compare curves over steps, orders of runs and clusters, and the condensed tree with slow counts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from panic_tda.errors import InvalidParameter
from panic_tda.insight import dynamics
from panic_tda.insight.branches import find_branches
from panic_tda.insight.milestones import Transitions, find_visits
from panic_tda.insight.trajectories import classify_runs, group_runs, study_trajectories
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from panic_tda.storage.read.trees import require_tree
from tests.insight.planted import PlantedRun, plant, read_trajectories
from tests.report.walks import Walk, make_walks

RUNS = [
    PlantedRun([0] * 5 + [-1] + [1] * 25, [*"abcde", *["a cat"] * 26]),
    PlantedRun([0, 1] * 12, ["a cat", "a dog"] * 12, network=("SDXLTurbo", "Moondream"), prompt="a king"),
    PlantedRun([-1] * 4),
    PlantedRun([1, 1, -1, 0, 0, 1]),
]


def latest(path: Path) -> tuple[Database, ClusteringSummary]:
    database = open_current(path)
    with database.session() as session:
        return database, find_clustering(session)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Database, ClusteringSummary]:
    plant(tmp_path / "one.sqlite", RUNS)
    return latest(tmp_path / "one.sqlite")


def test_visits_of_clusters_are_counted(planted: tuple[Database, ClusteringSummary]) -> None:
    trajectories = read_trajectories(*planted)
    result = dynamics.visits_of_clusters(find_visits(trajectories), 2)
    study = study_trajectories(*planted)
    for label in (0, 1):
        per_run = [int((run.visits[:, 0] == label).sum()) for run in study.runs]
        assert result.entered[label] == sum(per_run)
        assert result.runs[label] == sum(count > 0 for count in per_run)
    assert result.entered.tolist() == [14, 15]


def test_transit_shares_are_computed_by_step(planted: tuple[Database, ClusteringSummary]) -> None:
    trajectories = read_trajectories(*planted)
    codes = np.arange(len(trajectories.run_ids)) % 2
    result = dynamics.transit_by_step(trajectories, codes[trajectories.run_numbers], 2)
    counted: dict[tuple[int, int], list[bool]] = defaultdict(list)
    for run, step, flag in zip(
        trajectories.run_numbers.tolist(),
        trajectories.steps.tolist(),
        trajectories.flags.tolist(),
        strict=True,
    ):
        counted[run % 2, step].append(flag != 0)
    steps = sorted({step for _, step in counted})
    for group in (0, 1):
        expected = [np.mean(flags) if (flags := counted[group, step]) else None for step in steps]
        assert result[group] == expected


def test_survival_counts_censored_visits_as_at_risk() -> None:
    """Dwells 1, 2, 2 ended and one of 3 steps was cut off: 3/4 outlast 1, and of these 1/3 outlasts 2."""
    result = dynamics.survive(np.array([1, 2, 2, 3]), np.array([False, False, False, True]))
    assert result.times == [1.0, 2.0]
    np.testing.assert_allclose(result.shares, [0.75, 0.75 / 3])
    # Of 7 looks 3 saw an end.
    assert result.mean == pytest.approx(-1 / np.log(1 - 3 / 7))
    nothing = dynamics.survive(np.array([4]), np.array([True]))
    assert (nothing.times, nothing.mean) == ([], None)
    at_once = dynamics.survive(np.array([1, 1]), np.array([False, False]))
    assert (at_once.times, at_once.mean) == ([1.0], None)


def test_the_exponential_curve_is_that_of_a_memoryless_process() -> None:
    """Its survival equals that of the walk at every whole step, for every sampling factor."""
    durations = np.random.default_rng(0).geometric(0.4, 40_000)
    for sampling in (1, 3):
        dwells = -(-durations // sampling) * sampling
        result = dynamics.survive(dwells, np.zeros(len(dwells), dtype=bool), sampling=sampling)
        assert result.mean is not None
        assert np.exp(-6 / result.mean) == pytest.approx(0.6**6, rel=0.03)
        assert result.shares[result.times.index(6)] == pytest.approx(np.exp(-6 / result.mean), rel=0.03)


def test_blocks_of_states_stand_together() -> None:
    """Two groups whose members only ever follow each other are not mixed."""
    blocks = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    matrix = np.where(blocks[:, None] == blocks, 20, 0) + np.eye(8, dtype=int)
    order = dynamics.seriate(matrix)
    assert sorted(order.tolist()) == list(range(8))
    assert np.count_nonzero(np.diff(blocks[order])) == 1


def test_the_matrix_has_the_counts_between_the_states() -> None:
    transitions = Transitions(np.array([0, 0, 5]), np.array([0, 5, 7]), np.array([3, 2, 9]))
    assert dynamics.matrix_of(transitions, np.array([0, 5])).tolist() == [[3, 2], [0, 0]]


def test_similar_runs_stand_together(tmp_path: Path) -> None:
    runs = [PlantedRun([0] * 9), PlantedRun([1] * 9), PlantedRun([0] * 8 + [1]), PlantedRun([1] * 8 + [0])]
    plant(tmp_path / "one.sqlite", runs)
    trajectories = read_trajectories(*latest(tmp_path / "one.sqlite"))
    order = dynamics.order_by_similarity(trajectories)
    first = trajectories.states[trajectories.offsets[:-1]][order]
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert np.count_nonzero(np.diff(first)) == 1


@pytest.mark.parametrize("by", ["network", "prompt", "network,prompt"])
def test_groups_are_those_of_a_study(planted: tuple[Database, ClusteringSummary], by: str) -> None:
    study = study_trajectories(*planted)
    groups = study_trajectories(*planted, by=by).groups
    assert all(group.intervals for group in groups)
    assert group_runs(study, by) == tuple(replace(group, intervals={}) for group in groups)
    with pytest.raises(InvalidParameter, match="by must be one of"):
        group_runs(study, "model")


def test_classes_of_runs_are_their_groups(tmp_path: Path) -> None:
    prompts = ["it's a cat", 'a "cat"', "it is", "a\\cat", "it's a cat"]
    plant(tmp_path / "quoted.sqlite", [PlantedRun([0] * 9, prompt=prompt) for prompt in prompts])
    study = study_trajectories(*latest(tmp_path / "quoted.sqlite"), by="prompt")
    names, codes = classify_runs(study.runs, "prompt")
    assert [names[code] for code in codes] == prompts
    assert names == ["it's a cat", 'a "cat"', "a\\cat", "it is"]
    assert [group.group["prompt"] for group in study.groups] == ['a "cat"', "a\\cat", "it is", "it's a cat"]


def test_the_branches_of_a_tree_hold_the_clusters(tmp_path: Path) -> None:
    database, source = latest(make_walks(tmp_path, Walk()))
    with database.reading() as connection:
        tree = require_tree(connection, source.id, source.record)
        labels = read_assignments(connection, source.id).labels
    branches = find_branches(tree, labels, source.record)
    assert branches is not None
    n = len(labels)
    assert branches.sizes[0] == n
    assert (branches.deaths <= branches.births).all()
    assert (branches.parents[1:] < np.arange(1, len(branches.parents))).all()
    np.testing.assert_array_equal(branches.births[1:], branches.deaths[branches.parents[1:]])
    inside = np.bincount(branches.parents[1:], weights=branches.sizes[1:], minlength=len(branches.sizes))
    assert (inside <= branches.sizes).all()
    chosen = branches.labels[branches.labels >= 0]
    assert sorted(chosen.tolist()) == list(range(source.record.n_clusters))
    for label, size in zip(chosen, branches.sizes[branches.labels >= 0], strict=True):
        assert size == np.count_nonzero(labels == label)
    few = find_branches(tree, labels, source.record, most=1)
    assert few is not None
    assert few.n_all == branches.n_all == len(branches.sizes)
    assert sorted(few.labels[few.labels >= 0].tolist()) == sorted(chosen.tolist())
