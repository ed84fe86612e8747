"""The pairs of a tile that may matter, with their products: the question that both passes ask.

Which pairs (i, j) of two tiles have a product of at least min(lower_i, lower_j)? The bound by principal axes
answers for most pairs; the products of the rest are computed one by one while they are few, and by a matrix
product of the whole tile when they are many. A pair of a tile with `width` columns has the code
`i * width + j`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from panic_tda.arrays.namespace import namespace

_PATIENCE = 16
"""Most tiles done densely without asking the bound, after it was asked in vain as many times in a row."""


class Survivors(NamedTuple):
    """Pairs by their code in ascending order, and their float32 products: the first `found` of each."""

    codes: Any
    sims: Any
    found: int


class LightPairs(NamedTuple):
    """Pairs (i, j) of a tile in host memory, with their mutual reachability distances.

    Attributes
    ----------
    i, j : (pairs,) int64
        Places within the rows and the columns of the tile.
    height : (pairs,) float64
        Chord lengths.
    """

    i: Any
    j: Any
    height: Any


Filter = Callable[..., Any]
"""Drops codes before their products are computed."""


class Patience:
    """Asks the bound less often the more often it was asked in vain."""

    def __init__(self) -> None:
        self._wait = self._in_vain = 0

    def asks(self) -> bool:
        """Say whether the bound is to be asked this time."""
        asked = not self._wait
        self._wait = max(0, self._wait - 1)
        return asked

    def learn(self, *, in_vain: bool) -> None:
        """Take note of whether the bound left few pairs."""
        if in_vain:
            self._wait = min(self._in_vain, _PATIENCE)
        self._in_vain = self._in_vain + 1 if in_vain else 0


def loosened(lower: tuple[Any, Any], slack: float) -> tuple[Any, Any]:
    """Lower the thresholds of both sides by what a product of points may lack, rounded down to float32."""
    xp = namespace(lower[0])
    down = xp.asarray(-xp.inf, dtype=xp.float32)
    one, two = (xp.nextafter(side - xp.float32(slack), down) for side in lower)
    return one, two
