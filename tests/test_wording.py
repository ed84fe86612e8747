"""Test that counts have the right form of their noun: no message says 1 runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from panic_tda.wording import format_bytes, pluralize

PACKAGE = Path(__file__).parent.parent / "panic_tda"
NOUNS = re.split(
    r"\s+",
    "assignments bytes clusterings clusters copies cores cells devices dimensions embeddings experiments "
    "files findings images invocations members models neighbours numbers outliers rows runs steps tables "
    "texts vectors visits",
)
COUNTED = re.compile(rf"^ (?:[a-z]+ )?(?:{'|'.join(NOUNS)})\b")
MORE_THAN_ONE = {
    "MAX_ROWS",
    "MOST_SETTINGS",
    "_FEWEST_ROWS",
    # Of a tree, of what a device has no room for, of a fit that is measured, of a dip test.
    "n",
    "n_features",
    "n_rows",
    "len(vectors)",
    "record.lighter_edge_sample",
    "found.n_rows",
    # Of a run whose steps are more than its numbers; and said otherwise where there is one.
    "steps.n_steps",
    "total.n_runs",
    "len(study.runs)",
    "len(stored)",
    "n_clusters",
    # 2,048, or all rows; a vector's, and a file's.
    "width",
    "written.bytes",
    # A file of one array and several of its texts; dimensions, of which two kinds were met.
    "commonest",
    "MAX_VALUE_BYTES",
    "len(sources)",
    "n_texts",
    # Names, not a number.
    "file.path",
    "self",
    "', '.join(sorted(names))",
}
"""Counts that are never one, by what stands between the braces."""


def messages() -> Iterator[tuple[str, str, str]]:
    """Yield the file, the expression and the following text of each value in a message."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    yield path.name, ast.unparse(value.value), str(text.value)


def test_every_count_has_the_right_form_of_its_noun() -> None:
    messages_of_package = list(messages())
    assert len(messages_of_package) > 500
    counted = [message for message in messages_of_package if COUNTED.match(message[2])]
    assert [
        message
        for message in counted
        if not re.match(r"pluralize|percent", message[1]) and message[1] not in MORE_THAN_ONE
    ] == []


def test_pluralize_returns_singular_and_plural_forms() -> None:
    assert [pluralize(number, "visit") for number in (0, 1, 1.0, 1.5, 2)] == [
        *("visits", "visit", "visit", "visits", "visits")
    ]
    assert [pluralize(number, "one is", "all are") for number in (1, 3)] == ["one is", "all are"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 MiB"),
        (512 << 20, "512 MiB"),
        ((1 << 30) - 1, "1,024 MiB"),
        (1 << 30, "1.0 GiB"),
        (3 << 40, "3,072.0 GiB"),
    ],
)
def test_format_bytes_uses_mebibytes_and_gibibytes(size: int, text: str) -> None:
    assert format_bytes(size) == text
