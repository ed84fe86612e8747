"""Compare the numbers of a page, read by its copy buttons, with those of the commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.insight.density import cluster_sizes
from tests.report.browser import Opened
from tests.report.walks import read_json

Open = Callable[..., Opened]


def number(text: str) -> float | None:
    return float(text) if text else None


def database(page: Path) -> Path:
    return page.parent / "walks.sqlite"


@pytest.mark.parametrize("by", ["network", "prompt", "network,prompt"])
def test_groups_are_those_of_show_trajectories(plain_page: Path, opened: Open, by: str) -> None:
    page = opened(plain_page, f"#by={by}")
    shown = page.copied("#groups-box")
    groups = read_json("show-trajectories", "--db", database(plain_page), "--by", by)["groups"]
    assert len(shown) == len(groups) > 1
    for row, group in zip(shown, groups, strict=True):
        names = [" → ".join(part) if isinstance(part, list) else part for part in group["group"].values()]
        assert [row[name] for name in by.split(",")] == names
        assert int(row["runs"]) == group["n_runs"]
        assert int(row["steps"]) == group["n_steps"]
        assert float(row["transit"]) == group["transit_share"]
        assert int(row["settled"]) == group["settled_runs"]
        assert int(row["repeat until the end"]) == group["periodic_runs"].get("1", 0)
        assert number(row["absorbed at (median)"]) == group["median_absorbed_at"]
        assert int(row["visits"]) == group["dwell"]["visits"]
        assert number(row["dwell (median)"]) == group["dwell"]["median"]
        assert number(row["Weibull shape"]) == group["dwell"]["weibull_shape"]


def test_runs_are_those_of_show_trajectories(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page, "#order=name")
    shown = page.copied("#strips-controls")
    runs = read_json("show-trajectories", "--db", database(plain_page), "--runs")["runs"]
    assert len(shown) == len(runs) == 8
    for row, run in zip(shown, runs, strict=True):
        assert row["run_id"] == run["run_id"]
        assert int(row["visits"]) == len(run["visits"])
        for name in ("n_steps", "period", "absorbed_at", "settled_in", "settled_at", "distinct_texts"):
            assert number(row[name]) == run[name], name
        assert float(row["transit_share"]) == run["transit_share"]
    assert any(run["period"] == 1 for run in runs)


def test_strips_show_the_states_of_all_steps(plain_page: Path, opened: Open) -> None:
    """The colour in the middle of each step that is in a core is its cluster's; others are paler."""
    page = opened(plain_page, "#order=name")
    page.page.locator("#strips-box").scroll_into_view_if_needed()
    page.wait_for_frames()
    runs = read_json("show-trajectories", "--db", database(plain_page), "--runs")["runs"]
    row_colours = page.evaluate(
        """() => {
            const canvas = document.querySelector('#strips-box canvas');
            const context = canvas.getContext('2d');
            const wide = canvas.width - 74 - 30;
            const rows = [];
            for (let run = 0; run < 8; run++) {
                const row = [];
                for (let step = 0; step < 40; step++) {
                    const x = Math.round(74 + ((step + 0.6) / 40) * wide);
                    const pixels = context.getImageData(x, 22 + 15 * run + 4, 5, 1).data;
                    row.push([...pixels].join());
                }
                rows.push(row);
            }
            return rows;
        }"""
    )
    flags = page.evaluate("() => Array.from(report.page.runs.flags)")
    colours: dict[int, set[str]] = {}
    for run, row, of_run in zip(runs, row_colours, np.array(flags).reshape(8, 40), strict=True):
        states = [state for state, _, dwell in run["visits"] for _ in range(dwell)]
        for state, colour, flag in zip(states, row, of_run, strict=True):
            if flag == 0:
                colours.setdefault(state, set()).add(colour)
    assert all(len(shades) == 1 for shades in colours.values()), colours
    assert len({next(iter(shades)) for shades in colours.values()}) == len(colours) > 3


def test_clusters_are_those_of_the_database(plain_page: Path, opened: Open) -> None:
    shown = opened(plain_page, "#sort=label").copied("#cluster-controls")
    (printed,) = read_json("show-clustering", "--db", database(plain_page), "--words")
    visits = [
        (run["run_id"], state)
        for run in read_json("show-trajectories", "--db", database(plain_page), "--runs")["runs"]
        for state, _, _ in run["visits"]
    ]
    entered = Counter(state for _, state in visits)
    runs = Counter(state for _, state in set(visits))
    assert [int(row["cluster"]) for row in shown] == [cluster["label"] for cluster in printed["clusters"]]
    for row, cluster in zip(shown, printed["clusters"], strict=True):
        assert int(row["size"]) == cluster["size"]
        assert float(row["persistence"]) == cluster["persistence"]
        assert int(row["copies"]) == cluster["medoid_copies"]
        assert row["medoid"] == cluster["medoid_text"]
        assert int(row["entered"]) == entered[cluster["label"]]
        assert int(row["runs"]) == runs[cluster["label"]] == cluster["runs"]
        assert int(row["prompts"]) == cluster["prompts"]
        assert float(row["one run"]) == cluster["largest_run_share"]
        assert row["words"] == ", ".join(cluster["words"])


def test_transitions_are_those_of_show_trajectories(plain_page: Path, opened: Open) -> None:
    shown = opened(plain_page).numbers("Transitions")
    counts = {
        (int(row["from / to"]), int(to)): int(count)
        for row in shown
        for to, count in row.items()
        if to != "from / to" and count != "0"
    }
    transitions = read_json("show-trajectories", "--db", database(plain_page))["transitions"]
    assert counts == {(row["from"], row["to"]): row["count"] for row in transitions}


def test_density_is_that_of_show_density(plain_page: Path, opened: Open) -> None:
    page = opened(plain_page)
    printed = read_json("show-density", "--db", database(plain_page))
    bars = page.numbers("Core distances")
    assert [float(row["from"]) for row in bars] == printed["histogram"]["edges"][:-1]
    assert [int(row["rows"]) for row in bars] == printed["histogram"]["all"]
    assert [int(row["outliers"]) for row in bars] == printed["histogram"]["outliers"]
    for title, name in (
        ("Outliers by length of text", "by_text_length"),
        ("Outliers by output step", "by_step"),
        ("Outliers by writer", "by_writer"),
    ):
        rows = page.numbers(title)
        assert [float(row["outlier share"]) for row in rows] == [
            group["outlier_share"] for group in printed[name]
        ]
        assert [int(row["rows"]) for row in rows] == [group["n_rows"] for group in printed[name]]
    for title, name in (
        ("Outliers by min_samples", "by_min_samples"),
        ("Outliers by smallest cluster size", "by_min_cluster_size"),
        ("Outliers by epsilon", "by_epsilon"),
    ):
        rows = page.numbers(title)
        assert [int(row["outliers"]) for row in rows] == [group["n_outliers"] for group in printed[name]]
        assert [int(row["clusters"]) for row in rows] == [setting["n_clusters"] for setting in printed[name]]


@pytest.mark.parametrize("axis", ["epsilon", "min_cluster_size"])
def test_sweeps_are_those_of_sweep_clustering(plain_page: Path, opened: Open, axis: str) -> None:
    page = opened(plain_page)
    shown = page.copied(f"[data-sweep={axis}]")
    sizes = ",".join(map(str, cluster_sizes(320)))
    words = [] if axis == "epsilon" else ["--min-cluster-size", sizes]
    # The page shows what the clustering allows, and not the opposite beside it.
    words += (
        ["--no-allow-single-cluster"] if words else ["--epsilon", "0:1.2:0.1", "--no-allow-single-cluster"]
    )
    settings = read_json("sweep-clustering", "--db", database(plain_page), *words)["settings"]
    assert len(shown) == len(settings)
    for row, setting in zip(shown, settings, strict=True):
        assert float(row["epsilon"]) == setting["epsilon"]
        assert int(row["min_cluster_size"]) == setting["min_cluster_size"]
        assert (int(row["clusters"]), int(row["outliers"])) == (setting["n_clusters"], setting["n_outliers"])
        for title, name in (
            ("largest", "largest_share"),
            ("persistence", "median_persistence"),
            ("validity", "relative_validity"),
            ("ARI stored", "ari_stored"),
            ("ARI before", "ari_previous"),
        ):
            assert number(row[title]) == setting[name], name
        assert (row["cliff"] == "true") == setting["cliff"]
    marked = page.cells(f"[data-sweep={axis}] tr.stored td:nth-child({1 if axis == 'epsilon' else 2})")
    assert marked == (["0"] if axis == "epsilon" else ["5"] if 5 in cluster_sizes(320) else [])


def test_the_points_of_the_map_are_the_assignments(plain_page: Path, opened: Open) -> None:
    """The text for a point under the pointer describes its step in the database."""
    page = opened(plain_page)
    runs = read_json("show-trajectories", "--db", database(plain_page), "--runs")["runs"]
    numbers: Any = page.evaluate(
        "() => { const { map, texts } = report.page; return Array.from({ length: map.n }, (_, at) => "
        "[map.runs[at], map.steps[at], map.labels[at], texts[map.texts[at]]]); }"
    )
    assert len(numbers) == sum(run["n_steps"] for run in runs)
    assert len({(run, step) for run, step, _, _ in numbers}) == len(numbers)
    states = [[state for state, _, dwell in run["visits"] for _ in range(dwell)] for run in runs]
    for run, step, label, text in numbers:
        assert label in (-1, states[run][step])
        assert (label == -1) == text.startswith("nowhere"), text
