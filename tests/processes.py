"""Start, watch and signal processes in tests."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def accept_interrupts() -> Iterator[None]:
    """Let processes that are started in the block receive Ctrl-C, even if this process ignores SIGINT.

    Jobs of a shell's background and of some CI ignore it, and so do their children; what is handled, not
    ignored, is back at its default in a new program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def started(
    command: Sequence[str], *, cwd: Path, env: dict[str, str], stdin: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a process with pipes that receives Ctrl-C, and kill it at the end."""
    with accept_interrupts():
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
