"""What is there to work with, and what is missing for more."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from panic_tda.devices import cuda, machine

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


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What this machine has; the fields are the keys of `doctor --environment --json`.

    Attributes
    ----------
    platform : str
        Operating system, processor and Python.
    cores : int
        Those that this process may use.
    memory_bytes, available_bytes : int or None
        Of the host: all of it, and what can be had; None where the system does not say.
    driver : str or None
        Version of the NVIDIA driver; None where there is none.
    driver_cuda, cuda_runtime : str or None
        CUDA version up to which the driver goes, and that of the runtime which CuPy uses; None without CUDA.
    cuda_unusable_because : str or None
        Why CuPy can do nothing, with the remedy; None where it can.
    devices : tuple of CudaDevice
        Visible devices, as `cuda.devices` lists them.
    versions : dict of str to str or None
        By package; None for what is not installed.
    backends : dict of str to str or None
        By name: why it can do nothing here, with the remedy; None where it can.
    kernel : str
        What compares rows in backend `tiled` on this processor.
    """

    platform: str
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    driver: str | None
    driver_cuda: str | None
    cuda_runtime: str | None
    cuda_unusable_because: str | None
    devices: tuple[cuda.CudaDevice, ...]
    versions: dict[str, str | None]
    backends: dict[str, str | None]
    kernel: str


def examine_environment(*, backends: Mapping[str, str | None], sqlite: str, kernel: str) -> Environment:
    """Look at the machine, the libraries and the devices; changes nothing.

    Parameters
    ----------
    backends : mapping of str to str or None
        By name, why a backend can do nothing here (`clustering.backends.unavailable_reasons`).
    sqlite : str
        Version of the SQLite library of this process (`storage.database.sqlite_version`).
    kernel : str
        What compares rows on this processor (`clustering.tiled.microkernels.describe_kernel`).
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
        cuda_unusable_because=cuda.unavailable_reason(),
        devices=tuple(cuda.devices()),
        versions={name: _version(names) for name, names in _PACKAGES.items()} | {"SQLite": sqlite},
        backends=dict(backends),
        kernel=kernel,
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
