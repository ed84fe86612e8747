"""Test differences between networks and shares of variance: planted, by hand and without effect."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from panic_tda.insight.differences import N_PERMUTATIONS, adjust_by_holm, compare_networks, share_variance


def test_with_few_runs_the_p_value_is_exact() -> None:
    # Two prompts of 4 and 3 runs; 2 and 1 of them are of network 0.
    values = np.array([0.9, 0.8, 0.1, 0.3, 0.7, 0.2, 0.4])
    networks, prompts = np.array([0, 0, 1, 1, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 1])

    def effect(first: tuple[int, ...], second: tuple[int, ...]) -> float:
        blocks = [(range(4), first), (range(4, 7), second)]
        weights = [len(chosen) * (len(block) - len(chosen)) / len(block) for block, chosen in blocks]
        differences = [
            values[list(chosen)].mean() - values[[row for row in block if row not in chosen]].mean()
            for block, chosen in blocks
        ]
        return float(np.average(differences, weights=weights))

    everything = [effect(*pair) for pair in product(combinations(range(4), 2), combinations(range(4, 7), 1))]
    observed = effect((0, 1), (4,))
    expected = np.mean([abs(difference) >= abs(observed) - 1e-12 for difference in everything])
    (difference,) = compare_networks({"y": values}, networks, prompts)
    assert difference.difference == pytest.approx(observed)
    assert (difference.n_runs, difference.a, difference.b) == (7, 0, 1)
    assert difference.p_value == pytest.approx(expected, abs=4 * np.sqrt(expected / N_PERMUTATIONS))


def test_prompts_do_not_differ_for_networks() -> None:
    # Prompts differ much, and network 1 was given the high ones more often; networks are the same.
    rng = np.random.default_rng(0)
    prompts = rng.integers(6, size=300)
    networks = (rng.random(300) < prompts / 6).astype(int)
    values = prompts + 0.1 * rng.normal(size=300)
    (difference,) = compare_networks({"y": values}, networks, prompts)
    assert values[networks == 1].mean() - values[networks == 0].mean() > 1
    assert abs(difference.difference) < 0.05
    assert difference.p_value > 0.01


def test_the_test_has_its_level_and_detects_a_planted_effect() -> None:
    rng = np.random.default_rng(1)
    prompts, networks = np.repeat(np.arange(5), 8), np.tile([0, 1], 20)
    figures = {str(number): prompts + rng.normal(size=40) for number in range(200)}
    p_values = [difference.p_value for difference in compare_networks(figures, networks, prompts)]
    assert sum(p < 0.05 for p in p_values) <= 20
    (difference,) = compare_networks({"y": prompts + 2.0 * networks + rng.normal(size=40)}, networks, prompts)
    assert difference.p_value == 1 / (1 + N_PERMUTATIONS)
    assert difference.difference == pytest.approx(-2, abs=1)


def test_networks_without_a_shared_prompt_are_not_compared() -> None:
    assert compare_networks({"y": np.arange(6.0)}, np.repeat([0, 1], 3), np.repeat([5, 7], 3)) == ()


def test_holm_corrects_for_the_pairs_of_each_quantity() -> None:
    rng = np.random.default_rng(2)
    networks, prompts = np.tile([0, 1, 2], 20), np.repeat(np.arange(3), 20)
    differences = compare_networks({"y": rng.normal(size=60), "z": rng.normal(size=60)}, networks, prompts)
    assert [(comparison.a, comparison.b, comparison.figure) for comparison in differences] == [
        (a, b, name) for a, b in ((0, 1), (0, 2), (1, 2)) for name in ("y", "z")
    ]
    for name in ("y", "z"):
        mine = [comparison for comparison in differences if comparison.figure == name]
        expected = adjust_by_holm(np.array([difference.p_value for difference in mine]))
        assert [difference.p_adjusted for difference in mine] == expected.tolist()
    # Holm (1979): the smallest times 3, the next times 2, none below the one before, none above 1.
    assert adjust_by_holm(np.array([0.5, 0.01, 0.02])).tolist() == [0.5, 0.03, 0.04]
    assert adjust_by_holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_shares_of_a_balanced_design_are_those_of_the_sums_of_squares() -> None:
    rng = np.random.default_rng(3)
    t2i, i2t, prompts, _ = (part.ravel() for part in np.indices((2, 3, 5, 4)))
    values = 1.0 * t2i + 0.5 * i2t + 0.7 * (t2i == i2t) + rng.normal(size=5)[prompts] + rng.normal(size=120)
    terms = {term.factor: term for term in share_variance({"y": values}, t2i, i2t, prompts)}
    total = ((values - values.mean()) ** 2).sum()

    def between(*factors: np.ndarray) -> float:
        cells = np.unique(np.stack(factors), axis=1, return_inverse=True)[1].ravel()
        means = np.bincount(cells, weights=values) / np.bincount(cells)
        return float(((means[cells] - values.mean()) ** 2).sum())

    squares = {"t2i": between(t2i), "i2t": between(i2t), "prompt": between(prompts)}
    squares["t2i:i2t"] = between(t2i, i2t) - squares["t2i"] - squares["i2t"]
    degrees = {"t2i": 1, "i2t": 2, "prompt": 4, "t2i:i2t": 2}
    error = (total - sum(squares.values())) / (120 - 1 - sum(degrees.values()))
    for factor, term in terms.items():
        assert term.degrees == degrees[factor]
        assert term.share == pytest.approx(squares[factor] / total)
        assert term.adjusted == pytest.approx(
            max(0.0, (squares[factor] - degrees[factor] * error) / (total + error))
        )
    assert len(terms) == 4


def test_intervals_of_shares_cover_the_share_of_all_runs() -> None:
    # Two text-to-image models differ by twice the deviation within them: they explain half of the variance.
    t2i = np.repeat([0, 1], 40)
    i2t, prompts = np.zeros(80, dtype=int), np.tile(np.arange(8), 10)
    covered = {"t2i": 0, "prompt": 0}
    for seed in range(20):
        values = 2.0 * t2i + np.random.default_rng(seed).normal(size=80)
        for share in share_variance({"y": values}, t2i, i2t, prompts, n_resamples=100):
            assert share.interval is not None
            assert 0 <= share.interval.low <= share.interval.high <= 1
            truth = 0.5 if share.factor == "t2i" else 0.0
            covered[share.factor] += share.interval.low <= truth <= share.interval.high
    # Of 20, 19 are expected; 16 or fewer twice in a hundred.
    assert min(covered.values()) > 16


def test_models_that_determine_each_other_share_one_factor() -> None:
    # Each text-to-image model has one image-to-text model: nobody knows which of the two makes a difference.
    t2i, prompts = np.tile([0, 1], 10), np.repeat([0, 1], 10)
    values = np.random.default_rng(4).normal(size=20) + 3.0 * t2i
    shares = {share.factor: share for share in share_variance({"y": values}, t2i, t2i, prompts)}
    assert list(shares) == ["network", "prompt"]
    (alone, _) = share_variance({"y": values}, t2i, np.zeros_like(t2i), prompts)
    assert alone.factor == "t2i"
    assert replace(alone, factor="network") == shares["network"]
    # Of three networks two share a model, which does not tell the third one's models apart.
    t2i, i2t, prompts = np.tile([0, 1, 2], 10), np.tile([0, 0, 1], 10), np.repeat([0, 1], 15)
    values = np.random.default_rng(5).normal(size=30)
    degrees = {share.factor: share.degrees for share in share_variance({"y": values}, t2i, i2t, prompts)}
    assert degrees == {"t2i": 1, "network": 2, "prompt": 1}
    assert share_variance({"y": np.full(30, 0.1)}, t2i, i2t, prompts) == ()
