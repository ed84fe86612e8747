"""Test text for a terminal: no control characters, widths as shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panic_tda.cli import terminal
from panic_tda.cli.parsing import parse_duration
from panic_tda.cli.text import (
    Column,
    columns,
    duration,
    paragraph,
    shorten,
    table,
)
from panic_tda.wording import escape_control_characters, on_one_line


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("abc", 3),
        ("é…", 2),
        ("e\N{COMBINING ACUTE ACCENT}", 1),
        ("風船", 4),
        ("🎈 ", 3),
        ("👩\N{ZERO WIDTH JOINER}🎨", 2),
        ("❤\N{VARIATION SELECTOR-16}", 2),
    ],
)
def test_wide_characters_count_two_columns_and_combining_marks_none(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize(
    ("width", "text"), [(6, "風船風"), (5, "風船…"), (4, "風…"), (3, "風…"), (2, "…"), (1, "…")]
)
def test_text_is_cut_between_characters(width: int, text: str) -> None:
    assert shorten("風船風", width) == text


def test_newlines_and_spaces_are_kept() -> None:
    assert escape_control_characters("a\tb\nc\u3000d\u00a0e") == "a\tb\nc\u3000d\u00a0e"
    assert escape_control_characters("\x1b[2J\r\x9b\u202e\ud800") == r"\x1b[2J\r\x9b\u202e\ud800"


def test_text_on_stdout_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_text("one\x1b]0;title\x07\ntwo")
    assert capsys.readouterr().out == "one\\x1b]0;title\\x07\ntwo\n"


def test_columns_are_dropped_by_their_rank() -> None:
    heads = (Column("name"), Column("first", rank=2), Column("second", right=True, rank=1), Column("last"))
    rows = [("ab", "1", "2", "3"), ("c", "10", "20", "30")]
    assert (
        table(heads, rows, 25) == "name  first  second  last\nab    1           2  3\nc     10         20  30"
    )
    lines = table(heads, rows, 24).splitlines()
    assert lines[:2] == ["name  second  last", "ab         2  3"]
    assert lines[3:] == ["(no room for: first;", "--json has all)"]
    assert table(heads, rows, 10).splitlines()[:2] == ["name  last", "ab    3"]
    # When no more columns can go, lines are cut, and no cell is that has room.
    assert table(heads, rows, 7).splitlines()[:3] == ["name  …", "ab    3", "c     …"]


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.text(max_size=12), st.booleans(), st.integers(0, 3), st.booleans()), min_size=1),
    st.integers(1, 60),
    st.data(),
)
def test_no_line_of_a_table_is_wider_than_the_terminal(
    heads: list[tuple[str, bool, int, bool]], width: int, data: st.DataObject
) -> None:
    shown = [Column(on_one_line(name), right, rank, elastic) for name, right, rank, elastic in heads]
    rows = data.draw(st.lists(st.tuples(*[st.text(max_size=20)] * len(heads)), max_size=3))
    lines = table(shown, rows, width).split("\n")[: len(rows) + 1]
    assert len(lines) == len(rows) + 1
    assert max(map(columns, lines)) <= width


def test_a_paragraph_is_indented_under_its_first_line() -> None:
    assert paragraph("  one two three", 9) == "  one two\n  three"
    assert paragraph("key  one two", 9, indent=5) == "key  one\n     two"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (600, "10 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (90_000, "25.0 h"),
    ],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 28_800),
        ("30m", 1_800),
        ("90s", 90),
        ("1h30m", 5_400),
        ("1H 5s", 3_605),
        ("0.5h", 1_800),
        ("0s", 0),
    ],
)
def test_time_limits_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
