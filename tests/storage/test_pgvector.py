"""Test that vectors in a column of pgvector are read like others, and that other column types are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner

from panic_tda import cluster_all_data
from panic_tda.files.importing import sample_files
from panic_tda.main import main
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.loading import load_embeddings
from panic_tda.storage.read.vectors_by_id import read_vectors
from panic_tda.storage.schema.upgrade import UpgradePlan, plan_upgrade, upgrade
from panic_tda.storage.write.copying import copy_database
from tests.field_files import FieldFacts, FieldSpec
from tests.servers import Server
from tests.snapshots import opened

pytestmark = pytest.mark.xdist_group("postgres")


def require_extension(raw: Any, statement: str) -> None:
    """Skip a test whose statement makes an extension that the server does not have."""
    available = "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"
    if "EXTENSION" in statement and not raw.execute(available).fetchall():
        pytest.skip("the server has no pgvector (apt-get install postgresql-NN-pgvector)")


_FUNCTIONS = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
"""Functions of the schema that the connection works in, with the types of their arguments."""


class Stored(NamedTuple):
    database: Database
    facts: FieldFacts
    plan: UpgradePlan
    new_functions: list[str]


@pytest.fixture
def stored(server: Server, url: str, tmp_path: Path) -> Stored:
    """A database of the pipeline, not upgraded, whose vectors are pgvector's, one of them missing."""
    with opened(url) as raw:
        require_extension(raw, "CREATE EXTENSION vector")
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
            [
                (str(embedding.vector.tolist()), embedding.id)
                for embedding in facts.embeddings
                if embedding.vector is not None
            ],
        )
    database = open_database(url)
    with opened(url) as raw:
        before = raw.execute(_FUNCTIONS).fetchall()
    plan = upgrade(database)
    with opened(url) as raw:
        new = [f"function {name}" for (name,) in raw.execute(_FUNCTIONS) if (name,) not in before]
    return Stored(database, facts, plan, new)


def test_vectors_are_read_bit_by_bit(stored: Stored, tmp_path: Path) -> None:
    database, facts = stored.database, stored.facts
    expected = {embedding.id: embedding.vector for embedding in facts.embeddings}
    census = take_census(database)
    assert {name: censu.sampled for name, censu in census.items()} == {
        "Nomic": {48: 39, None: 1},
        "STSBMpnet": {48: 40},
    }
    matrix = load_embeddings(database, census["STSBMpnet"])
    assert len(matrix.ids) == 40
    for identity, vector in zip(matrix.ids.tolist(), matrix.vectors, strict=True):
        np.testing.assert_array_equal(vector, expected[identity.decode()])
    wanted_ids = matrix.ids[[3, 1, 7]]
    with database.reading() as connection:
        # Through a cursor that asks for text.
        np.testing.assert_array_equal(
            read_vectors(connection, wanted_ids, dimensions=12), matrix.vectors[[3, 1, 7]]
        )
    copy_database(database, tmp_path / "copy.sqlite")
    with opened(tmp_path / "copy.sqlite") as raw:
        copied = dict(raw.execute("SELECT id, vector FROM embedding"))
    assert copied == {
        identity: None if vector is None else vector.tobytes() for identity, vector in expected.items()
    }


def test_the_plan_of_the_upgrade_lists_the_functions_that_it_creates(stored: Stored) -> None:
    listed = [name for name in stored.plan.created if name.startswith("function ")]
    assert listed == stored.new_functions == ["function length(vector)"]
    assert "function length(vector)" in stored.plan.describe()
    assert plan_upgrade(stored.database).is_current


def test_vectors_of_pgvector_are_clustered(stored: Stored) -> None:
    outcomes = cluster_all_data(stored.database, skip_invalid=True, downsample=2)
    assert [(outcome.status, outcome.n_embeddings) for outcome in outcomes] == [
        ("clustered", len([e for e in stored.facts.sample(model, 2) if e.vector is not None]))
        for model in ("Nomic", "STSBMpnet")
    ]


# --------------------------------------------------------------------------- other types of the column

_TABLES = """
CREATE TABLE experimentconfig (id char(32) PRIMARY KEY, networks json, seeds json, prompts json,
    embedding_models json, max_length int, started_at timestamp, completed_at timestamp);
CREATE TABLE run (id char(32) PRIMARY KEY, network json NOT NULL, seed int NOT NULL, max_length int NOT NULL,
    initial_prompt varchar NOT NULL, experiment_id char(32));
CREATE TABLE invocation (id char(32) PRIMARY KEY, started_at timestamp, completed_at timestamp,
    model varchar NOT NULL, type varchar(5) NOT NULL, seed int NOT NULL, run_id char(32) NOT NULL,
    sequence_number int NOT NULL, input_invocation_id char(32), output_text varchar, output_image_data bytea);
CREATE TABLE embedding (id char(32) PRIMARY KEY, started_at timestamp, completed_at timestamp,
    invocation_id char(32) NOT NULL, embedding_model varchar NOT NULL, vector {type});
"""
COMMANDS = (
    ("upgrade", "--yes"),
    ("cluster-embeddings",),
    ("doctor",),
    ("list-clusterings",),
    ("plan-clustering",),
    ("import-embeddings", str(sample_files()[1])),
    ("export-clustering", "latest", "rows.parquet"),
)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("", "real[]"),
        ("", "double precision[]"),
        ("", "text"),
        ("", "jsonb"),
        ("CREATE DOMAIN numbers AS real[]", "numbers"),
        ("CREATE TYPE halfvec AS (x real)", "halfvec"),
        ("CREATE SCHEMA other; CREATE TYPE other.halfvec AS (x real)", "other.halfvec"),
        ("CREATE EXTENSION vector", "halfvec(2)"),
        ("CREATE EXTENSION vector", "sparsevec(2)"),
    ],
)
def test_a_column_of_another_type_is_refused_by_its_name(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(url) as raw:
        require_extension(raw, statement)
        raw.execute(statement or "SELECT 1")
        for table in _TABLES.replace("{type}", kind).split(";\n")[:-1]:
            raw.execute(table)
    for words in (*((*words, "--db", url) for words in COMMANDS), ("copy-database", url, "copy.sqlite")):
        result = CliRunner().invoke(main, ["-q", *words])
        text = " ".join(result.stderr.split())
        assert result.exit_code == 1, (words, text)
        assert f"the column embedding.vector is of type {kind}, and bytea or vector (of pgvector)" in text
        assert "SAWarning" not in text
        assert "does not exist" not in text, words
    assert not list(tmp_path.iterdir())


def test_a_domain_of_bytes_is_read_as_bytes(url: str) -> None:
    with opened(url) as raw:
        raw.execute("CREATE DOMAIN bytes AS bytea")
        for table in _TABLES.replace("{type}", "bytes").split(";\n")[:-1]:
            raw.execute(table)
        for identity, kind in (("1", "run"), ("2", "invocation")):
            values = {
                "run": "'[]', 1, 1, 'p'",
                "invocation": "NULL, NULL, 'A', 'TEXT', 1, lpad('1', 32, '0'), 0",
            }
            raw.execute(f"INSERT INTO {kind} VALUES (lpad('{identity}', 32, '0'), {values[kind]})")
        raw.execute(
            "INSERT INTO embedding VALUES (lpad('3', 32, '0'), NULL, NULL, lpad('2', 32, '0'), 'M', "
            "x'0000803f0000003f')"
        )
    database = open_database(url)
    upgrade(database)
    census = take_census(database)["M"]
    np.testing.assert_array_equal(load_embeddings(database, census).vectors, [[1, 0.5]])
