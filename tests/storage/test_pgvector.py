"""Vectors in a column of the extension pgvector are read as those in all other columns."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from panic_tda import cluster_all_data
from panic_tda.storage.census import take_census
from panic_tda.storage.copying import copy_database
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.loading import load_embeddings
from panic_tda.storage.picking import read_vectors
from panic_tda.storage.upgrade import upgrade
from tests.field_files import FieldFacts, FieldSpec
from tests.servers import Server
from tests.snapshots import opened

pytestmark = pytest.mark.xdist_group("postgres")


class Stored(NamedTuple):
    database: Database
    facts: FieldFacts


@pytest.fixture
def stored(server: Server, url: str, tmp_path: Path) -> Stored:
    """A database of the pipeline, not upgraded, whose vectors are pgvector's, one of them missing."""
    with opened(url) as raw:
        if not raw.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchall():
            pytest.skip("the server has no pgvector (apt-get install postgresql-NN-pgvector)")
    spec = FieldSpec(layout=0, null_vectors=1, dimensions=12)
    name, facts = server.field_database(spec, tmp_path / "field.sqlite")
    copy_database(server.url_of(name), url)
    with opened(url) as raw:
        raw.execute("CREATE EXTENSION vector")
        for table in (
            "clusteringtree",
            "embeddingcluster",
            "cluster",
            "clusteringresult",
            "panic_tda_version",
        ):
            raw.execute(f"DROP TABLE {table} CASCADE")
        # The indexes of ours go with the column.
        raw.execute("ALTER TABLE embedding DROP COLUMN vector")
        raw.execute("ALTER TABLE embedding ADD COLUMN vector vector(12)")
        raw.executemany(
            "UPDATE embedding SET vector = ? WHERE id = ?",
            [(str(one.vector.tolist()), one.id) for one in facts.embeddings if one.vector is not None],
        )
    database = open_database(url)
    upgrade(database)
    return Stored(database, facts)


def test_vectors_are_read_bit_by_bit(stored: Stored, tmp_path: Path) -> None:
    database, facts = stored
    expected = {one.id: one.vector for one in facts.embeddings}
    census = take_census(database)
    assert {name: one.sampled for name, one in census.items()} == {
        "Nomic": {48: 39, None: 1},
        "STSBMpnet": {48: 40},
    }
    matrix = load_embeddings(database, census["STSBMpnet"])
    assert len(matrix.ids) == 40
    for identity, vector in zip(matrix.ids.tolist(), matrix.vectors, strict=True):
        np.testing.assert_array_equal(vector, expected[identity.decode()])
    some = matrix.ids[[3, 1, 7]]
    with database.reading() as connection:
        # Through a cursor that asks for text.
        np.testing.assert_array_equal(
            read_vectors(connection, some, dimensions=12), matrix.vectors[[3, 1, 7]]
        )
    copy_database(database, tmp_path / "copy.sqlite")
    with opened(tmp_path / "copy.sqlite") as raw:
        copied = dict(raw.execute("SELECT id, vector FROM embedding"))
    assert copied == {
        identity: None if vector is None else vector.tobytes() for identity, vector in expected.items()
    }


def test_they_are_clustered(stored: Stored) -> None:
    outcomes = cluster_all_data(stored.database, skip_invalid=True, downsample=2)
    assert [(one.status, one.n_embeddings) for one in outcomes] == [
        ("clustered", len([e for e in stored.facts.sample(model, 2) if e.vector is not None]))
        for model in ("Nomic", "STSBMpnet")
    ]
