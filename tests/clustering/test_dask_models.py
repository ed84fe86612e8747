"""Test whole tasks on workers of their own: real processes and signals, devices in name only."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from panic_tda.cli.display import Display
from panic_tda.clustering.dask_models import EventProgress, Unfinished, run_on_devices
from panic_tda.progress import Silent, child_progress
from tests.device_work import SECONDS, tell, wait_for
from tests.processes import started
from tests.snapshots import REPOSITORY
from tests.stand_in_device import PRELOAD

pytest.importorskip("distributed", reason="the extra dask is not installed")
dask = pytest.importorskip("dask")
pytestmark = pytest.mark.xdist_group("dask")
DEVICES = {f"device {number}": {"CUDA_VISIBLE_DEVICES": str(number)} for number in range(2)}
ONE = {"device 0": DEVICES["device 0"]}


@pytest.fixture(autouse=True)
def stand_ins() -> Iterator[None]:
    with dask.config.set(PRELOAD):
        yield


class Listener:
    """Progress listener that records all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.others: list[Listener] = []

    def phase(self, name: str, total: float | None = None) -> None:
        self.calls.append((name, total))

    def advance(self, amount: float) -> None:
        self.calls.append(("+", amount))

    def branch(self) -> Listener:
        self.others.append(Listener())
        return self.others[-1]


def run(tasks: list[Any], devices: dict[str, Any] = ONE, progress: Any = None) -> list[Any]:
    """Return the results in the order of the tasks."""
    results = list(run_on_devices(tell, tasks, devices, progress or Silent()))
    assert sorted(map(id, tasks)) == sorted(id(task) for task, _ in results)
    return [result for task in tasks for argument, result in results if argument is task]


def test_tasks_run_side_by_side_in_processes_that_see_one_device(tmp_path: Path) -> None:
    tasks = [("meet", (str(tmp_path), number, 2)) for number in range(2)]
    tasks += [("square", number) for number in range(7)]
    first, second, *squares = run(tasks, DEVICES)
    assert first == second == ["0", "1"]
    assert [square for square, _, _ in squares] == [0, 1, 4, 9, 16, 25, 36]
    assert os.getpid() not in {process for _, process, _ in squares}
    assert {device for _, _, device in squares} <= {"0", "1"}


def test_a_failure_costs_one_task_and_its_phase_is_not_logged_as_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = [
        ("square", 1), ("kill", signal.SIGKILL), ("kill", signal.SIGSEGV), ("square", 2), ("raise", "broken"),
        ("unpicklable", None), ("give_up", 7), ("square", 3),
    ]  # fmt: skip
    with caplog.at_level(logging.INFO, "panic_tda"), Display() as progress:
        first, killed, faulted, second, raised, unpicklable, seven, third = run(tasks, ONE, progress)
    reason = "its process on device 0 was ended, as the system does when memory runs out"
    assert killed == faulted == Unfinished(reason)
    assert raised == Unfinished("unexpected ValueError: broken")
    assert unpicklable.reason.startswith("unexpected ")
    assert [first[0], second[0], seven, third[0]] == [1, 4, 7, 9]
    # After the killed one there was a new process, and an exception does not end it.
    assert first[1] != second[1] == third[1]
    ended = re.findall(r"device 0: (\w+): (done in|failed after)", caplog.text)
    # The last words of a process that was killed may be lost.
    assert [phase for phase in ended if phase != ("kill", "failed after")] == [
        ("square", "done in"), ("square", "done in"), ("raise", "failed after"), ("unpicklable", "done in"),
        ("give_up", "failed after"), ("square", "done in"),
    ]  # fmt: skip


def test_progress_and_log_lines_come_with_the_name_of_the_device(caplog: pytest.LogCaptureFixture) -> None:
    heard = Listener()
    # The handler of `caplog` takes everything.
    logging.getLogger("panic_tda").setLevel(logging.INFO)
    with caplog.at_level(logging.NOTSET):
        run([("warn", "take care"), ("raise", "broken")], ONE, heard)
    assert heard.calls == []
    (receiver,) = heard.others
    assert receiver.calls == [("device 0: warn", 2.0), ("", None), ("device 0: raise", 2.0), ("", None)]
    lines = [
        (record.levelname, record.getMessage()) for record in caplog.records if "device 0" in record.message
    ]
    assert lines == [("WARNING", "device 0: take care")]
    with caplog.at_level(logging.DEBUG, "panic_tda"):
        run([("raise", "broken")])
    assert "Traceback" in caplog.text
    assert "ValueError: broken" in caplog.text


def test_progress_steps_are_added_up() -> None:
    sent: list[tuple[Any, ...]] = []
    now = [100.0]
    progress = EventProgress(lambda *message: sent.append(message), clock=lambda: now[0])
    progress.phase("distances", 10)
    for _ in range(8):
        now[0] += 0.06
        progress.advance(1)
    assert sent == [("phase", "distances", 10.0), ("advance", 4.0), ("advance", 4.0)]


CALLER = """
import sys
import dask
from tests.device_work import tell
from tests.stand_in_device import PRELOAD
from panic_tda.clustering.dask_models import run_on_devices
from panic_tda.progress import Silent
if __name__ == "__main__":
    with dask.config.set(PRELOAD):
        try:
            list(run_on_devices(tell, [(sys.argv[1], sys.argv[2])], {"device 0": {}}, Silent()))
        except KeyboardInterrupt:
            print("ended")
"""


def begin(word: str, place: Path) -> Any:
    command = [sys.executable, "-c", CALLER, word, str(place)]
    return started(command, cwd=REPOSITORY, env=os.environ | {"CUDA_VISIBLE_DEVICES": "0"})


def find_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_interruption_ends_a_process_that_hears_no_signals(tmp_path: Path) -> None:
    with begin("deaf", tmp_path / "begun") as process:
        wait_for((tmp_path / "begun").exists)
        workers = find_workers(process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert (process.returncode, stdout) == (0, "ended\n"), stderr
    assert workers
    wait_for(lambda: all(map(has_ended, workers)))


def test_processes_end_with_a_caller_that_was_killed(tmp_path: Path) -> None:
    with begin("chatty", tmp_path) as process:
        wait_for(lambda: list(tmp_path.iterdir()))
        workers = find_workers(process)
        process.kill()
        process.communicate()
    assert workers
    wait_for(lambda: all(map(has_ended, workers)))


def test_several_listeners_show_their_phases() -> None:
    class Plain:
        def phase(self, name: str, total: float | None = None) -> None: ...
        def advance(self, amount: float) -> None: ...

    for plain in (Plain(), Silent()):
        assert child_progress(plain) is plain
    with Display() as progress:
        assert child_progress(progress) is not progress


def test_each_listener_logs_its_own_running_phase(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"), Display(0.01) as progress:
        progress.phase("count")
        progress.phase("")
        first, second = progress.branch(), progress.branch()
        first.phase("device 0: fit")
        second.phase("device 1: fit")
        wait_for(lambda: "device 0: fit: running" in caplog.text and "device 1: fit: running" in caplog.text)
        first.phase("")
        caplog.clear()
        wait_for(lambda: caplog.text.count("device 1: fit: running") >= 5)
        # One line may have been on its way.
        assert caplog.text.count("device 0") <= 1
    assert "device 1: fit: done in" in caplog.text
