"""Give a Dask worker a device in name only (a module for `distributed.worker.preload`).

It fits on the processor. Backend `cuml` is the tiled engine there, and a model that the environment variable
`ENDS` names ends the process.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from panic_tda import model_fits
from panic_tda.clustering import backends, worker_checks
from panic_tda.clustering.worker_checks import WorkerDevice
from panic_tda.devices import cuda

PRELOAD = {"distributed.worker.preload": ["tests.stand_in_device"]}
ENDS = "TEST_MODEL_THAT_ENDS_ITS_PROCESS"


def replace_cuml() -> None:
    backends.MODULES["cuml"] = backends.MODULES["tiled"]


def dask_setup(_worker: Any) -> None:
    replace_cuml()
    worker_checks.describe_device = lambda: WorkerDevice(1, None, 1 << 30, os.environ[cuda.VISIBLE])
    load_embeddings = model_fits.load_embeddings

    def load(database: Any, census: Any, **options: Any) -> Any:
        if census.model == os.environ.get(ENDS):
            os.kill(os.getpid(), signal.SIGKILL)
        return load_embeddings(database, census, **options)

    model_fits.load_embeddings = load
