"""The doctor names what is wrong in a database, counts it, and changes nothing."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.storage import pending
from panic_tda.storage.doctor import Examination, Finding, examine_database
from panic_tda.storage.saving import save_or_keep
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import snapshot

pytestmark = pytest.mark.usefixtures("temporary_folder")

INDEXES = (
    "ix_embedding_model_length_invocation ON embedding (embedding_model, length(vector), invocation_id)",
    "ix_invocation_id_run_type_number ON invocation (id, run_id, type, sequence_number)",
)
MakeIndexed = Callable[..., UpgradedFile]


def write(file: UpgradedFile, *statements: str) -> None:
    """Change a file as the sqlite3 shell does, without foreign keys."""
    with closing(sqlite3.connect(file.path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def indexed(upgraded: MakeFile) -> MakeIndexed:
    """Make a file with the indexes that counting needs."""

    def make(spec: FieldSpec = FieldSpec()) -> UpgradedFile:  # noqa: B008 (frozen)
        file = upgraded(spec)
        write(file, *(f"CREATE INDEX IF NOT EXISTS {index}" for index in INDEXES))
        return file

    return make


def examined(file: UpgradedFile) -> Examination:
    before = snapshot(file.path)
    found = examine_database(file.database)
    assert snapshot(file.path) == before
    return found


def only(file: UpgradedFile) -> Finding:
    (finding,) = examined(file).findings
    return finding


def test_nothing_is_wrong_with_a_plain_file(indexed: MakeIndexed) -> None:
    file = indexed(FieldSpec(vision_models=("NomicVision",)))
    save_or_keep(file.database, make_finished(ids_of(file)))
    assert examined(file) == Examination(str(file.path), (), ())


def test_rows_of_clusterings_that_are_gone(indexed: MakeIndexed) -> None:
    file = indexed()
    for number in (1, 2, 3):
        save_or_keep(file.database, replace(make_finished(ids_of(file)), id=UUID(int=number)))
    write(file, "DELETE FROM clusteringresult WHERE key IN (1, 3)")
    found = {finding.name: finding for finding in examined(file).findings}
    assert set(found) == {"orphaned-assignments", "orphaned-clusters"}
    assert found["orphaned-assignments"].count == 80
    assert found["orphaned-assignments"].examples == (
        "40 assignments with result_key 1",
        "40 assignments with result_key 3",
    )
    assert found["orphaned-clusters"].count == 2 * len(make_finished(ids_of(file)).medoids)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM embeddingcluster WHERE label = -1", "assignments stored"),
        ("UPDATE embeddingcluster SET label = -1 WHERE label = 2", "outliers stored"),
        ("DELETE FROM cluster WHERE label = 1", "clusters stored and 3 there"),
        ("UPDATE clusteringresult SET parameters = '{}'", "the stored parameters lack"),
        ("UPDATE clusteringresult SET parameters = '[]'", "the stored parameters"),
    ],
)
def test_clusterings_whose_counts_and_rows_differ(indexed: MakeIndexed, change: str, said: str) -> None:
    file = indexed()
    finished = make_finished(ids_of(file))
    save_or_keep(file.database, finished)
    write(file, change)
    finding = only(file)
    assert (finding.name, finding.count) == ("broken-clusterings", 1)
    assert finding.examples[0].startswith(f"{finished.id}: ")
    assert said in finding.examples[0]


def test_embeddings_without_invocation(indexed: MakeIndexed) -> None:
    file = indexed(FieldSpec(orphan_embeddings=7))
    orphans = {str(UUID(e.id)) for e in file.facts.of("Nomic") if e.invocation is None}
    finding = only(file)
    assert (finding.name, finding.count, len(finding.examples)) == ("orphaned-embeddings", 7, 5)
    assert {example.removeprefix("embedding ") for example in finding.examples} < orphans


def test_two_embeddings_of_one_invocation(indexed: MakeIndexed) -> None:
    file = indexed()
    first = file.facts.of("Nomic")[0]
    assert first.invocation is not None
    copy = "INSERT INTO embedding (id, invocation_id, embedding_model, vector) SELECT '{}' || substr(id, 2), "
    source = f"invocation_id, embedding_model, vector FROM embedding WHERE id = '{first.id}'"
    write(file, copy.format("e") + source, copy.format("f") + source)
    finding = only(file)
    assert (finding.name, finding.count) == ("duplicate-embeddings", 1)
    assert finding.examples == (f"Nomic: invocation {UUID(first.invocation.id)}",)


@pytest.mark.parametrize(("model", "kind", "other"), [("Nomic", "IMAGE", "TEXT"), ("Seen", "TEXT", "IMAGE")])
def test_embeddings_of_the_other_type(indexed: MakeIndexed, model: str, kind: str, other: str) -> None:
    file = indexed(FieldSpec(text_models=("Nomic",), vision_models=("Seen",)))
    strangers = [found.id for found in file.facts.invocations if found.type == kind][:3]
    ids = [found.id for found in file.facts.of(model)][:3]
    write(
        file,
        *(
            f"UPDATE embedding SET invocation_id = '{invocation}' WHERE id = '{identity}'"
            for invocation, identity in zip(strangers, ids, strict=True)
        ),
    )
    finding = only(file)
    assert (finding.name, finding.count) == ("mixed-types", 3)
    assert finding.examples == (f"{model}: 3 of 40 belong to {kind} invocations",)


def test_vectors_that_are_missing_or_of_another_length(indexed: MakeIndexed) -> None:
    file = indexed(FieldSpec(null_vectors=2, short_vectors=1, zero_vectors=1))
    finding = only(file)
    assert (finding.name, finding.count) == ("bad-vectors", 3)
    assert all(str(UUID(bad)) in finding.examples[0] for bad in file.facts.bad("Nomic", "null"))


def test_what_waits_beside_the_database(indexed: MakeIndexed) -> None:
    file = indexed()
    path = pending.keep(file.database, make_finished(ids_of(file)))
    state = Checkpoint(file.path.with_name("field.sqlite.panic-tda") / "Nomic", "5f" * 32)
    state.open(min_samples=5)
    state.save("neighbours", rows=np.zeros(1 << 18))
    for file_of_state in state.folder.iterdir():
        os.utime(file_of_state, (0, file_of_state.stat().st_mtime - 3 * 86400))
    odd = file.path.with_name("field.sqlite.panic-tda") / "odd"
    odd.mkdir()
    (odd / "checkpoint.json").write_text("null")
    waiting, unfinished = examined(file).findings
    assert (waiting.name, waiting.count, waiting.examples) == ("waiting-clusterings", 1, (str(path),))
    assert waiting.text.endswith(f"panic-tda save-pending --db {file.path}")
    assert (unfinished.name, unfinished.count) == ("unfinished-states", 2)
    assert unfinished.examples[0] == f"{state.folder}: 2 MiB, saved 3 days ago"


def test_a_name_that_no_folder_beside_can_have(upgraded: MakeFile) -> None:
    file = upgraded(name=f"{'n' * 239}.sqlite")
    assert len(file.database.work_root.name) > 255
    assert examined(file).findings == ()


def test_a_check_without_its_index_is_left_out_by_name(upgraded: MakeFile) -> None:
    file = upgraded()
    write(file, *(f"DROP INDEX IF EXISTS {index.split()[0]}" for index in INDEXES))
    assert examined(file).unchecked == ("duplicate-embeddings", "mixed-types")


def test_no_check_goes_through_rows_of_embeddings_or_invocations(indexed: MakeIndexed) -> None:
    file = indexed(FieldSpec(orphan_embeddings=2, null_vectors=1))
    save_or_keep(file.database, make_finished(ids_of(file)[5:]))
    plans: dict[str, list[str]] = {}

    def look(_connection: object, cursor: sqlite3.Cursor, statement: str, values: object, *_: object) -> None:
        if statement.startswith("SELECT") and "embedding" in statement:
            plan = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
            plans[statement] = [row[3] for row in plan.fetchall()]

    sa.event.listen(sa.Engine, "before_cursor_execute", look)
    try:
        examine_database(file.database)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", look)
    rows = re.compile(r"SCAN (embedding|invocation)\b(?!.* COVERING INDEX )")
    through = {s: plan for s, plan in plans.items() if "length(" not in s and any(map(rows.match, plan))}
    assert len(plans) > 5
    assert through == {}
