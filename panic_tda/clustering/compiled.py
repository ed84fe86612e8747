"""Loops that numba compiles, and where it keeps what it compiled."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import llvmlite.binding
import numba
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

IN_ANY_ORDER = frozenset({"reassoc", "contract", "nsz"})
"""Freedoms for a sum: its terms may be added in any order, which takes the processor's wide registers."""

KERNELS: list[Any] = []
"""All that was decorated so far, as numba's dispatchers."""


@overload
def compiled(function: Function, /) -> Function: ...
@overload
def compiled(*, fastmath: frozenset[str] = ...) -> Callable[[Function], Function]: ...
def compiled(function: Any = None, /, *, fastmath: frozenset[str] = frozenset()) -> Any:
    """Compile a function when it is first called, and keep the code in numba's cache.

    It runs without the interpreter's lock: threads run tiles side by side, and the one that tells of the
    progress is heard meanwhile. The cache is beside the source, in the user's cache folder where that cannot
    be written, or in `NUMBA_CACHE_DIR`; where none of them can be written, every process compiles anew.
    """

    def decorate(plain: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        try:
            kernel = njit(cache=True, **options)(plain)
        except RuntimeError:  # no folder takes a cache, which numba says on import already
            kernel = njit(**options)(plain)
        if kernel is not plain:  # NUMBA_DISABLE_JIT
            KERNELS.append(kernel)
        return kernel

    return decorate if function is None else decorate(function)


def cache_folder() -> Path | None:
    """Return a folder in which compiled code is kept, None where there is none."""
    found = KERNELS[0].stats.cache_path if KERNELS else None
    return None if found is None else Path(found)


def stamp() -> str:
    """Return what a piece of compiled code depends on, as a word: sources, versions, processor."""
    about = [numba.__version__, platform.python_version(), llvmlite.binding.get_host_cpu_name()]
    # All of the wing, whichever of its files this process has imported.
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        state = source.stat()
        about.append(f"{source} {state.st_mtime_ns} {state.st_size}")
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
