"""Test that names and docstrings follow the language rules, as far as a program can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Every module, parsed."""
    return {module: ast.parse((REPOSITORY / module).read_text(encoding="utf-8")) for module in MODULES}


def test_no_name_is_vague(trees: dict[str, ast.Module]) -> None:
    vague = [
        f"{module}:{line} {name}"
        for module, tree in trees.items()
        for name, line in bindings(tree)
        if name in VAGUE
    ]
    assert len(trees) > 400
    assert vague == []


def test_no_docstring_begins_with_a_question_word(trees: dict[str, ast.Module]) -> None:
    documented = [
        (module, node)
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    first_lines = [
        f"{(ast.get_docstring(node) or '').partition(chr(10))[0]} ({module})" for module, node in documented
    ]
    assert [line for line in first_lines if line.startswith(QUESTIONS)] == []
