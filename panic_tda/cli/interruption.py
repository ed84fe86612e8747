"""Signals that are heard in time, also while native code keeps Python from hearing anything.

Python runs a signal's handler between two steps of the main thread. A statement of a database, a sort or a
product of matrices is one step, however long it lasts. So another thread hears of the signal too: it ends
statements, and where the handler has not run after `GRACE_SECONDS`, the process. What a process leaves behind
that ends like this is what one leaves that was killed: nothing unfinished.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from panic_tda.interrupts import interrupt_all

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
GRACE_SECONDS = 3.0
"""So long native code may take to come back."""
_WORDS_SECONDS = 0.5
_CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}

last_words: list[Callable[[], None]] = []
"""What is said by whoever has something to say of where the process was, when it ends in the middle."""


@contextmanager
def heard(say: Callable[[int], None]) -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143) and leave SIGINT a KeyboardInterrupt, and see to it that they come.

    Parameters
    ----------
    say : callable
        Told the exit code, in another thread, before the process is ended in the middle of a native call.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ran = threading.Event()

    def terminate(_number: int, _frame: FrameType | None) -> None:
        ran.set()
        # Nothing is printed here: the signal may have come in the middle of another line.
        sys.exit(EXIT_TERMINATED)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        ran.set()
        raise KeyboardInterrupt

    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    # A job of a shell's background is deaf to Ctrl-C, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    woken = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(receiver, ran, say), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            # One that was not set by Python cannot be set back.
            if handler is not None:
                signal.signal(number, handler)
        sender.close()
        watcher.join()
        receiver.close()


def _watch(receiver: socket.socket, ran: threading.Event, say: Callable[[int], None]) -> None:
    while numbers := receiver.recv(1):
        code = _CODES.get(signal.Signals(numbers[0]))
        if code is None:
            continue
        interrupt_all()
        if not ran.wait(GRACE_SECONDS):
            _end(code, say)


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
