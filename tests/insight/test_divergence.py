"""Test the divergence of runs: planted relaxation, pairs by hand, prompts that can no longer be recovered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panic_tda.insight.divergence import (
    PromptVectors,
    mean_chords,
    measure_divergence,
    read_divergence,
    recover_prompts,
)
from panic_tda.insight.intervals import Interval
from panic_tda.insight.relaxation import fit_relaxation
from tests.insight.planted import PlantedRun, plant
from tests.snapshots import opened


@pytest.mark.parametrize("time", [3.0, 8.0, 20.0])
def test_a_planted_relaxation_is_found(time: float) -> None:
    times = np.arange(40.0)
    truth = 1.2 - (1.2 - 0.3) * np.exp(-times / time)
    relaxation = fit_relaxation(times, truth)
    assert relaxation is not None
    assert relaxation == pytest.approx((0.3, 1.2, time), rel=1e-3)
    noisy = fit_relaxation(times, truth + 0.01 * np.random.default_rng(0).normal(size=40))
    assert noisy is not None
    assert noisy[2] == pytest.approx(time, rel=0.1)


def test_runs_that_do_not_relax_have_no_relaxation_time() -> None:
    assert fit_relaxation(np.arange(40.0), 0.01 * np.arange(40.0)) is None
    assert fit_relaxation(np.arange(40.0), np.ones(40)) is None
    assert fit_relaxation(np.arange(3.0), np.arange(3.0)) is None


def test_mean_chords_match_a_hand_computed_example() -> None:
    units = np.eye(3)[[0, 0, 1, 2]]
    prompts = np.array([5, 5, 5, 6])
    weights = np.array([[1.0, 1, 1, 1], [2.0, 1, 0, 1], [1.0, 0, 0, 0]])
    far = np.sqrt(2)
    same, other_result = mean_chords(units, prompts, weights)
    # Pairs of prompt 5: 0 apart once, sqrt 2 apart twice; across, always sqrt 2.
    assert same[:2].tolist() == pytest.approx([2 * far / 3, 0.0])
    assert other_result[:2].tolist() == pytest.approx([far, far])
    assert np.isnan(same[2])
    assert np.isnan(other_result[2])


def test_prompts_are_not_recovered_from_unrelated_runs() -> None:
    rng = np.random.default_rng(1)
    # Every run has a direction of its own: nothing tells of prompts.
    units = np.eye(40)
    prompts = np.repeat(np.arange(4), 10)
    recovered, tried = recover_prompts(units, prompts, rng.permutation(40) % 5)
    assert tried.all()
    assert recovered.mean() < 0.6
    _, tried = recover_prompts(units, np.zeros(40, dtype=np.int64), rng.permutation(40) % 5)
    assert not tried.any()


def test_planted_runs_forget_their_prompt() -> None:
    rng = np.random.default_rng(2)
    prompts = np.repeat(np.arange(6), 10)
    centres, own = rng.normal(size=(6, 50)), rng.normal(size=(60, 50))

    def read_step(step: int) -> tuple[np.ndarray, np.ndarray]:
        fading = np.exp(-step / 6)
        noise = 0.1 * rng.normal(size=(60, 50))
        vectors = fading * centres[prompts] + (1 - fading) * own + noise
        return np.arange(60), vectors.astype(np.float32)

    divergence = measure_divergence(read_step, list(range(40)), prompts)
    first, last = divergence.steps[0], divergence.steps[-1]
    assert (first.recovered, first.by_chance) == (1.0, pytest.approx(1 / 6))
    assert last.recovered is not None
    assert last.recovered < 0.5
    assert first.same_prompt is not None
    assert last.same_prompt is not None
    assert first.same_prompt < 0.4 < 1 < last.same_prompt
    assert first.other_prompt == pytest.approx(last.other_prompt, abs=0.1)
    assert divergence.same_prompt is not None
    assert divergence.same_prompt.limit == pytest.approx(last.same_prompt, abs=0.05)
    interval = divergence.same_prompt.time_interval
    assert interval is not None
    assert interval.low <= divergence.same_prompt.time <= interval.high
    for step in divergence.steps:
        assert (step.from_prompt, step.nearest_prompt, step.intervals["from_prompt"]) == (None, None, None)
        for name in ("same_prompt", "other_prompt", "recovered"):
            span, figure = step.intervals[name], getattr(step, name)
            assert span is not None
            assert span.low <= figure <= span.high
    # Chance decides after the runs have forgotten their prompt, and not before.
    assert first.intervals["recovered"] == Interval(1.0, 1.0)
    last_span = last.intervals["recovered"]
    assert last_span is not None
    assert 0.1 < last_span.high - last_span.low < 0.35


def test_runs_are_compared_with_the_embedding_of_their_own_prompt() -> None:
    rng = np.random.default_rng(5)
    prompts = np.repeat(np.arange(4), 5)
    centres = np.eye(12)[:4]

    def read_step(step: int) -> tuple[np.ndarray, np.ndarray]:
        # Each run goes to a direction that all of them share.
        away = np.minimum(step / 4, 1.0)
        vectors = (1 - away) * centres[prompts] + away * np.eye(12)[11]
        return np.arange(20), (vectors + 1e-3 * rng.normal(size=(20, 12))).astype(np.float32)

    # The prompts of the last two runs have no embedding.
    start = PromptVectors(np.arange(18), centres[prompts[:18]].astype(np.float32))
    divergence = measure_divergence(read_step, list(range(6)), prompts, start=start)
    prompt, first, *_, last = divergence.steps
    assert (prompt.step, prompt.n_runs, prompt.from_prompt, prompt.nearest_prompt) == (-1, 18, 0.0, 1.0)
    assert (prompt.same_prompt, prompt.other_prompt) == (0.0, pytest.approx(np.sqrt(2)))
    assert first.from_prompt == pytest.approx(0, abs=0.01)
    assert first.nearest_prompt == 1
    assert last.from_prompt == pytest.approx(np.sqrt(2), abs=0.01)
    assert last.nearest_prompt is not None
    assert last.nearest_prompt < 0.7
    # Without the prompts, all else is the same.
    without = measure_divergence(read_step, list(range(6)), prompts)
    assert [step.step for step in without.steps] == list(range(6))
    assert without.steps[0].from_prompt is None


def test_vectors_without_a_direction_do_not_count() -> None:
    def read_step(step: int) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(3), np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32)

    (divergence_step,) = measure_divergence(read_step, [0], np.array([0, 0, 0])).steps
    assert (divergence_step.n_runs, divergence_step.other_prompt, divergence_step.recovered) == (
        2,
        None,
        None,
    )
    assert divergence_step.same_prompt == pytest.approx(np.sqrt(2))


def test_without_runs_nothing_is_measured(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0] * 5)])
    # The vectors of planted runs have no direction: there are steps, and no pairs of runs.
    divergence = read_divergence(database, clustering)
    assert [step.n_runs for step in divergence.steps] == [0] * 5
    with opened(tmp_path / "one.sqlite") as connection:
        connection.execute("DELETE FROM embeddingcluster")
    assert read_divergence(database, clustering).to_dict() == {
        "steps": [],
        "same_prompt": None,
        "other_prompt": None,
    }
