"""Test clusterings as text and as plain data: complete, within the width, omissions named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panic_tda.cli import terminal
from panic_tda.cli.rendering import clusterings as rendering
from panic_tda.cli.rendering import listings
from panic_tda.cli.text import columns
from panic_tda.records import ClusteringRecord
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary
from panic_tda.storage.write.recovery import SavedPending
from panic_tda.types import CLUSTERED, FAILED, SKIPPED, ModelOutcome

WIDE = 10_000
PARAMETERS = {
    "cluster_selection_epsilon": 0.4,
    "min_cluster_size": 10,
    "min_samples": 9,
    "allow_single_cluster": True,
    "cluster_selection_method": "eom",
    "max_cluster_size": None,
    "distance_floor": 0.001,
    "backend": "sklearn",
    "exact": True,
    "downsample": 10,
    "n_total": 990,
    "n_sampled": 100,
    "n_excluded": 1,
    "n_embeddings": 99,
    "n_unique": 80,
    "n_clusters": 3,
    "n_outliers": 33,
    "versions": {},
}


def summary(**changes: object) -> ClusteringSummary:
    return ClusteringSummary(
        id=UUID(int=0xABC),
        embedding_model="Nomic",
        algorithm="hdbscan",
        created_at=datetime(2025, 7, 15, 11, 45, 1),
        started_at=datetime(2025, 7, 15, 10, 0),
        completed_at=datetime(2025, 7, 15, 11, 45),
        record=ClusteringRecord.from_json(PARAMETERS | changes),
    )


def cluster(
    label: int = 0, text: str | None = "a living room", copies: int | None = 4, image: int | None = None
) -> ClusterDetails:
    return ClusterDetails(
        label=label,
        size=33,
        persistence=0.25,
        medoid_embedding_id=UUID(int=1),
        medoid_invocation_id=UUID(int=2),
        medoid_run_id=UUID(int=3),
        medoid_image_invocation_id=None if image is None else UUID(int=image),
        medoid_text=text,
        medoid_copies=copies,
    )


def named(model: str) -> ClusteringSummary:
    return replace(summary(), embedding_model=model)


def outcome(status: str, reason: str | None = None) -> ModelOutcome:
    is_clustered = status == CLUSTERED
    return ModelOutcome(
        id=UUID(int=7) if is_clustered else None,
        embedding_model=f"Model{status}",
        status=status,
        reason=reason,
        n_total=50,
        n_sampled=40,
        n_excluded=2,
        n_embeddings=38 if is_clustered else 0,
        n_clusters=3 if is_clustered else 0,
        n_outliers=19 if is_clustered else 0,
        backend="sklearn" if is_clustered else None,
        exact=True if is_clustered else None,
        seconds={"load": 0.25, "fit": 1.0} if is_clustered else {},
    )


OUTCOMES = [outcome(CLUSTERED), outcome(SKIPPED, "one row"), outcome(FAILED, "bad vectors")]


def test_outcomes_are_a_table_with_the_reasons_below() -> None:
    listed, *reasons = rendering.outcomes_text(OUTCOMES, WIDE).split("\n\n")
    header, *lines = listed.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == [
        *("Modelclustered", "clustered", "38", "3", "50.0", "%", "sklearn", "yes", "1.2", "s"),
        str(UUID(int=7)),
    ]
    column = header.index("clustering", header.index("time"))
    assert [line[column:] for line in lines] == [str(UUID(int=7)), "-", "-"]
    assert reasons == ["Modelskipped: one row", "Modelfailed: bad vectors"]


def test_a_long_reason_is_wrapped_between_words() -> None:
    reason = "use --backend tiled (with --memory-limit, where the host is short too) " * 6
    listed, paragraph = rendering.outcomes_text([outcome(FAILED, reason)], 80).split("\n\n")
    assert max(map(len, listed.splitlines())) <= 80
    lines = paragraph.splitlines()
    assert 1 < len(lines) <= len(reason) // 60
    assert max(map(len, lines)) <= 80
    assert " ".join(lines) == f"Modelfailed: {reason.strip()}"
    assert rendering.outcomes_text([outcome(FAILED, reason)], WIDE).endswith(f"\n\n{' '.join(lines)}")


def test_the_id_of_an_outcome_is_as_short_as_is_unique() -> None:
    names = {str(UUID(int=7)): "00000000"}
    line = rendering.outcomes_text(OUTCOMES[:1], WIDE, names=names).splitlines()[1]
    assert line.split()[-1] == "00000000"


def test_outcomes_as_json_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_data(rendering.outcomes_json(OUTCOMES))
    printed = json.loads(capsys.readouterr().out)
    assert [outcome["id"] for outcome in printed["results"]] == [str(UUID(int=7)), None, None]


def test_a_listing_shows_whether_it_is_exact() -> None:
    for exact, word in ((True, "yes"), (False, "no")):
        header, line, below = listings.listing_text([summary(exact=exact)], 1, WIDE).splitlines()
        assert header.split() == ["id", "model", "created", "(UTC)", "clusters", "outliers", "time"]
        assert line.split() == [
            *(str(UUID(int=0xABC)), "Nomic", "2025-07-15", "11:45", "3", "33.3", "%", "6300.0", "s")
        ]
        assert below == (
            "settings: epsilon 0.4, min_cluster_size 10, min_samples 9, downsample 10, embeddings 99, "
            f"selection method eom, single cluster allowed yes, exact {word}, backend sklearn"
        )
        assert listings.listing_json([summary(exact=exact)])[0]["exact"] is exact
    for exact, word in ((True, "(exact)"), (False, "(approximate)")):
        assert word in rendering.details_text(summary(exact=exact), [], 100)


def test_a_selected_root_cluster_is_mentioned_in_every_view() -> None:
    root = summary(
        n_embeddings=200, n_clusters=1, n_outliers=180, root_selected=True, largest_cluster_size=20
    )
    text = " ".join(rendering.details_text(root, [], 100).split())
    assert "doubtful: The root cluster, which holds all rows, was selected: 20 of 200 rows (10.0 %)" in text
    assert "--no-allow-single-cluster excludes it" in text
    assert "1 (root)" in listings.listing_text([root], 1, WIDE)
    kinds = ["root_selected", "mostly_outliers"]
    listed, shown = listings.listing_json([root])[0], rendering.details_json(root, [])
    for shown_text in (listed, shown):
        assert [doubt.kind for doubt in shown_text["doubts"]] == kinds
    assert listed["root_selected"] is True
    assert shown["parameters"]["root_selected"] is True
    # Records of older versions do not say; nothing is made up of them.
    old = summary(n_embeddings=200, n_clusters=2, n_outliers=100)
    assert listings.listing_json([old])[0]["root_selected"] is None
    assert "(root)" not in listings.listing_text([old], 1, WIDE)
    assert "doubtful" not in rendering.details_text(old, [], 100)


def test_a_listing_names_the_columns_it_leaves_out() -> None:
    listing = listings.listing_text([summary()], 5, WIDE)
    assert "… and 4 older ones; list-clusterings --limit 0 lists all" in listing
    assert "…" not in listings.listing_text([summary()], 1, WIDE)


SOURCE = UUID(int=0xDEF)
CHANGES: dict[str, tuple[object, str]] = {
    "epsilon": (0.35, "0.35"),
    "min size": (25, "25"),
    "min_samples": (64, "64"),
    "downsample": (1000, "1000"),
    "embeddings": (199, "199"),
    "recut of": (str(SOURCE), str(SOURCE)),
    "method": ("leaf", "leaf"),
    "max size": (500, "500"),
    "single": (False, "no"),
    "exact": (False, "no"),
    "backend": ("cuml", "cuml"),
}
KEYS = {
    "epsilon": "cluster_selection_epsilon",
    "min size": "min_cluster_size",
    "recut of": "recut_of",
    "embeddings": "n_embeddings",
    "method": "cluster_selection_method",
    "max size": "max_cluster_size",
    "single": "allow_single_cluster",
}


def split(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return re.split(r" {2,}", line.strip())


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_differs_is_a_column_and_not_in_the_footer(name: str) -> None:
    value, shown = CHANGES[name]
    other_summary = summary(**{KEYS.get(name, name): value})
    header, changed, first, below = listings.listing_text([other_summary, summary()], 2, WIDE).splitlines()
    assert name in header
    cells, others = (dict(zip(split(header), split(line), strict=True)) for line in (changed, first))
    assert cells[name] == shown != others[name]
    assert below.startswith("the same in all: ")
    assert len(re.findall(",", below)) < len(CHANGES) - 1
    (as_json,) = listings.listing_json([other_summary])
    assert value in [item for item in as_json.values() if type(item) is type(value)]


def test_the_source_of_a_recut_is_as_short_as_its_own_id() -> None:
    recut_summary = summary(recut_of=str(SOURCE))
    source = replace(summary(), id=SOURCE)
    names = {str(SOURCE): "00000000-d", str(recut_summary.id): "00000000-a"}
    _, line, *_ = listings.listing_text([recut_summary, source], 2, WIDE, names=names).splitlines()
    assert line.split()[:5] == ["00000000-a", "Nomic", "2025-07-15", "11:45", "00000000-d"]
    # A source that was deleted has no short id any more.
    short_ids = {str(recut_summary.id): "00000000-a"}
    _, line, *_ = listings.listing_text([recut_summary, summary()], 2, WIDE, names=short_ids).splitlines()
    assert line.split()[4] == str(SOURCE)[:10]


def make_various() -> list[ClusteringSummary]:
    """Return clusterings that differ in every setting."""
    changes = {KEYS.get(name, name): value for name, (value, _) in CHANGES.items()}
    return [summary(**changes), summary(n_clusters=12_345)]


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120, 200])
def test_a_listing_fits_the_terminal_and_names_the_dropped_columns(width: int) -> None:
    names = {str(UUID(int=0xABC)): "00000000-0000", str(SOURCE): "00000000-0001"}
    header, *lines = listings.listing_text(make_various(), 2, width, names=names).splitlines()
    assert max(map(len, (header, *lines))) <= width
    assert all(line.startswith("00000000-0000  Nomic  2025-07-15 11:45  ") for line in lines[:2])
    below = " ".join(lines[2:])
    matches = re.findall(r"\(no room for: (.*); --json has all\)", below)
    hidden = {name for names in matches for name in names.split(", ")}
    every = {"id", "model", "created (UTC)", "clusters", "outliers", "time", *CHANGES}
    assert {name for name in every if name in header} == every - hidden
    assert bool(hidden) == (width < 170)
    assert not hidden & {"id", "model", "created (UTC)", "clusters"}
    assert width < 80 or not hidden & {"epsilon", "min size"}


def test_at_80_columns_what_recuts_change_and_their_source_are_shown() -> None:
    recut_summary = summary(recut_of=str(SOURCE), cluster_selection_epsilon=0.5, min_cluster_size=20)
    names = {str(recut_summary.id): "01a22ccc-29", str(SOURCE): "01a22ccc-d1"}
    text = listings.listing_text([recut_summary, replace(summary(), id=SOURCE)], 2, 80, names=names)
    header, line, *_ = text.splitlines()
    assert {"created (UTC)", "epsilon", "min size", "recut of"} <= {*split(header)}
    assert "2025-07-15 11:45" in line


def test_a_long_name_is_cut_if_no_column_can_be_dropped() -> None:
    (_, line, *_) = listings.listing_text([named("風船" * 40)], 1, 80).splitlines()
    assert line.startswith(f"{UUID(int=0xABC)}  風船")
    assert "…" in line
    assert columns(line) <= 80
    assert "風船" * 40 in listings.listing_text([named("風船" * 40)], 1, WIDE)


def test_wide_characters_keep_the_columns_straight() -> None:
    header, *lines = listings.listing_text([named("風船"), named("Nomic")], 2, WIDE).splitlines()
    start = header.index("created")
    assert [columns(line[: line.index("2025-07-15")]) for line in lines[:2]] == [start, start]


def test_names_are_shown_without_control_characters() -> None:
    evil = "\x1b]0;title\x07\nSecond\x9b2J"
    texts = (
        listings.listing_text([named(evil)], 1, WIDE),
        rendering.details_text(named(evil), [], 100),
        listings.deletion_text([named(evil)], WIDE),
        rendering.outcomes_text([replace(outcome(FAILED, evil), embedding_model=evil)], WIDE),
        rendering.saved_text([SavedPending(UUID(int=1), evil, 0)]),
    )
    for text in texts:
        assert "Second" in text
        assert all(line.isprintable() for line in text.split("\n"))
        assert not any(line.startswith("Second") for line in text.split("\n"))
    assert listings.listing_json([named(evil)])[0]["embedding_model"] == evil


def test_a_clustering_without_rows_is_shown() -> None:
    empty = summary(n_embeddings=0, n_clusters=0, n_outliers=0)
    assert listings.listing_json([empty])[0]["outlier_percent"] is None
    assert len(listings.listing_text([empty], 1, WIDE).splitlines()) == 3
    assert "There are no clusters: all 0 rows are outliers." in rendering.details_text(empty, [], 80)


def test_details_show_every_relevant_parameter() -> None:
    text = rendering.details_text(summary(), [cluster(label) for label in range(3)], WIDE, limit=3)
    for part in (
        "epsilon 0.4 chord (cosine distance 0.08)",
        "min_cluster_size 10",
        "min_samples 9",
        "eom",
        "single cluster allowed",
        "backend sklearn (exact)",
        "downsample 10",
        "total 990, sampled 100, excluded 1, embeddings 99, unique 80, clusters 3, outliers 33",
        f"embedding {UUID(int=1)}",
        f"invocation {UUID(int=2)}",
        f"run {UUID(int=3)}",
        "image -",
        "33.3 %",
        "persistence 0.250",
        "×4",
        "a living room",
    ):
        assert part in text, part
    assert "smaller clusters" not in text
    assert "single cluster not allowed" in rendering.details_text(summary(allow_single_cluster=False), [], 80)
    assert "outlier." not in rendering.details_text(summary(), [], 80)
    assert "and 2 smaller clusters" in rendering.details_text(summary(), [cluster()], 80, limit=1)
    assert "2 clusters have been deleted since" in rendering.details_text(summary(), [cluster()], 80)


def test_a_limited_size_is_shown() -> None:
    assert "max_cluster_size 500" in rendering.details_text(summary(max_cluster_size=500), [], 100)


@pytest.mark.slow
@given(st.text(max_size=400), st.integers(60, 250))
def test_every_text_is_printable_and_within_the_width(text: str, width: int) -> None:
    shown = rendering.details_text(summary(n_clusters=1), [cluster(text=text)], width).split("\n")
    assert all(line.isprintable() and columns(line) <= width for line in shown)
    printed = rendering.details_json(summary(), [cluster(text=text)])
    assert printed["clusters"][0]["medoid_text"] == text


def test_in_a_narrow_terminal_the_text_is_below_the_numbers() -> None:
    text = "a living room with a couch, a lamp and a large window"
    wide, narrow = (
        rendering.details_text(summary(), [cluster(text=text)], width).splitlines() for width in (72, 71)
    )
    assert next(line for line in wide if "×4" in line).endswith("×4  a living room with …")
    (number,) = (number for number, line in enumerate(narrow) if line.endswith("×4"))
    assert narrow[number + 1].strip() == text


def test_images_and_missing_texts_are_shown_differently() -> None:
    image = rendering.details_text(summary(), [cluster(text=None, copies=None, image=2)], 100)
    assert "(image)" in image
    for described in (3, None):
        bare = rendering.details_text(summary(), [cluster(text=None, copies=None, image=described)], 100)
        assert "(no text)" in bare
        assert "(image)" not in bare


@pytest.mark.parametrize("width", [60, 80, 100, 250])
def test_ids_are_never_cut(width: int) -> None:
    shown = rendering.details_text(summary(), [cluster()], width)
    for number in (1, 2, 3):
        assert str(UUID(int=number)) in shown


def test_a_deletion_counts_what_it_deletes() -> None:
    assert listings.deletion_text([], WIDE) == "Nothing to delete."
    text = listings.deletion_text([summary(), summary(n_clusters=4, n_embeddings=1)], WIDE)
    assert "This deletes 2 clusterings with 7 clusters and 100 assignments." in text
    assert text.count(str(UUID(int=0xABC))) == 2
    many = listings.deletion_text([summary()] * 1000, WIDE)
    assert len(many.splitlines()) == 54
    assert "and 950 older ones" in many
    assert "This deletes 1000 clusterings" in many


def test_results_that_were_saved_later_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert rendering.saved_text([]) == "There are no pending clusterings."
    saved = [SavedPending(UUID(int=1), "Nomic", 0), SavedPending(UUID(int=2), "Nomic", 5)]
    first, second = rendering.saved_text(saved).splitlines()
    assert "gone" not in first
    assert "5 embeddings have been deleted since and were left out" in second
    terminal.print_data(saved)
    assert json.loads(capsys.readouterr().out)[1] == {
        "id": str(UUID(int=2)),
        "embedding_model": "Nomic",
        "n_vanished": 5,
    }


def test_counts_of_one_are_singular() -> None:
    question = listings.deletion_text([summary(n_clusters=1, n_embeddings=1)], WIDE)
    assert question.endswith("This deletes 1 clustering with 1 cluster and 1 assignment.")
    shown = rendering.details_text(summary(n_clusters=2), [cluster()], WIDE, limit=1)
    assert shown.endswith("… and 1 smaller cluster; --limit 0 shows all")
