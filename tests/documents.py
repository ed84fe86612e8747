"""Read the README, the pages of the handbook, and their blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from panic_tda.cli import handbook
from tests.snapshots import REPOSITORY

README = "README.md"
GENERATED = "cli-reference"
PATHS = {README: REPOSITORY / README} | {
    topic: handbook.FOLDER / f"{topic}.md" for topic in handbook.TOPICS if topic != GENERATED
}
PAGES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}
"""All text that people wrote, by page: the command reference is generated."""
_FENCED = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its page, its language, its text, and why it is not run."""

    page: str
    kind: str
    text: str
    reason: str


BLOCKS = [
    Block(page, kind, text, reason)
    for page, content in PAGES.items()
    for reason, kind, text in _FENCED.findall(content)
]


def find_blocks(kind: str, page: str | None = None) -> list[Block]:
    """Return the blocks of a kind that are run, of one page or of all."""
    return [
        block for block in BLOCKS if block.kind == kind and not block.reason and page in (None, block.page)
    ]


def remove_blocks(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCED.sub("", text)


def split_session(text: str) -> Iterator[tuple[str, str]]:
    """Divide a session into its commands and what is shown below each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output
