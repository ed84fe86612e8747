"""Test progress: bars on a real terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda import model_fits
from panic_tda.cli.display import Display
from panic_tda.errors import SaveFailed
from panic_tda.main import main
from tests.cli.processes import SECONDS, SLOW, count_results, on_a_terminal, read_until, run, started
from tests.conftest import MakeFile
from tests.field_files import write_field_file

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"

# The clock moves when the script says so, however busy the machine is.
CLOCK = """
from types import SimpleNamespace
from panic_tda.cli import display
now = 0.0
display.time = SimpleNamespace(monotonic=lambda: now)
"""
# Log lines between two drawings of the bars; one of them is longer than the terminal is wide.
LOGGING = f"""{CLOCK}
import logging, sys, time
from panic_tda.cli import terminal
display.HEARTBEAT_SECONDS = 0.05
terminal.configure_logging(verbose=False, quiet=False, log_file=None)
log = logging.getLogger("panic_tda")
with display.make_progress() as progress:
    progress.phase("count")
    progress.phase("")
    bars = [progress.branch() for _ in range(int(sys.argv[1]))]
    for number, bar in enumerate(bars):
        bar.phase(f"device {{number}}", total=100)
        bar.advance(50)
    for number in range(5):
        time.sleep(0.15)
        log.info("line %d %s", number, "words " * 25 if number == 2 else "")
    now += 2
"""


@pytest.mark.parametrize("bars", [1, 3])
def test_log_lines_stand_above_the_bars(tmp_path: Path, bars: int) -> None:
    terminal = on_a_terminal(bars, cwd=tmp_path, code=LOGGING)
    drawn = [f"device {number}" for number in range(bars)]
    shown = [re.findall(r"(device \d) ━", "\n".join(screen)) for screen in terminal.screens]
    assert max(shown, key=len) == drawn
    for screen in terminal.screens:
        assert not [row for row in screen if "━" in row and re.search(STAMP, row)]
        barred = [number for number, row in enumerate(screen) if "━" in row]
        assert not barred or barred[-1] == len(screen) - 1
    text = "".join(row.ljust(100) for row in terminal.last)
    lines = [line.rstrip() for line in re.split(rf"{STAMP} INFO    ", text)[1:]]
    assert lines == [
        *("line 0", "line 1", f"line 2 {'words ' * 25}".rstrip(), "line 3", "line 4"),
        *(f"{name}: done in {line.split()[-2]} s" for name, line in zip(drawn, lines[5:], strict=True)),
    ]


# A first step that a run before this one has done says nothing of the time left; steps of this one do.
WORKING = f"""{CLOCK}
with display.make_progress() as progress:
    progress.phase("work", total=100)
    progress.advance(50)
    now += 1
    progress._live.refresh()
    for step in range(10):
        now += 0.1
        progress.advance(0.04)
"""


def test_bars_and_log_show_the_same_time_left(tmp_path: Path) -> None:
    terminal = on_a_terminal(cwd=tmp_path, code=WORKING)
    # The last bar may be drawn and removed at once, which no screen shows.
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.text)
    texts = [text.strip() for text in re.findall(r" 50%([^\r\n]*)", drawn)]
    assert texts[0] == ""
    # 0.4 per cent in a second, and 49.6 are left.
    assert texts[-1] == "about 2.1 min left"


def test_a_terminal_shows_bars(upgraded: MakeFile) -> None:
    file = upgraded()
    words = ("cluster-embeddings", "--backend", "tiled", "--db", file.path)
    escape = "\x1b["
    terminal = on_a_terminal(*words, cwd=file.path.parent, columns=300)
    assert escape in terminal.text
    assert any("━" in row for screen in terminal.screens for row in screen)
    assert sum("Nomic: " in row and " clusters, " in row for row in terminal.last) == 1
    assert all(re.match(STAMP, row) for row in terminal.last)
    assert count_results(file.path) == 2


def test_a_terminal_shows_nothing_of_quiet_work(tmp_path: Path) -> None:
    write_field_file(tmp_path / "field.sqlite")
    words = ("upgrade", "--yes", "--db", tmp_path / "field.sqlite")
    assert on_a_terminal(*words, "--quiet", cwd=tmp_path).text == ""
    assert count_results(tmp_path / "field.sqlite") == 0


def test_without_a_terminal_progress_is_logged_at_intervals(upgraded: MakeFile) -> None:
    with started(upgraded(), SLOW, "--beat") as process:
        output = read_until(process, r"Nomic: distances: \d+ %", times=3)
    lines = [line for line in output.splitlines() if "%" in line and "distances" in line]
    for line in lines:
        when, rest = line.split(" INFO    Nomic: distances: ")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", when)
        assert re.fullmatch(r"\d+ %, (about .+ left|running for .+)", rest)
    assert re.search(r"Nomic: load: done in \d+\.\d s", output)


def test_heartbeats_say_how_long_a_phase_without_total_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"), Display(0.01) as progress:
        progress.phase("linkage")
        deadline = time.monotonic() + SECONDS
        while "linkage: running for" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.phase("distances", total=1e4)
        # What is there at once was done by a run before this one, and says nothing of this one's speed.
        progress.advance(5e3)
        while "distances: 50 %" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        while "left" not in caplog.text and time.monotonic() < deadline:
            progress.advance(1)
            time.sleep(0.01)
    assert re.search(r"linkage: running for \d+ s", caplog.text)
    assert re.search(r"distances: 50 %, running for \d+ s", caplog.text)
    assert re.search(r"distances: \d+ %, about [\d.]+ (s|min|h) left", caplog.text)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages if "done in" in message] == ["linkage", "distances"]


def test_a_failed_phase_is_not_logged_as_done(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SaveFailed("no room")

    monkeypatch.setattr(model_fits, "save_or_write_pending", refuse)
    result = CliRunner().invoke(main, ["cluster-embeddings", "--db", str(upgraded().path)])
    assert result.exit_code == 1
    log = result.stderr
    assert len(re.findall(r"(Nomic|STSBMpnet): save: failed after \d+\.\d s", log)) == 2
    assert "save: done" not in log
    assert "count embeddings: done in" in log


PHASES = f"""{CLOCK}
import sys
from panic_tda.cli import terminal
verbose = "-v" in sys.argv
from pathlib import Path
terminal.configure_logging(verbose=verbose, quiet=False, log_file=Path("run.log"))
with display.make_progress() as progress:
    progress.phase("short")
    now += 0.5 * display.SHORT_SECONDS
    progress.phase("long")
    now += 2 * display.SHORT_SECONDS
    progress.phase("broken")
    progress.failed()
"""


def test_a_terminal_logs_only_long_phases_and_failures(tmp_path: Path) -> None:
    def phases(text: str) -> list[str]:
        return re.findall(r"INFO +(\w+): (?:done in|failed after)", text)

    terminal = on_a_terminal(cwd=tmp_path, code=PHASES)
    assert phases("\n".join(terminal.last)) == ["long", "broken"]
    log = (tmp_path / "run.log").read_text()
    assert re.findall(r"(\w+): (?:done in|failed after)", log) == ["short", "long", "broken"]
    verbose = "\n".join(on_a_terminal("-v", cwd=tmp_path, code=PHASES).last)
    assert "short: done in" in verbose
    # In a pipe, as under nohup, there is no bar: the log has all phases.
    assert phases(run(cwd=tmp_path, code=PHASES).stderr) == ["short", "long", "broken"]
