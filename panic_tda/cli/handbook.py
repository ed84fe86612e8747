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
    "Reference": ("cli-reference", "glossary", "index", "guarantees", "benchmarks", "changelog"),
    "For maintainers": ("algorithm", "design", "development"),
}
"""The pages, in the order in which they are listed."""
TOPICS = tuple(topic for topics in CHAPTERS.values() for topic in topics)
_GLOSSARY, _INDEX = "glossary", "index"
_NOT_SEARCHED = ("cli-reference", "changelog")
_SMALL_WORDS = (
    " a after an and are at can do does for from get has have how i if in is it keep mean means my of on or "
    "the there this to use was we what when where which who why with you "
)
"""Words of a question that name no subject."""
_MOST_WIDTH = 100
_MOST_PAGES = 4
_MOST_SECTIONS = 2


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
        "panic-tda help WORD...       shows the section about it, such as: help resume",
        "panic-tda help COMMAND       shows the options of a command",
    ]
    return "\n".join(lines)


def find_text(name: str, commands: Iterable[str]) -> str:
    """Return the page of a topic, the entry of a term, or the sections about some words, as Markdown.

    Parameters
    ----------
    name : str
        A topic, a term of the glossary, a word of the index, words of a heading, or a question.
    commands : iterable of str
        Names of commands, for the suggestions.

    Raises
    ------
    WrongUsage
        The handbook has nothing of this; the message names close topics and commands, and pages with these
        words.
    """
    topic = name.casefold().removesuffix(".md")
    if topic in TOPICS:
        return read_page(topic)
    answers = _read_answers()
    words = [word for word in re.findall(r"[\w.-]+", topic) if f" {word} " not in _SMALL_WORDS]
    spellings = (topic, topic.replace("-", " "), topic.replace("-", "_"))
    text = (
        next((answers[spelling] for spelling in spellings if spelling in answers), "")
        or _find_sections(words)
        # Entries of the glossary are shorter than sections, and come first.
        or "\n".join(sorted({answers[word] for word in words if word in answers}, key=len))
    )
    if text:
        return text
    close = difflib.get_close_matches(topic, [*TOPICS, *commands, *answers], n=3)
    close += [command for command in commands if topic in command.split("-") and command not in close]
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


def _read_answers() -> dict[str, str]:
    """Return the glossary's entry of each term, and the sections of each word of the index; in lower case."""
    page, answers = read_page(_GLOSSARY), {}
    for cells in re.findall(r"^\| (.+) \| (\[.+) \|$", read_page(_INDEX), flags=re.MULTILINE):
        links = re.findall(r"\[[^\]]+\]\(([\w-]+)\.md(?:#([^)\s]*))?\)", cells[1])
        text = "\n".join(_read_section(topic, anchor) for topic, anchor in links)
        answers.update(dict.fromkeys(cells[0].casefold().split(", "), text))
    parts = re.split(r"^### (.+)\n", page, flags=re.MULTILINE)[1:]
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        entry = f"### {title}\n{body.rstrip()}\n"
        answers.update(dict.fromkeys(title.replace("`", "").casefold().split(", "), entry))
    return answers


def _read_section(topic: str, anchor: str) -> str:
    """Return the section of a page whose heading has an anchor, with the name of the page below it.

    Without an anchor, return one line that names the page.
    """
    more = f"More: `panic-tda help {topic}`\n"
    headings = _find_headings(topic)
    for number, (level, title, start) in enumerate(headings):
        if anchor and _name_anchor(title) == anchor:
            ends = [begin for other_level, _, begin in headings[number + 1 :] if other_level <= level]
            page = read_page(topic)
            return f"{page[start : min(ends, default=len(page))].rstrip()}\n\n{more}"
    return f"{_read_summary(topic)} {more}"


def _find_headings(topic: str) -> list[tuple[int, str, int]]:
    """Return the level, the title and the position of every heading of a page."""
    # Blocks of code keep their length, because lines in them may begin with a `#`.
    text = re.sub(r"^```.*?^```$", lambda block: " " * len(block[0]), read_page(topic), flags=re.S | re.M)
    return [(len(head[1]), head[2], head.start()) for head in re.finditer(r"^(#+) (.+)$", text, re.M)]


def _name_anchor(title: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _find_sections(words: list[str]) -> str:
    """Return the first sections whose headings have all of these words, or an empty text."""
    sections = [
        _read_section(topic, _name_anchor(title))
        for topic in TOPICS
        if topic not in (*_NOT_SEARCHED, _GLOSSARY)
        for level, title, _ in _find_headings(topic)
        if level > 1 and words and all(re.search(rf"\b{re.escape(word)}", title.casefold()) for word in words)
    ]
    return "\n".join(sections[:_MOST_SECTIONS])


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
    return f"{link[1]} (help {link[2]})"
