"""Test the map: an even sample with all medoids, and a layout that keeps neighbours."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from panic_tda.errors import DatabaseError, InvalidParameter
from panic_tda.insight.layout import NEIGHBOURS, columns_of, lay_out, read_map, sample_rows
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.medoids import read_medoid_ids
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.exported import latest
from tests.field_files import FieldSpec
from tests.snapshots import REPOSITORY, opened
from tests.storage.test_query_plans import plan, queries, scans_rows, statements

SAMPLE = REPOSITORY / "panic_tda" / "sample" / "captions_minilm.parquet"


@pytest.fixture(scope="module")
def captions() -> np.ndarray:
    """Every fourth caption of the sample."""
    pytest.importorskip("umap", reason="umap-learn is not installed (extra report)")
    vectors = pq.read_table(SAMPLE, columns=["vector"])["vector"].combine_chunks()
    return np.asarray(vectors.flatten(), dtype=np.float32).reshape(len(vectors), -1)[::4]


@pytest.fixture(scope="module")
def laid_out(captions: np.ndarray) -> np.ndarray:
    xy, method = lay_out(captions)
    assert re.fullmatch(r"UMAP \(cosine\), umap-learn [\d.]+", method)
    return xy


@pytest.fixture
def clustered(upgraded: MakeFile) -> UpgradedFile:
    file = upgraded(FieldSpec(runs=6, length=60))
    save_or_write_pending(file.database, make_finished(ids_of(file)))
    return file


def distinct_neighbours(xy: np.ndarray, vectors: np.ndarray) -> float:
    """Return the share of the 10 neighbours on the map that are neighbours by cosine, without copies."""
    distinct, first = np.unique(vectors, axis=0, return_index=True)
    return float(trustworthiness(distinct, xy[first], n_neighbors=10, metric="cosine"))


# --------------------------------------------------------------------------- the sample


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=12),
    n_rows=st.integers(1, 300),
    n_medoids=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_part_of_a_run_has_its_share(lengths: list[int], n_rows: int, n_medoids: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    # Rows are ordered by id, runs and steps in another order.
    in_order = rng.permutation(n)
    medoids = rng.choice(n, size=min(n, n_medoids), replace=False)
    chosen = sample_rows(in_order, medoids, n_rows=n_rows, seed=seed)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen) == min(n, max(n_rows, len(medoids)))
    assert chosen.tolist() == sorted(chosen.tolist())
    assert set(medoids.tolist()) <= set(chosen.tolist())
    np.testing.assert_array_equal(chosen, sample_rows(in_order, medoids, n_rows=n_rows, seed=seed))
    # Of any stretch of steps, and so of any run or part of one, as many are chosen as its length asks for.
    others = [row for row in in_order.tolist() if row not in set(medoids.tolist())]
    is_chosen = np.isin(others, chosen)
    for _ in range(20):
        first, last = sorted(rng.integers(0, len(others) + 1, 2).tolist())
        due = is_chosen.sum() * (last - first) / max(1, len(others))
        assert abs(is_chosen[first:last].sum() - due) <= 2


def test_runs_of_one_length_show_all_their_steps() -> None:
    n_runs, length = 100, 50
    chosen = sample_rows(np.arange(n_runs * length), np.empty(0, dtype=np.int64), n_rows=n_runs, seed=0)
    by_run = np.bincount(chosen // length, minlength=n_runs)
    by_step = np.bincount(chosen % length // 10, minlength=5)
    assert set(by_run.tolist()) == {1}
    # Every so-maniest row would be the same step of each run.
    assert by_step.min() >= 8


def test_another_seed_draws_other_rows() -> None:
    none = np.empty(0, dtype=np.int64)
    samples = {tuple(sample_rows(np.arange(1000), none, n_rows=50, seed=seed)) for seed in range(5)}
    assert len(samples) == 5


# --------------------------------------------------------------------------- what is read


def test_a_map_has_the_medoids_and_at_most_the_requested_rows(clustered: UpgradedFile) -> None:
    source = latest(clustered.database)
    with clustered.database.reading() as connection:
        assigned = read_assignments(connection, source.id)
        medoids = read_medoid_ids(connection, source.id)
    with opened(clustered.path) as connection:
        stored = connection.execute(
            "SELECT label, medoid_embedding_id FROM cluster ORDER BY label"
        ).fetchall()
    assert [(label, medoid.decode()) for label, medoid in medoids.items()] == stored
    rows = {assigned.ids.tolist().index(medoid) for medoid in medoids.values()}
    for n_rows in (1, 10):
        row_map = read_map(clustered.database, source, n_rows=n_rows)
        assert len(row_map.rows) == max(n_rows, len(rows))
        assert rows <= set(row_map.rows.tolist())
        assert row_map.xy.shape == (len(row_map.rows), 2)
        assert row_map.xy.dtype == np.float32
        assert row_map.n_total == len(assigned.ids) == 180
    with pytest.raises(InvalidParameter, match="at least 1 row; got 0"):
        read_map(clustered.database, source, n_rows=0)


@pytest.mark.parametrize("fault", ["NULL", "x'0000'", "x'0102030405'"])
def test_deleted_vectors_are_named(clustered: UpgradedFile, fault: str) -> None:
    with opened(clustered.path) as connection:
        connection.execute(f"UPDATE embedding SET vector = {fault} WHERE id = ?", (ids_of(clustered)[3],))
    with pytest.raises(DatabaseError, match="1 of 180 vectors of Nomic are missing"):
        read_map(clustered.database, latest(clustered.database), n_rows=180)


def test_only_the_rows_of_the_map_are_read(clustered: UpgradedFile) -> None:
    with statements() as executed:
        read_map(clustered.database, latest(clustered.database), n_rows=15)
    selects = queries(executed)
    with closing(sqlite3.connect(clustered.path)) as connection:
        plans = {sql: plan(connection, sql) for sql in selects}
    assert {sql: steps for sql, steps in plans.items() if any(map(scans_rows, steps))} == {}
    (reading,) = [sql for sql in selects if "embedding.rowid IN" in sql]
    assert plans[reading] == ["SEARCH embedding USING INTEGER PRIMARY KEY (rowid=?)"]
    places = [int(word) for word in re.findall(r"\d+", reading.partition(" IN ")[2])]
    assert len(places) == 15
    assert places == sorted(places)
    (finding,) = [sql for sql in selects if "embedding.id IN" in sql]
    assert all("COVERING" in step for step in plans[finding])


def test_columns_have_coordinates_for_each_row_of_the_map(clustered: UpgradedFile) -> None:
    row_map = read_map(clustered.database, latest(clustered.database), n_rows=15)
    columns = columns_of(row_map)
    assert columns.num_rows == 180
    places = list(zip(*columns.to_pydict().values(), strict=True))
    of_rows = dict(zip(row_map.rows.tolist(), row_map.xy.tolist(), strict=True))
    assert places == [tuple(of_rows.get(row, (None, None))) for row in range(180)]
    assert columns.schema.field("x").metadata == {b"layout": row_map.method.encode()}


# --------------------------------------------------------------------------- the layout


def test_neighbours_are_near_each_other_on_the_map(captions: np.ndarray, laid_out: np.ndarray) -> None:
    anywhere = np.random.default_rng(0).random(laid_out.shape)
    assert distinct_neighbours(anywhere, captions) < 0.6
    assert distinct_neighbours(laid_out, captions) > 0.93


def test_compiled_code_is_cached(laid_out: np.ndarray) -> None:
    """Read back or written by this process; a loop that is not kept knows neither."""
    from umap import umap_

    for loop in (umap_.smooth_knn_dist, umap_.compute_membership_strengths):
        assert sum(loop.stats.cache_hits.values()) + sum(loop.stats.cache_misses.values()) > 0
        assert Path(loop.stats.cache_path).is_dir()


def test_the_same_seed_gives_the_same_map(captions: np.ndarray, laid_out: np.ndarray) -> None:
    np.testing.assert_array_equal(lay_out(captions)[0], laid_out)
    assert not np.array_equal(lay_out(captions, seed=1)[0], laid_out)


def test_copies_have_equal_coordinates(captions: np.ndarray, laid_out: np.ndarray) -> None:
    _, inverse = np.unique(captions, axis=0, return_inverse=True)
    n_distinct = int(inverse.max()) + 1
    assert n_distinct < len(captions)
    pairs = {(number, *place) for number, place in zip(inverse.tolist(), laid_out.tolist(), strict=True)}
    assert len(pairs) == n_distinct
    # Further copies change nothing for the others.
    again, _ = lay_out(np.concatenate([captions, captions[:100]]))
    np.testing.assert_array_equal(again, np.concatenate([laid_out, laid_out[:100]]))


def test_the_length_of_vectors_does_not_change_the_map() -> None:
    rows = np.random.default_rng(0).standard_normal((NEIGHBOURS, 6)).astype(np.float32)
    np.testing.assert_allclose(lay_out(rows * 4)[0], lay_out(rows)[0], atol=1e-6)


def test_without_umap_it_is_the_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    rows = np.random.default_rng(0).standard_normal((200, 12)) * np.arange(1, 13)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    xy, method = lay_out(rows)
    assert re.fullmatch(r"PCA, NumPy [\w.]+ \(the package umap-learn is missing\)", method)
    expected = PCA(n_components=2, svd_solver="full").fit_transform(rows.astype(np.float64))
    for coordinate, component in zip(xy.T, expected.T, strict=True):
        assert min(np.abs(coordinate - component).max(), np.abs(coordinate + component).max()) < 1e-4


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (1, 4), (2, 4), (40, 4), (40, 1)])
def test_maps_of_few_rows_are_computed(shape: tuple[int, int]) -> None:
    for value in (1, 0):
        xy, method = lay_out(np.full(shape, value, dtype=np.float32))
        assert xy.tolist() == [[0.0, 0.0]] * shape[0]
        assert method.startswith("PCA")


def test_opposite_directions_have_two_positions() -> None:
    xy, _ = lay_out(np.array([[3.0], [-1.0], [2.0]], dtype=np.float32))
    assert xy[0].tolist() == xy[2].tolist()
    assert abs(xy[1, 0] - xy[0, 0]) == pytest.approx(2)


def test_few_distinct_rows_need_no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    rows = np.random.default_rng(0).standard_normal((NEIGHBOURS, 6)).astype(np.float32)
    xy, method = lay_out(np.repeat(rows, 9, axis=0))
    assert "missing" not in method
    assert len(np.unique(xy, axis=0)) == NEIGHBOURS
