"""Which library holds an array: NumPy in host memory, CuPy on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np


def namespace(array: Any) -> Any:
    """Return the module whose functions work on `array`: numpy or cupy.

    Every array says it itself, by `__array_namespace__` of the Python array API standard.
    """
    return array.__array_namespace__()


def on_device(array: Any) -> bool:
    """Say whether an array lies in device memory."""
    return not isinstance(array, np.ndarray)


def to_host(array: Any) -> Any:
    """Return an array as NumPy's: a copy when it lies in device memory, itself otherwise."""
    return array.get() if on_device(array) else array
