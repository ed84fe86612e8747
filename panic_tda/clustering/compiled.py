"""Loops that numba compiles, and where it keeps what it compiled."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

from panic_tda.errors import WrongUsage

try:
    import llvmlite.binding
    import numba
    from numba import njit
    from numba.core.caching import FunctionCache
except ValueError as error:
    raise WrongUsage(
        f"Numba does not accept its environment variables ({error}); unset those that begin with "
        "NUMBA_, such as NUMBA_NUM_THREADS"
    ) from error

Function = TypeVar("Function", bound=Callable[..., Any])

IN_ANY_ORDER = frozenset({"reassoc", "contract", "nsz"})
"""Freedoms for a sum: its terms may be added in any order, which takes the processor's wide registers."""

KERNELS: list[Any] = []
"""All that was decorated so far, as numba's dispatchers."""

UNREADABLE, UNWRITABLE = "is damaged or cannot be read", "cannot be written"
cache_failures: set[str] = set()
"""Failures of the cache in this process (`UNREADABLE`, `UNWRITABLE`); each is logged once."""

_log = logging.getLogger(__name__)


@overload
def compiled(function: Function, /) -> Function: ...
@overload
def compiled(*, fastmath: frozenset[str] = ...) -> Callable[[Function], Function]: ...
def compiled(function: Any = None, /, *, fastmath: frozenset[str] = frozenset()) -> Any:
    """Compile a function when it is first called, and keep the code in numba's cache.

    It runs without the interpreter's lock: threads run tiles side by side, and the one that tells of the
    progress is heard meanwhile. The cache is beside the source, in the user's cache folder where that cannot
    be written, or in `NUMBA_CACHE_DIR`; where none of them can be written, every process compiles anew.
    A damaged file in the cache is replaced.
    """

    def decorate(plain: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        try:
            cache = _KernelCache(plain)  # type: ignore[no-untyped-call]
        except RuntimeError:  # no folder takes a cache, which numba says on import already
            cache = None
        kernel = njit(**options)(plain)
        if kernel is not plain:  # NUMBA_DISABLE_JIT
            KERNELS.append(kernel)
            if cache is not None:
                # As njit(cache=True) does with numba's own class.
                kernel._cache = cache
        return kernel

    return decorate if function is None else decorate(function)


class _KernelCache(FunctionCache):
    """Numba's cache of one function; what cannot be read or written there is compiled and ends no fit."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code of a signature; None where there is none, or none that can be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:
            # Unpickling a damaged file raises anything.
            self._handle(error, UNREADABLE, "it is compiled and written again")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the compiled code of a signature where that is possible."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            remedy = "every run compiles again; make room there, or name another folder by NUMBA_CACHE_DIR"
            self._handle(error, UNWRITABLE, remedy)

    def _handle(self, error: Exception, failure: str, consequence: str) -> None:
        # Numba would never replace an index that it cannot read; and one that was written without its code
        # may name that of an earlier version.
        with contextlib.suppress(OSError):
            Path(self._cache_file._index_path).unlink(missing_ok=True)
        if failure not in cache_failures:
            cache_failures.add(failure)
            reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
            _log.warning("compiled code in %s %s (%s): %s", self.cache_path, failure, reason, consequence)
        _log.debug("%s", self, exc_info=error)


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
