"""Give a Dask worker the stand-in for a CUDA device (a module for `distributed.worker.preload`)."""

from __future__ import annotations

import os
from typing import Any

from panic_tda.arrays import device as device_memory
from panic_tda.clustering.tiled import device_blocks, tasks
from panic_tda.devices import cuda
from tests.strict_arrays import namespace

DEVICE_BYTES = 1 << 30


def dask_setup(_worker: Any) -> None:
    cuda.unavailable_reason = lambda: None
    cuda.allocatable_bytes = lambda: DEVICE_BYTES
    cuda.identify = lambda: os.environ[cuda.VISIBLE]
    device_memory.import_memory_error = lambda: MemoryError
    for module in (tasks, device_blocks):
        module.device_library = lambda: namespace
