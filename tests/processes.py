"""Start, watch and signal processes in tests."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(
    command: Sequence[str], *, cwd: Path, env: dict[str, str], stdin: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a process with pipes that receives Ctrl-C, and kill it at the end."""
    # Jobs of a shell's background and of some CI are started deaf to SIGINT, and so are their children;
    # what is handled, not ignored, is back at its default in a new program.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
