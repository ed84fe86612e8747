"""Provide a device for the tests: a real one, or a stand-in that is as strict."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from panic_tda.arrays import device as device_memory
from panic_tda.devices import cuda
from tests.strict_arrays import StrictArray, namespace

FREE_BYTES = 80 << 30


class StandInOutOfMemory(MemoryError):
    """Out-of-memory error of the stand-in for CuPy."""


class LateLane:
    """Lane that copies only when waited for, so that a buffer filled too early is detected."""

    def __init__(self, n_rows: int, n_features: int) -> None:
        self.buffer = np.full((n_rows, n_features), np.nan, dtype=np.float32)
        self.n_sent = 0
        self._target: Any = None

    @property
    def under_way(self) -> bool:
        return self._target is not None

    def send(self, target: Any) -> None:
        assert not self.under_way
        self.n_sent, self._target = self.n_sent + 1, target

    def wait(self) -> None:
        if self._target is not None:
            self._target.set(self.buffer[: len(self._target)])
            self._target = None


class EarlyLane(LateLane):
    """Lane that copies at once, like a device that is faster than the database."""

    def send(self, target: Any) -> None:
        super().send(target)
        self.wait()


class StandIn:
    """Stand-in for a CUDA device that works on strict arrays.

    Attributes
    ----------
    asarray : callable
        Uploads an array.
    lanes : list of LateLane
        All that were opened.
    matrices : list of weakref
        Memory of all matrices that rows were loaded into.
    alive : list of int
        How many of them were still held when the next one was made.
    refuses : callable
        Says of a shape whether there is no room for it.
    """

    lane: type[LateLane] = LateLane

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asarray = namespace.asarray
        self.lanes: list[LateLane] = []
        self.matrices: list[weakref.ref[np.ndarray]] = []
        self.alive: list[int] = []
        self.refuses: Callable[[int, int], bool] = lambda _n_rows, _n_features: False
        monkeypatch.setattr(cuda, "unavailable_reason", lambda: None)
        monkeypatch.setattr(cuda, "count", lambda: 1)
        monkeypatch.setattr(cuda, "allocatable_bytes", lambda: FREE_BYTES)
        monkeypatch.setattr(device_memory, "allocate", self.empty)
        monkeypatch.setattr(device_memory, "open_lanes", self._open)
        monkeypatch.setattr(device_memory, "free_pools", lambda: None)
        monkeypatch.setattr(device_memory, "import_memory_error", lambda: StandInOutOfMemory)

    def empty(self, n_rows: int, n_features: int) -> StrictArray:
        """Allocate a matrix, or raise an out-of-memory error."""
        self.alive.append(sum(matrix() is not None for matrix in self.matrices))
        if self.refuses(n_rows, n_features):
            raise StandInOutOfMemory("the stand-in is full")
        memory = self.allocate(n_rows, n_features)
        self.matrices.append(weakref.ref(memory))
        return StrictArray(memory)

    def allocate(self, n_rows: int, n_features: int) -> np.ndarray:
        """Allocate the memory of a matrix; subclasses may place it elsewhere."""
        return np.full((n_rows, n_features), np.nan, dtype=np.float32)

    def _open(self, n_rows: int, n_features: int) -> list[LateLane]:
        lanes = [self.lane(n_rows, n_features) for _ in range(2)]
        self.lanes.extend(lanes)
        return lanes


def require_device() -> None:
    """Skip the test where there is no CUDA device, and say how there would be one."""
    if (reason := cuda.unavailable_reason()) is not None:
        pytest.skip(reason)
