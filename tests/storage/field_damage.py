"""Damage field files of any layout in known ways, for tests of the doctor and of repairs."""

from __future__ import annotations

import sqlite3
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from hypothesis import strategies as st

from panic_tda.storage.database import open_database
from panic_tda.storage.doctor import KINDS, examine_database
from panic_tda.storage.schema.upgrade import upgrade
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import make_finished
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened, snapshot
from tests.storage.doctor_oracle import OURS

BASE = FieldSpec(
    runs=3, length=8, dimensions=4, vision_models=("NomicVision",), duplicates=0.3, clusterings=1
)
IDS = [f"0bad{number:028x}" for number in range(6)]


def found_in(path: Path, **more: Any) -> dict[str, list[str]]:
    """Return all ids by kind, after checking that nothing was changed."""
    before = snapshot(path)
    examined = examine_database(open_database(path), limit=0, **more)
    assert snapshot(path) == before
    assert [finding.kind for finding in examined.findings] == [
        kind for kind in KINDS if kind in {finding.kind for finding in examined.findings}
    ]
    assert all(finding.count == len(finding.ids) for finding in examined.findings)
    return {finding.kind: list(finding.ids) for finding in examined.findings}


def damage(path: Path, *changes: tuple[str, tuple[Any, ...]] | str) -> None:
    """Change a file as the sqlite3 shell does, without foreign keys."""
    with opened(path) as connection:
        for change in changes:
            sql, values = (change, ()) if isinstance(change, str) else change
            connection.execute(sql, values)


def copy_of(identity: str, copy_id: str, *, vector: str = "vector", started: str = "started_at") -> str:
    """Return the statement that writes an embedding a second time."""
    return (
        "INSERT INTO embedding (id, invocation_id, embedding_model, started_at, completed_at, vector) SELECT "
        f"'{copy_id}', invocation_id, embedding_model, {started}, completed_at, {vector} FROM embedding "
        f"WHERE id = '{identity}'"
    )


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@dataclass(frozen=True)
class Layout:
    """Layout and state of a test file."""

    layout: int
    migrated: bool
    upgraded: bool

    @property
    def sees_types(self) -> bool:
        """Before the upgrade, a migrated file has the types of outputs behind the images only."""
        return self.upgraded or not self.migrated

    def write(self, path: Path) -> Path:
        spec = replace(BASE, layout=self.layout, migrated=self.migrated)
        facts = write_field_file(path, spec)
        # Models are known by their own lengths.
        with opened(path) as connection:
            of_model = "SELECT vector, id FROM embedding WHERE embedding_model = 'STSBMpnet'"
            longer = [(vector + floats(1, 1), identity) for vector, identity in connection.execute(of_model)]
            connection.executemany("UPDATE embedding SET vector = ? WHERE id = ?", longer)
        if self.upgraded:
            database = open_database(path)
            upgrade(database)
            for seed in (0, 1):
                ids = [embedding.id for embedding in facts.sample("Nomic")]
                finished = replace(make_finished(ids[seed:], seed=seed), id=UUID(int=seed + 1))
                save_or_write_pending(database, finished)
            # The file alone is copied.
            with opened(path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path


LAYOUTS = {
    f"layout {layout}{', migrated' * migrated}{', upgraded' * upgraded}": Layout(layout, migrated, upgraded)
    for layout, migrated in ((0, True), (1, False), (1, True), (2, False), (3, False))
    for upgraded in (False, True)
}


VALUES: dict[str, list[Any]] = {
    "embedding.vector": [
        *(None, b"", b"\0" * 16, floats(0, -0.0, 0, 0), floats(1, 2, 3), floats(1, 2, 3, 4, 5)),
        *(b"\0" * 15, floats(1, np.nan, 0, 0), floats(0, 0, np.inf, 0), floats(-np.inf, 0, 0, 0)),
        *(floats(1e-45, 0, 0, 0), floats(3e38, 3e38, 3e38, 3e38), floats(1, 0, 0, 0)),
    ],
    "embedding.invocation_id": IDS,
    "embedding.embedding_model": ["Nomic", "STSBMpnet", "NomicVision", "New"],
    "embedding.id": ["short", "A" * 32, "", b"\1\2", b"0" * 32, "g" * 32, "0" * 33, IDS[0]],
    "invocation.id": [IDS[1], "another"],
    "invocation.run_id": IDS,
    "invocation.type": ["TEXT", "IMAGE", "IMAGE", "TEXT"],
    "invocation.output_text": [None, ""],
    "invocation.output_image_data": [None, b"", b"RIFF"],
    "invocation.sequence_number": [-1, 0, 3, 7, 9],
    "run.experiment_id": [None, *IDS[:2]],
    "run.max_length": [1, 7, 8, 9, 10],
    "run.id": [IDS[2], "x"],
    "experimentconfig.id": [IDS[3], b"32"],
    "clusteringresult.key": [7],
    "clusteringresult.id": ["none", IDS[4]],
    "clusteringresult.parameters": ["{}", "[]", "no JSON", "null"],
    "cluster.size": [1, 5],
    "cluster.label": [-1, 0, 9],
    "cluster.medoid_embedding_id": IDS[:1],
    "embeddingcluster.label": [-2, -1, 0, 1, 9],
    "embeddingcluster.embedding_id": IDS[:1],
    "embeddingcluster.result_key": [1, 2, 8],
}
TIMES = [None, "2024-01-01 00:00:00", "2026-01-01 00:00:00.5"]
numbers = st.integers(0, 10**4)
of_columns = {
    column: st.tuples(st.just(column), numbers, st.sampled_from(values)) for column, values in VALUES.items()
}
changes = st.one_of(
    st.sampled_from(sorted(VALUES)).flatmap(of_columns.__getitem__),
    st.sampled_from(["embedding.vector", "invocation.type", "invocation.sequence_number"]).flatmap(
        of_columns.__getitem__
    ),
    st.tuples(
        st.just("delete"), numbers, st.sampled_from([*OURS, *sorted({c.split(".")[0] for c in VALUES})])
    ),
    st.tuples(st.just("repeat"), numbers, st.tuples(*2 * [st.sampled_from(TIMES)], numbers)),
)


def change(connection: sqlite3.Connection, what: str, number: int, value: Any) -> None:
    """Change a value of a row, delete a row, or write an embedding a second time."""
    table = value if what == "delete" else what.partition(".")[0] if "." in what else "embedding"
    keys = "result_key, label" if table == "cluster" else "result_key, embedding_id"
    key = keys if table in ("cluster", "embeddingcluster") else "id"
    try:
        rows = connection.execute(f"SELECT {key} FROM {table} ORDER BY {key}").fetchall()
    except sqlite3.OperationalError:
        return  # no such table, or one of the old pipeline's
    if not rows:
        return
    row = rows[number % len(rows)]
    of_row = " AND ".join(f"{name} = ?" for name in key.split(", "))
    if what == "delete":
        connection.execute(f"DELETE FROM {table} WHERE {of_row}", row)
    elif what == "repeat":
        started, completed, further = value
        connection.execute(
            "INSERT OR IGNORE INTO embedding (id, started_at, completed_at, invocation_id, embedding_model, "
            f"vector) SELECT ?, ?, ?, invocation_id, embedding_model, vector FROM {table} WHERE {of_row}",
            (f"{further:032x}", started, completed, *row),
        )
    else:
        column = what.partition(".")[2]
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {of_row}", (value, *row))
