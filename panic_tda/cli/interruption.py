"""What a command does when SIGTERM or Ctrl-C comes, whatever it is doing.

A process that ends in the middle of native code leaves behind what one leaves that was killed: nothing
unfinished.
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
"""Signals whose handler ran. Some native calls drop what a handler raises, and a module that was being loaded
is left in part: what fails then fails of the signal."""

last_words: list[Callable[[], None]] = []
"""What is said by whoever has something to say of where the process was, when it ends in the middle."""


def code_of_signal() -> int | None:
    """Return the exit code of a signal that came; None where none did."""
    return next((_CODES[signal.Signals(number)] for number in received_signals), None)


@contextmanager
def signal_scope(say: Callable[[int], None]) -> Iterator[None]:
    """Raise SystemExit(143) for SIGTERM, KeyboardInterrupt for SIGINT; end the process where that fails.

    Parameters
    ----------
    say : callable
        Called with the exit code, in another thread, before the process is ended where it does not end by
        itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received_signals.clear()

    def terminate(_number: int, _frame: FrameType | None) -> None:
        received_signals.add(signal.SIGTERM)
        # Nothing is printed here: the signal may have come in the middle of another line.
        sys.exit(EXIT_TERMINATED)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        received_signals.add(signal.SIGINT)
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # A job of a shell's background is deaf to Ctrl-C, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        with watch_signals(set(before), lambda number: _end(_CODES[number], say)):
            yield
    finally:
        for number, handler in before.items():
            # One that was not set by Python cannot be set back.
            if handler is not None:
                signal.signal(number, handler)


def _end(code: int, say: Callable[[int], None]) -> None:
    def speak() -> None:
        for words in (*last_words, lambda: say(code), sys.stdout.flush, sys.stderr.flush):
            with suppress(Exception):
                words()

    # Whoever is in native code may hold a lock that saying something takes.
    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    speaker.join(_WORDS_SECONDS)
    os._exit(code)
