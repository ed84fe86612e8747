"""The report of `doctor --environment`: the machine, the libraries and the devices."""

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
    "Dask": ("distributed",),
    "CuPy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cuML": ("cuml-cu13", "cuml-cu12", "cuml"),
}
"""Distribution names of each package; some depend on the CUDA version."""
_DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_QUERY_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Description of this machine; the fields are the keys of `doctor --environment --json`.

    Attributes
    ----------
    platform : str
        Operating system, processor and Python version.
    cores : int
        Number of cores that this process may use.
    memory_bytes, available_bytes : int or None
        Host memory that this process may use, and the part that is available; None if unknown.
    driver : str or None
        Version of the NVIDIA driver; None if there is no driver.
    driver_cuda, cuda_runtime : str or None
        Latest CUDA version that the driver supports, and that of CuPy's runtime; None without CUDA.
    cuda_unusable_because : str or None
        Reason why CuPy cannot be used, with the remedy; None if it can.
    devices : tuple of CudaDevice
        Visible devices, as listed by `cuda.devices`.
    versions : dict of str to str or None
        Version of each package; None if it is not installed.
    backends : dict of str to str or None
        For each backend, the reason why it cannot run here, with the remedy; None if it can.
    kernel : str
        Name of the kernel that compares rows in backend `tiled` on this processor.
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
    """Describe the machine, the libraries and the devices, without changing anything.

    Parameters
    ----------
    backends : mapping of str to str or None
        For each backend, the reason why it cannot run here (`clustering.backends.unavailable_reasons`).
    sqlite : str
        Version of the SQLite library of this process (`storage.database.sqlite_version`).
    kernel : str
        Name of the kernel that compares rows (`clustering.tiled.microkernels.describe_kernel`).
    """
    versions = cuda.versions()
    memory_bytes, available_bytes = machine.host_memory()
    return Environment(
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        cores=machine.available_cores(),
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        driver=_read_driver_version(),
        driver_cuda=None if versions is None else versions[0],
        cuda_runtime=None if versions is None else versions[1],
        cuda_unusable_because=cuda.unavailable_reason(),
        devices=tuple(cuda.devices()),
        versions={name: _read_version(names) for name, names in _PACKAGES.items()} | {"SQLite": sqlite},
        backends=dict(backends),
        kernel=kernel,
    )


def _read_driver_version() -> str | None:
    # From the driver's own tool, which works without CuPy.
    try:
        process = subprocess.run(
            _DRIVER_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(process.stdout.split()), None)


def _read_version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
