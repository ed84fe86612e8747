"""What is there to work with, and what is missing for more."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping

from panic_tda.devices import cuda, machine
from panic_tda.types import Environment

_PACKAGES = {
    "panic_tda": ("panic_tda",),
    "NumPy": ("numpy",),
    "numba": ("numba",),
    "scikit-learn": ("scikit-learn",),
    "pyarrow": ("pyarrow",),
    "SQLAlchemy": ("sqlalchemy",),
    "CuPy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cuML": ("cuml-cu13", "cuml-cu12", "cuml"),
}
"""By name: what the package is called where it is installed from, which for some differs by CUDA version."""
_DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_QUERY_SECONDS = 20.0


def examine_environment(*, backends: Mapping[str, str | None], sqlite: str) -> Environment:
    """Look at the machine, the libraries and the devices; changes nothing.

    Parameters
    ----------
    backends : mapping of str to str or None
        By name, why a backend can do nothing here (`clustering.backends.reasons`).
    sqlite : str
        Version of the SQLite library of this process (`storage.database.sqlite_version`).
    """
    versions = cuda.versions()
    memory_bytes, available_bytes = machine.host_memory()
    return Environment(
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        cores=machine.available_cores(),
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        driver=_driver(),
        driver_cuda=None if versions is None else versions[0],
        cuda_runtime=None if versions is None else versions[1],
        cuda_unusable_because=cuda.unusable_because(),
        devices=tuple(cuda.devices()),
        versions={name: _version(names) for name, names in _PACKAGES.items()} | {"SQLite": sqlite},
        backends=dict(backends),
    )


def _driver() -> str | None:
    # Asked of the driver's own tool: without CuPy it is all there is to see of a device.
    try:
        done = subprocess.run(
            _DRIVER_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
