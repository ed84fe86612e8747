"""Test that commands, options, extras and scripts named in messages, help and documents exist."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import click
import pytest

from panic_tda.main import main
from panic_tda.wording import install_extra
from tests.documents import BLOCKS, PAGES, Block

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "panic_tda").rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "scripts").rglob("*.py")])
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OPTIONS = {
    name: {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
    | {"--help", "-h"}
    for name, command in main.commands.items()
}
GROUP = {word for option in main.params for word in option.opts} | {"--help", "-h"}
ALL_OPTIONS = GROUP.union(*OPTIONS.values())
OTHERS = {
    **dict.fromkeys(("--query-gpu", "--format"), "nvidia-smi"),
    **dict.fromkeys(("--text", "--vector"), "embedding-atlas"),
    **dict.fromkeys(("--scheduler-file", "--hostfile", "--nthreads"), "dask"),
}
"""Options in messages and prose that are another program's."""
COMMAND = re.compile(r"\bpanic-tda +((?:[\w./'\"<>{}=,:…\[\]-]+ ?)*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
NAMES = re.compile(
    r"\b(?:cluster|list|show|delete|recut|sweep|compare|plan|export|import|copy|report|plot|save)"
    r"-(?:embeddings?|clusterings?|trajectories|trajectory|density|databases?|pending)\b"
)
PIP = re.compile(r"pip install (?:-e )?(?:'([^']+)'|([\w.\[\]]+))")


def messages_of(path: Path) -> Iterator[str]:
    """Yield the texts of a module with placeholders as …, without docstrings that are not help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and id(node) not in docstrings | inside:
            yield node.value if isinstance(node.value, str) else ""


HELP = {name: str(command.help) for name, command in main.commands.items()}
SHELL = {path.relative_to(ROOT).as_posix(): [path.read_text(encoding="utf-8")] for path in SCRIPTS}


@cache
def read_texts() -> dict[str, list[str]]:
    """Return the texts of the modules, the help and the handbook; every process collects this file."""
    return (
        {path.relative_to(ROOT).as_posix(): list(messages_of(path)) for path in SOURCES}
        | {f"help of {name}": [text] for name, text in HELP.items()}
        | {page: [text] for page, text in PAGES.items()}
    )


def find_remedies(
    pattern: re.Pattern[str], more_texts: dict[str, list[str]] | None = None
) -> list[tuple[str, str]]:
    texts = read_texts() | (more_texts or {})
    return [
        (place, next(filter(None, (*match.groups(), match[0]))))
        for place, parts in texts.items()
        for text in parts
        for match in pattern.finditer(text)
    ]


def test_options_that_are_named_exist() -> None:
    named = find_remedies(OPTION)
    assert len(named) > 100
    of_scripts = set(OPTION.findall("".join(text for (text,) in SHELL.values())))
    missing = [
        (place, option)
        for place, option in named
        if option not in ALL_OPTIONS | OTHERS.keys() and not (place in PAGES and option in of_scripts)
    ]
    assert missing == []
    assert {option for _, option in named} >= OTHERS.keys()


def test_commands_that_are_named_exist() -> None:
    named = find_remedies(NAMES)
    assert len(named) > 50
    assert [pair for pair in named if pair[1] not in main.commands] == []


def test_command_lines_in_messages_parse() -> None:
    """Each begins with a command, and its options are that command's."""
    checked = 0
    for place, line in find_remedies(COMMAND, SHELL):
        words = re.split(r"\s+", line.strip().rstrip(".,;:)"))
        while words and words[0] in GROUP:
            words.pop(0)
        if not words or words[0] not in main.commands:
            # Prose about the program, its version, or a placeholder of a line that is put together.
            assert not words or not OPTION.match(" ".join(words)), (place, line)
            assert not words or re.fullmatch(r"[^-]*", words[0]) or words[0] == "…", (place, line)
            continue
        checked += 1
        options = {word.partition("=")[0] for word in words if OPTION.fullmatch(word.partition("=")[0])}
        assert options <= OPTIONS[words[0]], (place, line)
    assert checked > 30


SHELL_BLOCKS = [block for block in BLOCKS if block.kind in {"sh", "console"}]


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: block.page)
def test_command_lines_of_the_documents_parse(block: Block) -> None:
    for line in block.text.splitlines():
        match = re.match(r"(?:\$ )?panic-tda (.*?)(?: *#.*|\| .*)?$", line)
        if match is None:
            continue
        name, *words = shlex.split(match[1])
        # --help, which leaves at once.
        with suppress(click.exceptions.Exit):
            main.commands[name].make_context(name, words)


def test_extras_named_in_messages_exist() -> None:
    """This package is in no index: an extra of it takes a checkout or a wheel."""
    remedies = find_remedies(PIP, SHELL | {"errors": [install_extra(extra) for extra in EXTRAS]})
    remedies += [("installing", extra) for extra in re.findall(r"`(\.\[\w+\])`", PAGES["installing"])]
    extras = {extra for _, what in remedies for extra in re.findall(r"^\.\[(\w+)\]$", what)}
    assert extras | {"…"} == EXTRAS.keys() | {"…"}
    by_name = re.compile(r"panic[-_]tda(?!.*\.whl\b)", re.IGNORECASE)
    assert [pair for pair in remedies if by_name.match(pair[1])] == []
    named_extras = re.findall(
        r"install_extra\(['\"](\w+)['\"]\)", "".join(path.read_text() for path in SOURCES)
    )
    assert set(named_extras) >= {"report", "figure", "density", "cuda13"}
    assert set(named_extras) <= EXTRAS.keys()


def test_scripts_that_are_named_exist() -> None:
    named = find_remedies(re.compile(r"\bscripts/[\w/-]+\.(?:sh|py)"), SHELL)
    assert len(named) > 10
    assert [pair for pair in named if not (ROOT / pair[1]).is_file()] == []
