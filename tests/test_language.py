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


def private_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every private name of the package that a module uses or replaces, with its line."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("panic_tda"):
            imported |= {alias.asname or alias.name for alias in node.names}
            yield from ((alias.name, node.lineno) for alias in node.names if is_private(alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in imported:
                yield node.attr, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and is_private(str(argument.value)):
                    yield str(argument.value), node.lineno


def is_private(name: str) -> bool:
    """Return whether a name, or the last part of a dotted one, begins with one underscore."""
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.startswith("__")


class Words(NamedTuple):
    """The names that modules bind, and the first lines of their docstrings, each with its place."""

    names: list[tuple[str, str]]
    first_lines: list[tuple[str, str]]
    private: list[tuple[str, str]]


@pytest.fixture(scope="module")
def words() -> Words:
    """The words of all modules, which are parsed one after another."""
    collected = Words([], [], [])
    for module in MODULES:
        tree = ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))
        collected.names.extend((name, f"{module}:{line}") for name, line in bindings(tree))
        if not module.startswith("panic_tda/"):
            collected.private.extend((name, f"{module}:{line}") for name, line in private_names(tree))
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


def test_no_test_uses_a_private_name(words: Words) -> None:
    example = ast.parse(
        "from panic_tda.a import _b\nfrom panic_tda import c\nc._d\npatch.setattr(c, '_e', 1)"
    )
    assert [name for name, _ in private_names(example)] == ["_b", "_d", "_e"]
    assert words.private == []
