"""Clusterings as text and as plain data: complete, within the width, nothing left out silently."""

from __future__ import annotations

import json
from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panic_tda.cli import rendering
from panic_tda.storage.results import ClusterDetails, ClusteringSummary
from panic_tda.types import CLUSTERED, FAILED, SKIPPED, ModelOutcome, SavedPending

PARAMETERS = {
    "cluster_selection_epsilon": 0.4,
    "min_cluster_size": 10,
    "min_samples": 9,
    "allow_single_cluster": True,
    "cluster_selection_method": "eom",
    "max_cluster_size": None,
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
}


def summary(**changes: object) -> ClusteringSummary:
    return ClusteringSummary(
        id=UUID(int=0xABC),
        embedding_model="Nomic",
        algorithm="hdbscan",
        created_at=datetime(2025, 7, 15, 11, 45, 1),
        started_at=datetime(2025, 7, 15, 10, 0),
        completed_at=datetime(2025, 7, 15, 11, 45),
        parameters=PARAMETERS | changes,
    )


def cluster(label: int = 0, text: str | None = "a living room", copies: int | None = 4) -> ClusterDetails:
    return ClusterDetails(
        label=label,
        size=33,
        persistence=0.25,
        medoid_embedding_id=UUID(int=1),
        medoid_invocation_id=UUID(int=2),
        medoid_run_id=UUID(int=3),
        medoid_image_invocation_id=None,
        medoid_text=text,
        medoid_copies=copies,
    )


def outcome(status: str, reason: str | None = None) -> ModelOutcome:
    done = status == CLUSTERED
    return ModelOutcome(
        id=UUID(int=7) if done else None,
        embedding_model=f"Model{status}",
        status=status,
        reason=reason,
        n_total=50,
        n_sampled=40,
        n_excluded=2,
        n_embeddings=38 if done else 0,
        n_clusters=3 if done else 0,
        n_outliers=19 if done else 0,
        backend="sklearn" if done else None,
        exact=True if done else None,
        seconds={"load": 0.25, "fit": 1.0} if done else {},
    )


OUTCOMES = [outcome(CLUSTERED), outcome(SKIPPED, "one row"), outcome(FAILED, "bad vectors")]


def test_outcomes_are_a_table_with_their_reasons() -> None:
    header, *lines = rendering.outcomes_text(OUTCOMES).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == [
        *(
            "Modelclustered",
            "clustered",
            "38",
            "3",
            "50.0",
            "%",
            "sklearn",
            "yes",
            "1.2",
            "s",
            str(UUID(int=7)),
        )
    ]
    assert lines[1].endswith("one row")
    assert lines[2].endswith("bad vectors")
    column = header.index("clustering", header.index("time"))
    assert lines[0][column:] == str(UUID(int=7))
    assert lines[2][column:] == "bad vectors"


def test_outcomes_as_json_are_plain() -> None:
    said = rendering.outcomes_json(OUTCOMES)
    assert json.loads(json.dumps(said)) == said
    assert [one["id"] for one in said["results"]] == [str(UUID(int=7)), None, None]


def test_a_listing_shows_whether_it_is_exact() -> None:
    for exact, word in ((True, "yes"), (False, "no")):
        header, line = rendering.listing_text([summary(exact=exact)], 1).splitlines()
        assert line[header.index("exact") :].split()[0] == word
        assert line.split()[:5] == [str(UUID(int=0xABC)), "Nomic", "hdbscan", "0.4", "10"]
        assert line.endswith("2025-07-15 11:45  6300.0 s")
        assert "33.3 %" in line
        assert rendering.listing_json([summary(exact=exact)])[0]["exact"] is exact
    for exact, word in ((True, "(exact)"), (False, "(approximate)")):
        assert word in rendering.details_text(summary(exact=exact), [], 100)


def test_a_listing_says_what_it_leaves_out() -> None:
    assert "… and 4 older ones; list-clusterings --limit 0 lists all" in rendering.listing_text(
        [summary()], 5
    )
    assert "…" not in rendering.listing_text([summary()], 1)


def test_a_clustering_without_rows_divides_by_nothing() -> None:
    empty = summary(n_embeddings=0, n_clusters=0, n_outliers=0)
    assert rendering.listing_json([empty])[0]["outlier_percent"] is None
    assert len(rendering.listing_text([empty], 1).splitlines()) == 2
    assert "every embedding is an outlier" in rendering.details_text(empty, [], 80)


def test_details_have_every_parameter_that_matters() -> None:
    text = rendering.details_text(summary(), [cluster(label) for label in range(3)], 120, limit=3)
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
    assert "2 clusters have gone since" in rendering.details_text(summary(), [cluster()], 80)


def test_a_limited_size_is_shown() -> None:
    assert "max_cluster_size 500" in rendering.details_text(summary(max_cluster_size=500), [], 100)


@given(st.text(max_size=400), st.integers(60, 250))
def test_any_text_makes_one_printable_line_within_the_width(text: str, width: int) -> None:
    shown = rendering.details_text(summary(n_clusters=1), [cluster(text=text)], width)
    (line,) = (line for line in shown.split("\n") if "persistence" in line)
    assert line.isprintable()
    assert len(line) <= max(width, 80)
    said = rendering.details_json(summary(), [cluster(text=text)])
    assert said["clusters"][0]["medoid_text"] == text


def test_images_have_no_text() -> None:
    assert "(image)" in rendering.details_text(summary(), [cluster(text=None, copies=None)], 100)


@pytest.mark.parametrize("width", [60, 80, 100, 250])
def test_ids_are_never_cut(width: int) -> None:
    shown = rendering.details_text(summary(), [cluster()], width)
    for number in (1, 2, 3):
        assert str(UUID(int=number)) in shown


def test_what_a_deletion_takes_is_counted() -> None:
    assert rendering.deletion_text([]) == "Nothing to delete."
    text = rendering.deletion_text([summary(), summary(n_clusters=4, n_embeddings=1)])
    assert "2 clusterings go, with 7 clusters and 100 assignments." in text
    assert text.count(str(UUID(int=0xABC))) == 2
    many = rendering.deletion_text([summary()] * 1000)
    assert len(many.splitlines()) == 53
    assert "and 950 older ones" in many
    assert "1000 clusterings go" in many


def test_what_was_saved_later() -> None:
    assert rendering.saved_text([]) == "No clustering waits to be saved."
    saved = [SavedPending(UUID(int=1), "Nomic", 0), SavedPending(UUID(int=2), "Nomic", 5)]
    first, second = rendering.saved_text(saved).splitlines()
    assert "gone" not in first
    assert "5 embeddings have gone since and were left out" in second
    assert rendering.saved_json(saved)["saved"][1] == {
        "id": str(UUID(int=2)),
        "embedding_model": "Nomic",
        "n_vanished": 5,
    }
