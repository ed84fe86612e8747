"""Test that names and docstrings follow the language rules, as far as a program can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.snapshots import REPOSITORY

FOLDERS = ("panic_tda", "tests", "scripts")
VAGUE = {
    "found",
    "one",
    "said",
    "kept",
    "some",
    "told",
    "asked",
    "whole",
    "those",
    "came",
    "other",
    "given",
    "held",
    "seen",
    "made",
    "done",
    "gone",
    "got",
    "put",
}
"""Names that say how a value came and not what it is."""
QUESTIONS = ("What ", "Which ", "Where ", "How ", "Whether ", "When ")
MODULES = [
    path.relative_to(REPOSITORY).as_posix()
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module binds, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


class Words(NamedTuple):
    """The names that modules bind, and the first lines of their docstrings, each with its place."""

    names: list[tuple[str, str]]
    first_lines: list[tuple[str, str]]


@pytest.fixture(scope="module")
def words() -> Words:
    """The words of all modules, which are parsed one after another."""
    collected = Words([], [])
    for module in MODULES:
        tree = ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))
        collected.names.extend((name, f"{module}:{line}") for name, line in bindings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first_line = (ast.get_docstring(node) or "").partition("\n")[0]
                collected.first_lines.append((first_line, module))
    return collected


def test_no_name_is_vague(words: Words) -> None:
    assert len(words.names) > 10_000
    assert [(name, place) for name, place in words.names if name in VAGUE] == []


def test_no_docstring_begins_with_a_question_word(words: Words) -> None:
    assert len(words.first_lines) > 5_000
    assert [(line, place) for line, place in words.first_lines if line.startswith(QUESTIONS)] == []
