"""Hostile command lines, and the checks after each of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from panic_tda.main import main
from tests.snapshots import opened

COMMANDS = sorted(main.commands)
WORDS = (
    *("", " ", "-", "---", "-q", "latest", "LATEST", "*", "%", "_", "'", '"'),
    *("0", "-0", "-1", "1", "2", "3.5", "1e400", "nan", "inf", "-inf", "1e-320", "9" * 30, "٣", "0x10"),
    *("1_0", "0.1:0.5:0.1", "1:0:1", "0:1:0", "0:1:nan", ":::", ",", "0,", "0:1e9:1e-9"),
    *("\x1b[2J\x1b]0;title\x07", "\u202eevil", "\udcff\udc9b31m", "a\rb\nc", "x" * 5_000, "👩\u200d🎨"),
    *("nowhere/file", ".", "..", "/", "~", "file\n.parquet", "out.parquet", "out.html", "out.png", "\ufeff"),
    *("sqlite://", "sqlite:///x", "sqlite:////", "postgresql://", "http://[", "mysql://a:b@c/d"),
    *("Nomic", "'; DROP TABLE embedding; --", "01", "f" * 32, "00000000-0000-0000-0000-000000000000"),
)
"""Whatever a shell can hand over, and so no NUL."""
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal acts on, or what turns the letters behind it around."""


def command_line(choose: Callable[[Sequence[Any]], Any], n_words: int) -> list[str]:
    """Make a command line of a command's options and arguments, most of them with hostile values.

    Parameters
    ----------
    choose : callable
        Chooses one of several.
    n_words : int
        Of options and arguments.
    """
    name = choose(COMMANDS)
    words = [name]
    for _ in range(n_words):
        parameter = choose(main.commands[name].params)
        if isinstance(parameter, click.Option):
            words.append(choose(parameter.opts))
        if not getattr(parameter, "is_flag", False):
            words.append(choose([*getattr(parameter.type, "choices", ()), *WORDS]))
    return words


def require_harmless(database: Path, folder: Path, words: list[str], *, also: str | None = None) -> None:
    """Run a command line on a copy of a database; require an answer or an error message, and no loss.

    Parameters
    ----------
    database : Path
        An SQLite file.
    folder : Path
        To run in; whatever it holds goes.
    words : list of str
        Without the program's name.
    also : str, optional
        A copy has this name, too.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy = shutil.copyfile(database, folder / "field.sqlite")
    if also is not None:
        shutil.copyfile(database, folder / also)
    before = os.getcwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, words, input="n\n", env={"PANIC_TDA_DB": "field.sqlite"})
    finally:
        os.chdir(before)
    text = f"{words!r}: {result.output}"
    assert result.exit_code in (0, 1, 2), text
    assert "the traceback is in" not in result.stderr, text
    assert not OBEYED.search(result.output), text
    if "--json" in words[1:] and result.stdout and not {"-h", "--help"} & set(words):
        json.loads(result.stdout, parse_constant=lambda name: _fail(f"{name} in {text}"))
    with opened(copy) as left, opened(database) as there:
        for table in ("embedding", "invocation", "run"):
            rows = f"SELECT id FROM {table} ORDER BY id"
            assert set(there.execute(rows)) <= set(left.execute(rows)), text


def _fail(message: str) -> None:
    """Fail the test from an expression."""
    raise AssertionError(message)
