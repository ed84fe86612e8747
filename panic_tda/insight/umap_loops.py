"""UMAP's compiled loops, kept from one run to the next."""

from __future__ import annotations

from contextlib import suppress


def keep_compiled() -> None:
    """Let Numba keep what it compiles of umap-learn beside that package; call it before the first layout.

    Notes
    -----
    umap-learn 0.5.12 asks for that in one of its loops alone, and compiling the others takes 7 s of every
    process that lays out a map; read back they take 0.5 s. Neither package has a setting for it
    (`NUMBA_CACHE_DIR` only names the folder). Nothing of umap-learn is replaced: `enable_caching` is what
    `numba.njit(cache=True)` calls, here on the functions that umap-learn made without it.
    """
    from numba.core.dispatcher import Dispatcher
    from umap import layouts, umap_, utils

    for module in (layouts, umap_, utils):
        for loop in vars(module).values():
            if isinstance(loop, Dispatcher) and loop.py_func.__module__.startswith("umap."):
                # No folder that could keep them can be written.
                with suppress(RuntimeError):
                    loop.enable_caching()
