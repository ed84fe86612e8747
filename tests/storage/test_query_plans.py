"""Test that no query scans the rows of invocations or embeddings: in the field they are 130 GB."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import BadVectors, UnknownModel
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.assigning import assign_embeddings
from panic_tda.insight.comparison import compare_clusterings
from panic_tda.insight.divergence import read_divergence
from panic_tda.insight.merges import read_merges
from panic_tda.insight.origins import read_origins
from panic_tda.insight.planning import plan_clustering
from panic_tda.insight.stability import measure_stability
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import Database
from panic_tda.storage.read.census import (
    count_mixed,
    list_models,
    require_valid,
    take_census,
    take_censuses,
)
from panic_tda.storage.read.clusterings import find_stored, open_clustering
from panic_tda.storage.read.loading import load_embeddings
from panic_tda.storage.read.overview import read_overview
from panic_tda.storage.read.predictions import find_unassigned
from panic_tda.storage.read.results import (
    find_clusterings,
    get_cluster_details,
    get_medoid_invocation,
    list_clusterings,
)
from panic_tda.storage.read.row_samples import read_row_sample
from panic_tda.storage.read.trajectories import read_medoid_texts
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.storage.write.saving import delete_clusterings, save_clustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import EVERYTHING, FieldSpec

BIG = ("invocation", "embedding")
SPECS = {unique: replace(EVERYTHING, unique=unique) for unique in ("none", "constraint", "index")}
IMAGE_BYTES = 100_000


@contextmanager
def statements() -> Iterator[list[str]]:
    """Record all statements of SQLite connections with their values."""
    executed: list[str] = []

    def trace(connection: sqlite3.Connection, _record: object) -> None:
        connection.set_trace_callback(executed.append)

    event.listen(Engine, "connect", trace)
    try:
        yield executed
    finally:
        event.remove(Engine, "connect", trace)


def queries(executed: list[str]) -> list[str]:
    kinds = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
    return list(dict.fromkeys(statement for statement in executed if statement.lstrip().startswith(kinds)))


def plan(connection: sqlite3.Connection, sql: str) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


def scans_rows(step: str) -> bool:
    return re.match(r"SCAN (invocation|embedding)(_\d+)?( |$)", step) is not None and "COVERING" not in step


def tables_read(connection: sqlite3.Connection, sql: str) -> set[str]:
    """Return the big tables from which a query reads values instead of an index."""
    roots = dict(connection.execute("SELECT rootpage, name FROM sqlite_master WHERE type = 'table'"))
    program = connection.execute(f"EXPLAIN {sql}").fetchall()
    opened = {row[2]: roots.get(row[3]) for row in program if row[1] == "OpenRead"}
    return {str(opened[row[2]]) for row in program if row[1] == "Column" and opened.get(row[2]) in BIG}


def use_everything(file: UpgradedFile, folder: Path) -> None:
    """Run the queries of all commands."""
    database = file.database
    cluster_all_data(database, skip_invalid=True)
    (outcome,) = cluster_all_data(database, ["Nomic"], downsample=2, skip_invalid=True)
    with pytest.raises(BadVectors):
        require_valid(database, take_census(database, 3)["Nomic"], 3)
    plan_clustering(database, downsamples=[1, 2])
    read_overview(database)
    for factor in (1, 2):
        load_embeddings(database, take_census(database, factor)["NomicVision"], downsample=factor)
    with database.session() as session:
        with pytest.raises(UnknownModel):
            list_clusterings(session, model="none")
        (clustering,) = find_clusterings(session, [str(outcome.id)])
        assert get_cluster_details(clustering.id, session)
        assert get_medoid_invocation(0, clustering.id, session) is not None
        of_two = find_clusterings(session, ["latest"])[:2]
    assert compare_clusterings(database, *of_two).by == "invocation"
    with database.reading() as connection:
        assert read_medoid_texts(connection, clustering.id, [0])
    usable = [e.id for e in file.facts.sample("Nomic") if e.kind == "good"]
    finished = make_finished([*usable, "f" * 32])
    finished.medoids[0] = len(finished.ids) - 1
    pending.write_pending(database, finished)
    (saved,) = save_pending(database)
    assert saved.n_vanished == 1
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(16, dtype="f4")), 8)
    path = folder / "more.parquet"
    pq.write_table(pa.table({"text": ["one", "two"], "vector": vectors}), path)
    for _ in range(2):
        import_embeddings([path], database, model="Nomic")
    assign_embeddings(database, clustering, skip_invalid=True)
    delete_clusterings(database, [clustering.id])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_query_scans_rows(upgraded: MakeFile, tmp_path: Path, spec: FieldSpec) -> None:
    file = upgraded(spec)
    with statements() as executed:
        use_everything(file, tmp_path)
    selects = queries(executed)
    assert len(selects) > 40
    with closing(sqlite3.connect(file.path)) as connection:
        plans = {sql: plan(connection, sql) for sql in selects}
    scans = {sql: [step for step in steps if scans_rows(step)] for sql, steps in plans.items()}
    assert {sql: steps for sql, steps in scans.items() if steps} == {}
    # Turned around, the join would go through all embeddings of a model for each invocation.
    assert not [sql for sql, steps in plans.items() if "SCAN stride" in steps]
    # A sorter would carry the vectors, or the texts of all invocations, into a temporary file.
    sorted_rows = [sql for sql, steps in plans.items() if any("TEMP B-TREE FOR GROUP" in s for s in steps)]
    assert not [sql for sql in sorted_rows if re.search(r"FROM (invocation|embedding)\b", sql)]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_counting_reads_indexes_only(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    with statements() as executed:
        for factor in (1, 2, 10):
            take_census(database, factor)
        for model in facts.models:
            count_mixed(database, model)
            for factor, census in take_censuses(database, model, (1, 2, 10)).items():
                for n_rows in (5, 10_000):
                    read_row_sample(database, census, downsample=factor, n_rows=n_rows)
        with database.reading() as connection:
            list_models(connection)
    selects = [
        sql
        for sql in queries(executed)
        if " LIMIT " not in sql and not re.match(r"SELECT embedding\.rowid, (CASE .*)?embedding\.vector", sql)
    ]
    assert len(selects) > 40
    with closing(sqlite3.connect(facts.path)) as raw:
        # The next length of a model is looked up in the index, and measured on the one row it leads to.
        looked_up = [sql for sql in selects if "min(length(" in sql]
        rows = {sql: tables_read(raw, sql) for sql in selects if sql not in looked_up}
        assert not {sql: tables for sql, tables in rows.items() if tables}
        temporary = [sql for sql in selects if any("TEMP B-TREE" in step for step in plan(raw, sql))]
        assert temporary == []


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_overview_reads_indexes_only(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    with statements() as executed:
        overview = read_overview(database)
    assert sum(model.n_embeddings for model in overview.models) == len(facts.embeddings)
    selects = [sql for sql in queries(executed) if re.search(r"FROM (invocation|embedding)\b", sql)]
    assert len(selects) > 10
    with closing(sqlite3.connect(facts.path)) as raw:
        # As above: the next length of a model is measured on the one row that the index leads to.
        counting = [sql for sql in selects if "min(length(" not in sql]
        assert {sql: tables_read(raw, sql) for sql in counting if tables_read(raw, sql)} == {}
        plans = {sql: plan(raw, sql) for sql in selects}
    assert [sql for sql, steps in plans.items() if any(map(scans_rows, steps))] == []
    assert [sql for sql, steps in plans.items() if any("TEMP B-TREE" in step for step in steps)] == []


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_invocations_of_a_clustering_are_in_indexes(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    finished = make_finished([e.id for e in facts.sample("Nomic")])
    with database.writing() as connection:
        save_clustering(connection, finished)
    _, summary = find_stored(database, "latest")
    with statements() as executed, open_clustering(database, summary) as stored:
        assert len(stored.invocations) == len(finished.ids)
    selects = [sql for sql in queries(executed) if "embedding" in sql]
    with closing(sqlite3.connect(facts.path)) as raw:
        assert [
            step for sql in selects for step in plan(raw, sql) if re.match(r"(SCAN|SEARCH) embedding ", step)
        ] == [
            "SEARCH embedding USING COVERING INDEX sqlite_autoindex_embedding_1 (id=?) LEFT-JOIN",
            "SEARCH embedding USING COVERING INDEX ix_embedding_model_length_invocation (embedding_model=?)",
        ]
        assert set().union(*(tables_read(raw, sql) for sql in selects)) == set()
        # Sorted it would be, had the assignments been read by the index on embeddings.
        assert not [step for sql in selects for step in plan(raw, sql) if "TEMP B-TREE" in step]


@pytest.mark.parametrize("downsample", [1, 2])
def test_embeddings_without_an_assignment_are_found_in_indexes(upgraded: MakeFile, downsample: int) -> None:
    database, facts = upgraded(EVERYTHING)
    ids = [e.id for e in facts.sample("Nomic") if e.kind == "good"]
    finished = make_finished(ids[::2])
    with database.writing() as connection:
        save_clustering(connection, finished)
    _, summary = find_stored(database, "latest")
    with open_clustering(database, summary) as stored:
        assigned = [stored.assignments_with_locators(), stored.predictions]
        with statements() as executed, database.reading() as connection:
            unassigned = find_unassigned(connection, summary, assigned, width=32, downsample=downsample)
    assert len(unassigned.locators) > (0 if downsample > 1 else len(ids) // 2 - 1)
    assert unassigned.n_invalid
    selects = [sql for sql in queries(executed) if "embedding" in sql]
    with closing(sqlite3.connect(facts.path)) as raw:
        assert set().union(*(tables_read(raw, sql) for sql in selects)) == set()
        steps = [step for sql in selects for step in plan(raw, sql)]
    assert len([step for step in steps if "ix_embedding_model_length_invocation" in step]) == 4


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_origins_merges_stability_and_divergence_read_only_their_own_rows(
    upgraded: MakeFile, spec: FieldSpec
) -> None:
    database, facts = upgraded(spec)
    cluster_all_data(database, ["STSBMpnet"], parameters=ClusteringParameters(min_cluster_size=3))
    _, summary = find_stored(database, "latest")
    measures: dict[str, Callable[[], object]] = {
        "origins": lambda: read_origins(database, summary),
        "merges": lambda: read_merges(database, summary),
        "stability": lambda: measure_stability(database, summary, n_resamples=2),
        "divergence": lambda: read_divergence(database, summary),
    }
    sqls = {}
    for name, measure in measures.items():
        with statements() as executed:
            measure()
        sqls[name] = [sql for sql in queries(executed) if re.search(r"\b(invocation|embedding)\b", sql)]
    with closing(sqlite3.connect(facts.path)) as raw:
        plans = {sql: plan(raw, sql) for of_measure in sqls.values() for sql in of_measure}
        tables = {
            name: set().union(*(tables_read(raw, sql) for sql in of_measure))
            for name, of_measure in sqls.items()
        }
    assert [sql for sql, steps in plans.items() if any(map(scans_rows, steps))] == []
    assert [sql for sql, steps in plans.items() if any("TEMP B-TREE" in step for step in steps)] == []
    # Vectors are read of the rows of the clustering alone, and no invocation's row at all.
    assert tables == {
        "origins": set(),
        "merges": set(),
        "stability": {"embedding"},
        "divergence": {"embedding"},
    }


def read_and_written() -> tuple[int, int]:
    """Return the bytes that this process read from disk and wrote to files."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError as error:
        pytest.skip(f"/proc/self/io says how much was read; here it cannot be read: {error}")
    counts = dict(line.split(": ") for line in text.splitlines())
    return int(counts["read_bytes"]), int(counts["write_bytes"])


def forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def cost(path: Path, work: Callable[[], object]) -> tuple[int, int]:
    forget(path)
    before = read_and_written()
    work()
    after = read_and_written()
    return after[0] - before[0], after[1] - before[1]


def load_sample(database: Database, factor: int) -> int:
    census = take_census(database, factor)["Nomic"]
    return len(load_embeddings(database, census, downsample=factor).ids)


def field_of_images(upgraded: MakeFile) -> UpgradedFile:
    """Write a file that is mostly images, as in the field: each is a page of the table and 24 behind it."""
    spec = FieldSpec(layout=0, runs=12, length=100, dimensions=768, image_bytes=IMAGE_BYTES)
    file = upgraded(replace(spec, migrated=True))
    with closing(sqlite3.connect(file.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = file.path.stat().st_size
    assert size > 600 * IMAGE_BYTES
    full_cost, _ = cost(file.path, file.path.read_bytes)
    if full_cost < size:
        pytest.skip("the file cannot be made to come from the disk here (a file system in memory?)")
    return file


def test_a_row_sample_reads_indexes_and_its_own_vectors(upgraded: MakeFile) -> None:
    file = field_of_images(upgraded)
    size = file.path.stat().st_size
    census = take_census(file.database)["Nomic"]
    for factor, n_rows in ((1, 48), (10, 40)):
        statements_of_command = []

        def read(
            factor: int = factor, n_rows: int = n_rows, numbers: list[int] = statements_of_command
        ) -> None:
            rows = read_row_sample(file.database, census, downsample=factor, n_rows=n_rows).vectors
            numbers.append(len(rows))

        n_read, n_written = cost(file.path, read)
        assert n_rows / 2 <= statements_of_command[0] <= n_rows
        assert n_read < 0.02 * size
        assert n_written < 100_000


def test_an_overview_and_origins_of_images_read_little(upgraded: MakeFile) -> None:
    file = field_of_images(upgraded)
    with file.database.writing() as connection:
        save_clustering(connection, make_finished(ids_of(file)))
    _, summary = find_stored(file.database, "latest")
    with closing(sqlite3.connect(file.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    measures: list[Callable[[], object]] = [
        lambda: read_overview(file.database),
        lambda: read_origins(file.database, summary),
    ]
    for measure in measures:
        n_read, n_written = cost(file.path, measure)
        assert n_read < 0.02 * file.path.stat().st_size
        assert n_written < 100_000


def test_a_sample_reads_indexes_and_its_own_vectors(upgraded: MakeFile) -> None:
    file = field_of_images(upgraded)
    size = file.path.stat().st_size
    assert load_sample(file.database, 1000) == 12
    n_read, n_written = cost(file.path, lambda: load_sample(file.database, 1000))
    assert n_read < 0.01 * size
    # No more than the index of the log, which whoever opens the file makes.
    assert n_written < 100_000
