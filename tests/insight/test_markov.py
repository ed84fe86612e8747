"""Test the Markov model: planted chains, results of deeptime, and detection of memory."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda.insight.markov import (
    MarkovModel,
    closed_classes,
    find_imbalance,
    find_stationary,
    find_timescales,
    fit_markov,
    largest_recurrent,
    mean_first_passage,
)
from panic_tda.insight.milestones import Trajectories, find_states
from tests.insight.test_milestones import laid_out

# Two pairs of states, between which it seldom goes.
METASTABLE = np.array(
    [[0.6, 0.38, 0.02, 0.0], [0.38, 0.6, 0.02, 0.0], [0.0, 0.02, 0.6, 0.38], [0.0, 0.02, 0.38, 0.6]]
)


def walk(matrix: np.ndarray, *, n_runs: int = 60, n_steps: int = 200, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(n_runs):
        state = int(rng.integers(len(matrix)))
        run = {}
        for step in range(n_steps):
            run[step] = (state, 1.0)
            state = int(rng.choice(len(matrix), p=matrix[state]))
        runs.append(run)
    return find_states(laid_out(runs))


def fitted(trajectories: Trajectories, lag: int = 1) -> MarkovModel:
    markov = fit_markov(trajectories, lag)
    assert markov is not None
    return markov


def test_a_planted_chain_is_recovered() -> None:
    model = fitted(walk(METASTABLE))
    assert model.states == [0, 1, 2, 3]
    assert (model.transition_share, model.absorbing) == (1.0, [])
    assert model.stationary == pytest.approx(find_stationary(METASTABLE), abs=0.05)
    truth = find_timescales(METASTABLE, 1)
    first = model.timescales[0]
    assert first.timescales == pytest.approx(truth, rel=0.15)
    assert first.slowest is not None
    assert first.slowest.low < truth[0] < first.slowest.high
    # It is a Markov chain: its time scales do not depend on the lag, and it keeps what it predicts.
    assert [timescale.lag for timescale in model.timescales] == [1, 2, 3, 4, 5, 6]
    assert model.timescales[-1].timescales[0] == pytest.approx(truth[0], rel=0.2)
    assert all(test.largest_difference < 2 * test.expected for test in model.chapman_kolmogorov)
    assert model.spectral_gap == pytest.approx(1 - np.exp(-1 / truth[0]), rel=0.15)


def test_passage_times_are_those_of_simulated_walks() -> None:
    passage = mean_first_passage(METASTABLE)
    assert np.diag(passage).tolist() == pytest.approx([0] * 4, abs=1e-9)
    rng = np.random.default_rng(1)
    steps = []
    for _ in range(1_500):
        state, count = 0, 0
        while state != 3:
            state, count = int(rng.choice(4, p=METASTABLE[state])), count + 1
        steps.append(count)
    assert passage[0, 3] == pytest.approx(np.mean(steps), rel=0.1)


def test_results_agree_with_deeptime() -> None:
    markov = pytest.importorskip("deeptime.markov.msm")
    markov_model = fitted(walk(METASTABLE))
    trajectories = walk(METASTABLE)
    paths = np.split(trajectories.states, trajectories.offsets[1:-1])
    estimator = markov.MaximumLikelihoodMSM(reversible=False, lagtime=1)
    model = estimator.fit_fetch(list(paths), count_mode="sliding")
    assert markov_model.stationary == pytest.approx(model.stationary_distribution)
    assert markov_model.timescales[0].timescales[0] == pytest.approx(model.timescales()[0])
    assert markov_model.mean_first_passage[0][3] == pytest.approx(model.mfpt([0], [3]))
    assert markov_model.metastable is not None
    assert sorted(map(sorted, markov_model.metastable)) == [[0, 1], [2, 3]]


def test_without_deeptime_there_are_no_metastable_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "deeptime.markov", None)
    assert fitted(walk(METASTABLE, n_runs=10)).metastable is None


def test_one_way_flow_violates_detailed_balance() -> None:
    around = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    there_and_back = (around + around.T) / 2
    one_way, balanced = (fitted(walk(matrix, n_runs=30)) for matrix in (around, there_and_back))
    assert one_way.imbalance == pytest.approx(0.5, abs=0.05)
    assert one_way.imbalance > 2 * one_way.imbalance_expected
    assert balanced.imbalance < 2 * balanced.imbalance_expected
    assert find_imbalance(np.array([[5.0, 3.0], [3.0, 9.0]])) == 0


def test_a_process_with_memory_fails_the_test() -> None:
    # The state after next follows from both before: 0 0 1 1 0 0 1 1 …, with some noise.
    rng = np.random.default_rng(2)
    runs = []
    for _ in range(60):
        states = [0, 0]
        while len(states) < 100:
            states.append(1 - states[-2] if rng.random() < 0.9 else states[-2])
        runs.append({step: (state, 1.0) for step, state in enumerate(states)})
    model = fitted(find_states(laid_out(runs)))
    assert model.chapman_kolmogorov[0].largest_difference > 5 * model.chapman_kolmogorov[0].expected


def test_a_state_that_is_never_left_is_absorbing() -> None:
    matrix = np.array(
        [[0.8, 0.2, 0.0, 0.0], [0.2, 0.7, 0.05, 0.05], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )
    model = fitted(walk(matrix, n_runs=40))
    assert model.absorbing == [[2], [3]]
    assert model.states == [0, 1]
    assert (model.n_visited, model.transition_share < 1) == (4, True)


def test_graphs_match_hand_computed_examples() -> None:
    counts = np.array([[1.0, 2, 0, 0], [3, 0, 1, 0], [0, 0, 0, 4], [0, 0, 1, 0]])
    assert [states.tolist() for states in closed_classes(counts)] == [[2, 3]]
    assert largest_recurrent(counts).tolist() == [0, 1]
    assert closed_classes(counts[2:, 2:]) == []


def test_states_without_a_return_path_have_no_model() -> None:
    assert fit_markov(find_states(laid_out([{0: (0, 1.0), 1: (1, 1.0)}])), 1) is None
    assert fit_markov(find_states(laid_out([{0: (-1, 0.0), 1: (-1, 0.0)}])), 1) is None
    alone = fitted(find_states(laid_out([{step: (step % 2, 1.0) for step in range(20)}])))
    assert (alone.states, alone.timescales) == ([0, 1], [])
