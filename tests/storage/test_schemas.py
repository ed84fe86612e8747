"""Test the mapped classes: validation, ids of digits only, vectors, cascades, files of the field."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from panic_tda.errors import DatabaseError, InvalidParameter
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.schema.tables import (
    Base,
    Cluster,
    ClusteringResult,
    Embedding,
    EmbeddingCluster,
    ExperimentConfig,
    Invocation,
    InvocationType,
    Run,
    utc_now,
    uuid7,
)
from panic_tda.storage.schema.upgrade import upgrade
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import opened

# The first was stored as infinity in the field: digits and one e, an exponent of 75 million.
NUMBERS = [
    "06888680501e75097830817616369915",
    "06888680501275097830817616369915",
    "00000000000000000000000000000001",
    "10000000000000000000000000000000",
    "99999999999999999999999999999999",
    "1e000000000000000000000000000000",
    "0000000000000000000000000000001e",
    "e0000000000000000000000000000000",
]


def new_database(folder: Path) -> Database:
    return open_database(folder / "new.sqlite", create=True)


def upgraded_database(folder: Path) -> Database:
    facts = write_field_file(folder / "field.sqlite", FieldSpec(layout=2, digit_ids=True))
    database = open_database(facts.path)
    upgrade(database)
    return database


def experiment(**changed: Any) -> ExperimentConfig:
    values = {"networks": [["A", "B"]], "seeds": [1], "prompts": ["p"], "embedding_models": ["M"]}
    return ExperimentConfig(**(values | {"max_length": 10} | changed))


def run(**changed: Any) -> Run:
    values = {"network": ["A", "B"], "seed": 1, "max_length": 10, "initial_prompt": "p"}
    return Run(**(values | changed))


def text(**changed: Any) -> Invocation:
    values = {"model": "B", "type": InvocationType.TEXT, "seed": 1, "sequence_number": 1, "output_text": "t"}
    return Invocation(**(values | changed))


def image(**changed: Any) -> Invocation:
    values = {"model": "A", "type": InvocationType.IMAGE, "seed": 1, "sequence_number": 0}
    return Invocation(**(values | {"output_image_data": b"RIFF"} | changed))


def result(**changed: Any) -> ClusteringResult:
    now = utc_now()
    values = {
        "key": 1,
        "started_at": now,
        "completed_at": now,
        "embedding_model": "M",
        "algorithm": "hdbscan",
    }
    return ClusteringResult(**(values | {"parameters": {}} | changed))


def store(database: Database, *rows: Base) -> None:
    with database.writing() as connection, Session(connection) as session:
        session.add_all(rows)
        session.flush()


def assignment(number: int, embedding: UUID) -> EmbeddingCluster:
    return EmbeddingCluster(result_key=number, embedding_id=embedding, label=0, probability=1.0)


def clustered(number: int, identity: Callable[[int], UUID]) -> list[Base]:
    """One row of each table, in the order in which they refer to each other."""
    own = identity(0)
    step = text(
        id=own, input_invocation_id=own, run=run(id=identity(1), experiment=experiment(id=identity(2)))
    )
    embedding = Embedding(id=identity(3), invocation=step, embedding_model="M", vector=np.ones(3))
    clustering = result(id=identity(4), key=number)
    cluster = Cluster(result=clustering, label=0, medoid=embedding, size=1, persistence=0.5)
    return [embedding, clustering, cluster]


# --------------------------------------------------------------------------- validation


@pytest.mark.parametrize("networks", [[], [["A"], []]])
def test_networks_contain_model_names(networks: list[list[str]]) -> None:
    with pytest.raises(InvalidParameter, match="networks must be a list of non-empty lists"):
        experiment(networks=networks)


def test_a_network_names_models() -> None:
    with pytest.raises(InvalidParameter, match="network must name at least one model"):
        run(network=[])


@pytest.mark.parametrize("make", [experiment, run])
@pytest.mark.parametrize("length", [0, -1])
def test_a_length_that_is_not_positive_is_refused(make: Callable[..., object], length: int) -> None:
    with pytest.raises(InvalidParameter, match=f"max_length must be at least 1; got {length}"):
        make(max_length=length)


@pytest.mark.parametrize(
    "wrong",
    [
        text(output_text=None),
        text(output_image_data=b"RIFF"),
        image(output_image_data=None),
        image(output_text="t"),
        text(output_text=None, output_image_data=b"RIFF"),
        image(output_text="t", output_image_data=None),
    ],
)
def test_an_output_of_another_type_is_refused(database: Database, wrong: Invocation) -> None:
    wrong.run = run()
    with pytest.raises(InvalidParameter, match="a TEXT invocation has output_text and no image"):
        store(database, wrong)


def test_valid_rows_are_stored(database: Database) -> None:
    full_run = run(experiment=experiment())
    full_run.invocations = [text(output_text=""), image()]
    store(database, full_run)
    with database.session() as session:
        (stored,) = session.scalars(sa.select(Run))
        assert [step.sequence_number for step in stored.invocations] == [0, 1]
        assert [step.type for step in stored.invocations] == [InvocationType.IMAGE, InvocationType.TEXT]
        assert stored.experiment is not None
        assert stored.experiment.networks == [["A", "B"]]
    assert database.path is not None
    with opened(database.path) as raw:
        assert set(raw.execute("SELECT type FROM invocation")) == {("IMAGE",), ("TEXT",)}


# --------------------------------------------------------------------------- ids


def test_new_ids_are_of_version_7_and_ordered_by_time() -> None:
    before = utc_now()
    identities = [uuid7() for _ in range(1000)]
    with ThreadPoolExecutor(4) as pool:
        identities += pool.map(lambda _: uuid7(), range(1000))
    assert len(set(identities)) == 2000
    assert {(identity.version, identity.variant) for identity in identities} == {(7, "specified in RFC 4122")}
    milliseconds = [identity.int >> 80 for identity in identities[:1000]]
    assert milliseconds == sorted(milliseconds)
    since_1970 = (before - datetime(1970, 1, 1)).total_seconds()
    assert abs(milliseconds[0] / 1000 - since_1970) < 60


@pytest.mark.parametrize("make", [new_database, upgraded_database])
def test_ids_that_look_like_numbers_round_trip_through_every_table(
    tmp_path: Path, make: Callable[[Path], Database]
) -> None:
    """A column declared UUID stores these as floats: 141,600 rows failed to cluster, now and then."""
    database = make(tmp_path)

    def identity(number: int, place: int) -> UUID:
        return UUID(NUMBERS[(number + place) % len(NUMBERS)])

    for number in range(len(NUMBERS)):
        store(database, *clustered(number, partial(identity, number)))
        store(database, assignment(number, identity(number, 3)))

    expected = set(NUMBERS)
    with database.session() as session:
        for column in _id_columns():
            read = {row.hex for row in session.scalars(sa.select(column)) if row is not None}
            assert expected <= read, column
        for number in range(len(NUMBERS)):
            step = session.get(Invocation, identity(number, 0))
            assert step is not None
            assert (step.run.id, step.run.experiment_id) == (identity(number, 1), identity(number, 2))
            assert [embedding.id for embedding in step.embeddings] == [identity(number, 3)]
    assert database.path is not None
    with opened(database.path) as raw:
        for column in _id_columns():
            kinds = f"SELECT DISTINCT typeof({column.name}), length({column.name}) FROM {column.table.name}"
            stored = set(raw.execute(f"{kinds} WHERE {column.name} IS NOT NULL"))
            assert stored == {("text", 32)}, column


def _id_columns() -> list[sa.Column[Any]]:
    return [
        column
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name == "id" or column.name.endswith("_id")
    ]


@pytest.mark.parametrize("make", [new_database, upgraded_database])
def test_no_id_column_has_numeric_affinity(tmp_path: Path, make: Callable[[Path], Database]) -> None:
    database = make(tmp_path)
    assert database.path is not None
    assert len(_id_columns()) == 11
    with opened(database.path) as raw:
        for column in _id_columns():
            types = {row[1]: row[2] for row in raw.execute(f"PRAGMA table_info({column.table.name})")}
            assert types[column.name] == "CHAR(32)", column


# --------------------------------------------------------------------------- values


def test_vectors_are_raw_little_endian_float32(database: Database) -> None:
    vector = np.array([1.5, -0.0, 3e-42, 7], dtype=np.float64)
    first = text(run=run())
    store(
        database,
        Embedding(invocation=first, embedding_model="M", vector=vector),
        Embedding(invocation=first, embedding_model="N", vector=None),
    )
    assert database.path is not None
    with opened(database.path) as raw:
        stored = dict(raw.execute("SELECT embedding_model, vector FROM embedding"))
    assert stored == {"M": vector.astype("<f4").tobytes(), "N": None}
    with database.session() as session:
        read = {row.embedding_model: row.vector for row in session.scalars(sa.select(Embedding))}
        assert read["N"] is None
        assert read["M"] is not None
        np.testing.assert_array_equal(read["M"], vector.astype(np.float32))
        assert read["M"].dtype == np.float32


def test_images_and_vectors_are_read_only_when_asked_for() -> None:
    assert "output_image_data" not in str(sa.select(Invocation))
    assert "vector" not in str(sa.select(Embedding))


def test_field_files_read_as_they_were_written(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", EVERYTHING)
    with open_database(facts.path).session() as session:
        vectors = {row.id.hex: row.vector for row in session.scalars(sa.select(Embedding))}
        steps = {row.id.hex: row for row in session.scalars(sa.select(Invocation))}
        assert vectors.keys() == {embedding.id for embedding in facts.embeddings}
        for embedding in facts.embeddings:
            np.testing.assert_array_equal(vectors[embedding.id], embedding.vector)
        assert steps.keys() == {invocation.id for invocation in facts.invocations}
        for invocation in facts.invocations:
            step = steps[invocation.id]
            assert (step.type.name, step.output_text) == (invocation.type, invocation.text)
            assert (step.run_id.hex, step.sequence_number) == (invocation.run_id, invocation.sequence_number)
            # Without a fraction of a second, as in migrated files.
            assert step.started_at == datetime(2025, 4, 16, 14, 41, 18)
        assert {row.id.hex for row in session.scalars(sa.select(Run))} == set(facts.runs)


# --------------------------------------------------------------------------- cascades


@pytest.fixture
def two_clusterings(database: Database) -> Database:
    """Two clusterings with an assignment each; the embedding of the first is its medoid."""
    for number in (1, 2):
        identities = [uuid7() for _ in range(5)]
        store(database, *clustered(number, identities.__getitem__))
        store(database, assignment(number, identities[3]))
    return database


def counts(database: Database) -> list[int]:
    with database.session() as session:
        tables = (Embedding, ClusteringResult, Cluster, EmbeddingCluster)
        return [session.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables]


def test_deleting_an_embedding_takes_its_assignments_and_its_cluster(two_clusterings: Database) -> None:
    with two_clusterings.writing() as connection:
        medoid = sa.select(Cluster.medoid_embedding_id).where(Cluster.result_key == 1)
        connection.execute(sa.delete(Embedding).where(Embedding.id.in_(medoid)))
    assert counts(two_clusterings) == [1, 2, 1, 1]


def test_deleting_a_clustering_takes_what_belongs_to_it(two_clusterings: Database) -> None:
    with two_clusterings.writing() as connection:
        connection.execute(sa.delete(ClusteringResult).where(ClusteringResult.key == 2))
    assert counts(two_clusterings) == [2, 1, 1, 1]


def test_assignments_of_unknown_embeddings_are_refused(two_clusterings: Database) -> None:
    lost = assignment(1, uuid7())
    with pytest.raises(DatabaseError, match="FOREIGN KEY constraint failed"):
        store(two_clusterings, lost)
    assert counts(two_clusterings) == [2, 2, 2, 2]
