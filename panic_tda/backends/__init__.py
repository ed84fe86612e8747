"""Backends: each builds the spanning tree of the mutual reachability graph in its own way.

A new backend is a new module and one line in `_HOMES`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from panic_tda.backends.base import Backend, FitOptions
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend

_HOMES = {
    "sklearn": ("panic_tda.backends.sklearn", "SklearnBackend"),
    "tiled": ("panic_tda.backends.tiled.engine", "TiledBackend"),
}
AUTO = "auto"
NAMES = (AUTO, *_HOMES)
"""What `--backend` accepts."""
_AUTO_ORDER = ("sklearn", "tiled")
_AUTO_UP_TO = {"sklearn": 2_000}
"""Rows above which `auto` passes a backend over although it would not refuse: here both take half a second
at 768 dimensions; at 8,000 rows scikit-learn takes five times as long as the tiles."""

_log = logging.getLogger(__name__)


def get(name: str) -> Backend:
    """Return the backend called `name`.

    Raises
    ------
    InvalidParameter
        There is none of this name.
    """
    if name not in _HOMES:
        raise InvalidParameter(f"backend must be one of {', '.join(NAMES)}; got {name!r}")
    module, attribute = _HOMES[name]
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


class Shape(NamedTuple):
    """How many rows there are, how many of them are distinct, and their dimensions."""

    n_rows: int
    n_distinct: int
    n_features: int


def select(name: str, shape: Shape, options: FitOptions) -> Backend:
    """Choose the backend for a matrix of `shape`.

    A backend that is named is taken or refuses; only `auto` goes on to the next one, and says so.

    Raises
    ------
    UnsupportedOnBackend
        The named backend refuses, or all of them do; the message has every reason.
    InvalidParameter
        There is no backend of this name.
    """
    if name != AUTO:
        return _checked(name, shape, options)
    reasons = []
    for candidate in _AUTO_ORDER:
        if shape.n_rows > _AUTO_UP_TO.get(candidate, shape.n_rows):
            continue
        try:
            return _checked(candidate, shape, options)
        except UnsupportedOnBackend as refusal:
            _log.info("%s", refusal)
            reasons.append(str(refusal))
    raise UnsupportedOnBackend("no backend can do this: " + "; ".join(reasons))


def _checked(name: str, shape: Shape, options: FitOptions) -> Backend:
    backend = get(name)
    backend.check(shape.n_distinct if backend.weighted else shape.n_rows, shape.n_features, options)
    return backend


def unusable_because(name: str) -> str | None:
    """Say in one line why a backend can do nothing on this machine, with the remedy; None where it can.

    Raises
    ------
    InvalidParameter
        There is none of this name.
    """
    ask: Callable[[], str | None] | None = getattr(get(name), "unusable_because", None)
    return None if ask is None else ask()
