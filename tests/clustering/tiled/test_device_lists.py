"""Compare neighbour lists in device memory with a loop that sorts every list."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panic_tda.clustering.tiled.contract import CandidatePairs
from panic_tda.clustering.tiled.device_lists import Lists, sort_keys
from panic_tda.clustering.tiled.layout import Layout, tile_starts
from tests import strict_arrays

XP = strict_arrays.namespace
# Few values make many ties; 0 is no -0, which is smaller to one of the two and equal to the other.
products = st.sampled_from([-1.0, -0.5, -1e-40, 0.0, 1e-40, 0.25, 0.5, 1.0]) | st.floats(
    -1.25, 1.25, width=32
).filter(bool)


class Offer(NamedTuple):
    """Pairs of one pair of tiles."""

    pair: tuple[int, int]
    codes: np.ndarray
    sims: np.ndarray


class Problem(NamedTuple):
    """Rows in tiles, and what is offered to their lists."""

    layout: Layout
    length: int
    offers: list[Offer]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    n, tile_rows = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    order = np.array(draw(st.permutations(range(n))), dtype=np.int32)
    layout = Layout(order, tile_starts(n, tile_rows))
    offers = []
    for _ in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, layout.n_tiles - 1))
        pair = first, draw(st.integers(first, layout.n_tiles - 1))
        size = len(layout.rows(pair[0])) * len(layout.rows(pair[1]))
        codes = np.flatnonzero(draw(hnp.arrays(np.bool_, size)))
        sims = draw(hnp.arrays(np.float32, len(codes), elements=products))
        offers.append(Offer(pair, codes, sims))
    return Problem(layout, draw(st.integers(1, 6)), offers)


def reference_lists(problem: Problem) -> list[list[tuple[float, int]]]:
    """Every list after every offer: products fall, and among equals the first offered comes first."""
    lists = [[(-np.inf, -1)] * problem.length for _ in problem.layout.order]
    for (first, second), codes, sims in problem.offers:
        rows, columns = problem.layout.rows(first), problem.layout.rows(second)
        for code, product in zip(codes.tolist(), sims.tolist(), strict=True):
            row, column = (
                int(number) for number in (rows[code // len(columns)], columns[code % len(columns)])
            )
            lists[row].append((product, column))
            if first != second:
                lists[column].append((product, row))
    return [sorted(entries, key=lambda entry: -entry[0])[: problem.length] for entries in lists]


def filled(problem: Problem) -> Lists:
    layout = Layout(XP.asarray(problem.layout.order), problem.layout.starts)
    lists = Lists(XP, layout, problem.length)
    for pair, codes, sims in problem.offers:
        rows, columns = (layout.rows(tile) for tile in pair)
        lists.push(CandidatePairs(XP.asarray(codes), XP.asarray(sims)), pair, rows, columns)
    return lists


@settings(deadline=None)
@given(problem=problems())
def test_lists_equal_those_of_a_python_loop(problem: Problem) -> None:
    lists = filled(problem)
    lists.flush()
    expected = reference_lists(problem)
    assert lists.rows.get().tolist() == [[row for _, row in entries] for entries in expected]
    assert lists.sims.get().tolist() == [[product for product, _ in entries] for entries in expected]
    everyone = XP.asarray(problem.layout.order)
    assert lists.thresholds(everyone).get().tolist() == [
        expected[row][-1][0] for row in problem.layout.order.tolist()
    ]


@pytest.mark.slow
@settings(deadline=None)
@given(problem=problems())
def test_waiting_candidates_never_raise_a_threshold_too_high(problem: Problem) -> None:
    lists, expected = filled(problem), reference_lists(problem)
    worst = lists.thresholds(XP.asarray(np.arange(len(expected), dtype=np.int32))).get().tolist()
    assert all(smallest <= entries[-1][0] for smallest, entries in zip(worst, expected, strict=True))


def test_lists_fill_before_they_are_flushed() -> None:
    """Otherwise nothing would be dropped before its time, and offers would fill the memory."""
    layout = Layout(np.arange(4, dtype=np.int32), tile_starts(4, 4))
    codes = np.array([1, 2, 4, 6, 8, 9, 12, 13])
    lists = filled(Problem(layout, 2, [Offer((0, 0), codes, np.full(8, 0.5, dtype=np.float32))]))
    assert lists.thresholds(XP.asarray(np.arange(4))).get().tolist() == [0.5] * 4


@settings(deadline=None)
@given(entries=st.lists(st.tuples(st.integers(0, 2**20), products | st.just(-np.inf)), max_size=40))
def test_keys_are_in_the_order_of_owners_and_falling_products(entries: list[tuple[int, float]]) -> None:
    owners = np.array([owner for owner, _ in entries], dtype=np.int64)
    sims = np.array([product for _, product in entries], dtype=np.float32)
    keys: Any = sort_keys(np, owners, sims)
    order = np.argsort(keys, kind="stable").tolist()
    assert order == sorted(range(len(entries)), key=lambda at: (entries[at][0], -float(sims[at])))
    assert sort_keys(XP, XP.asarray(owners), XP.asarray(sims)).get().tolist() == keys.tolist()


@pytest.mark.parametrize("xp", [np, XP])
def test_lists_begin_without_entries(xp: Any) -> None:
    lists = Lists(xp, Layout(xp.asarray(np.arange(3, dtype=np.int32)), tile_starts(3, 2)), 2)
    rows, sims = (getattr(array, "get", lambda array=array: array)() for array in (lists.rows, lists.sims))
    assert rows.tolist() == [[-1, -1]] * 3
    assert np.isneginf(sims).all()
