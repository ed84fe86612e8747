"""What is there to work with, and what is missing for more."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

from panic_tda.clustering import backends
from panic_tda.devices import cuda
from panic_tda.storage.database import sqlite_version
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


def examine_environment() -> Environment:
    """Look at the machine, the libraries, the devices and the backends; changes nothing."""
    versions = cuda.versions()
    memory_bytes, available_bytes = _memory()
    return Environment(
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        cores=_cores(),
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        driver=_driver(),
        driver_cuda=None if versions is None else versions[0],
        cuda_runtime=None if versions is None else versions[1],
        cuda_unusable_because=cuda.unusable_because(),
        devices=tuple(cuda.devices()),
        versions={name: _version(names) for name, names in _PACKAGES.items()} | {"SQLite": sqlite_version()},
        backends={name: backends.unusable_because(name) for name in backends.NAMES if name != backends.AUTO},
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[int | None, int | None]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such call, or no such number, on this system
        return None, None


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
