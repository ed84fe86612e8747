"""Which library holds an array: NumPy in host memory, CuPy on a CUDA device."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


def namespace(array: Any) -> Any:
    """Return the module whose functions work on `array`: numpy or cupy.

    An array that follows the Python array API standard says it itself; CuPy 14's arrays do not.
    """
    says = getattr(array, "__array_namespace__", None)
    return says() if says else importlib.import_module(type(array).__module__.partition(".")[0])


def on_device(array: Any) -> bool:
    """Say whether an array lies in device memory."""
    return not isinstance(array, np.ndarray)


def to_host(array: Any) -> Any:
    """Return an array as NumPy's: a copy when it lies in device memory, itself otherwise."""
    return array.get() if on_device(array) else array
