"""Test `show-trajectories`: JSON has the documented keys, text fits and has no control characters."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from click.testing import CliRunner, Result

from panic_tda.cli.rendering import trajectories as rendering
from panic_tda.cli.text import columns
from panic_tda.insight.dwell import DwellStatistics
from panic_tda.insight.dynamics import ClusterVisits
from panic_tda.insight.intervals import Interval
from panic_tda.insight.memoryless import MemorylessTest
from panic_tda.insight.milestones import Transitions
from panic_tda.insight.recurrence import Absorption, RepeatStretches
from panic_tda.insight.run_groups import GroupSummary, RunSummary
from panic_tda.insight.trajectories import TrajectoryStudy
from panic_tda.main import main
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import RunFacts
from tests.cli.test_rendering import summary
from tests.insight.planted import PlantedRun, plant, run_id
from tests.snapshots import opened, run_python, snapshot

RUNS = [
    PlantedRun([0] * 5 + [-1] + [1] * 25, [*"abcde", *["a cat"] * 26]),
    PlantedRun([0, 1] * 12, ["a cat", "a dog"] * 12, network=("SDXLTurbo", "Moondream"), prompt="a king"),
    PlantedRun([-1] * 4),
]
WIDE = 10_000
INTERVALS = ("transit_share", "median_absorbed_at", "median_dwell", "weibull_shape")


def invoke(*words: object) -> Result:
    result = CliRunner().invoke(main, ["show-trajectories", *map(str, words)])
    assert "Traceback" not in result.output
    return result


def read_json(*words: object) -> Any:
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    plant(tmp_path / "one.sqlite", RUNS)
    return tmp_path / "one.sqlite"


def test_json_has_the_documented_keys(path: Path) -> None:
    printed = read_json("--db", path, "--runs")
    assert list(printed) == [
        *("clustering", "lag", "n_steps", "n_predicted", "groups", "total", "transitions", "clusters"),
        *("markov", "networks", "runs"),
    ]
    assert UUID(printed["clustering"])
    for group in printed["groups"]:
        assert list(group) == [
            *("group", "n_runs", "n_steps", "transit_share", "settled_runs", "return_share"),
            *("periodic_runs", "stretches", "median_absorbed_at", "absorbed_share", "absorbed_within"),
            *("dwell", "intervals"),
        ]
        assert list(group["dwell"]) == [
            *("visits", "censored", "median", "weibull_shape", "expected_shape"),
            *("log_likelihood_ratio", "p_value", "clusters_tested", "heavier_than_exponential"),
        ]
        assert list(group["intervals"]) == [
            *("transit_share", "settled_share", "repeating_share", "return_share", "left_again_share"),
            *("median_absorbed_at", "median_dwell", "weibull_shape"),
        ]
    for cluster in printed["clusters"]:
        assert list(cluster) == ["label", "runs", "visits", "median_dwell", "leaving_rate"]
    for transition in printed["transitions"]:
        assert list(transition) == ["from", "to", "count"]
    for run in printed["runs"]:
        assert list(run) == [
            *("run_id", "n_steps", "distinct_texts", "returns", "period", "absorbed_at", "repeats"),
            *("settled_in", "settled_at", "transit_share", "visits"),
        ]
    assert printed["groups"][1] == {
        "group": {"network": ["SDXLTurbo", "Moondream"]},
        "n_runs": 1,
        "n_steps": 24,
        "transit_share": 0.0,
        "settled_runs": 0,
        "return_share": 22 / 24,
        "periodic_runs": {"2": 1},
        "stretches": {"reached_end": 1, "left_again": 0, "by_repeats": []},
        "median_absorbed_at": 0.0,
        "absorbed_share": 1.0,
        "absorbed_within": 0.0,
        "dwell": {
            "visits": 24,
            "censored": 1,
            "median": 1.0,
            "weibull_shape": None,
            "expected_shape": None,
            "log_likelihood_ratio": None,
            "p_value": None,
            "clusters_tested": 0,
            "heavier_than_exponential": None,
        },
        # Of one run there is no interval.
        "intervals": dict.fromkeys(printed["groups"][1]["intervals"]),
    }
    assert printed["total"]["intervals"]["transit_share"] == [0.0, 1.0]
    assert printed["networks"]["differences"] == []
    assert printed["runs"][0] == {
        "run_id": str(UUID(run_id(0))),
        "n_steps": 31,
        "distinct_texts": 6,
        "returns": 25,
        "period": 1,
        "absorbed_at": 5,
        "repeats": 26,
        "settled_in": 1,
        "settled_at": 6,
        "transit_share": 1 / 31,
        "visits": [[0, 0, 6], [1, 6, 25]],
    }
    assert printed["transitions"] == [
        {"from": 0, "to": 0, "count": 5},
        {"from": 0, "to": 1, "count": 13},
        {"from": 1, "to": 0, "count": 11},
        {"from": 1, "to": 1, "count": 24},
    ]


def test_json_has_runs_on_request(path: Path) -> None:
    assert "runs" not in read_json("--db", path)
    (run,) = read_json("--db", path, "--run", run_id(1)[:9])["runs"]
    assert run["run_id"] == str(UUID(run_id(1)))
    assert len(read_json("--db", path, "--run", run_id(1), "--runs")["runs"]) == 3


def test_every_option_has_an_effect(path: Path) -> None:
    assert read_json("latest", "--db", path, "--lag", 2)["lag"] == 2
    assert read_json("--db", path, "--lag", 2)["transitions"] != read_json("--db", path)["transitions"]
    assert [group["group"] for group in read_json("--db", path, "--by", "prompt")["groups"]] == [
        {"prompt": "a king"},
        {"prompt": "a red apple"},
    ]
    assert [group["group"] for group in read_json("--db", path, "--by", "model")["groups"]] == [
        {"model": "BLIP2"},
        {"model": "Moondream"},
    ]
    with opened(path) as connection:
        connection.execute("UPDATE embeddingcluster SET probability = 0.4 WHERE label = 1")
    weak = read_json("--db", path, "--core-probability", 0.5, "--runs")
    assert [run["visits"] for run in weak["runs"]] == [[[0, 0, 31]], [[0, 0, 24]], [[-1, 0, 4]]]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--run", "ffff"], "none of the 3 runs"),
        (["--run", ""], "none of the 3 runs"),
        (["--run", "0000"], "3 of the 3 runs"),
        (["--lag", "31"], "lag must be at most 30"),
        (["--lag", "0"], "--lag"),
        (["--core-probability", "2"], "--core-probability"),
        (["--core-probability", "nan"], "core_probability must be"),
        (["--by", "seed"], "--by"),
        (["ffff"], "the only stored clustering does not begin with"),
        (["--model", "Nomic"], "no clustering of model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_arguments_are_errors_that_name_the_reason(path: Path, words: list[str], reason: str) -> None:
    result = invoke("--db", path, *words)
    assert result.exit_code == 2
    assert reason in result.stderr
    answer = invoke("--db", path, "--json", *words)
    assert answer.exit_code == 2
    assert reason in json.loads(answer.stdout)["error"]["message"]


def test_a_read_only_file_is_read_and_left_as_it_is(path: Path) -> None:
    before = snapshot(path)
    path.chmod(0o444)
    assert invoke("--db", path, "--runs", "--run", run_id(0)).exit_code == 0
    assert snapshot(path) == before


def test_the_text_has_every_section(path: Path) -> None:
    text = invoke("--db", path, "--runs", "--run", run_id(0), "--markov").stdout
    head, groups, totals, _, moves, runs, run = text.strip().split("\n\n")
    assert "of Planted" in head
    assert "Times are output steps." in head
    assert [line.split()[:4] for line in groups.splitlines()[1:]] == [
        ["FluxDev", "→", "BLIP2", "2"],
        ["SDXLTurbo", "→", "Moondream", "1"],
    ]
    totals = " ".join(totals.split())
    assert "All 3 runs: 8.5 % (0.0 to 100.0) of 59 steps are in transit, 1 settled" in totals
    assert "1 repeats one text until the end and 1 a loop" in totals
    assert "Of 2 stretches of repeats, 0 were left again." in totals
    assert moves.splitlines()[0] == "Most frequent transitions at lag 1:"
    # The medoids are the first members by id.
    assert [line.split()[:2] for line in moves.splitlines()[2:]] == [["13", "0"], ["11", "1"]]
    assert len(runs.splitlines()) == 4
    assert str(UUID(run_id(2)))[:8] in runs
    first, way, ending, *legend = run.splitlines()
    assert first == f'Run {UUID(run_id(0))}, FluxDev → BLIP2, "a red apple", seed 0'
    assert way == "0×6 → 1×25+"
    assert "settled in 1 at step 6" in ending
    assert "repeats until the end from step 5 on (26 times)" in ending
    assert [line.split()[0] for line in legend] == ["1", "0"]


def test_a_sampled_clustering_shows_the_distance_between_steps(tmp_path: Path) -> None:
    plant(tmp_path / "ten.sqlite", RUNS, downsample=10)
    text = invoke("--db", tmp_path / "ten.sqlite").stdout
    assert "Times are output steps, 10 from one sampled step to the next." in text
    assert read_json("--db", tmp_path / "ten.sqlite")["lag"] == 10


def test_a_clustering_whose_runs_were_deleted_is_reported(path: Path) -> None:
    with opened(path) as connection:
        connection.execute("DELETE FROM embeddingcluster")
    assert "No run has a step left in this clustering." in invoke("--db", path).stdout
    assert read_json("--db", path, "--runs")["groups"] == []


SHOW = """
import sys
from click.testing import CliRunner
from panic_tda.main import main
result = CliRunner().invoke(main, ["show-trajectories", "--json", "--db", sys.argv[1]])
assert result.exit_code == 0, result.output
print(any(name.partition(".")[0] == "deeptime" for name in sys.modules))
"""


def test_a_markov_model_is_fitted_on_request_and_only_then_deeptime_is_imported(path: Path) -> None:
    pytest.importorskip("deeptime", reason="deeptime is not installed (extra dynamics)")
    plant(path.parent / "walk.sqlite", [PlantedRun([0, 0, 0, 1, 1, 1, 2, 2, 2, 0] * 4)] * 4)
    walk = path.parent / "walk.sqlite"
    assert read_json("--db", walk)["markov"] is None
    assert "Markov" not in invoke("--db", walk).stdout
    model = read_json("--db", walk, "--markov")["markov"]
    assert model["states"] == [0, 1, 2]
    assert "Markov model at lag 1: clusters in it 3 of 3" in invoke("--db", walk, "--markov").stdout
    process = run_python(SHOW, walk)
    assert (process.stdout.strip(), process.returncode) == ("False", 0), process.stderr


# ---------------------------------------------------------------------------- text that fits


def run(**changes: Any) -> RunSummary:
    summary = RunSummary(
        run_id="a" * 32,
        facts=RunFacts(("FluxDev", "BLIP2"), "a prompt", 7),
        n_steps=100,
        transit_steps=31,
        distinct_texts=40,
        returns=60,
        period=None,
        absorbed_at=None,
        settled_in=None,
        settled_at=None,
        visits=np.array([[step % 13, step, 1] for step in range(100)]),
    )
    return replace(summary, **changes)


def study(group: dict[str, Any], *runs: RunSummary) -> TrajectoryStudy:
    dwell = DwellStatistics(100, 1, 3.0, MemorylessTest(12, 99, 0.71, 1.02, 20.0, 1e-9))
    summary = GroupSummary(
        group=group,
        n_runs=1,
        n_steps=100,
        transit_steps=31,
        settled_runs=1,
        n_texts=100,
        returns=60,
        periodic_runs={1: 1, 3: 2},
        stretches=RepeatStretches(3, 4, ((3, 7, 4),)),
        absorption=Absorption(3, 3, 17.5, 1.0, 20.0),
        dwell=dwell,
        intervals=dict.fromkeys(INTERVALS, Interval(0.25, math.inf)),
    )
    pairs = Transitions(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([50, 30, 20]))
    visits = ClusterVisits(np.array([1, 1]), np.array([50, 50]), [3.0, None], np.array([0.3, np.nan]))
    total = replace(summary, group={}, intervals=dict.fromkeys(INTERVALS))
    return TrajectoryStudy(UUID(int=5), 1, 1, (summary,), total, pairs, visits, runs or (run(),))


def text(study: TrajectoryStudy, texts: dict[int, str | None], width: int, **more: Any) -> str:
    clustering: ClusteringSummary = replace(summary(), **more)
    return rendering.trajectories_text(study, clustering, texts, width=width)


@pytest.mark.parametrize("width", [70, 80, 120, 200])
def test_text_fits_the_terminal(width: int) -> None:
    long_study = study({"network": ["A very long name of a model"] * 4, "prompt": "風船 " * 60})
    texts: dict[int, str | None] = {0: "a cat " * 50, 1: "風船 " * 50}
    groups = text(long_study, texts, width).splitlines()[1:]
    others = [rendering.run_text(run(), texts, width), rendering.runs_text([run()], width)]
    assert max(map(columns, [*groups, *"\n".join(others).splitlines()])) <= width
    assert ("(no room for: " in "\n".join(groups)) == (width < 200)
    assert "…" in "\n".join(groups)


def test_a_long_path_breaks_between_visits() -> None:
    _, *lines = rendering.run_text(run(), {}, 80).splitlines()
    way = " ".join(line for line in lines if "×" in line)
    assert way == " → ".join(f"{step % 13}×1" for step in range(100)) + "+"
    assert lines[-10].split() == ["0", "(no", "text)"]


def test_control_characters_are_not_printed() -> None:
    evil = "\x1b]0;title\x07\nSecond\x9b2J"
    facts = RunFacts((evil, "BLIP2"), evil, 0)
    shown = [
        text(study({"network": [evil], "prompt": evil}), {0: evil, 1: None}, WIDE, embedding_model=evil),
        rendering.run_text(run(facts=facts), {0: evil}, WIDE),
        rendering.runs_text([run(run_id=evil), run(run_id=f"{evil}2")], WIDE),
    ]
    for message in shown:
        assert "Second" in message
        assert all(line.isprintable() for line in message.split("\n"))
        assert not any(line.startswith("Second") for line in message.split("\n"))


def test_unknown_runs_and_empty_endings_are_reported() -> None:
    message = rendering.run_text(
        run(facts=None, visits=np.array([[-1, 0, 9]]), period=3, absorbed_at=4, repeats=2), {}, 80
    )
    assert message.splitlines() == [
        f"Run {UUID('a' * 32)}",
        "-1×9+",
        "31.0 % of 100 steps in transit, 40 different texts of 100, a loop of 3 repeats",
        "until the end from step 4 on (2 times).",
    ]
    nothing = replace(study({"network": None}), transitions=Transitions(*[np.empty(0, dtype=np.int64)] * 3))
    nothing = replace(nothing, groups=(replace(nothing.groups[0], dwell=DwellStatistics(0, 0, None, None)),))
    shown = text(nothing, {}, WIDE)
    assert "(deleted)" in shown
    assert "Most frequent" not in shown
    assert re.search(r" 0 +- +- +-$", shown, re.MULTILINE)
