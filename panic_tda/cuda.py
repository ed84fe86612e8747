"""What CUDA devices there are, and why there is none: asked for only where somebody wants one."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache

INSTALL = "pip install 'panic-tda[cuda13]' (or [cuda12], by the driver's CUDA version)"


@dataclass(frozen=True)
class CudaDevice:
    """A CUDA device that this process sees.

    Attributes
    ----------
    number : int
        Among the visible devices, from 0.
    name : str
        What the maker calls it.
    total_bytes, free_bytes : int
        Device memory, and what nobody has taken of it.
    compute_capability : str
        Such as "9.0".
    """

    number: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str


@cache
def unusable_because() -> str | None:
    """Say in one line why CuPy can do nothing here, with the remedy; None where it can.

    Looks at the installation first: without CuPy nothing is imported, and without a device nothing is
    allocated.
    """
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; {INSTALL}"
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # the driver's, the loader's and CuPy's own errors share no base
        return f"no CUDA device can be used ({_first_line(error)}); see nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None if count else "CUDA sees no device; see nvidia-smi and CUDA_VISIBLE_DEVICES"


def devices() -> list[CudaDevice]:
    """List the visible devices; empty where `unusable_because` has a reason."""
    if unusable_because() is not None:
        return []
    import cupy

    found = []
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        with cupy.cuda.Device(number):
            free, total = cupy.cuda.runtime.memGetInfo()
        found.append(
            CudaDevice(
                number=number,
                name=properties["name"].decode(),
                total_bytes=total,
                free_bytes=free,
                compute_capability=f"{properties['major']}.{properties['minor']}",
            )
        )
    return found


def free_bytes() -> int:
    """Bytes that can be allocated on the current device, those that CuPy's pool keeps ready included."""
    import cupy

    pool = cupy.get_default_memory_pool()
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
