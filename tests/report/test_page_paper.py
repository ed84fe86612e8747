"""Test the page with touch input, and printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.report.browser import Opened

Open = Callable[..., Opened]

INK = """selector => {
    const canvas = document.querySelector(selector);
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let [inked, dark] = [0, 0];
    for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] < 128) continue;
        const sum = data[at] + data[at + 1] + data[at + 2];
        if (sum < 720) inked++;
        if (sum < 200) dark++;
    }
    const { width } = canvas.getBoundingClientRect();
    return [inked, dark / (canvas.width * canvas.height), canvas.width / width];
}"""
"""Pixels of a canvas that are no ground, the share of nearly black ones, and pixels a pixel of the page."""
CANVASES = ("#map-box .base", "#map-box .over", "#tree-box canvas", "#strips-box canvas")


def test_a_print_has_everything_in_the_light_theme(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page, "#theme=dark", color_scheme="dark")
    n = page.page.locator("#cluster-rows tr[data-label]").count()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.page.emulate_media(media="print")
    page.until("document.documentElement.classList.contains('paper')")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('main').clientWidth") == 700
    assert page.page.locator(".facts-box table").first.is_visible()
    for hidden in ("nav", "#map-controls", "#strips-controls", "#groups-box [data-role=copy]"):
        assert page.page.locator(hidden).is_hidden(), hidden
    assert page.page.locator("#cluster-rows tr[data-label]").count() == n
    assert page.evaluate(
        "(({ scrollHeight, clientHeight }) => scrollHeight <= clientHeight + 1)"
        "(document.querySelector('#cluster-rows'))"
    )
    assert page.page.locator("#strips-paper").inner_text() == "Runs by similarity: 8."
    for canvas in CANVASES:
        inked, dark, ratio = page.evaluate(INK, canvas)
        assert inked > 500, canvas
        assert dark < 0.1, canvas
        assert ratio > 2.9, canvas
    page.page.emulate_media(media="screen")
    page.until("!document.documentElement.classList.contains('paper')")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.page.locator(".facts-box table").first.is_hidden()
    assert page.evaluate("location.hash") == "#theme=dark"
    assert page.messages == []


def test_printing_redraws_the_page_at_once(plain_page: Path, opened: Open) -> None:
    """Nothing waits for a frame, which a print does not have; what is cleared is cleared in what is below."""
    page = opened(plain_page, "#theme=dark")
    page.evaluate(
        """() => {
            const found = new Set();
            const { fill, fillText, putImageData, clearRect } = CanvasRenderingContext2D.prototype;
            Object.assign(globalThis, { found });
            for (const [name, plain] of Object.entries({ fill, fillText, putImageData, clearRect })) {
                CanvasRenderingContext2D.prototype[name] = function (...words) {
                    const paper = document.documentElement.classList.contains('paper');
                    if (paper) found.add(getComputedStyle(document.body).backgroundColor);
                    if (paper) found.add(`${name} ${this.canvas.className || this.canvas.parentElement.id}`);
                    return plain.apply(this, words);
                };
            }
        }"""
    )
    pdf: bytes = page.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-")
    colours: Any = set(page.evaluate("[...found]"))
    assert {"fill base", "fillText over", "fillText tree-box", "putImageData strips-box"} <= colours
    assert not [line for line in colours if line.startswith("clearRect")]
    assert [line for line in colours if line.startswith("rgb")] == ["rgb(255, 255, 255)"]
    assert page.evaluate("document.documentElement.className") == ""


SCALE = """() => {
    const { x, y } = report.page.map;
    const { clientWidth, clientHeight } = document.querySelector('#map-box');
    const span = (values) => Math.max(...values) - Math.min(...values);
    return 0.9 * Math.min(clientWidth / span(x), clientHeight / span(y));
}"""
"""Pixels a unit of the whole map."""


UNTIL_STILL = """() => new Promise((done) => {
    let [last, frames] = [-1, 0];
    const look = () => {
        const place = document.scrollingElement.scrollTop;
        frames = place === last ? frames + 1 : 0;
        last = place;
        if (frames === 20) done();
        else requestAnimationFrame(look);
    };
    look();
})"""
"""Waits until the page has not scrolled for twenty frames."""


class Fingers:
    """Two fingers on a page."""

    def __init__(self, opened: Opened) -> None:
        self.session = opened.context.new_cdp_session(opened.page)

    def put(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        self.session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    def drag(self, *ways: tuple[tuple[float, float], tuple[float, float]], moves: int = 8) -> None:
        """Put a finger down at the beginning of each way, move all to the ends, and lift them."""
        self.put("Start", *[begin for begin, _ in ways])
        for move in range(1, moves + 1):
            share = move / moves
            self.put("Move", *[(a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share) for a, b in ways])
        self.put("End")


def view(page: Opened) -> tuple[float, float, float]:
    x, y, zoom = map(float, page.chosen("view").split(","))
    return x, y, zoom


def test_a_finger_that_scrolls_the_page_does_not_move_the_map(plain_page: Path, opened: Open) -> None:
    """The browser takes the finger over after some pixels, which had moved the map 15 of them upwards."""
    page = opened(plain_page, has_touch=True, is_mobile=True)
    places = page.medoids()
    scrolled = "document.scrollingElement.scrollTop"
    before = page.evaluate(scrolled)
    box = page.page.locator("#map-box .over").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    Fingers(page).drag(((x, y), (x, y - 150)))
    page.until(f"{scrolled} > {before + 50}")
    page.evaluate(UNTIL_STILL)
    assert page.chosen("view") == ""
    way = page.evaluate(scrolled) - before
    page.page.mouse.click(places[0][0], places[0][1] - way)
    assert page.chosen("cluster") == 0


def test_fingers_move_and_zoom_the_map(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page, has_touch=True, is_mobile=True)
    fingers = Fingers(page)
    page.medoids()
    scrolled = "document.scrollingElement.scrollTop"
    before = page.evaluate(scrolled)
    box = page.page.locator("#map-box .over").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    # Upwards and downwards, the way in which one finger scrolls the page.
    fingers.drag(((x, y - 40), (x, y - 120)), ((x, y + 40), (x, y + 120)))
    page.until("report.chosen.view !== ''")
    at_x, at_y, zoom = view(page)
    assert abs(zoom - 3) < 0.2
    assert page.evaluate(scrolled) == before
    # Both upwards: what is looked at lies below then, as large as before.
    fingers.drag(((x - 60, y + 40), (x - 60, y - 60)), ((x + 60, y + 40), (x + 60, y - 60)))
    page.until(f"report.chosen.view.split(',')[1] < {at_y - 100}")
    later_x, later_y, later = view(page)
    assert abs(later - zoom) < 0.05
    assert abs(later_x - at_x) < abs(later_y - at_y) / 10
    scale = page.evaluate(SCALE) * later
    assert abs((at_y - later_y) * scale - 100) < 5
    assert page.evaluate(scrolled) == before
    # One finger to the left.
    fingers.drag(((x + 60, y), (x - 60, y)))
    page.until(f"report.chosen.view.split(',')[0] > {later_x + 100}")
    # A tap chooses, and moves nothing.
    chosen_values = page.chosen("view")
    page.page.keyboard.press("Escape")
    page.page.touchscreen.tap(box["x"] + 3, box["y"] + 3)
    assert page.chosen("view") == chosen_values
    assert page.messages == []
