"""Test the page in a browser: no requests, no execution of its data, and the effects of its controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from panic_tda.report.gathering import gather
from panic_tda.report.page import render
from panic_tda.storage.database import open_current
from panic_tda.storage.read.results import find_clustering
from tests.report.browser import Opened
from tests.report.conftest import MakePage
from tests.report.walks import Walk, make_walks, run_command
from tests.snapshots import opened as raw

Open = Callable[..., Opened]

SHOWN = "[...document.querySelectorAll('tr[data-label]')].map((row) => Number(row.dataset.label))"
"""Clusters in the table, from above."""

HOSTILE = (
    "<script>alert('text')</script>",
    "</script><script>alert('end')</script>",
    "\"'><img src=x onerror=alert('image')>",
    "x" * 100_000,
    "مرحبا \u202e بالعالم",
    "👩‍👩‍👧‍👦 🎉",
    "a\x01b\x7f\x00c\u2028d",
    "{{ 7 * 7 }} ${7 * 7} <!-- -->",
)


def hostile(name: str) -> str:
    """Give every text, prompt and network a hostile name with a number."""
    kind = HOSTILE[sum(map(ord, name.split(" seen")[0])) % len(HOSTILE)]
    return f"{kind} {name[-1]}".replace("\x00", "")


PAGES = {
    "plain": Walk(),
    "hostile": Walk(places=8, rename=hostile, model="<img src=x onerror=alert('model')>"),
    "one run": Walk(runs=1, places=2),
    "no clusters": Walk(noise=3.0, options=("--min-cluster-size", "200", "--no-allow-single-cluster")),
    "no tree": Walk(options=("--min-cluster-size", "5", "--no-tree")),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_message_or_a_request(make_page: MakePage, opened: Open, name: str) -> None:
    path = make_page(PAGES[name])
    page = opened(path)
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowRight")
    page.page.locator("#map-box .over").hover(position={"x": 300, "y": 300})
    for details in page.page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    page.wait_for_frames()
    assert page.messages == []
    assert [url for url in page.requested if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("document.querySelectorAll('script, img[src=x], b').length") == 1 + 5
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_texts_are_shown_literally(make_page: MakePage, opened: Open) -> None:
    page = opened(make_page(PAGES["hostile"]))
    assert page.page.title().startswith("<img src=x onerror=alert('model')>")
    texts = " ".join(page.cells("#cluster-rows td.wide"))
    assert "<script>alert('text')" in texts or "</script><script>" in texts
    assert max(map(len, page.evaluate("report.page.texts"))) <= 1000


def test_a_text_may_contain_null_characters(make_page: MakePage, tmp_path: Path, opened: Open) -> None:
    """SQLite keeps a NUL in a text; no file can be imported that has one."""
    database = make_walks(tmp_path, Walk(runs=3, steps=20, places=2))
    with raw(database) as connection:
        connection.execute("UPDATE invocation SET output_text = 'before' || char(0) || output_text")
        connection.execute("UPDATE run SET initial_prompt = char(0), network = '[\"A\\u0000B\"]'")
    run_command("report-clustering", "--db", database, "-o", tmp_path / "page.html", "-q")
    page = opened(tmp_path / "page.html")
    assert page.evaluate("report.page.texts.every((text) => text.startsWith('before\\0'))")
    texts = page.cells("#cluster-rows td.wide:last-child")
    assert texts
    assert all(text.startswith("before place") for text in texts)
    assert {row["network"] for row in page.copied("#strips-controls")} == {"A B"}
    assert page.messages == []


def test_missing_data_are_reported_on_the_page(make_page: MakePage, opened: Open) -> None:
    page = opened(make_page(PAGES["no tree"]))
    assert "no spanning tree" in page.page.locator(".note").first.inner_text()
    for section in ("tree", "density", "sweep"):
        assert "none was stored" in page.page.locator(f"#{section}").inner_text().lower().replace(
            "no tree was", "none was"
        )


def test_clusters_can_be_searched_sorted_and_chosen(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page)
    labels = "#cluster-rows tr[data-label]"
    n = page.page.locator(labels).count()
    assert n > 3
    page.page.keyboard.press("/")
    page.page.keyboard.type("PLACE 3")
    cells = page.cells("#cluster-rows td.wide:last-child")
    assert 0 < len(cells) < n
    assert all("place 3" in text for text in cells)
    assert page.page.locator("#cluster-count").inner_text() == f"{len(cells)} of {n}"
    page.page.locator("#search").fill("#2")
    assert page.evaluate(SHOWN) == [2]
    page.page.locator("#search").fill("no such place")
    assert page.evaluate(SHOWN) == []
    page.page.locator("#search").focus()
    page.page.keyboard.press("Escape")
    assert page.page.locator(labels).count() == n
    sizes = page.evaluate("() => Array.from(report.page.clusters.sizes)")
    assert page.evaluate(SHOWN) == sorted(range(n), key=lambda label: -sizes[label])
    persistence = "#cluster-rows tr[data-label] td:nth-child(4)"
    page.page.locator("th[data-key=persistence] button").click()
    assert page.cells(persistence) == sorted(page.cells(persistence), reverse=True)
    page.page.locator("th[data-key=persistence] button").click()
    assert page.cells(persistence) == sorted(page.cells(persistence))
    page.page.locator(labels).nth(1).click()
    label = page.page.locator(labels).nth(1).get_attribute("data-label")
    assert page.chosen("cluster") == int(str(label))
    assert f"Cluster {label}" in page.page.locator("#card").inner_text()
    page.page.keyboard.press("ArrowDown")
    third = page.page.locator(labels).nth(2).get_attribute("data-label")
    assert page.page.locator("tr[aria-selected=true]").get_attribute("data-label") == third
    page.page.keyboard.press("Escape")
    assert page.chosen("cluster") is None
    assert page.page.locator("#chosen").is_hidden()


def test_a_point_chooses_its_cluster(plain_page: Path, opened: Open) -> None:
    """Every medoid is found again under the pointer, where the map draws it."""
    page = opened(plain_page)
    for label, (x, y) in enumerate(page.medoids()):
        page.page.mouse.move(x, y)
        assert f"cluster {label}," in page.page.locator(".tip").inner_text()
        page.page.mouse.click(x, y)
        assert page.chosen("cluster") == label
        page.page.keyboard.press("Escape")
    assert page.messages == []


def test_of_coinciding_points_a_cluster_member_is_picked(plain_page: Path, opened: Open) -> None:
    """Outliers are placed on the medoids; the pointer still picks the cluster."""
    database = open_current(plain_page.parent / "walks.sqlite")
    with database.session() as session:
        page_data = gather(database, find_clustering(session))
    page_map, medoids = page_data["map"], np.asarray(page_data["clusters"]["points"])
    outliers = np.flatnonzero(np.asarray(page_map["labels"]) < 0)
    assert len(outliers) > len(medoids)
    for name in ("x", "y"):
        page_map[name] = np.array(page_map[name])
        page_map[name][outliers] = page_map[name][np.resize(medoids, len(outliers))]
    path = plain_page.parent / "one_place.html"
    path.write_text(render(page_data, command="panic-tda report-clustering"), encoding="utf-8")
    page = opened(path)
    for label, (x, y) in enumerate(page.medoids()):
        page.page.mouse.click(x, y)
        assert page.chosen("cluster") == label
        page.page.keyboard.press("Escape")


def test_runs_are_filtered_grouped_and_played(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page)
    page.page.select_option("#strips-controls label:has(span:text-is('Network')) select", "1")
    assert page.page.locator("#run-count").inner_text() == "4 of 8 runs"
    assert {row["network"] for row in page.copied("#strips-controls")} == {"Net1 → Writer"}
    page.page.select_option("#strips-controls label:has(span:text-is('Order')) select", "absorbed")
    absorbed = [row["absorbed_at"] for row in page.copied("#strips-controls")]
    assert absorbed == sorted(absorbed, key=lambda step: float(step or "inf"))
    page.page.keyboard.press("ArrowRight")
    run = page.chosen("run")
    assert run is not None
    page.page.locator("#play").click()
    assert page.page.locator("#play").inner_text() == "Pause"
    page.until("report.chosen.step >= 3")
    page.page.locator("#play").click()
    assert page.page.locator("#play").inner_text() == "Play"
    step = page.chosen("step")
    page.page.wait_for_timeout(400)
    assert page.chosen("step") == step
    assert page.page.locator("#step-said").inner_text().startswith(f"step {step},")


def test_the_address_opens_the_same_view(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page)
    page.page.locator("#cluster-rows tr[data-label]").nth(2).click()
    page.page.keyboard.press("ArrowRight")
    page.page.locator("#search").fill("place")
    page.page.locator("th[data-key=label] button").click()
    page.page.select_option("#strips-controls label:has(span:text-is('Group')) select", "prompt")
    page.page.locator("#map-box .over").dblclick(position={"x": 20, "y": 20})
    page.until("location.hash.includes('view=') && location.hash.includes('sort=label')")
    fragment = page.evaluate("location.hash")
    other_page = opened(plain_page, fragment)
    mine, theirs = page.evaluate("({...report.chosen})"), other_page.evaluate("({...report.chosen})")
    assert mine == theirs
    assert theirs["run"] is not None
    assert theirs["group"] == "prompt"
    assert theirs["view"]
    assert other_page.page.locator("#search").input_value() == "place"
    assert other_page.evaluate("document.querySelector('#strips-box .spacer').style.height") == page.evaluate(
        "document.querySelector('#strips-box .spacer').style.height"
    )


@pytest.mark.parametrize(
    "fragment", ["#cluster=99999&run=zz", "#view=a,b,c&by=nothing&sort=none&network=77", "#%"]
)
def test_an_invalid_address_opens_the_default_view(plain_page: Path, opened: Open, fragment: str) -> None:
    page = opened(plain_page, fragment)
    assert page.messages == []
    assert page.chosen("cluster") is None
    assert page.page.locator("#cluster-rows tr[data-label]").count() > 3


def test_the_page_has_a_light_and_a_dark_theme(plain_page: Path, opened: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened(plain_page, color_scheme="light")
    dark = opened(plain_page, color_scheme="dark")
    bright, dim = light.evaluate(ground), dark.evaluate(ground)
    assert bright != dim
    light.page.keyboard.press("d")
    light.page.keyboard.press("d")
    assert light.evaluate(ground) == dim
    assert opened(plain_page, "#theme=dark", color_scheme="light").evaluate(ground) == dim
    pixel = (
        "() => [...document.querySelector('#strips-box canvas').getContext('2d')"
        ".getImageData(2, 2, 1, 1).data].slice(0, 3).reduce((sum, one) => sum + one)"
    )
    dark.page.locator("#strips-box").scroll_into_view_if_needed()
    dark.wait_for_frames()
    assert dark.evaluate(pixel) < 200


def test_the_page_has_help_and_fits_a_phone(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page, has_touch=True)
    page.page.keyboard.press("?")
    assert page.page.locator("#help").is_visible()
    page.page.keyboard.press("Escape")
    assert page.page.locator("#help").is_hidden()
    page.page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_frames()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_content_policy_blocks_added_scripts(plain_page: Path, opened: Open) -> None:
    """The policy blocks an injected script, style and request."""
    page = opened(plain_page)
    assert page.evaluate(
        """async () => {
            const script = document.createElement('script');
            script.textContent = 'globalThis.added = true';
            document.body.append(script);
            const style = document.createElement('style');
            style.textContent = 'body { opacity: 0.5 }';
            document.body.append(style);
            const asked = await fetch('https://example.org/').then(() => true, () => false);
            return [globalThis.added === true, getComputedStyle(document.body).opacity, asked];
        }"""
    ) == [False, "1", False]
