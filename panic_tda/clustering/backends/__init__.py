"""Backends: each builds the spanning tree of the mutual reachability graph in its own way.

What a backend owes is in `base`: a spanning tree, since labels are made of it for all of them alike; another
library's labels are not enough. A new one is a module here with a line in `_HOMES`, its name in
`cli.options.BACKENDS` (a test says so), and a place in `_AUTO_ORDER` or `_AUTO_DEVICE_ORDER` if it is to be
taken unasked.
`tree_check` tells how far a tree is from a minimum one, for those that are not exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from panic_tda.clustering.backends.base import Backend, FitOptions, cannot_run
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend

if TYPE_CHECKING:
    from panic_tda.parameters import ClusteringParameters

_HOMES = {
    "cuml": ("panic_tda.clustering.backends.cuml", "CumlBackend"),
    "sklearn": ("panic_tda.clustering.backends.sklearn", "SklearnBackend"),
    "tiled": ("panic_tda.clustering.tiled.engine", "TiledBackend"),
}
AUTO = "auto"
NAMES = (AUTO, *_HOMES)
"""What `--backend` accepts; `cli.options.BACKENDS` says it again, so that --help need not import this."""
ON_HOST = ("sklearn",)
"""Those that have no use for a device."""
_AUTO_ORDER = ("sklearn", "tiled")
_AUTO_DEVICE_ORDER = ("tiled", "cuml")
"""On a device the exact backend comes first: cuML searches all pairs more than once, and may fail."""
_AUTO_EXACT_ORDER = ("tiled",)
"""Where `exact` was asked for: the one exact backend that works on a device too."""
_AUTO_UP_TO = {"sklearn": 2_000}
"""Rows above which `auto` skips a backend although it would not refuse. At 2,000 rows of 768 dimensions
scikit-learn and the tiles both take half a second; at 8,000 scikit-learn takes five times as long."""

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


def require_usable(asked: ClusteringParameters) -> None:
    """Refuse a backend that this machine cannot run, before anything is loaded for it.

    Raises
    ------
    UnsupportedOnBackend
        With the reason and the remedy. `auto` always finds another.
    InvalidParameter
        There is no backend of this name.
    """
    name = asked.backend
    if name != AUTO and (reason := unusable_because(name)) is not None:
        raise cannot_run(name, reason)


def select(name: str, shape: tuple[int, int], options: FitOptions) -> Backend:
    """Choose the backend for a matrix of `shape`, rows (copies counted) and dimensions.

    A backend that is named is taken or refuses; only `auto` goes on to the next one, and says so. On a device
    it takes `tiled`, or cuML's where `tiled` does not fit and no exact tree was asked for; in host memory the
    faster one for the shape.

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
    order = _AUTO_DEVICE_ORDER if options.on_device else _AUTO_ORDER
    for candidate in _AUTO_EXACT_ORDER if options.exact else order:
        if shape[0] > _AUTO_UP_TO.get(candidate, shape[0]):
            continue
        try:
            return _checked(candidate, shape, options)
        except UnsupportedOnBackend as refusal:
            log_once(str(refusal))
            reasons.append(str(refusal))
    if len(reasons) == 1:
        raise UnsupportedOnBackend(reasons[0])
    raise UnsupportedOnBackend("no backend can do this: " + "; ".join(reasons))


@cache
def log_once(message: str) -> None:
    """Log a message, such as that there is no device, the first time that it comes: not for every model."""
    _log.info("%s", message)


def _checked(name: str, shape: tuple[int, int], options: FitOptions) -> Backend:
    backend = get(name)
    backend.check(*shape, options)
    return backend


def reasons() -> dict[str, str | None]:
    """Say of every backend, by name, what `unusable_because` says of it."""
    return {name: unusable_because(name) for name in _HOMES}


def unusable_because(name: str) -> str | None:
    """Say in one line why a backend can do nothing on this machine, with the remedy; None where it can.

    Raises
    ------
    InvalidParameter
        There is none of this name.
    """
    ask: Callable[[], str | None] | None = getattr(get(name), "unusable_because", None)
    return None if ask is None else ask()
