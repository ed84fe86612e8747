"""The visible CUDA devices, or the reason why there is none; CuPy is imported only when needed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

from panic_tda.devices import kernel_cache
from panic_tda.errors import InvalidParameter
from panic_tda.wording import first_line, install_extra

VISIBLE = "CUDA_VISIBLE_DEVICES"
INSTALL = f"{install_extra('cuda13')} (or '.[cuda12]', by the driver's CUDA version)"


@dataclass(frozen=True)
class CudaDevice:
    """A CUDA device that this process sees.

    Attributes
    ----------
    number : int
        Its number among the visible devices, from 0.
    name : str
        Its product name.
    total_bytes, free_bytes : int
        Its memory, and the free part of it.
    compute_capability : str
        Its compute capability, such as "9.0".
    """

    number: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str


_DISABLED: ContextVar[bool] = ContextVar("cuda_disabled", default=False)


@contextmanager
def cuda_disabled() -> Iterator[None]:
    """Disable CUDA inside the block, as on a machine without CUDA."""
    token = _DISABLED.set(True)
    try:
        yield
    finally:
        _DISABLED.reset(token)


def unavailable_reason() -> str | None:
    """Explain in one line why CuPy cannot be used here, with the remedy; return None if it can.

    Nothing is imported if CuPy is not installed, and nothing is allocated if there is no device.
    """
    return "CUDA is disabled (--devices none)" if _DISABLED.get() else _explain_missing_cuda()


@cache
def _explain_missing_cuda() -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; {INSTALL}"
    kernel_cache.choose_cache_folder()
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # errors of the driver, the loader and CuPy have no common base class
        remedy = "see nvidia-smi and CUDA_VISIBLE_DEVICES"
        if "InsufficientDriver" in str(error):  # CUDA reports this also if there is no driver
            remedy = "install or update the NVIDIA driver, or install the extra of an older CUDA"
        if kernel_cache.is_cache_error(error):
            remedy = kernel_cache.REMEDY
        return f"no CUDA device can be used ({first_line(error)}); {remedy}"
    return None if count else "CUDA sees no device; see nvidia-smi and CUDA_VISIBLE_DEVICES"


def count() -> int:
    """Count the visible devices, without allocating memory; 0 if `unavailable_reason` has a reason."""
    if unavailable_reason() is not None:
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def choose(numbers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of the devices to use: `numbers` without repetitions, or all visible ones if None.

    Raises
    ------
    InvalidParameter
        No visible device has one of the numbers.
    """
    if numbers is not None and not numbers:
        return ()
    visible = range(count())
    if numbers is None:
        return tuple(visible)
    if all(number in visible for number in numbers):
        return tuple(dict.fromkeys(numbers))
    if not visible:
        raise InvalidParameter(
            f"no CUDA device is available, got devices {_join(numbers)}: {unavailable_reason()}; or use no "
            "device (--devices none)"
        )
    raise InvalidParameter(
        f"devices must be among {_join(visible)}, as panic-tda doctor --environment lists them; "
        f"got {_join(numbers)}"
    )


def environment(number: int) -> dict[str, str]:
    """Return the environment variable with which a new process sees only this device."""
    # `number` counts the devices that this process sees, which may be a part of the machine's.
    visible = os.environ.get(VISIBLE)
    return {VISIBLE: str(number) if visible is None else visible.split(",")[number].strip()}


def devices() -> list[CudaDevice]:
    """List the visible devices; the list is empty if `unavailable_reason` has a reason."""
    n_devices = count()
    if not n_devices:
        return []
    import cupy

    visible = []
    for number in range(n_devices):
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        with cupy.cuda.Device(number):
            free, total = cupy.cuda.runtime.memGetInfo()
        visible.append(
            CudaDevice(
                number=number,
                name=properties["name"].decode(),
                total_bytes=total,
                free_bytes=free,
                compute_capability=f"{properties['major']}.{properties['minor']}",
            )
        )
    return visible


def identify() -> str:
    """Return the UUID of the current device, which another process that sees the device reads too."""
    import cupy

    runtime = cupy.cuda.runtime
    return bytes(runtime.getDeviceProperties(runtime.getDevice())["uuid"]).hex()


def versions() -> tuple[str, str] | None:
    """Return the latest CUDA version that the driver supports, and that of the runtime; None without CUDA."""
    if unavailable_reason() is not None:
        return None
    import cupy

    runtime = cupy.cuda.runtime
    return _format_version(runtime.driverGetVersion()), _format_version(runtime.runtimeGetVersion())


def allocatable_bytes() -> int:
    """Return the bytes that can be allocated on the current device, including those in CuPy's pool."""
    import cupy

    pool = cupy.get_default_memory_pool()
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())


def _format_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
