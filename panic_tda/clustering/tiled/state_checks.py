"""Check saved states of the engine: the arrays that they have, and the values in them.

Compiled kernels do not check the row numbers that they are given: one beyond the rows ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.arrays.namespace import namespace
from panic_tda.arrays.rows import chunks
from panic_tda.clustering.state_files import Form, UnusableState
from panic_tda.clustering.trees import Edges, minimum_forest

if TYPE_CHECKING:
    from panic_tda.types import Array, FloatArray

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_State = Mapping[str, Any]


def neighbours_forms(n: int, length: int, n_tiles: int) -> dict[str, Form]:
    """Return the arrays of a state of the neighbour pass over `n` rows."""
    lists = {"rows": Form((n, length), _INT32), "sims": Form((n, length), _FLOAT32)}
    return lists | {"order": Form((n,), _INT32)} | _pairs_forms(n_tiles)


def verify_forms(n: int, n_tiles: int) -> dict[str, Form]:
    """Return the arrays of a state of the verify pass over `n` rows."""
    places = {"order": Form((n,), _INT32), "gaps": Form((n,), _FLOAT64), "size": Form((), _INT64)}
    return _edges_forms(n) | places | _pairs_forms(n_tiles)


def tree_forms(n: int) -> dict[str, Form]:
    """Return the arrays of a spanning tree over `n` rows with their core distances."""
    return _edges_forms(n) | {"cores": Form((n,), _FLOAT64)}


def check_neighbours(state: _State, n_tiles: int) -> None:
    """Check the values of a state of the neighbour pass.

    Raises
    ------
    UnusableState
        A row number is none, a product is not finite, or the tile pairs are not all there.
    """
    rows, sims = state["rows"], state["sims"]
    n, xp = len(rows), namespace(rows)
    for chunk in chunks(rows):
        part, products = rows[chunk], sims[chunk]
        empty = part == -1
        _require(bool(((part >= -1) & (part < n)).all()), "a row number is out of range")
        _require(
            bool(xp.where(empty, products == -np.inf, xp.isfinite(products)).all()),
            "a product is neither finite nor that of an empty entry",
        )
    _require_order(state["order"])
    _require_pairs(state, n_tiles)


def check_verify(state: _State, n_tiles: int) -> None:
    """Check the values of a state of the verify pass.

    Raises
    ------
    UnusableState
        They are no spanning tree, no order of the rows, or the tile pairs are not all there.
    """
    _require_tree(state)
    _require_order(state["order"])
    _require(bool((state["gaps"] >= 0).all()), "a merge height is negative or not a number")
    _require(int(state["size"]) >= 1, "a count is out of range")
    _require_pairs(state, n_tiles)


def check_tree(state: _State) -> None:
    """Check the values of a spanning tree and its core distances.

    Raises
    ------
    UnusableState
        They are no spanning tree by ascending height, or a distance is not finite or is negative.
    """
    cores = state["cores"]
    _require(bool((np.isfinite(cores) & (cores >= 0)).all()), "a core distance is not finite or is negative")
    _require_tree(state)


def check_nearer_rows(state: _State, cores: FloatArray) -> None:
    """Check the values of lists of the rows that are nearer than the core distances, (n,).

    Raises
    ------
    UnusableState
        A row number is out of range, distances do not ascend, or one is not below the core distance.
    """
    rows, distances = state["rows"], state["distances"]
    for chunk in chunks(distances):
        listed, lengths = rows[chunk], distances[chunk]
        empty = listed == -1
        _require(bool(((listed >= -1) & (listed < len(cores))).all()), "a row number is out of range")
        near = (lengths >= 0) & (lengths < cores[chunk, None])
        _require(bool(np.where(empty, lengths == np.inf, near).all()), "a distance is out of range")
        _require(bool((lengths[:, 1:] >= lengths[:, :-1]).all()), "its distances do not ascend")


def _edges_forms(n: int) -> dict[str, Form]:
    ends = {"u": Form((n - 1,), _INT64), "v": Form((n - 1,), _INT64)}
    return ends | {"height": Form((n - 1,), _FLOAT64)}


def _pairs_forms(n_tiles: int) -> dict[str, Form]:
    return {"pairs": Form((n_tiles * (n_tiles + 1) // 2, 2), _INT32), "done": Form((), _INT64)}


def _require_tree(state: _State) -> None:
    u, v, height = state["u"], state["v"], state["height"]
    n = len(height) + 1
    for ends in (u, v):
        _require(bool(((ends >= 0) & (ends < n)).all()), "a row number is out of range")
    _require(bool((np.isfinite(height) & (height >= 0)).all()), "a height is not finite or is negative")
    _require(bool((np.diff(height) >= 0).all()), "its heights do not ascend")
    _require(len(minimum_forest(n, Edges(u, v, height)).u) == n - 1, "its edges do not join all rows")


def _require_order(order: Array) -> None:
    _require(bool((np.sort(order) == np.arange(len(order))).all()), "its order is not one of all rows")


def _require_pairs(state: _State, n_tiles: int) -> None:
    pairs = state["pairs"].astype(np.int64)
    first, second = np.triu_indices(n_tiles)
    in_range = (pairs >= 0) & (pairs < n_tiles)
    numbers = np.sort(pairs[:, 0] * n_tiles + pairs[:, 1])
    complete = bool(in_range.all()) and bool((numbers == first * n_tiles + second).all())
    _require(complete, "its tile pairs are not all there")
    _require(0 <= int(state["done"]) <= len(pairs), "a count is out of range")


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise UnusableState(f"it is damaged ({reason})")
