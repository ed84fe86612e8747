#!/usr/bin/env python3
"""Measure the page of a large clustering: its size, and the time to open, to point and to scroll.

Makes two databases of runs that walk between planted places, once, and stores a clustering of each whose
spanning tree is planted too: fitting millions of rows would take hours and change nothing on a page. Then
makes their pages, each by the command in a process of its own, opens them in Chromium, and prints a table,
the last line of which is a page with nothing on it. Times are wall-clock times, but for those that say CPU:
what making a page takes of all processors, and what a hover or a frame takes of the page's main thread, which
other programs on the machine leave as they are. Databases and pages stay in the folder.

Needs Playwright and Chromium.

Usage: bench_page.py FOLDER [--only NAME]...
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_insight import run
from playwright.sync_api import sync_playwright

from panic_tda.clustering.recipe import recut_rows
from panic_tda.progress import Silent
from panic_tda.records import ClusteringRecord, EffectiveParameters
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.schema.tables import Embedding, Invocation, Run, utc_now
from panic_tda.storage.write.insertion import insert_rows
from panic_tda.storage.write.saving import build_result, save_or_write_pending
from panic_tda.types import EmbeddingMatrix, SpanningTree

MODEL, NETWORKS = "Bench", (["FluxSchnell", "Moondream"], ["SDXLTurbo", "BLIP2"], ["FluxSchnell", "BLIP2"])
PROMPTS, DIMENSIONS, VIEWS = 40, 16, 200
PARTS = (
    "a red fox/two old men/a child/a glass of water/an empty chair/a white horse/a clock/a sailing boat",
    "standing in/seen through/reflected in/painted on/resting beside/hidden behind/drifting over/leaning on",
    "a field of barley/the window of a train/a frozen lake/a brick wall/the edge of a wood/a narrow street",
    "at dusk/in heavy rain/under a pale sky/lit by candles/with mountains far behind/in black and white",
)
PROBES, FRAMES, LOADS = 200, 240, 5


@dataclass(frozen=True)
class Plan:
    """Runs of so many steps each that walk between so many places."""

    runs: int
    steps: int
    places: int


PLANS = {"strips": Plan(3220, 500, 300), "many": Plan(3220, 932, 1000)}


def main() -> None:
    """Read the command line; make what is not there yet, and print a line for every page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", choices=list(PLANS), help="measure these pages only")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print(
        "| page | MB | made in CPU s | peak MiB | first paint ms | ready ms "
        "| hover ms | 95 % | CPU ms | frame ms | longest | CPU ms |"
    )
    print(f"|---{'|--:' * 11}|")
    for name in args.only or PLANS:
        plan, path = PLANS[name], args.folder / f"{name}.html"
        database = args.folder / f"{name}.sqlite"
        if not database.exists():
            plant(database.with_suffix(".unfinished"), plan)
            database.with_suffix(".unfinished").rename(database)
        gc.collect()
        before = processor_seconds()
        words = ("report-clustering", "latest", "-o", str(path), "--force", "--json", "-q")
        printed, _, peak = run(database, *words)
        seconds = processor_seconds() - before
        what = f"{plan.runs:,} runs of {plan.steps} steps, {plan.places:,} clusters"
        text = f"{json.loads(printed)['bytes'] / 1e6:.1f} | {seconds:.0f} | {peak:,.0f}"
        print(f"| {what} | {text} | {look(path)} |", flush=True)
    path = args.folder / "nothing.html"
    path.write_text(NOTHING, encoding="utf-8")
    print(f"| nothing | 0.0 | | | {look(path)} |")


def processor_seconds() -> float:
    """Return what the processes that were started and have ended took of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --------------------------------------------------------------------------- data


def plant(path: Path, plan: Plan) -> None:
    """Write the runs and their clustering; rows are numbered run by run, and so are their ids."""
    path.unlink(missing_ok=True)
    rng = np.random.default_rng(0)
    places, views = walk(rng, plan)
    n = len(places)
    inside = places >= 0
    centres = rng.standard_normal((plan.places, DIMENSIONS), dtype=np.float32)
    vectors = rng.standard_normal((n, DIMENSIONS), dtype=np.float32)
    view_vectors = 0.3 * rng.standard_normal((plan.places * VIEWS, DIMENSIONS), dtype=np.float32)
    vectors[inside] = centres[places[inside]] + view_vectors[places[inside] * VIEWS + views[inside]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    database = open_database(path, create=True)
    with database.writing() as connection:
        insert_rows(connection, Run, runs_of(plan))
        insert_rows(connection, Invocation, invocations_of(plan, places, views))
        insert_rows(connection, Embedding, embeddings_of(n, vectors))
    cluster(database, vectors, tree_of(rng, places, plan.places))


def walk(rng: np.random.Generator, plan: Plan) -> tuple[Any, Any]:
    """Return the place of each step, -1 between places, and what is seen of it: (n,) each, run by run."""
    weights = 1 / (10 + np.arange(plan.places))
    weights /= weights.sum()
    places = np.empty((plan.runs, plan.steps), dtype=np.int64)
    views = rng.integers(0, VIEWS, (plan.runs, plan.steps))
    # Four runs of ten come to rest.
    rests_at = np.where(rng.random(plan.runs) < 0.4, rng.integers(0, plan.steps, plan.runs), plan.steps)
    here = rng.choice(plan.places, plan.runs, p=weights)
    for step in range(plan.steps):
        leaves = (rng.random(plan.runs) < 0.15) & (step < rests_at)
        here = np.where(leaves, rng.choice(plan.places, plan.runs, p=weights), here)
        between = (rng.random(plan.runs) < 0.4) & (step < rests_at)
        places[:, step] = np.where(between, -1, here)
        views[:, step] = np.where(step > rests_at, views[:, step - 1], views[:, step])
    return places.ravel(), views.ravel()


def tree_of(rng: np.random.Generator, places: Any, n_places: int) -> SpanningTree:
    """Join the rows of a place to the first of them, places far above, and all others higher still."""
    n = len(places)
    firsts = np.array([int(np.argmax(places == place)) for place in range(n_places)])
    to = np.where(places < 0, firsts[0], firsts[places])
    height = np.where(places < 0, rng.uniform(0.9, 1.2, n), rng.uniform(0.15, 0.35, n))
    to[firsts[1:]] = firsts[:-1]
    edges = height.copy()
    edges[firsts[1:]] = rng.uniform(0.6, 0.8, n_places - 1)
    others = np.arange(n) != firsts[0]
    return SpanningTree(u=np.flatnonzero(others), v=to[others], height=edges[others], core_distances=height)


def cluster(database: Database, vectors: Any, tree: SpanningTree) -> None:
    """Cut the tree and save what it gives."""
    n, began = len(vectors), utc_now()
    effective = EffectiveParameters(0.0, 100, 64, False, "eom", None, 1e-3)
    record = ClusteringRecord(
        **vars(effective),
        backend="planted",
        exact=True,
        n_embeddings=n,
        n_unique=n,
        n_clusters=0,
        n_outliers=0,
        versions={},
        downsample=1,
    )
    clustering = recut_rows(vectors, tree, effective, source=record, progress=Silent())
    ids = np.array([identity(row) for row in range(n)], dtype="S32")
    matrix = EmbeddingMatrix(MODEL, ids, vectors, n, n, 0, 1)
    save_or_write_pending(database, build_result(matrix, clustering, began))


def identity(number: int) -> str:
    """Return an id; they ascend as those of the generation pipeline do."""
    return f"{number:032x}"


def runs_of(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table of runs."""
    for number in range(plan.runs):
        network = json.dumps(NETWORKS[number % len(NETWORKS)])
        yield identity(number), network, number, 2 * plan.steps, f"prompt {number % PROMPTS}", None


def invocations_of(plan: Plan, places: Any, views: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table of invocations: texts, at odd sequence numbers."""
    kinds = [part.split("/") for part in PARTS]
    for row, (place, view) in enumerate(zip(places.tolist(), views.tolist(), strict=True)):
        code = row * 7919 if place < 0 else place * VIEWS + view
        texts, rest = [], code
        for kind in kinds:
            texts.append(kind[rest % len(kind)])
            rest //= len(kind)
        run_number, step = divmod(row, plan.steps)
        model = NETWORKS[run_number % len(NETWORKS)][1]
        text = f"{' '.join(texts)}, {rest}"
        yield (
            *(identity(row), None, None, model, "TEXT", 0, identity(run_number)),
            *(2 * step + 1, None, text, None),
        )


def embeddings_of(n: int, vectors: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table of embeddings."""
    ids = map(identity, range(n))
    for name, vector in zip(ids, vectors, strict=True):
        yield name, None, None, name, MODEL, vector.tobytes()


# --------------------------------------------------------------------------- pages

NOTHING = (
    "<!doctype html><html data-ready><title>nothing</title><div id='map-box'><canvas class='over' width='900'"
    " height='600'></canvas></div><div id='strips-box' style='height:500px;overflow:auto'>"
    "<div style='height:20000px'></div></div></html>"
)
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()"
# From a move of the pointer to the end of the frame that shows what it is on.
HOVER = """async (probes) => {
    const canvas = document.querySelector('#map-box .over');
    canvas.scrollIntoView();
    const frame = () => new Promise(requestAnimationFrame);
    const times = [];
    for (let at = 0; at < probes; at++) {
        const event = new PointerEvent('pointermove', { pointerId: 1 });
        Object.defineProperty(event, 'offsetX', { value: 60 + ((at * 37) % 900) });
        Object.defineProperty(event, 'offsetY', { value: 40 + ((at * 53) % 500) });
        await frame();
        const before = performance.now();
        canvas.dispatchEvent(event);
        await frame();
        await new Promise((done) => { const { port1, port2 } = new MessageChannel();
                                      port1.onmessage = done; port2.postMessage(0); });
        times.push(performance.now() - before);
    }
    return times;
}"""
# From frame to frame while the strips scroll, slowly and by whole windows.
SCROLL = """async (frames) => {
    const box = document.querySelector('#strips-box');
    box.scrollIntoView();
    const frame = () => new Promise(requestAnimationFrame);
    for (let at = 0; at < 10; at++) await frame();
    const times = [];
    let before = await frame();
    for (let at = 0; at < frames; at++) {
        box.scrollTop = at < frames / 2 ? 30 * at : (at * 7919) % Math.max(1, box.scrollHeight - 600);
        const now = await frame();
        times.push(now - before);
        before = now;
    }
    return times;
}"""


def look(path: Path) -> str:
    """Open a page, and return what the browser measured, as cells of the table."""
    with sync_playwright() as driver:
        program = shutil.which("chromium") or shutil.which("chromium-headless-shell")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        painted, ready = [], []
        for number in range(LOADS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(path.resolve().as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            ready.append(page.evaluate("performance.now()"))
            page.wait_for_timeout(300)
            painted.append(page.evaluate(PAINTED))
            if number < LOADS - 1:
                page.close()
        counted = page.context.new_cdp_session(page)
        counted.send("Performance.enable", {"timeDomain": "threadTicks"})
        busy = [main_thread(counted)]
        hovers = page.evaluate(HOVER, PROBES)
        busy.append(main_thread(counted))
        frames = page.evaluate(SCROLL, FRAMES)
        busy.append(main_thread(counted))
        browser.close()
    numbers = [
        # Whatever else the machine does only adds to these.
        *(min(painted), min(ready)),
        *(statistics.median(hovers), float(np.quantile(hovers, 0.95)), (busy[1] - busy[0]) / PROBES),
        *(statistics.median(frames), max(frames), (busy[2] - busy[1]) / FRAMES),
    ]
    return " | ".join(f"{number:.0f}" if number >= 10 else f"{number:.1f}" for number in numbers)


def main_thread(counted: Any) -> float:
    """Return the milliseconds of processor time that a page's tasks took so far."""
    metrics = counted.send("Performance.getMetrics")["metrics"]
    return 1000 * next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


if __name__ == "__main__":
    main()
