"""Text for a terminal: nothing that it would obey, as wide as it is shown."""

from __future__ import annotations

import pytest

from panic_tda.cli import terminal
from panic_tda.cli.text import Column, columns, harmless, shorten, table


@pytest.mark.parametrize(
    ("text", "width"),
    [("", 0), ("abc", 3), ("é…", 2), ("e\N{COMBINING ACUTE ACCENT}", 1), ("風船", 4), ("🎈 ", 3)],
)
def test_wide_characters_take_two_columns_and_marks_none(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize(
    ("width", "text"), [(6, "風船風"), (5, "風船…"), (4, "風…"), (3, "風…"), (2, "…"), (1, "…")]
)
def test_what_is_cut_leaves_no_half_of_a_character(width: int, text: str) -> None:
    assert shorten("風船風", width) == text


def test_lines_stay_lines_and_spaces_spaces() -> None:
    assert harmless("a\tb\nc\u3000d\u00a0e") == "a\tb\nc\u3000d\u00a0e"
    assert harmless("\x1b[2J\r\x9b\u202e\ud800") == "\ufffd[2J\ufffd\ufffd\ufffd\ufffd"


def test_text_on_stdout_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_text("one\x1b]0;title\x07\ntwo")
    assert capsys.readouterr().out == "one\ufffd]0;title\ufffd\ntwo\n"


def test_columns_go_by_their_rank() -> None:
    heads = (Column("name"), Column("first", rank=2), Column("second", right=True, rank=1), Column("last"))
    rows = [("ab", "1", "2", "3"), ("c", "10", "20", "30")]
    assert (
        table(heads, rows, 25) == "name  first  second  last\nab    1           2  3\nc     10         20  30"
    )
    lines = table(heads, rows, 24).splitlines()
    assert lines[:2] == ["name  second  last", "ab         2  3"]
    assert lines[3:] == ["(no room for: first;", "--json has all)"]
    assert table(heads, rows, 1).splitlines()[:2] == ["name  last", "ab    3"]
