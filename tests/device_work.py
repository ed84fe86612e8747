"""Work for the processes of `clustering/test_dask_models.py`, which import it by name."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from panic_tda.progress import Progress, report_failure

SECONDS = 180.0
"""After this long something that was waited for is considered lost."""

_log = logging.getLogger("panic_tda.device_work")


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def tell(task: tuple[str, Any], progress: Progress) -> Any:
    """Run the function that the first word of the task names."""
    word, content = task
    progress.phase(word, total=2)
    progress.advance(1)
    if word == "give_up":
        report_failure(progress)
        return content
    return globals()[f"_{word}"](content)


def _square(number: int) -> tuple[int, int, str]:
    return number * number, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def _raise(text: str) -> None:
    raise ValueError(text)


def _deaf(path: str) -> None:
    import numpy as np

    Path(path).touch()
    # One call that takes an hour and no memory.
    np.add.reduce(np.broadcast_to(np.float64(1), (10**13,)))


def _unpicklable(_content: None) -> Any:
    return threading.Lock()


def _kill(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def _warn(text: str) -> None:
    _log.debug("only with -v")
    _log.warning("%s", text)


def _meet(folder: tuple[str, int, int]) -> list[str]:
    """Wait until a number of tasks run at the same time."""
    place, own, others = folder
    Path(place, str(own)).touch()
    wait_for(lambda: len(os.listdir(place)) >= others)
    return sorted(os.listdir(place))


def _chatty(place: str) -> None:
    """Print and log continuously."""
    Path(place, f"asleep-{os.getpid()}").touch()
    for _ in range(round(SECONDS * 100)):
        _log.debug("still here")
        time.sleep(0.01)
