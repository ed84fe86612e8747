"""What CUDA devices there are, and why there is none: asked for only where somebody wants one."""

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
from panic_tda.wording import install_extra

VISIBLE = "CUDA_VISIBLE_DEVICES"
INSTALL = f"{install_extra('cuda13')} (or '.[cuda12]', by the driver's CUDA version)"


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


_RULED_OUT: ContextVar[bool] = ContextVar("cuda_ruled_out", default=False)


@contextmanager
def ruled_out() -> Iterator[None]:
    """Do without CUDA inside the block, as on a machine that has none."""
    token = _RULED_OUT.set(True)
    try:
        yield
    finally:
        _RULED_OUT.reset(token)


def unusable_because() -> str | None:
    """Say in one line why CuPy can do nothing here, with the remedy; None where it can.

    Looks at the installation first: without CuPy nothing is imported, and without a device nothing is
    allocated.
    """
    return "CUDA was ruled out (--devices none)" if _RULED_OUT.get() else _missing()


@cache
def _missing() -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; {INSTALL}"
    kernel_cache.choose_cache_folder()
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # the driver's, the loader's and CuPy's own errors share no base
        remedy = "see nvidia-smi and CUDA_VISIBLE_DEVICES"
        if "InsufficientDriver" in str(error):  # what CUDA also says where there is no driver at all
            remedy = "install or update the NVIDIA driver, or take the extra of an older CUDA"
        if kernel_cache.is_cache_error(error):
            remedy = kernel_cache.REMEDY
        return f"no CUDA device can be used ({_first_line(error)}); {remedy}"
    return None if count else "CUDA sees no device; see nvidia-smi and CUDA_VISIBLE_DEVICES"


def count() -> int:
    """Count the visible devices, without taking memory of any; 0 where `unusable_because` has a reason."""
    if unusable_because() is not None:
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def choose(asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of the devices to work on: those asked for, all visible ones where `asked` is None.

    Raises
    ------
    InvalidParameter
        A number that no visible device has.
    """
    if asked is not None and not asked:
        return ()
    present = range(count())
    if asked is None:
        return tuple(present)
    wrong = [number for number in asked if number not in present]
    if wrong and not present:
        raise InvalidParameter(
            f"devices were asked for by number ({_listed(asked)}), and there are none: {unusable_because()}; "
            "or do without (--devices none)"
        )
    if wrong:
        raise InvalidParameter(
            f"devices must be among {_listed(present)}, as panic-tda doctor --environment lists them; "
            f"got {_listed(asked)}"
        )
    return tuple(dict.fromkeys(asked))


def environment(number: int) -> dict[str, str]:
    """Return the environment variable under which a new process sees that visible device alone."""
    # Numbers count the devices that this process sees, which may itself have been given some of them.
    visible = os.environ.get(VISIBLE)
    return {VISIBLE: str(number) if visible is None else visible.split(",")[number].strip()}


def devices() -> list[CudaDevice]:
    """List the visible devices; empty where `unusable_because` has a reason."""
    n_devices = count()
    if not n_devices:
        return []
    import cupy

    found = []
    for number in range(n_devices):
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


def versions() -> tuple[str, str] | None:
    """Return the CUDA version up to which the driver goes, and that of the runtime; None without CUDA."""
    if unusable_because() is not None:
        return None
    import cupy

    runtime = cupy.cuda.runtime
    return _version(runtime.driverGetVersion()), _version(runtime.runtimeGetVersion())


def free_bytes() -> int:
    """Bytes that can be allocated on the current device, those that CuPy's pool keeps ready included."""
    import cupy

    pool = cupy.get_default_memory_pool()
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
