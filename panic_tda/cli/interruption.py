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

from panic_tda.interrupts import watch_signals

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
_WORDS_SECONDS = 0.5
_CODES: dict[int, int] = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}

received_signals: set[int] = set()
"""Signals whose handler ran. Some native calls drop the exception of a handler, and an interrupted import
leaves a module incomplete: errors that follow are caused by the signal."""

last_words: list[Callable[[], None]] = []
"""Functions that log the state of the work before the process is ended."""


def code_of_signal() -> int | None:
    """Return the exit code of the received signal, or None without a signal."""
    return next((_CODES[signal.Signals(number)] for number in received_signals), None)


@contextmanager
def signal_scope(say: Callable[[int], None]) -> Iterator[None]:
    """Raise SystemExit(143) on SIGTERM, KeyboardInterrupt on SIGINT; end the process if neither takes effect.

    Parameters
    ----------
    say : callable
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

    before: dict[signal.Signals, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # A background job of a shell ignores Ctrl-C; this stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        with watch_signals(set(before), lambda number: _end(_CODES[number], say)):
            yield
    finally:
        for number, handler in before.items():
            # A handler that Python did not set cannot be restored.
            if handler is not None:
                signal.signal(number, handler)


def _end(code: int, say: Callable[[int], None]) -> None:
    def speak() -> None:
        for words in (*last_words, lambda: say(code), sys.stdout.flush, sys.stderr.flush):
            with suppress(Exception):
                words()

    # Native code may hold a lock that printing needs: do not wait for it for long.
    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    speaker.join(_WORDS_SECONDS)
    os._exit(code)
