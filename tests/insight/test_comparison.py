"""Compare comparisons with loops over sets; planted changes have the expected fates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import NothingShared
from panic_tda.insight.comparison import ClusterFate, LabelComparison, compare_clusterings, compare_labels
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary, find_clusterings, list_clusterings
from panic_tda.storage.write.saving import save_clustering
from panic_tda.types import OUTLIER, FinishedClustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import opened

Sets = dict[int, set[int]]


def as_sets(labels: Iterable[int]) -> Sets:
    sets: Sets = {}
    for row, label in enumerate(labels):
        sets.setdefault(label, set()).add(row)
    return sets


def jaccard(left: set[int], right: set[int]) -> float:
    return len(left & right) / len(left | right)


def fate(members: set[int], a: Sets, b: Sets, outliers_b: set[int]) -> str:
    """Return the fate of a cluster by the definitions."""
    if any(jaccard(members, members_b) > 0.5 for members_b in b.values()):
        return "kept"
    parts = [
        members_b
        for members_b in b.values()
        if len(members & members_b) >= 0.1 * len(members) and len(members & members_b) >= 0.5 * len(members_b)
    ]
    if len(parts) >= 2:
        return "split"
    for members_b in b.values():
        inside = [members_a for members_a in a.values() if len(members_a & members_b) >= 0.5 * len(members_a)]
        if members in inside and len(inside) >= 2:
            return "merged"
    return "dissolved" if len(members & outliers_b) >= 0.5 * len(members) else "moved"


def rand_index(a: Sequence[int], b: Sequence[int]) -> float:
    """Hubert and Arabie's, over all pairs of rows."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    in_a = [a[i] == a[j] for i, j in pairs]
    in_b = [b[i] == b[j] for i, j in pairs]
    both, expected = sum(map(min, in_a, in_b)), sum(in_a) * sum(in_b) / max(1, len(pairs))
    largest = (sum(in_a) + sum(in_b)) / 2
    return 1.0 if math.isclose(largest, expected) else (both - expected) / (largest - expected)


labelings = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-1, 4), min_size=n, max_size=n)] * 2)
)


def check(comparison: LabelComparison, a: Sequence[int], b: Sequence[int]) -> None:
    """Check a comparison against Python sets, without AMI."""
    in_a, in_b = as_sets(a), as_sets(b)
    out_a, out_b = in_a.pop(OUTLIER, set()), in_b.pop(OUTLIER, set())
    both = [(x, y) for x, y in zip(a, b, strict=True) if OUTLIER not in (x, y)]
    assert comparison.n_shared == len(a)
    assert comparison.ari_with_outliers == pytest.approx(rand_index(a, b))
    expected = rand_index([x for x, _ in both], [y for _, y in both]) if both else None
    assert comparison.ari == pytest.approx(expected)
    assert (comparison.ami is None) == (not both)
    assert (comparison.outliers_both, comparison.outliers_only_a, comparison.outliers_only_b) == (
        *(len(out_a & out_b), len(out_a - out_b), len(out_b - out_a)),
    )
    assert [(cluster.a, cluster.size) for cluster in comparison.clusters] == sorted(
        (x, len(rows)) for x, rows in in_a.items()
    )
    assert comparison.n_clusters_b == len(in_b)
    for cluster in comparison.clusters:
        indices = {label: jaccard(in_a[cluster.a], members) for label, members in in_b.items()}
        assert cluster.jaccard == max(indices.values(), default=0)
        assert cluster.b == next((label for label, index in indices.items() if index > 0.5), None)
        assert cluster.fate == fate(in_a[cluster.a], in_a, in_b, out_b)
        assert all(
            share == len(in_a[cluster.a] & in_b[label]) / cluster.size for label, share in cluster.into
        )
        assert [share for _, share in cluster.into] == sorted(
            (share for _, share in cluster.into), reverse=True
        )
    assert list(comparison.new) == sorted(
        label
        for label, rows in in_b.items()
        if not any(len(rows & rows_b) >= 0.5 * len(rows) for rows_b in in_a.values())
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(labelings)
def test_comparisons_equal_those_of_python_sets(pair: tuple[list[int], list[int]]) -> None:
    check(compare_labels(*map(np.array, pair)), *pair)


@settings(deadline=None, max_examples=100)
@given(labelings, st.permutations(range(5)), st.permutations(range(5)))
def test_fates_do_not_depend_on_cluster_numbers(
    pair: tuple[list[int], list[int]], numbers_a: list[int], numbers_b: list[int]
) -> None:
    a, b = map(np.array, pair)
    renumbered = compare_labels(np.array([*numbers_a, OUTLIER])[a], np.array([*numbers_b, OUTLIER])[b])
    new_b = {None: None} | dict(enumerate(numbers_b))
    expected = compare_labels(a, b)
    assert {(cluster.a, cluster.b, cluster.jaccard, cluster.fate) for cluster in renumbered.clusters} == {
        (numbers_a[cluster.a], new_b[cluster.b], cluster.jaccard, cluster.fate)
        for cluster in expected.clusters
    }
    assert set(renumbered.new) == {numbers_b[label] for label in expected.new}


def test_two_equal_clusters_joined_into_one_have_one_fate() -> None:
    # Both have a Jaccard index of exactly 0.5 with it.
    assert fates(compare_labels(*rows((0, 0, 20), (1, 0, 20)))) == {0: ("merged", (0,)), 1: ("merged", (0,))}


def rows(*groups: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make two labelings from triples (label in A, label in B, number of rows)."""
    return tuple(  # type: ignore[return-value]
        np.concatenate([np.full(group[2], group[side]) for group in groups]) for side in (0, 1)
    )


def fates(comparison: LabelComparison) -> dict[int, tuple[str, tuple[int, ...]]]:
    return {
        cluster.a: (cluster.fate, tuple(label for label, _ in cluster.into))
        for cluster in comparison.clusters
    }


PLANTED = {
    "kept, though a fifth of it became outliers": [(0, 0, 80), (0, -1, 20)],
    "split into three": [(1, 1, 40), (1, 2, 30), (1, 3, 30)],
    "merged, three of them": [(2, 4, 40), (2, -1, 20), (3, 4, 20), (7, 4, 18)],
    "dissolved": [(4, -1, 30), (4, 0, 10)],
    "moved: less than half of either is the other": [(5, 5, 45), (5, 6, 4), (-1, 5, 60), (5, -1, 20)],
    "new": [(-1, 6, 20)],
    "outliers of both": [(-1, -1, 100)],
}
"""What became of clusters: (label in A, label in B, rows)."""


def test_planted_changes_have_the_expected_fates() -> None:
    result = compare_labels(*rows(*itertools.chain.from_iterable(PLANTED.values())))
    assert fates(result) == {
        0: ("kept", (0,)),
        1: ("split", (1, 2, 3)),
        2: ("merged", (4,)),
        3: ("merged", (4,)),
        4: ("dissolved", (0,)),
        5: ("moved", (5,)),
        7: ("merged", (4,)),
    }
    assert result.new == (5, 6)
    assert [cluster.b for cluster in result.clusters] == [0, None, None, None, None, None, None]
    by_label = {cluster.a: cluster for cluster in result.clusters}
    assert by_label[1].into == ((1, 0.4), (2, 0.3), (3, 0.3))
    assert by_label[5].jaccard == 45 / (69 + 105 - 45)
    assert (result.outliers_both, result.outliers_only_a, result.outliers_only_b) == (100, 80, 90)


def test_thresholds_are_inclusive() -> None:
    halves = compare_labels(*rows((0, 0, 2), (0, 1, 2)))
    # A Jaccard index of a half is no match: both halves have it.
    assert [(cluster.fate, cluster.b, cluster.jaccard) for cluster in halves.clusters] == [
        ("split", None, 0.5)
    ]
    parts = compare_labels(*rows((0, 0, 4), (0, 1, 1), (-1, 1, 1), (0, -1, 5)))
    assert fates(parts) == {0: ("split", (0, 1))}
    smaller = compare_labels(*rows((0, 0, 8), (0, 1, 1), (-1, 1, 1), (0, -1, 10)))
    assert fates(smaller) == {0: ("dissolved", (0,))}
    assert smaller.new == ()


def test_a_clustering_equals_itself() -> None:
    labels = make_finished([f"{number:032x}" for number in range(200)]).labels
    result = compare_labels(labels, labels)
    assert (result.ari, result.ami, result.ari_with_outliers, result.ami_with_outliers) == (1.0,) * 4
    assert [(cluster.b, cluster.jaccard, cluster.into) for cluster in result.clusters] == [
        (cluster.a, 1.0, ((cluster.a, 1.0),)) for cluster in result.clusters
    ]
    assert (result.changed, result.new) == ((), ())


@pytest.mark.parametrize("labels", [[-1], [-1, -1, -1]])
def test_two_clusterings_of_outliers_only_are_compared(labels: list[int]) -> None:
    a = np.array(labels)
    alone = compare_labels(a, a)
    assert (alone.ari, alone.ami, alone.ari_with_outliers, alone.clusters) == (None, None, 1.0, ())
    there = compare_labels(np.zeros_like(a), a)
    assert fates(there) == {0: ("dissolved", ())}
    assert compare_labels(a, np.zeros_like(a)).new == (0,)


def test_thousands_of_clusters_are_matched() -> None:
    # Every cluster lies over two others; a dense table would have 10^8 cells.
    a = np.arange(60_000) // 6
    result = compare_labels(a, (np.arange(60_000) + 1) // 6)
    assert [cluster.b for cluster in result.clusters] == list(range(10_000))
    assert {cluster.jaccard for cluster in result.clusters} == {5 / 7, 5 / 6}
    assert {cluster.fate for cluster in result.clusters} == {"kept"}


# ---------------------------------------------------------------------------- stored clusterings


def saved(database: Database, *finished: FinishedClustering) -> list[ClusteringSummary]:
    with database.writing() as connection:
        for clustering in finished:
            save_clustering(connection, clustering)
    with database.session() as session:
        return find_clusterings(session, [str(clustering.id) for clustering in finished])


def part(finished: FinishedClustering, keep: np.ndarray) -> FinishedClustering:
    """Make a clustering of some of the embeddings."""
    part_finished = make_finished(
        [embedding_id.decode() for embedding_id in finished.ids[keep]], model=finished.embedding_model
    )
    return replace(part_finished, labels=finished.labels[keep])


def test_rows_are_paired_by_embedding(upgraded: MakeFile) -> None:
    file = upgraded()
    a = make_finished(ids_of(file), seed=1)
    b = part(make_finished(ids_of(file), seed=2), np.arange(len(a.ids)) % 3 > 0)
    compared = compare_clusterings(file.database, *saved(file.database, a, b))
    in_a = dict(zip(a.ids.tolist(), a.labels.tolist(), strict=True))
    assert (compared.a, compared.b, compared.by) == (a.id, b.id, "embedding")
    check(compared.result, [in_a[embedding_id] for embedding_id in b.ids.tolist()], b.labels.tolist())


def by_invocation(file: UpgradedFile, finished: FinishedClustering) -> dict[str, int]:
    of = {embedding.id: embedding.invocation.id for embedding in file.facts.sample(finished.embedding_model)}
    return {
        of[embedding_id.decode()]: label
        for embedding_id, label in reversed(list(zip(finished.ids, finished.labels.tolist(), strict=True)))
    }


@pytest.mark.parametrize("unique", ["none", "constraint", "index"])
def test_rows_of_two_models_are_paired_by_invocation(upgraded: MakeFile, unique: str) -> None:
    file = upgraded(FieldSpec(unique=unique, dummy_rows=11))  # type: ignore[arg-type]
    a, b = (make_finished(ids_of(file, model), model=model, seed=3) for model in ("STSBMpnet", "Nomic"))
    compared = compare_clusterings(file.database, *saved(file.database, a, b))
    in_a, in_b = by_invocation(file, a), by_invocation(file, b)
    assert compared.by == "invocation"
    assert compared.result.n_shared == len(a.ids)
    order = sorted(in_a)
    check(
        compared.result,
        [in_a[embedding_id] for embedding_id in order],
        [in_b[embedding_id] for embedding_id in order],
    )


def test_deleted_embeddings_are_not_paired(upgraded: MakeFile) -> None:
    file = upgraded()
    a, b = (make_finished(ids_of(file, model), model=model) for model in ("STSBMpnet", "Nomic"))
    summaries = saved(file.database, a, b)
    with opened(file.path) as raw:  # where nothing cascades
        for model, n_removed in (("STSBMpnet", 3), ("Nomic", 7)):
            raw.execute("DELETE FROM embedding WHERE id = ?", (ids_of(file, model)[n_removed],))
    assert compare_clusterings(file.database, *summaries).result.n_shared == len(a.ids) - 2


def test_clusterings_without_common_rows_are_refused(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(vision_models=("NomicVision",)))
    halves = [
        part(finished, np.arange(len(finished.ids)) % 2 == remainder)
        for finished in [make_finished(ids_of(file))]
        for remainder in (0, 1)
    ]
    images = make_finished(ids_of(file, "NomicVision"), model="NomicVision")
    first, second, vision = saved(file.database, *halves, images)
    for other_summary in (second, vision):
        with pytest.raises(NothingShared, match=rf"{first.id}.*{other_summary.id}.*in common"):
            compare_clusterings(file.database, first, other_summary)


def test_two_models_of_a_real_file_agree(real_file: Database) -> None:
    cluster_all_data(real_file, ["Nomic", "STSBRoberta"])
    with real_file.session() as session:
        a, b = list_clusterings(session)
    compared = compare_clusterings(real_file, a, b)
    assert (compared.by, compared.result.n_shared) == ("invocation", 985)
    assert compared.result.ari is not None
    assert compared.result.ari > 0.8
    assert sum(cluster.fate == "kept" for cluster in compared.result.clusters) > 6
    back = compare_clusterings(real_file, b, a).result
    assert back.ami == pytest.approx(compared.result.ami)
    assert {(cluster.a, cluster.b) for cluster in back.clusters if cluster.fate == "kept"} == {
        (cluster.b, cluster.a) for cluster in compared.result.clusters if cluster.fate == "kept"
    }


def test_a_fate_has_json_values_only() -> None:
    (cluster,) = compare_labels(*rows((0, 5, 3))).clusters
    assert cluster == ClusterFate(a=0, size=3, b=5, jaccard=1.0, fate="kept", into=((5, 1.0),))
    assert [type(value) for value in (cluster.a, cluster.b, cluster.jaccard, cluster.fate)] == [
        int,
        int,
        float,
        str,
    ]
