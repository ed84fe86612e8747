"""Test tasks in processes of their own: real processes and signals, no device."""

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
from panic_tda.devices import pool
from panic_tda.devices.pool import WorkerFailure, run_on_devices
from panic_tda.progress import Silent, child_progress
from tests.device_work import SECONDS, give_up, tell, wait_for
from tests.snapshots import REPOSITORY

DEVICES = {f"device {number}": {"CUDA_VISIBLE_DEVICES": str(number)} for number in range(2)}
ONE = {"device 0": DEVICES["device 0"]}


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


class RecordingListener:
    """Progress listener that records all calls."""

    def __init__(self, name: str = "first") -> None:
        self.name = name
        self.calls: list[tuple[str, Any]] = []
        self.others: list[RecordingListener] = []

    def phase(self, name: str, total: float | None = None) -> None:
        self.calls.append((name, total))

    def advance(self, amount: float) -> None:
        self.calls.append(("+", amount))

    def branch(self) -> RecordingListener:
        self.others.append(RecordingListener(f"other {len(self.others)}"))
        return self.others[-1]


def test_results_come_in_the_order_of_the_tasks_from_processes_that_see_one_device() -> None:
    results = run_on_devices(tell, [("square", number) for number in range(7)], DEVICES)
    assert [result[0] for result in results] == [0, 1, 4, 9, 16, 25, 36]
    seen_values = {(result[1], result[2]) for result in results}
    assert len(seen_values) == 2
    assert {device for _, device in seen_values} == {"0", "1"}
    assert os.getpid() not in {process for process, _ in seen_values}


def test_without_tasks_nothing_starts() -> None:
    assert run_on_devices(tell, [], DEVICES) == []


def test_a_single_task_runs_with_several_devices() -> None:
    assert run_on_devices(tell, [("square", 3)], DEVICES)[0][0] == 9


def test_as_many_tasks_as_devices_are_done_at_the_same_time(tmp_path: Path) -> None:
    tasks = [("meet", (str(tmp_path), number, 2)) for number in range(2)]
    assert run_on_devices(tell, tasks, DEVICES) == [["0", "1"], ["0", "1"]]


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (("kill", signal.SIGKILL), "was ended by SIGKILL, as the system does when memory runs out"),
        (("kill", signal.SIGSEGV), "was ended by SIGSEGV"),
        (("exit", 7), "ended with exit status 7"),
        (("exit", 0), "ended with exit status 0"),
    ],
)
def test_a_process_that_dies_fails_its_own_task_only(death: tuple[str, int], reason: str) -> None:
    tasks = [("square", 1), death, ("square", 3), ("square", 4)]
    results = run_on_devices(tell, tasks, ONE)
    assert results[1] == WorkerFailure(f"its process on device 0 {reason}")
    assert [results[number][0] for number in (0, 2, 3)] == [1, 9, 16]
    # Those after it had a new process.
    assert results[0][1] != results[2][1] == results[3][1]


def test_when_all_processes_die_the_rest_is_done_by_new_ones() -> None:
    tasks = [("kill", signal.SIGKILL)] * 3 + [("square", 5)]
    *lost, last = run_on_devices(tell, tasks, DEVICES)
    assert [type(result) for result in lost] == [WorkerFailure] * 3
    assert last[0] == 25


def test_an_exception_fails_its_task_and_keeps_the_process() -> None:
    tasks = [("square", 1), ("raise", "broken"), ("unpicklable", None), ("square", 2)]
    first, raised, unpicklable, last = run_on_devices(tell, tasks, ONE)
    assert raised == WorkerFailure("unexpected ValueError: broken")
    assert unpicklable.reason.startswith("unexpected ")
    assert first[1] == last[1]


def test_printing_and_reading_in_a_task_does_not_touch_the_pipes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_on_devices(tell, [("print", "a"), ("print", "b")], ONE) == ["", ""]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == "a\nab\nb"


def test_log_lines_of_each_process_have_its_name() -> None:
    heard = RecordingListener()
    run_on_devices(tell, [("square", number) for number in range(3)], ONE, heard)
    assert heard.calls == []
    (receiver,) = heard.others
    assert receiver.calls == [("device 0: square", 2), ("", None)] * 3


def test_logs_come_with_the_name_of_the_device_and_only_where_they_are_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("panic_tda").setLevel(logging.INFO)  # the handler of `caplog` takes everything
    with caplog.at_level(logging.NOTSET):
        run_on_devices(tell, [("warn", "take care"), ("raise", "broken")], ONE)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "device 0: take care")
    ]
    with caplog.at_level(logging.DEBUG, "panic_tda"):
        run_on_devices(tell, [("raise", "broken")], ONE)
    assert "Traceback" in caplog.text
    assert "ValueError: broken" in caplog.text


def interrupt_after(place: Path, asleep: int) -> Any:
    """Return a listener that interrupts the caller when a number of processes sleep."""

    class Interrupting(RecordingListener):
        def phase(self, name: str, total: float | None = None) -> None:
            super().phase(name, total)
            if name and len(self.calls) == asleep:
                wait_for(lambda: len(list(place.glob("asleep-*"))) == asleep)
                raise KeyboardInterrupt

        def branch(self) -> RecordingListener:
            return self

    return Interrupting()


def test_an_interruption_ends_the_processes_and_logs_their_last_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_on_devices(tell, [("sleep", str(tmp_path))] * 4, DEVICES, interrupt_after(tmp_path, 2))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(warnings) == [f"device {number}: kept in {tmp_path}" for number in range(2)]
    # The two that waited never began.
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_that_ignores_signals_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.2)
    with pytest.raises(KeyboardInterrupt):
        run_on_devices(tell, [("stubborn", str(tmp_path))], ONE, interrupt_after(tmp_path, 1))
    (pid,) = (int(path.name.removeprefix("asleep-")) for path in tmp_path.iterdir())
    assert not psutil.pid_exists(pid)


CALLER = """
import sys
from tests.device_work import tell
from panic_tda.devices.pool import run_on_devices
devices = {"device 0": {"CUDA_VISIBLE_DEVICES": "0"}}
run_on_devices(tell, [("chatty", sys.argv[1])], devices)
"""


def test_processes_end_with_a_caller_that_was_killed(tmp_path: Path) -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path)], cwd=REPOSITORY)
    try:
        wait_for(lambda: list(tmp_path.iterdir()))
        (process,) = psutil.Process(caller.pid).children()
    finally:
        caller.kill()
        caller.wait()
    psutil.wait_procs([process], timeout=SECONDS)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_caller_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CALLER.replace('("chatty", sys.argv[1])', '("square", 3)') + "print('once')\n")
    process = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, "once\n"), process.stderr


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


def test_a_failed_phase_is_not_logged_as_done(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"), Display() as progress:
        tasks = [("square", 1), ("kill", signal.SIGKILL), ("raise", "broken")]
        run_on_devices(tell, tasks, ONE, progress)
        run_on_devices(give_up, ["save"], ONE, progress)
    lines = [re.fullmatch(r"(.*) \d+\.\d s", record.message) for record in caplog.records]
    ended = [line[1] for line in lines if line]
    assert ended == [
        f"device 0: {phase}"
        for phase in ("square: done in", "kill: failed after", "raise: failed after", "save: failed after")
    ]
