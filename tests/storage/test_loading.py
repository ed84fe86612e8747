"""Test that vectors are loaded unchanged and in one order, and that invalid ones are found."""

from __future__ import annotations

import hashlib
import mmap
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine

from panic_tda.arrays import rows
from panic_tda.errors import BadVectors, DatabaseError, InvalidParameter
from panic_tda.storage.bulk import stream_vectors
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read import loading, vectors_by_id
from panic_tda.storage.read.census import ModelCensus, require_valid, take_census
from panic_tda.storage.read.loading import input_sha256, load_embeddings
from panic_tda.storage.read.vectors_by_id import are_stored, read_vectors
from panic_tda.storage.schema.tables import Embedding
from panic_tda.types import EmbeddingMatrix
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import BAD_KINDS, EVERYTHING, FieldSpec, StoredEmbedding

pytestmark = pytest.mark.both_engines


@contextmanager
def recorded_statements() -> Iterator[list[str]]:
    """Record all statements of new SQLite connections."""
    statements: list[str] = []

    def trace(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_trace_callback(statements.append)

    event.listen(Engine, "connect", trace)
    try:
        yield statements
    finally:
        event.remove(Engine, "connect", trace)


SPOILED = FieldSpec(null_vectors=2, short_vectors=1, nan_vectors=3, infinite_vectors=1, zero_vectors=2)


def load(database: Database, model: str = "Nomic", factor: int = 1, *, skip: bool = False) -> EmbeddingMatrix:
    census = take_census(database, factor)[model]
    return load_embeddings(database, census, downsample=factor, skip_invalid=skip)


def assert_holds(matrix: EmbeddingMatrix, expected: list[StoredEmbedding]) -> None:
    assert [embedding_id.decode() for embedding_id in matrix.ids] == [embedding.id for embedding in expected]
    assert matrix.vectors.dtype == np.float32
    assert matrix.vectors.flags.c_contiguous
    vectors = [embedding.vector for embedding in expected if embedding.vector is not None]
    np.testing.assert_array_equal(matrix.vectors, np.array(vectors))


def store_vectors(file: UpgradedFile, vectors: np.ndarray) -> list[str]:
    """Give the first embeddings of Nomic other vectors; return all ids of the model."""
    ids = [embedding.id for embedding in file.facts.of("Nomic")]
    with file.opened() as connection:
        connection.executemany(
            "UPDATE embedding SET vector = ? WHERE id = ?",
            [(row.tobytes(), identity) for row, identity in zip(vectors, ids, strict=False)],
        )
    return ids


@pytest.mark.parametrize("model", ["Nomic", "STSBMpnet", "NomicVision", "Dummy"])
def test_rows_are_those_of_the_file_by_ascending_id(upgraded: MakeFile, model: str) -> None:
    spec = FieldSpec(vision_models=("NomicVision",), dummy_rows=5, holes=((0, 3),), orphan_invocations=2)
    database, facts = upgraded(spec)
    for factor in (1, 2, 3, 7, 100):
        matrix = load(database, model, factor)
        assert_holds(matrix, facts.sample(model, factor))
        assert matrix.model == model
        assert matrix.downsample == factor
        assert matrix.n_total == facts.count(model)
        assert matrix.n_sampled == len(matrix.ids)
        assert matrix.n_excluded == 0


@pytest.mark.sqlite_only("order of rows")
def test_the_order_of_the_table_does_not_matter(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=10))
    expected = load(file.database)
    with file.opened() as connection:
        rows = connection.execute("SELECT * FROM embedding").fetchall()
    for shuffled in (sorted(rows), sorted(rows, reverse=True), rows[1::2] + rows[::2]):
        with file.opened() as connection:
            connection.execute("DELETE FROM embedding")
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO embedding VALUES ({marks})", shuffled)
        matrix = load(file.database)
        assert matrix.ids.tolist() == expected.ids.tolist()
        assert matrix.vectors.tobytes() == expected.vectors.tobytes()
        assert input_sha256(matrix) == input_sha256(expected)


@pytest.mark.parametrize("batch_bytes", [1, 65, 1000])
@pytest.mark.parametrize("factor", [1, 3])
def test_the_batch_size_never_changes_the_arrays(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, batch_bytes: int, factor: int
) -> None:
    database, facts = upgraded(FieldSpec(runs=7, length=21))
    monkeypatch.setattr(loading, "BATCH_BYTES", batch_bytes)
    assert_holds(load(database, factor=factor), facts.sample("Nomic", factor))


@pytest.mark.parametrize("permute_bytes", [1, 1000, 4000])
def test_columns_are_permuted_in_blocks(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, permute_bytes: int
) -> None:
    database, facts = upgraded(FieldSpec(runs=10, dimensions=37))
    monkeypatch.setattr(rows, "PERMUTE_BYTES", permute_bytes)
    assert_holds(load(database), facts.sample("Nomic"))


def test_orphans_are_counted_and_left_out(upgraded: MakeFile) -> None:
    database, facts = upgraded(FieldSpec(orphan_embeddings=4))
    for factor in (1, 2):
        matrix = load(database, factor=factor)
        assert_holds(matrix, facts.sample("Nomic", factor))
        assert (matrix.n_total, matrix.n_excluded) == (44, 4)
        assert matrix.n_sampled == 40 // factor


@pytest.mark.parametrize("kind", ["null", "short"])
def test_missing_and_short_vectors_are_found_by_the_census(upgraded: MakeFile, kind: str) -> None:
    database, facts = upgraded(FieldSpec(**{f"{kind}_vectors": 7}))  # type: ignore[arg-type]
    census = take_census(database)["Nomic"]
    assert (census.n_sampled, census.n_usable, census.width) == (40, 33, 32)
    with pytest.raises(BadVectors, match="7 of 40 vectors of model Nomic are invalid") as error:
        require_valid(database, census)
    text = str(error.value)
    assert ("7 missing" if kind == "null" else "7 of 28 bytes") in text
    assert "8 float32 values expected" in text
    assert "--skip-invalid" in text
    assert re.findall(r"[0-9a-f-]{36}", text) == [str(UUID(bad)) for bad in facts.bad("Nomic")[:5]]
    require_valid(database, take_census(database)["STSBMpnet"])
    with pytest.raises(BadVectors, match="7 of 40 vectors"):
        load(database)


@pytest.mark.parametrize("kind", ["nan", "infinite", "zero"])
def test_values_without_a_direction_are_found_while_loading(upgraded: MakeFile, kind: str) -> None:
    database, facts = upgraded(FieldSpec(**{f"{kind}_vectors": 6}))  # type: ignore[arg-type]
    require_valid(database, take_census(database)["Nomic"])
    with pytest.raises(BadVectors, match="6 vectors of model Nomic are zero, NaN or infinite") as error:
        load(database)
    named = re.findall(r"[0-9a-f-]{36}", str(error.value))
    assert named == [str(UUID(bad)) for bad in facts.bad("Nomic")[:5]]
    assert len(load(database, "STSBMpnet").ids) == 40


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_skipping_leaves_out_and_counts_exactly_the_invalid_vectors(upgraded: MakeFile, factor: int) -> None:
    database, facts = upgraded(SPOILED)
    sampled = facts.sample("Nomic", factor)
    matrix = load(database, factor=factor, skip=True)
    assert_holds(matrix, [embedding for embedding in sampled if embedding.kind == "good"])
    assert matrix.n_total == 40
    assert matrix.n_sampled == len(sampled)
    assert matrix.n_excluded == sum(embedding.kind in BAD_KINDS for embedding in sampled)


def test_invalid_vectors_outside_the_sample_do_not_matter(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=1, length=20))
    outside = sorted({e.id for e in file.facts.of("Nomic")} - {e.id for e in file.facts.sample("Nomic", 5)})
    with file.opened() as connection:
        connection.executemany("UPDATE embedding SET vector = NULL WHERE id = ?", [(i,) for i in outside])
    require_valid(file.database, take_census(file.database, 5)["Nomic"], 5)
    assert_holds(load(file.database, factor=5), file.facts.sample("Nomic", 5))


def test_the_most_common_dimension_counts(upgraded: MakeFile) -> None:
    file = upgraded()
    rng = np.random.default_rng(0)
    ids = store_vectors(file, rng.standard_normal((25, 3)).astype("<f4"))
    census = take_census(file.database)["Nomic"]
    assert census.sampled == {12: 25, 32: 15}
    with pytest.raises(BadVectors, match="15 of 32 bytes; 3 float32 values expected"):
        load(file.database)
    matrix = load(file.database, skip=True)
    assert matrix.vectors.shape == (25, 3)
    assert [embedding_id.decode() for embedding_id in matrix.ids] == ids[:25]
    assert matrix.n_excluded == 15


def test_lengths_that_are_no_whole_number_of_floats_are_never_taken(upgraded: MakeFile) -> None:
    file = upgraded()
    store_vectors(file, np.ones((30, 27), dtype=np.uint8))
    census = take_census(file.database)["Nomic"]
    assert (census.width, census.n_usable) == (32, 10)


@pytest.mark.parametrize("content", ["NULL", "x''", "x'010203'"])
def test_a_model_without_a_usable_vector_is_an_error(upgraded: MakeFile, content: str) -> None:
    file = upgraded()
    with file.opened() as connection:
        connection.execute(f"UPDATE embedding SET vector = {content} WHERE embedding_model = 'Nomic'")
    census = take_census(file.database)["Nomic"]
    assert (census.n_sampled, census.n_usable, census.width) == (40, 0, 0)
    reason = {"NULL": "40 missing", "x''": "40 of 0 bytes", "x'010203'": "40 of 3 bytes"}[content]
    with pytest.raises(BadVectors, match=reason) as error:
        require_valid(file.database, census)
    assert "some float32 values expected" in str(error.value)


def test_finite_values_beyond_single_precision_squares_are_no_error(upgraded: MakeFile) -> None:
    file = upgraded()
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    extreme = np.array([[largest] * 8, [-largest] + [0] * 7, [smallest] * 8, [0] * 7 + [-smallest]], "<f4")
    store_vectors(file, extreme)
    np.testing.assert_array_equal(load(file.database).vectors[:4], extreme)


def test_every_kind_of_nan_is_found_without_a_warning(upgraded: MakeFile) -> None:
    file = upgraded()
    vectors = np.ones((4, 8), dtype="<f4")
    # Quiet, negative, signalling, and one with every bit set.
    vectors[:, 3] = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], dtype="<u4").view("<f4")
    store_vectors(file, vectors)
    with pytest.raises(BadVectors, match="4 vectors of model Nomic"):
        load(file.database)
    assert len(load(file.database, skip=True).ids) == 36


def test_negative_zero_is_zero(upgraded: MakeFile) -> None:
    file = upgraded()
    store_vectors(file, np.full((1, 8), -0.0, dtype="<f4"))
    with pytest.raises(BadVectors, match="1 vectors of model Nomic"):
        load(file.database)


def test_the_census_counts_every_model(upgraded: MakeFile) -> None:
    database, facts = upgraded(EVERYTHING)
    census = take_census(database)
    assert list(census) == ["Dummy", "Nomic", "NomicVision", "STSBMpnet"]
    nomic = census["Nomic"]
    assert nomic.n_total == facts.count("Nomic")
    assert nomic.n_orphans == 3
    assert nomic.sampled == {None: 2, 28: 1, 32: facts.count("Nomic") - 6}
    assert nomic.n_usable == facts.count("Nomic") - 6
    longest = take_census(database, 2)
    # Runs with texts at every step have 20 of them, the others 10; Dummy is in one run only.
    assert {name: census_of_model.longest for name, census_of_model in longest.items()} == {
        "Dummy": 6,
        "Nomic": 20,
        "NomicVision": 10,
        "STSBMpnet": 20,
    }


def test_of_equally_common_lengths_the_longer_counts() -> None:
    assert ModelCensus("Nomic", 4, 0, sampled={8: 2, 16: 2}).width == 16
    assert ModelCensus("Nomic", 4, 0, sampled={16: 2, 8: 2}).width == 16


def test_rows_added_and_deleted_since_the_census_are_handled(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=6))
    censuses = {factor: take_census(file.database, factor)["Nomic"] for factor in (1, 2)}
    ids = {e.id for e in file.facts.of("Nomic")[10:30]}
    with file.opened() as connection:
        connection.executemany("DELETE FROM embedding WHERE id = ?", [(i,) for i in ids])
    for factor, census in censuses.items():
        matrix = load_embeddings(file.database, census, downsample=factor)
        assert_holds(matrix, [e for e in file.facts.sample("Nomic", factor) if e.id not in ids])
        assert matrix.n_total == 40
    rows = take_census(file.database, 1)["Nomic"]
    with file.opened() as connection:
        connection.execute(
            "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
            "SELECT 'f' || substr(id, 2), invocation_id, embedding_model, vector FROM embedding "
            "WHERE embedding_model = 'Nomic'"
        )
    matrix = load_embeddings(file.database, rows)
    assert len(matrix.ids) == 80
    # Counted again where it is read: a matrix that had to grow would have been in memory twice.
    base = matrix.vectors.base if matrix.vectors.base is not None else matrix.vectors
    assert base.nbytes == matrix.vectors.nbytes


def test_rows_added_since_the_census_stay_in_the_memory_map(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    census = take_census(file.database)["Nomic"]
    with file.opened() as connection:
        connection.execute(
            "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
            "SELECT 'f' || substr(id, 2), invocation_id, embedding_model, vector FROM embedding "
            "WHERE embedding_model = 'Nomic'"
        )
    matrix = load_embeddings(file.database, census, memory_limit=1, work_dir=tmp_path)
    assert len(matrix.ids) == 2 * census.n_usable
    vectors: object = matrix.vectors
    while isinstance(vectors, np.ndarray) and vectors.base is not None:
        vectors = vectors.base
    assert isinstance(vectors, mmap.mmap)


def test_a_model_deleted_since_the_census_is_an_error(upgraded: MakeFile) -> None:
    file = upgraded()
    censuses = {factor: take_census(file.database, factor)["Nomic"] for factor in (1, 2)}
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding WHERE embedding_model = 'Nomic'")
    for factor, census in censuses.items():
        for skip in (False, True):
            matrix = load_embeddings(file.database, census, downsample=factor, skip_invalid=skip)
            assert len(matrix.ids) == 0


def test_vectors_that_became_invalid_since_the_census_are_an_error(upgraded: MakeFile) -> None:
    file = upgraded()
    census = take_census(file.database)["Nomic"]
    with file.opened() as connection:
        connection.execute("UPDATE embedding SET vector = NULL WHERE embedding_model = 'Nomic'")
    with pytest.raises(BadVectors, match="40 of 40 vectors of model Nomic"):
        load_embeddings(file.database, census)


def give_ids(file: UpgradedFile, first: int, *ids: object) -> None:
    """Give embeddings of Nomic other ids, from the `first` one on."""
    known = [embedding.id for embedding in file.facts.of("Nomic")[first:]]
    with file.opened() as connection:
        # As a column declared UUID keeps them: its affinity is that of a number.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'id CHAR(32)', 'id UUID') WHERE name = 'embedding'"
        )
        connection.execute("PRAGMA writable_schema = RESET")
        connection.executemany("UPDATE embedding SET id = ? WHERE id = ?", zip(ids, known, strict=False))


GOOD = "0123456789abcdef0123456789abcde"
NO_IDS: dict[str, tuple[object, ...]] = {
    "dashes": ("067ffc18-c000-7000-8000-000000000001",),
    # Together they have the length of two ids, and every later one would be shifted by a character.
    "one short and one long": (GOOD, f"{GOOD}ff"),
    "a number": (6.5,),
    "infinity": ("06888680501e75097830817616369915",),
    "numbers only": tuple(float(row) + 0.5 for row in range(38)),
    "bytes": (b"0123456789abcdef0123456789abcdef",),
    "upper case": (f"{GOOD}F",),
    "letters beyond f": (f"{GOOD}g",),
    "another alphabet": (f"{GOOD}é",),
    "empty": ("",),
}


@pytest.mark.sqlite_only("columns of any type")
@pytest.mark.parametrize("ids", NO_IDS.values(), ids=NO_IDS)
@pytest.mark.parametrize("factor", [1, 2])
def test_invalid_ids_are_named_or_left_out(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture, ids: tuple[object, ...], factor: int
) -> None:
    file = upgraded(FieldSpec(runs=4, length=20))
    give_ids(file, 2, *ids)
    with file.opened() as connection:
        known = [e.id for e in file.facts.of("Nomic")]
        stored = {row for (row,) in connection.execute("SELECT id FROM embedding")}
    expected = [e for e in file.facts.sample("Nomic", factor) if e.id in stored]
    n_bad = len(file.facts.sample("Nomic", factor)) - len(expected)
    assert len(stored & set(known)) == 40 - len(ids)
    if n_bad:
        with pytest.raises(BadVectors, match=f"{n_bad} ids of model Nomic are not 32 lower-case") as error:
            load(file.database, factor=factor)
        named = str(error.value).split("first embedding ids: ")[1].split(";")[0].split(", ")
        assert set(named) <= {repr(value) for value in stored if value not in known}
        assert len(named) == min(n_bad, 5)
    caplog.set_level("DEBUG", "panic_tda")
    matrix = load(file.database, factor=factor, skip=True)
    assert_holds(matrix, expected)
    assert (matrix.n_excluded, len(matrix.ids)) == (n_bad, len(expected))
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [re.match(rf"left out {n_bad} ids of model Nomic", line) is not None for line in warned] == (
        [True] if n_bad else []
    )


def test_all_that_was_left_out_is_in_the_log(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    file = upgraded(FieldSpec(null_vectors=4, short_vectors=3, nan_vectors=6, zero_vectors=1))
    caplog.set_level("DEBUG", "panic_tda")
    assert len(load(file.database, skip=True).ids) == 26
    shown: dict[str, set[str]] = {"WARNING": set(), "DEBUG": set()}
    for record in caplog.records:
        matches = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", record.getMessage())
        shown.setdefault(record.levelname, set()).update(matches)
    lengths = [e for kind in ("null", "short") for e in file.facts.bad("Nomic", kind)]
    values = [e for kind in ("nan", "zero") for e in file.facts.bad("Nomic", kind)]
    assert shown["DEBUG"] == {str(UUID(identity)) for identity in lengths + values}
    first = sorted(lengths)[:5] + sorted(values)[:5]
    assert shown["WARNING"] == {str(UUID(identity)) for identity in first}


@pytest.mark.parametrize("name", ["it's 100 %", 'say "so"', ":name", "?", "日本", "a\\b", "%s %(x)s"])
def test_models_may_have_any_name(upgraded: MakeFile, name: str) -> None:
    database, facts = upgraded(FieldSpec(text_models=("Other", name)))
    for factor in (1, 2):
        assert_holds(load(database, name, factor), facts.sample(name, factor))


def read_plan(file: UpgradedFile, sql: str) -> list[str]:
    with file.opened() as connection:
        return [step for _, _, _, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


def separate_nomic(file: UpgradedFile, *, every: int) -> None:
    """Leave the rows of Nomic, and give each `every`-th of them to another model."""
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding WHERE embedding_model <> 'Nomic'")
        numbers = [row for (row,) in connection.execute("SELECT rowid FROM embedding ORDER BY rowid")]
        connection.executemany(
            "UPDATE embedding SET rowid = ? WHERE rowid = ?", enumerate(numbers, start=-len(numbers))
        )
        connection.execute(
            f"UPDATE embedding SET embedding_model = 'Other' WHERE rowid % {every} = 1 - {every}"
        )


@pytest.mark.sqlite_only("its row numbers")
@pytest.mark.parametrize(("every", "is_range"), [(20, True), (3, False)])
def test_rows_of_other_models_between_them_are_left_out(
    upgraded: MakeFile, every: int, is_range: bool
) -> None:
    file = upgraded(FieldSpec(layout=0, runs=3, length=100))
    separate_nomic(file, every=every)
    with file.opened() as connection:
        stored = connection.execute(
            "SELECT id, vector FROM embedding WHERE embedding_model = 'Nomic' ORDER BY id"
        ).fetchall()
        ((n_all,),) = connection.execute("SELECT count(*) FROM embedding")
    assert 0 < len(stored) < n_all
    with recorded_statements() as statements:
        matrix = load(file.database)
    assert [embedding_id.decode() for embedding_id in matrix.ids] == [identity for identity, _ in stored]
    assert matrix.vectors.tobytes() == b"".join(vector for _, vector in stored)
    (sql,) = (sql for sql in statements if sql.startswith("SELECT embedding.id, embedding.vector"))
    in_range = "SEARCH embedding USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    assert (read_plan(file, sql)[0] == in_range) is is_range


@pytest.mark.sqlite_only("its cache")
def test_few_pages_are_in_memory_while_vectors_stream(upgraded: MakeFile) -> None:
    query = sa.select(Embedding.id, Embedding.__table__.c.vector).where(Embedding.embedding_model == "Nomic")
    with upgraded().database.reading() as connection:

        def read_cache_size() -> int:
            return -int(connection.exec_driver_sql("PRAGMA cache_size").scalar_one())

        before = read_cache_size()
        stream = stream_vectors(connection, query, width=32, batch_rows=1, invalid_ids=[])
        next(stream)
        assert read_cache_size() < before / 10
        stream.close()  # type: ignore[attr-defined]
        assert read_cache_size() == before


@pytest.mark.sqlite_only("its indexes")
def test_a_row_that_the_index_lacks_is_an_error(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(layout=0, runs=3, length=100))
    separate_nomic(file, every=20)
    index = "ix_embedding_model_length_invocation"
    with file.opened() as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (entry,) = connection.execute("SELECT * FROM sqlite_master WHERE name = ?", (index,)).fetchall()
        connection.execute("DELETE FROM sqlite_master WHERE name = ?", (index,))
    with file.opened() as connection:
        connection.execute("UPDATE embedding SET embedding_model = 'Nomic'")
    with file.opened() as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)
    with pytest.raises(DatabaseError, match="has more rows than its indexes"):
        load(file.database)


@pytest.mark.sqlite_only("its pages")
def test_a_damaged_page_is_a_database_error(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=60, dimensions=300))
    census = take_census(file.database)["Nomic"]
    with file.opened() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'embedding'").fetchone()
    with Path(file.path).open("r+b") as content:
        content.seek((root - 1) * page_size)
        content.write(b"\xff" * 100)
    with pytest.raises(DatabaseError, match=r"malformed"):
        load_embeddings(file.database, census)


def test_a_factor_below_one_is_refused(upgraded: MakeFile) -> None:
    database, _ = upgraded()
    with pytest.raises(InvalidParameter, match="downsample"):
        take_census(database, 0)


def test_the_fingerprint_is_computed_over_ids_and_rows(upgraded: MakeFile) -> None:
    file = upgraded()
    matrix = load(file.database)
    content = b"".join(matrix.ids.tolist()) + matrix.vectors.astype("<f4").tobytes()
    assert input_sha256(matrix) == hashlib.sha256(content).hexdigest()
    before = input_sha256(matrix)
    matrix.vectors[3, 2] = np.nextafter(matrix.vectors[3, 2], np.float32(2))
    assert input_sha256(matrix) != before


def test_ids_and_vectors_of_selected_rows_are_read(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, facts = upgraded(FieldSpec(digit_ids=True, orphan_embeddings=2))
    monkeypatch.setattr(vectors_by_id, "QUERY_IDS", 3)
    wanted_embeddings = facts.sample("Nomic")[5:15]
    with database.reading() as connection:
        ids = [e.id for e in facts.of("Nomic")] + ["f" * 32, *(e.id for e in facts.of("STSBMpnet"))]
        stored = are_stored(connection, np.array(ids, dtype="S32"))
        assert stored.tolist() == [identity != "f" * 32 for identity in ids]
        assert are_stored(connection, np.array([], dtype="S32")).tolist() == []
        shuffled = [wanted_embeddings[row] for row in np.random.default_rng(0).permutation(10)]
        vectors = read_vectors(connection, np.array([e.id for e in shuffled], dtype="S32"), dimensions=8)
        others = np.array([wanted_embeddings[0].id, "f" * 32], dtype="S32")
        of_other_length = read_vectors(connection, others, dimensions=7)
        vectors_left = read_vectors(connection, others, dimensions=8)
    np.testing.assert_array_equal(vectors, np.array([e.vector for e in shuffled]))
    assert np.isnan(of_other_length).all()
    assert np.isnan(vectors_left).any(axis=1).tolist() == [False, True]


@pytest.mark.sqlite_only("its file")
def test_reading_does_not_change_the_file(upgraded: MakeFile) -> None:
    file = upgraded(EVERYTHING)
    with file.opened() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = file.path.read_bytes()
    load(file.database, skip=True, factor=2)
    with pytest.raises(BadVectors):
        load(open_database(file.path))
    assert file.path.read_bytes() == before
