"""The decorator for functions that numba compiles, and the cache of the compiled code."""

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
"""Flags that let the compiler add the terms of a sum in any order, and so use vector instructions."""

KERNELS: list[Any] = []
"""All functions decorated so far, as numba's dispatchers."""

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

    The compiled function releases the interpreter's lock, so that threads can process tiles in parallel while
    another thread shows the progress. The cache is in `NUMBA_CACHE_DIR` if that is set, otherwise beside the
    source, or in the user's cache folder if the source's folder cannot be written. If no folder can be
    written, every process compiles again. A damaged file in the cache is replaced.
    """

    def decorate(plain: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        try:
            cache = _KernelCache(plain)  # type: ignore[no-untyped-call]
        except RuntimeError:  # no folder can be written; numba reports that at import already
            cache = None
        kernel = njit(**options)(plain)
        if kernel is not plain:  # NUMBA_DISABLE_JIT
            KERNELS.append(kernel)
            if cache is not None:
                # njit(cache=True) does the same with numba's own class.
                kernel._cache = cache
        return kernel

    return decorate if function is None else decorate(function)


class _KernelCache(FunctionCache):
    """Numba's cache of one function, whose read and write errors are logged and do not end a fit."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code of a signature, or None if the cache has no readable one."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:
            # Unpickling a damaged file can raise any exception.
            self._handle(error, UNREADABLE, "it is compiled and written again")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the compiled code of a signature, if possible."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            remedy = "every run compiles again; make room there, or name another folder by NUMBA_CACHE_DIR"
            self._handle(error, UNWRITABLE, remedy)

    def _handle(self, error: Exception, failure: str, consequence: str) -> None:
        # Numba never replaces an index that it cannot read. An index whose code could not be written may
        # refer to the code of an earlier version.
        with contextlib.suppress(OSError):
            Path(self._cache_file._index_path).unlink(missing_ok=True)
        if failure not in cache_failures:
            cache_failures.add(failure)
            reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
            _log.warning("compiled code in %s %s (%s): %s", self.cache_path, failure, reason, consequence)
        _log.debug("%s", self, exc_info=error)


def find_cache_folder() -> Path | None:
    """Return the folder of the compiled code, or None if no folder can be written."""
    folder = KERNELS[0].stats.cache_path if KERNELS else None
    return None if folder is None else Path(folder)


def code_stamp() -> str:
    """Return a hash of everything that compiled code depends on: sources, versions, processor."""
    about = [numba.__version__, platform.python_version(), llvmlite.binding.get_host_cpu_name()]
    # All files of the package, also those that this process has not imported.
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        state = source.stat()
        about.append(f"{source} {state.st_mtime_ns} {state.st_size}")
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
