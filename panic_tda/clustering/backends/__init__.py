"""Backends: each one builds the spanning tree of the mutual reachability graph in its own way.

`base` defines the contract. A backend returns a spanning tree, from which the same code makes the labels for
all backends; labels of another library are not used.

To add a backend, write a module here, add it to `MODULES`, and add its name to `cli.options.BACKENDS` (a test
checks that). Add it to `AUTO_ORDER` or `AUTO_DEVICE_ORDER` if `auto` may choose it.

`tree_check` estimates how far the tree of an inexact backend is from a minimum spanning tree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module

from panic_tda.clustering.backends.base import Backend, FitOptions, build_unavailable_error
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters

MODULES = {
    "cuml": ("panic_tda.clustering.backends.cuml", "CumlBackend"),
    "sklearn": ("panic_tda.clustering.backends.sklearn", "SklearnBackend"),
    "tiled": ("panic_tda.clustering.tiled.engine", "TiledBackend"),
}
AUTO, TILED = "auto", "tiled"
NAMES = (AUTO, *MODULES)
"""Values of `--backend`; `cli.options.BACKENDS` repeats them, so that --help need not import this module."""
ON_HOST = ("sklearn",)
"""Backends that never use a device."""
AUTO_ORDER = ("tiled",)
"""Without a device, or with `exact`. scikit-learn takes as long as `tiled` from 500 to 2,000 rows and longer
above; importing it takes two seconds."""
AUTO_DEVICE_ORDER = ("tiled", "cuml")
"""On a device the exact backend comes first: cuML searches all pairs more than once, and may fail."""

_log = logging.getLogger(__name__)


def get_backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises
    ------
    InvalidParameter
        There is no backend of this name.
    """
    if name not in MODULES:
        raise InvalidParameter(f"backend must be one of {', '.join(NAMES)}; got {name!r}")
    module, attribute = MODULES[name]
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


def require_available(parameters: ClusteringParameters) -> None:
    """Check that this machine can run the requested backend, before anything is loaded.

    Raises
    ------
    UnsupportedOnBackend
        It cannot; the message has the reason and the remedy. Never raised for `auto`.
    InvalidParameter
        There is no backend of this name.
    """
    name = parameters.backend
    if name != AUTO and (reason := unavailable_reason(name)) is not None:
        raise build_unavailable_error(name, reason)


def select_backend(name: str, shape: tuple[int, int], options: FitOptions) -> Backend:
    """Choose the backend for a matrix of `shape`: rows (including copies) and dimensions.

    A backend that is named is used, or an error is raised. Only `auto` tries the next one, and logs that. On
    a device, `auto` chooses `tiled`, or `cuml` if `tiled` does not fit and `exact` is not set. In host memory
    it chooses `tiled`.

    Raises
    ------
    UnsupportedOnBackend
        The named backend, or with `auto` all backends, cannot process the matrix; the message has every
        reason.
    InvalidParameter
        There is no backend of this name.
    """
    if name != AUTO:
        return _get_checked_backend(name, shape, options)
    reasons = []
    for candidate in AUTO_DEVICE_ORDER if options.on_device and not options.exact else AUTO_ORDER:
        try:
            return _get_checked_backend(candidate, shape, options)
        except UnsupportedOnBackend as refusal:
            log_once(str(refusal))
            reasons.append(str(refusal))
    if len(reasons) == 1:
        raise UnsupportedOnBackend(reasons[0])
    raise UnsupportedOnBackend("no backend can do this: " + "; ".join(reasons))


@cache
def log_once(message: str) -> None:
    """Log a message (such as that there is no device) once per process, not once per model."""
    _log.info("%s", message)


def _get_checked_backend(name: str, shape: tuple[int, int], options: FitOptions) -> Backend:
    backend = get_backend(name)
    backend.check(*shape, options)
    return backend


def unavailable_reasons() -> dict[str, str | None]:
    """Return the `unavailable_reason` of every backend, by name."""
    return {name: unavailable_reason(name) for name in MODULES}


def unavailable_reason(name: str) -> str | None:
    """Explain in one line why a backend cannot run on this machine, with the remedy; return None if it can.

    Raises
    ------
    InvalidParameter
        There is no backend of this name.
    """
    explain: Callable[[], str | None] | None = getattr(get_backend(name), "unavailable_reason", None)
    return None if explain is None else explain()
