"""Compare the charts of a page with the numbers of the commands: curves, a run's path, the tree."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from tests.report.browser import PLACES, Opened
from tests.report.test_page_numbers import database, number
from tests.report.walks import read_json, run_command
from tests.snapshots import opened as raw

Open = Callable[..., Opened]
Visit = tuple[int, bool]


def survival(visits: Sequence[Visit]) -> list[tuple[int, float]]:
    """Return the Kaplan-Meier estimate by its definition: dwells that ended, and the share that lasts longer.

    A visit that a run ends in was still there at each of its steps but the last, after which nobody looked.
    """
    share, curve = 1.0, []
    for time in sorted({dwell for dwell, cut_off in visits if not cut_off}):
        at_risk = sum(dwell - cut_off >= time for dwell, cut_off in visits)
        ended = sum(dwell == time and not cut_off for dwell, cut_off in visits)
        share *= 1 - ended / at_risk
        curve.append((time, share))
    return curve


@pytest.fixture(scope="module")
def runs(plain_page: Path) -> list[dict[str, Any]]:
    """The runs as show-trajectories has them, with their networks."""
    with raw(database(plain_page)) as connection:
        networks = dict(connection.execute("SELECT id, network FROM run"))
    runs: list[dict[str, Any]] = read_json("show-trajectories", "--db", database(plain_page), "--runs")[
        "runs"
    ]
    return [run | {"network": " → ".join(json.loads(networks[UUID(run["run_id"]).hex]))} for run in runs]


@pytest.fixture(scope="module")
def steps(plain_page: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The steps as export-trajectories writes them."""
    file = tmp_path_factory.mktemp("steps") / "steps.parquet"
    run_command("export-trajectories", "latest", file, "--with-drift", "-q", "--db", database(plain_page))
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def visits_of(run: dict[str, Any]) -> list[tuple[int, Visit]]:
    last = len(run["visits"]) - 1
    return [(state, (dwell, at == last)) for at, (state, _, dwell) in enumerate(run["visits"])]


def test_dwells_are_those_of_the_visits(plain_page: Path, opened: Open, runs: list[dict[str, Any]]) -> None:
    page = opened(plain_page, "#sort=label")
    by_network, by_state = defaultdict(list), defaultdict(list)
    for run in runs:
        for state, visit in visits_of(run):
            if state >= 0:
                by_network[run["network"]].append(visit)
                by_state[state].append(visit)
    shown = defaultdict(list)
    before = 1.0
    for row in page.numbers("Dwells"):
        share = float(row["survival"])
        # The curve also has its beginning, and how far it was looked at.
        if share < before:
            shown[row["network"]].append((int(row["dwell"]), pytest.approx(share)))
        before = share
    assert len(shown) == 2
    assert {name: survival(visits) for name, visits in by_network.items()} == shown
    for label, row in enumerate(page.copied("#cluster-controls")):
        half = [time for time, share in survival(by_state[label]) if share <= 0.5]
        assert number(row["median dwell"]) == (half[0] if half else None), label


def test_absorption_is_that_of_the_runs(plain_page: Path, opened: Open, runs: list[dict[str, Any]]) -> None:
    shown = [
        (row["network"], int(row["step"]), int(row["runs absorbed"]), int(row["of runs"]))
        for row in opened(plain_page).numbers("Absorption")
    ]
    expected = []
    for name in sorted({run["network"] for run in runs}):
        mine = [run["absorbed_at"] for run in runs if run["network"] == name]
        present = sorted(at for at in mine if at is not None)
        expected += [(name, at, count + 1, len(mine)) for count, at in enumerate(present)]
    assert shown == expected
    assert shown


@pytest.mark.parametrize(
    ("title", "column"), [("Transit share over steps", "transit"), ("Drift over steps", "drift")]
)
def test_curves_over_steps_are_those_of_the_steps(
    plain_page: Path,
    opened: Open,
    runs: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    title: str,
    column: str,
) -> None:
    network = {run["run_id"]: run["network"] for run in runs}
    groups = defaultdict(list)
    for step in steps:
        value = float(step["flag"] != "core") if column == "transit" else step["drift"]
        groups[network[step["run_id"]], step["step"]].append(value)
    rows = opened(plain_page).numbers(title)
    assert len(rows) == len(groups) == 2 * 40
    of = median if column == "drift" else lambda values: sum(values) / len(values)
    for row in rows:
        values = groups[row["network"], int(row["step"])]
        assert float(row[column]) == pytest.approx(of(values), abs=1e-6)


def test_the_head_says_what_was_found(plain_page: Path, opened: Open, runs: list[dict[str, Any]]) -> None:
    page = opened(plain_page)
    (printed,) = read_json("show-clustering", "--db", database(plain_page))
    n, outliers = printed["parameters"]["n_embeddings"], printed["parameters"]["n_outliers"]
    n_clusters = len(printed["clusters"])
    assert page.cells(".tiles b")[:4] == [
        str(n),
        str(len(runs)),
        str(n_clusters),
        f"{100 * outliers / n:.1f} %",
    ]
    settled = sum(run["settled_in"] is not None for run in runs)
    fixed = sum(run["period"] == 1 for run in runs)
    loops = sum((run["period"] or 0) > 1 for run in runs)
    head = page.page.locator("h1").inner_text()
    assert f"Of {n} texts of 8 runs, {100 - 100 * outliers / n:.0f} % are in {n_clusters} clusters." in head
    assert f"{settled} of 8 runs settle{'s' * (settled == 1)} in one" in head
    assert f"{fixed} repeat{'s' * (fixed == 1)} one text until their end and {loops} a loop" in head
    page.page.locator(".facts-box summary").click()
    facts = page.page.locator(".facts-box").inner_text()
    for name in ("min_cluster_size", "min_samples", "cluster_selection_method"):
        assert f"{name}\t{printed['parameters'][name]}" in facts
    assert printed["parameters"]["input_sha256"] in facts


ARCS = """() => {
    globalThis.arcs = [];
    const { arc, clearRect } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.arc = function (x, y, ...words) {
        if (this.canvas.className === 'over') arcs.push([x, y]);
        return arc.call(this, x, y, ...words);
    };
    CanvasRenderingContext2D.prototype.clearRect = function (...words) {
        if (this.canvas.className === 'over') arcs.length = 0;
        return clearRect.apply(this, words);
    };
}"""
"""Note where steps are drawn, anew with every drawing."""


def test_a_run_is_drawn_step_by_step(plain_page: Path, opened: Open, runs: list[dict[str, Any]]) -> None:
    page = opened(plain_page)
    page.evaluate(ARCS)
    for run in runs[1:4]:
        page.evaluate("id => { location.hash = `run=${id}`; }", run["run_id"])
        page.until(f"report.page.runs.ids[report.chosen.run] === '{run['run_id']}'")
        # Else the steps of the run before may still be those that are drawn.
        page.wait_for_frames()
        points = page.evaluate(
            """run => {
                const { n, runs, steps } = report.page.map;
                const mine = Array.from({ length: n }, (_, at) => at).filter((at) => runs[at] === run);
                return mine.sort((a, b) => steps[a] - steps[b]);
            }""",
            page.chosen("run"),
        )
        places = page.evaluate(PLACES, points)
        assert len(places) == run["n_steps"] == 40
        page.until("arcs.length >= 40")
        assert page.evaluate("arcs") == [pytest.approx(place) for place in places]
    # So far as the slider stands, and on from there.
    page.page.locator("#step").fill("5")
    page.until("arcs.length === 6")
    assert page.evaluate("arcs") == [pytest.approx(place) for place in places[:6]]
    page.page.locator("#play").click()
    page.until("arcs.length > 7 && arcs.length < 40")


def test_the_tree_shows_and_chooses_clusters(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page)
    (printed,) = read_json("show-clustering", "--db", database(plain_page))
    sizes = {cluster["label"]: cluster["size"] for cluster in printed["clusters"]}
    requests = page.evaluate(
        r"""() => {
            const canvas = document.querySelector('#tree-box canvas');
            const { clientWidth, clientHeight } = canvas;
            const found = {};
            for (let y = 2; y < clientHeight; y += 12) {
                for (let x = 2; x < clientWidth; x += 8) {
                    const at = (event) => {
                        Object.defineProperty(event, 'offsetX', { value: x });
                        Object.defineProperty(event, 'offsetY', { value: y });
                        canvas.dispatchEvent(event);
                    };
                    at(new PointerEvent('pointermove'));
                    const tip = document.querySelector('.tip');
                    if (!tip || tip.hidden) continue;
                    const said = tip.firstChild.textContent.match(/^(\d+) embeddings, cluster (\d+)$/);
                    if (!said || said[2] in found) continue;
                    at(new MouseEvent('click'));
                    found[said[2]] = [Number(said[1]), report.chosen.cluster, tip.lastChild.textContent];
                }
            }
            return found;
        }"""
    )
    assert {int(label): size for label, (size, _, _) in requests.items()} == sizes
    for cluster in printed["clusters"]:
        assert requests[str(cluster["label"])][1:] == [cluster["label"], cluster["medoid_text"]]
