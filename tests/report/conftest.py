"""Provide a browser for each file of tests (an idle one uses the processor too), and unchanged pages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Browser, Opened, started
from tests.report.walks import Walk, make_walks, run_command


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@contextmanager
def without_umap() -> Iterator[None]:
    """Hide umap-learn, because importing it takes longer than making all pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "umap", None)
        yield


@pytest.fixture(autouse=True)
def hidden_umap(no_umap: None) -> None:
    """Hide umap-learn from each test; what several tests share is made without it too."""


MakePage = Callable[..., Path]


@pytest.fixture(scope="package")
def make_page(tmp_path_factory: pytest.TempPathFactory) -> MakePage:
    """Make the page of some walks; the database lies beside it."""
    pytest.importorskip("jinja2", reason="Jinja2 is not installed")

    def make(walk: Walk, *words: str) -> Path:
        folder = tmp_path_factory.mktemp("page")
        database = make_walks(folder, walk)
        with without_umap():
            run_command("report-clustering", "--db", database, "-o", folder / "page.html", "-q", *words)
        return folder / "page.html"

    return make


@pytest.fixture(scope="package")
def plain_page(make_page: MakePage) -> Path:
    return make_page(Walk())


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Open pages, and close them with the test."""
    pages: list[Opened] = []

    def open_page(path: Path, fragment: str = "", **settings: Any) -> Opened:
        pages.append(Opened(browser, path, fragment, **settings))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()
