"""Test a page of 1,000 clusters and 50,000 points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.report.gathering import gather
from panic_tda.report.page import render
from panic_tda.storage.database import open_current
from panic_tda.storage.read.results import find_clustering
from tests.report.browser import PLACES, Browser, Opened
from tests.report.conftest import without_umap

POINTS, CLUSTERS = 50_000, 1_000
HOVER = """places => {
    const canvas = document.querySelector('#map-box .over');
    const calls = {};
    for (const name of ['arc', 'fill', 'fillRect', 'fillText', 'lineTo', 'putImageData', 'stroke']) {
        const plain = CanvasRenderingContext2D.prototype[name];
        CanvasRenderingContext2D.prototype[name] = function (...words) {
            const canvas = this.canvas.className || this.canvas.parentElement.id;
            calls[canvas] = (calls[canvas] ?? 0) + 1;
            return plain.apply(this, words);
        };
    }
    let tips = 0;
    for (const [x, y] of places) {
        const event = new PointerEvent('pointermove', { clientX: x, clientY: y, pointerId: 1 });
        Object.defineProperty(event, 'offsetX', { value: x });
        Object.defineProperty(event, 'offsetY', { value: y });
        canvas.dispatchEvent(event);
        if (document.querySelector('.tip').getBoundingClientRect().height > 0) tips++;
    }
    const later = requestAnimationFrame;
    return new Promise((done) => later(() => later(() => done([tips, calls]))));
}"""
"""Points at places: the number of tooltips, and the number of drawing calls by canvas."""
N_HOVERS = 150
NOTE_READY = """new MutationObserver((_, observer) => {
    if (!document.documentElement?.dataset.ready) return;
    globalThis.readyAt = performance.now();
    observer.disconnect();
}).observe(document, { attributes: true, childList: true, subtree: true });"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@pytest.fixture(scope="module")
def large(plain_page: Path) -> Path:
    """The plain page with as many points and clusters as a page may have, spread at random."""
    database = open_current(plain_page.parent / "walks.sqlite")
    with database.session() as session, without_umap():
        page = gather(database, find_clustering(session))
    rng = np.random.default_rng(0)
    page["texts"] = [f"a photograph of place {number} by the sea" for number in range(POINTS)]
    page["map"] |= {
        "n": POINTS,
        "n_all": POINTS,
        "x": rng.integers(0, 65_536, POINTS),
        "y": rng.integers(0, 65_536, POINTS),
        "labels": rng.integers(-1, CLUSTERS, POINTS),
        "probabilities": rng.integers(0, 10_001, POINTS),
        "runs": rng.integers(0, 8, POINTS),
        "steps": rng.integers(0, 40, POINTS),
        "texts": np.arange(POINTS),
    }
    numbers = rng.integers(1, 100, CLUSTERS)
    page["clusters"] = {
        "sizes": -np.sort(-numbers),
        "persistence": rng.random(CLUSTERS).tolist(),
        "runs": numbers,
        "prompts": numbers,
        "largest_run_shares": [0.5] * CLUSTERS,
        "words": ["place, sea"] * CLUSTERS,
        "entered": numbers,
        "median_dwells": [None, 2.0] * (CLUSTERS // 2),
        "copies": [1] * CLUSTERS,
        "texts": np.arange(CLUSTERS),
        "points": np.arange(CLUSTERS),
        "medoid_runs": numbers % 8,
        "near": [[]] * CLUSTERS,
        "far": [[]] * CLUSTERS,
    }
    path = plain_page.parent / "large.html"
    path.write_text(render(page, command="panic-tda report-clustering"), encoding="utf-8")
    return path


def test_only_rows_in_sight_are_in_the_document(large: Path, opened: Callable[..., Opened]) -> None:
    page = opened(large)
    rows = page.page.locator("#cluster-rows tr[data-label]")
    assert 10 < rows.count() < 100
    page.evaluate("document.querySelector('#cluster-rows').scrollTop = 34 * 700")
    page.wait_for_frames()
    shown = [
        int(label)
        for label in page.evaluate(
            "[...document.querySelectorAll('tr[data-label]')].map((row) => row.dataset.label)"
        )
    ]
    assert 700 in shown
    assert shown[0] > 600
    page.evaluate("document.querySelector('#cluster-rows').scrollTop = 0")
    page.page.locator("th[data-key=label] button").click()
    page.page.keyboard.press("ArrowUp")
    assert page.chosen("cluster") == CLUSTERS - 1
    assert page.page.locator("tr[aria-selected=true]").is_visible()
    assert page.messages == []


def test_labels_do_not_collide_at_any_zoom(large: Path, opened: Callable[..., Opened]) -> None:
    """The labels' own boxes, drawn one by one: what stands in the canvas is read from the drawing calls."""
    page = opened(large)
    page.evaluate(
        """() => {
            globalThis.drawn = [];
            const { fillText } = CanvasRenderingContext2D.prototype;
            CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
                if (this.canvas.className === 'over') drawn.push([x, y, this.measureText(text).width, text]);
                return fillText.apply(this, arguments);
            };
        }"""
    )
    page.page.locator("#map-box .over").focus()
    for _ in range(5):
        page.evaluate("() => { drawn.length = 0; }")
        page.page.keyboard.press("+")
        page.wait_for_frames()
        drawn: list[Any] = page.evaluate("drawn")
        assert len(drawn) > 10
        for number, (x, y, width, text) in enumerate(drawn):
            for other_x, other_y, other_width, other_text in drawn[:number]:
                apart = x + width <= other_x or other_x + other_width <= x or abs(y - other_y) >= 12
                assert apart, (text, other_text)


def test_first_paint_does_not_wait_for_the_data(large: Path, browser: Browser) -> None:
    for _ in range(5):
        context = browser.process.new_context(viewport={"width": 1280, "height": 900})
        context.add_init_script(NOTE_READY)
        page = context.new_page()
        page.goto(large.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        while (painted := page.evaluate(PAINTED)) is None:
            page.wait_for_timeout(50)
        ready = page.evaluate("readyAt")
        context.close()
        # A busy machine may draw no frame for a while: once is enough.
        if painted < ready:
            return
    pytest.fail(f"the page was first painted after {painted} ms, and ready after {ready} ms")


def test_pointing_draws_no_point_again(large: Path, plain_page: Path, opened: Callable[..., Opened]) -> None:
    counts = []
    for path in (large, plain_page):
        page = opened(path)
        page.wait_for_frames()
        n = page.evaluate("report.page.map.n")
        places = page.evaluate(PLACES, [number * n // N_HOVERS for number in range(N_HOVERS)])
        tips, calls = page.evaluate(HOVER, places)
        assert tips == N_HOVERS
        assert set(calls) == {"over"}
        counts.append(calls["over"])
    # Some hundred labels and a ring, not 50,000 points.
    assert max(counts) < N_HOVERS * POINTS / 50
