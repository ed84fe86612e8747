"""Names and docstrings follow the language rules, as far as a program can tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.snapshots import REPOSITORY

PACKAGE = REPOSITORY / "panic_tda"
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
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module binds, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_names_say_what_they_hold(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    assert [f"{module}:{line} {name}" for name, line in bindings(tree) if name in VAGUE] == []


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_say_what_is_done(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    documented = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    first_lines = [(ast.get_docstring(node) or "").partition("\n")[0] for node in documented]
    assert [line for line in first_lines if line.startswith(QUESTIONS)] == []
