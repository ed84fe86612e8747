"""Handle SIGTERM and Ctrl-C, also while native code runs.

A process that is ended in the middle of native code leaves the same files and rows as a killed process:
nothing unfinished is saved.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from panic_tda.interrupts import received_signals, watch_signals

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
_CALLBACK_SECONDS = 0.5
_CODES: dict[int, int] = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}

exit_callbacks: list[Callable[[], None]] = []
"""Functions that log the state of the work before the process is ended."""


def get_signal_exit_code() -> int | None:
    """Return the exit code of the received signal, or None without a signal."""
    return next((_CODES[signal.Signals(number)] for number in received_signals), None)


@contextmanager
def signal_scope(report: Callable[[int], None]) -> Iterator[None]:
    """Raise SystemExit(143) on SIGTERM, KeyboardInterrupt on SIGINT; end the process if neither takes effect.

    Parameters
    ----------
    report : callable
        Called with the exit code in another thread, if the process has to be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received_signals.clear()

    def terminate(_number: int, _frame: FrameType | None) -> None:
        received_signals.add(signal.SIGTERM)
        # Nothing is printed here: the signal may have interrupted another line.
        sys.exit(EXIT_TERMINATED)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        received_signals.add(signal.SIGINT)
        raise KeyboardInterrupt

    previous_handlers: dict[signal.Signals, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # A background job of a shell ignores Ctrl-C; this stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        previous_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        with watch_signals(set(previous_handlers), lambda number: _end_process(_CODES[number], report)):
            yield
    finally:
        for number, handler in previous_handlers.items():
            # A handler that Python did not set cannot be restored.
            if handler is not None:
                signal.signal(number, handler)


def _end_process(code: int, report: Callable[[int], None]) -> None:
    def run_callbacks() -> None:
        for callback in (*exit_callbacks, lambda: report(code), sys.stdout.flush, sys.stderr.flush):
            with suppress(Exception):
                callback()

    # Native code may hold a lock that printing needs: do not wait for it for long.
    thread = threading.Thread(target=run_callbacks, daemon=True)
    thread.start()
    thread.join(_CALLBACK_SECONDS)
    os._exit(code)
