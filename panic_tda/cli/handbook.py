"""Read the handbook: pages in Markdown that are installed with the package.

`panic-tda help` prints them. A page begins with its title and one sentence that says what it answers.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from panic_tda.cli import terminal
from panic_tda.errors import WrongUsage

FOLDER = Path(__file__).parent.parent / "handbook"
CHAPTERS = {
    "Get started": ("installing", "quickstart", "pipeline-databases", "importing"),
    "Cluster": ("clustering", "choosing-parameters", "scaling"),
    "Look": ("trajectories", "density", "comparing", "report-and-figure"),
    "Take along": ("exporting", "schema", "postgresql", "python"),
    "Maintain": ("troubleshooting", "scripts-and-logs"),
    "Reference": ("cli-reference", "glossary", "guarantees", "benchmarks", "changelog"),
    "For maintainers": ("algorithm", "design", "development"),
}
"""The pages, in the order in which they are listed."""
TOPICS = tuple(topic for topics in CHAPTERS.values() for topic in topics)
_GLOSSARY = "glossary"
_NOT_SEARCHED = ("cli-reference", "changelog")
_MOST_WIDTH = 100
_MOST_PAGES = 4


def read_page(topic: str) -> str:
    """Return the Markdown of a page."""
    return (FOLDER / f"{topic}.md").read_text(encoding="utf-8")


def list_topics() -> str:
    """Return the topics with what each answers, by chapter."""
    width = max(map(len, TOPICS))
    lines = []
    for chapter, topics in CHAPTERS.items():
        lines += [chapter, *(f"  {topic:{width}}  {_read_summary(topic)}" for topic in topics), ""]
    lines += [
        "panic-tda help TOPIC         shows one of these pages",
        "panic-tda help min_samples   defines a term of the glossary",
        "panic-tda help WORD...       names the pages with these words",
        "panic-tda help COMMAND       shows the options of a command",
    ]
    return "\n".join(lines)


def find_text(name: str, commands: Iterable[str]) -> str:
    """Return the page of a topic, or the glossary's entry of a term, as Markdown.

    Parameters
    ----------
    name : str
        A topic, or a term of the glossary.
    commands : iterable of str
        Names of commands, for the suggestions.

    Raises
    ------
    WrongUsage
        The handbook has neither; the message names close topics and pages with these words.
    """
    topic = name.casefold().removesuffix(".md")
    if topic in TOPICS:
        return read_page(topic)
    entries = _read_glossary()
    entry = entries.get(topic.replace("-", " ")) or entries.get(topic)
    if entry is not None:
        return entry
    close = difflib.get_close_matches(topic, [*TOPICS, *commands, *entries], n=3)
    pages = _find_pages(topic)
    raise WrongUsage(
        f"the handbook has no topic {name!r}"
        + (f"; close: {', '.join(close)}" if close else "")
        + (f"; pages with it: {', '.join(pages)}" if pages else "")
        + "; panic-tda help lists all topics"
    )


def print_page(markdown: str) -> None:
    """Print Markdown: formatted and in a pager on a terminal, as plain text elsewhere."""
    plain = _name_pages(markdown)
    if not sys.stdout.isatty():
        terminal.print_text(plain.rstrip("\n"))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.width = min(console.width, _MOST_WIDTH)
    with console.capture() as capture:
        console.print(Markdown(plain, hyperlinks=False))
    click.echo_via_pager(capture.get())


def _read_summary(topic: str) -> str:
    return read_page(topic).split("\n\n")[1].replace("\n", " ")


def _read_glossary() -> dict[str, str]:
    """Return the entries of the glossary by their terms in lower case."""
    parts = re.split(r"^### (.+)\n", read_page(_GLOSSARY), flags=re.MULTILINE)[1:]
    entries = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        body = re.split(r"^#", text, flags=re.MULTILINE)[0]
        for term in title.replace("`", "").split(", "):
            entries[term.casefold()] = f"### {title}\n{body}"
    return entries


def _find_pages(words: str) -> list[str]:
    """Return the topics of pages with these words, those with a heading that has them first."""
    pages = []
    for topic in TOPICS:
        text = read_page(topic)
        count = text.casefold().count(words)
        if not count or topic in _NOT_SEARCHED:
            continue
        headings = [title for title in re.findall(r"^#+ (.+)$", text, re.M) if words in title.casefold()]
        pages.append((0, f"{topic} ({headings[0]})") if headings else (1 / count, topic))
    return [page for _, page in sorted(pages, key=lambda pair: pair[0])[:_MOST_PAGES]]


def _name_pages(markdown: str) -> str:
    """Replace links between pages by the names of the pages, which `panic-tda help` takes."""
    text = re.sub(r"\[([^\]]+)\]\(([\w-]+)\.md(?:#[^)\s]*)?\)", _name_page, markdown)
    text = re.sub(r"\[([^\]]+)\]\(#[^)\s]*\)", r"\1", text)
    return re.sub(r"^<!--.*?-->\n", "", text, flags=re.MULTILINE)


def _name_page(link: re.Match[str]) -> str:
    text, topic = link[1], link[2]
    return text if text.strip("`") == topic else f"{text} (help {topic})"
