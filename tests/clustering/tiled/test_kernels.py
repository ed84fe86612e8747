"""Compare the compiled loops over one tile with sorting everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering.tiled import kernels

RNG = np.random.default_rng


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 90),
    best=st.integers(1, 100),
    n_values=st.sampled_from([1, 3, 10_000]),
)
def test_the_largest_products_of_each_row_are_listed_with_those_equal_to_the_last(
    seed: int, width: int, best: int, n_values: int
) -> None:
    """Few different values make ties, also at the last place."""
    rng = RNG(seed)
    first = int(rng.integers(width))
    products = rng.integers(n_values, size=(width - first, width)).astype(np.float32)
    out = np.empty(products.size + 8, dtype=np.int32)
    n_pairs = kernels.collect_best(products, first, best, out)
    expected = []
    for i, row in enumerate(products, start=first):
        others = np.sort(np.delete(row, i))[::-1]
        lower = others[min(best, len(others)) - 1] if len(others) else np.inf
        expected += [i * width + j for j in range(width) if j != i and row[j] >= lower]
    assert out[:n_pairs].tolist() == expected


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 12),
    n_values=st.sampled_from([2, 10_000]),
    n_earlier=st.integers(0, 3),
)
def test_lists_hold_the_best_entries_with_the_worst_one_first(
    seed: int, length: int, n_values: int, n_earlier: int
) -> None:
    """A list is filled at once if it was empty and there are enough pairs; else pair by pair."""
    rng, width = RNG(seed), 20
    rows = rng.permutation(width).astype(np.int32)
    pairs = np.array(
        [i * width + j for i in range(width) for j in range(width) if i != j and rng.random() < 0.4],
        dtype=np.int32,
    )
    sims = rng.integers(n_values, size=len(pairs)).astype(np.float32)
    list_rows = np.full((width, length), -1, dtype=np.int32)
    list_sims = np.full((width, length), -np.inf, dtype=np.float32)
    entries: dict[int, list[tuple[float, int]]] = {row: [] for row in range(width)}
    for row in range(0, width, 2):
        for neighbour in range(n_earlier):
            entries[row].append((0.5, width + neighbour))
            kernels.push_to_list(list_rows[row], list_sims[row], width + neighbour, np.float32(0.5))
    kernels.merge_into_lists(pairs, sims, rows, rows, list_rows, list_sims)
    for pair, s in zip(pairs.tolist(), sims.tolist(), strict=True):
        entries[int(rows[pair // width])].append((s, int(rows[pair % width])))
    for row, offered in entries.items():
        # The largest products; among equals, the smallest row numbers.
        expected = sorted(offered, key=lambda entry: (-entry[0], entry[1]))[:length]
        expected += [(-np.inf, -1)] * (length - len(expected))
        stored = list(zip(list_sims[row].tolist(), list_rows[row].tolist(), strict=True))
        assert sorted(stored) == sorted(expected)
        assert stored[0] == expected[-1]
