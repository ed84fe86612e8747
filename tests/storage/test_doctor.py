"""Test that the doctor finds exactly what is wrong in a database of any layout, and changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.errors import DatabaseError
from panic_tda.storage.database import open_database
from panic_tda.storage.doctor import KINDS, Examination, duplicates, examine_database
from panic_tda.storage.schema.upgrade import upgrade
from panic_tda.storage.write import pending
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, ids_of, make_finished
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import opened, run_python
from tests.storage.doctor_oracle import OURS, expected, read_tables, shown
from tests.storage.field_damage import (
    IDS,
    LAYOUTS,
    VALUES,
    Layout,
    change,
    changes,
    copy_of,
    damage,
    found_in,
)
from tests.storage.test_query_plans import cost, plan, queries, scans_rows, statements

pytestmark = pytest.mark.usefixtures("temporary_folder")

# ------------------------------------------------------------------------------ against the oracle


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    return {
        layout: layout.write(folder / f"{number}.sqlite") for number, layout in enumerate(LAYOUTS.values())
    }


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_sound_file_has_no_findings(written: dict[Layout, Path], layout: Layout) -> None:
    path = written[layout]
    old = [] if layout.upgraded else [table for table in OURS if table in read_tables(path)]
    assert found_in(path) == ({"old_clustering_tables": sorted(old)} if old else {})
    unchecked = {finding.kind for finding in examine_database(open_database(path)).unchecked}
    left_out = set() if layout.sees_types else {"wrong_type", "missing_output"}
    assert unchecked == left_out | (set() if layout.upgraded else {"unreadable_value"})


def agree(path: Path, layout: Layout) -> dict[str, list[str]]:
    """Require that the doctor and the reference find the same, and return it."""
    wanted = expected(read_tables(path), upgraded=layout.upgraded, sees_types=layout.sees_types)
    examined = examine_database(open_database(path), limit=0)
    assert {finding.kind: list(finding.ids) for finding in examined.findings} == wanted
    assert all(finding.count == len(finding.ids) for finding in examined.findings)
    return wanted


@pytest.mark.parametrize("name", ["layout 0, migrated", "layout 1", "layout 2, upgraded"])
@pytest.mark.parametrize("column", VALUES)
def test_every_value_is_described_by_its_type(
    written: dict[Layout, Path], tmp_path: Path, column: str, name: str
) -> None:
    layout, path = LAYOUTS[name], tmp_path / "damaged.sqlite"
    table = column.partition(".")[0]
    if table in OURS and not layout.upgraded:
        return
    shutil.copyfile(written[layout], path)
    with opened(path) as connection:
        for number, value in enumerate(VALUES[column]):
            change(connection, column, 1 + 3 * number, value)
    harmless = column in ("embedding.embedding_model", "invocation.sequence_number", "invocation.type")
    assert set(agree(path, layout)) - {"old_clustering_tables"} or harmless


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), layout=st.sampled_from(list(LAYOUTS.values())))
def test_findings_equal_those_of_the_reference(
    written: dict[Layout, Path], tmp_path: Path, data: st.DataObject, layout: Layout
) -> None:
    path = tmp_path / "damaged.sqlite"
    shutil.copyfile(written[layout], path)
    with opened(path) as connection:
        # Old clusterings are of no value, whatever is in them.
        mine = changes if layout.upgraded else changes.filter(lambda change: change[2] not in OURS)
        for damaged in data.draw(st.lists(mine, max_size=12)):
            if layout.upgraded or damaged[0].partition(".")[0] not in OURS:
                change(connection, *damaged)
    agree(path, layout)


def test_the_reference_has_every_kind_of_the_database_itself(tmp_path: Path) -> None:
    changes_of_all = [
        "UPDATE embedding SET vector = NULL WHERE id = {0}",
        "UPDATE embedding SET vector = x'00' WHERE id = {1}",
        "UPDATE embedding SET vector = x'0000807f000000000000000000000000' WHERE id = {2}",
        "UPDATE embedding SET vector = zeroblob(16) WHERE id = {3}",
        "UPDATE embedding SET invocation_id = 'none' WHERE id = {4}",
        "UPDATE invocation SET run_id = 'none' WHERE id IN (SELECT id FROM invocation LIMIT 1)",
        "UPDATE invocation SET output_text = NULL",
        "UPDATE invocation SET sequence_number = 7 WHERE sequence_number = 5",
        "UPDATE run SET experiment_id = 'none', max_length = 9",
        "UPDATE experimentconfig SET id = 'short'",
        "UPDATE embedding SET invocation_id = (SELECT id FROM invocation WHERE type = 'IMAGE') "
        "WHERE id = {6}",
        f"UPDATE embeddingcluster SET embedding_id = '{IDS[1]}' WHERE embedding_id = {{7}} "
        "AND result_key = 1",
    ]
    path = Layout(1, migrated=False, upgraded=True).write(tmp_path / "all.sqlite")
    names = [f"'{row['id']}'" for row in read_tables(path)["embedding"] if row["embedding_model"] == "Nomic"]
    damage(path, copy_of(names[5][1:-1], IDS[0]), *(change.format(*names) for change in changes_of_all))
    wanted = expected(read_tables(path))
    # These have tests of their own: `tests/faults`, `test_dumps`, forged and old trees (`test_trees`),
    # `test_assigning`.
    others = {
        "damaged_prediction",
        "old_clustering_tables",
        "unfinished_work",
        "unreadable_value",
        "prompt_embedding",
        "damaged_tree",
        "damaged_neighbours",
        "wrong_tree",
    }
    assert set(wanted) == set(KINDS) - others
    assert found_in(path) == wanted
    for kind, ids in wanted.items():
        if kind != "sequence_gap":
            # Each kind alone is what it is among all.
            assert found_in(path, kinds=[kind]) == {kind: ids}


# ------------------------------------------------------------------------------ what was planted

SPOILED = {
    "missing_vector": "null",
    "vector_length": "short",
    "vector_zero": "zero",
}


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["before", "upgraded"])
@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_a_file_with_every_kind_of_damage_is_examined(tmp_path: Path, layout: Any, is_upgraded: bool) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", replace(EVERYTHING, layout=layout))
    if is_upgraded:
        upgrade(open_database(facts.path))
    bad = {kind: facts.bad("Nomic", spoiled) for kind, spoiled in SPOILED.items()}
    bad["vector_not_finite"] = sorted(facts.bad("Nomic", "nan") + facts.bad("Nomic", "infinite"))
    bad["orphan_embedding"] = [
        embedding.id for embedding in facts.of("Nomic") if embedding.invocation is None
    ]
    bad["orphan_invocation"] = [
        invocation.id for invocation in facts.invocations if invocation.run_id not in facts.runs
    ]
    bad["sequence_gap"] = sorted(facts.runs[run] for run in {run for run, _ in facts.spec.holes})
    if not is_upgraded and layout:
        bad["old_clustering_tables"] = sorted(facts.old_rows)
    assert [len(ids) for ids in bad.values()][:7] == [2, 1, 1, 3, 3, 2, 4]
    assert found_in(facts.path) == {
        kind: [shown(row_id) for row_id in sorted(ids)] for kind, ids in bad.items()
    }


def test_ids_of_digits_only_are_valid_ids(tmp_path: Path) -> None:
    path = tmp_path / "field.sqlite"
    write_field_file(path, FieldSpec(layout=0, digit_ids=True))
    assert found_in(path) == {}


def test_ids_converted_to_numbers_by_column_affinity_are_found(tmp_path: Path) -> None:
    path = tmp_path / "field.sqlite"
    write_field_file(path, FieldSpec(layout=0))
    digits = "06888680501e75097830817616369915"
    damage(
        path,
        "CREATE TABLE other (id UUID NOT NULL PRIMARY KEY, networks, seeds, prompts, embedding_models, "
        "max_length)",
        f"INSERT INTO other VALUES ('{digits}', '[]', '[]', '[]', '[]', 1)",
        "DROP TABLE experimentconfig",
        "ALTER TABLE other RENAME TO experimentconfig",
    )
    findings = found_in(path)
    assert findings["bad_id"] == ["inf"]
    assert len(findings["orphan_run"]) == 3


def test_a_text_in_place_of_a_vector_is_found(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(dimensions=8))
    identity = ids_of(file)[3]
    for text in ("'" + "x" * 32 + "'", "CAST(x'" + "ff" * 32 + "' AS TEXT)", "7", "0.5"):
        damage(file.path, f"UPDATE embedding SET vector = {text} WHERE id = '{identity}'")
        (finding,) = examine_database(file.database).findings
        assert (finding.kind, finding.ids) == ("vector_length", (shown(identity),))


@pytest.mark.parametrize(("model", "kind"), [("Nomic", "IMAGE"), ("Seen", "TEXT")])
@pytest.mark.parametrize("n_strange", [1, 4, 5])
def test_invalid_vectors_of_up_to_a_tenth_of_a_model_are_counted(
    upgraded: MakeFile, model: str, kind: str, n_strange: int
) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",), vision_models=("Seen",)))
    others = [invocation.id for invocation in file.facts.invocations if invocation.type == kind][:n_strange]
    ids = [embedding.id for embedding in file.facts.of(model)][:n_strange]
    moved = "UPDATE embedding SET invocation_id = ? WHERE id = ?"
    damage(file.path, *((moved, pair) for pair in zip(others, ids, strict=True)))
    examined = examine_database(file.database, limit=0)
    # From five of forty on, the model embeds both.
    wanted = [("wrong_type", tuple(sorted(map(shown, ids))))] if n_strange < 5 else []
    assert [(finding.kind, finding.ids) for finding in examined.findings] == wanted
    detail = f"{model}: {n_strange} of 40 belong to {kind} outputs"
    assert [finding.details for finding in examined.findings] == [(detail,)] * len(wanted)


@pytest.mark.parametrize("stored", ["TEXT", "IMAGE"])
def test_runs_with_one_stored_output_type_are_complete(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "field.sqlite"
    facts = write_field_file(path, FieldSpec(layout=0, vision_models=("Seen",)))
    others = f"SELECT id FROM invocation WHERE type <> '{stored}'"
    damage(path, f"DELETE FROM embedding WHERE invocation_id IN ({others})")
    damage(path, f"DELETE FROM invocation WHERE id IN ({others})")
    assert found_in(path) == {}
    run, other_run = facts.runs[:2]
    last = "sequence_number >= 18"
    damage(path, "DELETE FROM embedding")
    damage(path, f"DELETE FROM invocation WHERE run_id = '{run}' AND {last}")
    damage(path, f"DELETE FROM invocation WHERE run_id = '{other_run}' AND sequence_number IN (4, 5)")
    assert found_in(path) == {"sequence_gap": [shown(other_run)], "unfinished_run": [shown(run)]}


def test_repeated_outputs_of_two_models_are_reported_once(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 1)
    file = upgraded()
    pair = [
        next(embedding for embedding in file.facts.of(model) if embedding.invocation)
        for model in ("Nomic", "STSBMpnet")
    ]
    assert len({embedding.invocation for embedding in pair}) == 1
    copies = [letter * 32 for letter in "ef"]
    damage(
        file.path,
        *(copy_of(summary.id, other_copy) for summary, other_copy in zip(pair, copies, strict=True)),
    )
    assert found_in(file.path) == {"duplicate_embedding": [shown(copied_id) for copied_id in copies]}


def test_files_of_older_versions_may_lack_columns(tmp_path: Path) -> None:
    path = tmp_path / "field.sqlite"
    facts = write_field_file(path, FieldSpec(layout=0))
    first = facts.of("Nomic")[0]
    assert first.invocation is not None
    damage(
        path,
        "DROP INDEX ix_run_experiment_id",
        "ALTER TABLE run DROP COLUMN experiment_id",
        "ALTER TABLE embedding DROP COLUMN started_at",
        f"INSERT INTO embedding (id, invocation_id, embedding_model, vector) SELECT '{'f' * 32}', "
        f"invocation_id, embedding_model, vector FROM embedding WHERE id = '{first.id}'",
    )
    examined = examine_database(open_database(path))
    assert [(finding.kind, finding.ids) for finding in examined.findings] == [
        ("duplicate_embedding", (shown("f" * 32),))
    ]
    assert [finding.kind for finding in examined.unchecked] == ["orphan_run", "unreadable_value"]


def test_files_that_are_no_pipeline_database_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    damage(path, "CREATE TABLE embedding (id)")
    with pytest.raises(DatabaseError, match="it has no table experimentconfig, invocation, run"):
        examine_database(open_database(path))


def test_incomplete_clusterings_are_found(written: dict[Layout, Path], tmp_path: Path) -> None:
    path = tmp_path / "field.sqlite"
    shutil.copyfile(written[LAYOUTS["layout 1, upgraded"]], path)
    damage(
        path,
        "DELETE FROM clusteringresult WHERE key = 1",
        "DELETE FROM embeddingcluster WHERE result_key = 1",
    )
    (finding,) = examine_database(open_database(path)).findings
    assert (finding.kind, finding.count, finding.ids) == ("broken_clustering", 1, ("result_key 1",))
    assert re.fullmatch(r"result_key 1: [2-4] clusters without a clustering", finding.details[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "DELETE FROM embeddingcluster WHERE label = -1",
            r"12 assignments stored and \d+ there, \d outliers",
        ),
        ("UPDATE embeddingcluster SET label = -1 WHERE label = 2", "cluster 2 has 0 members, not"),
        ("DELETE FROM cluster WHERE label = 1", "clusters stored and 3 there, no cluster for label 1"),
        ("UPDATE cluster SET size = 99 WHERE label = 1", "cluster 1 has [0-9]+ members?, not 99"),
        (
            "UPDATE cluster SET medoid_embedding_id = (SELECT embedding_id FROM embeddingcluster "
            "WHERE label = 0) WHERE label = 1",
            "the medoid of cluster 1 is not one of its members",
        ),
        *(
            (
                f"UPDATE clusteringresult SET parameters = json_set(parameters, '$.n_{name}', 99)",
                f"99 {message}",
            )
            for name, message in (
                ("embeddings", "assignments stored and 12 there$"),
                ("outliers", "outliers stored and [0-9]+ there$"),
                ("clusters", "clusters stored and 4 there$"),
            )
        ),
        ("UPDATE clusteringresult SET parameters = '{}'", "cannot be read .the stored parameters lack"),
        ("UPDATE clusteringresult SET parameters = '[]'", "cannot be read"),
        ("UPDATE clusteringresult SET parameters = 'x'", "cannot be read"),
    ],
)
def test_broken_clusterings_are_found_with_the_reason(
    written: dict[Layout, Path], tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "field.sqlite"
    shutil.copyfile(written[LAYOUTS["layout 1, upgraded"]], path)
    damage(path, "DELETE FROM clusteringresult WHERE key = 2", change)
    damage(path, *(f"DELETE FROM {table} WHERE result_key = 2" for table in ("cluster", "embeddingcluster")))
    (finding,) = examine_database(open_database(path)).findings
    assert (finding.kind, finding.count) == ("broken_clustering", 1)
    assert finding.details[0].startswith(f"{finding.ids[0]}: ")
    assert re.search(message, finding.details[0])


def test_no_cluster_has_a_label_below_that_of_outliers(written: dict[Layout, Path], tmp_path: Path) -> None:
    path = tmp_path / "field.sqlite"
    shutil.copyfile(written[LAYOUTS["layout 1, upgraded"]], path)
    damage(
        path, *(f"UPDATE {table} SET label = -2 WHERE label = 1" for table in ("cluster", "embeddingcluster"))
    )
    (finding,) = examine_database(open_database(path)).findings
    assert (finding.kind, finding.count) == ("broken_clustering", 2)
    assert all(
        "column label, row" in detail and "(-2 is not from -1 to" in detail for detail in finding.details
    )


def test_pending_files_beside_the_database_are_found(upgraded: MakeFile) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    state = Checkpoint(file.path.with_name("field.sqlite.panic-tda") / "Nomic", "5f" * 32)
    state.open(min_samples=5)
    state.save("neighbours", rows=np.zeros(1 << 18))
    for file_of_state in state.folder.iterdir():
        os.utime(file_of_state, (0, file_of_state.stat().st_mtime - 3 * 86400))
    odd = file.path.with_name("field.sqlite.panic-tda") / "odd"
    odd.mkdir()
    (odd / "checkpoint.json").write_text("null")
    (finding,) = examine_database(file.database).findings
    assert (finding.kind, finding.count) == ("unfinished_work", 3)
    assert finding.ids == tuple(sorted(map(str, (path, state.folder, odd))))
    assert finding.details[0].endswith(f"panic-tda save-pending --db {file.path}")
    assert f"{state.folder}: a state of 2 MiB, saved 3 days ago" in finding.details


def test_a_database_name_too_long_for_a_work_folder_is_examined(upgraded: MakeFile) -> None:
    file = upgraded(name=f"{'n' * 239}.sqlite")
    assert len(file.database.work_root.name) > 255
    assert examine_database(file.database).findings == ()


def test_the_number_of_ids_follows_the_limit(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(orphan_embeddings=20, null_vectors=3))
    orphans = {shown(embedding.id) for embedding in file.facts.of("Nomic") if embedding.invocation is None}
    for limit, n_shown in ((1, 1), (10, 10), (0, 20), (30, 20)):
        missing, orphaned = examine_database(file.database, limit=limit).findings
        assert (missing.count, orphaned.count) == (3, 20)
        assert len(missing.ids) == len(missing.details) == min(3, n_shown)
        assert len(orphaned.ids) == n_shown
        assert set(orphaned.ids) <= orphans
        assert list(orphaned.ids) == sorted(orphaned.ids)


# ------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("unique", ["none", "constraint", "index"])
@pytest.mark.parametrize("migrated", [False, True])
def test_rows_are_read_for_vectors_and_outputs_only(upgraded: MakeFile, unique: Any, migrated: bool) -> None:
    file = upgraded(replace(EVERYTHING, unique=unique, migrated=migrated))
    save_or_write_pending(file.database, make_finished(ids_of(file)[5:]))
    damage(
        file.path,
        "UPDATE invocation SET type = 'IMAGE' WHERE id IN "
        "(SELECT id FROM invocation WHERE type = 'TEXT' LIMIT 2)",
        f"UPDATE embeddingcluster SET embedding_id = '{IDS[0]}' WHERE embedding_id = '{ids_of(file)[9]}'",
    )
    with statements() as executed:
        kinds = {finding.kind for finding in examine_database(file.database).findings}
    assert {"wrong_type", "missing_output", "orphan_invocation", "orphan_assignment"} < kinds
    selects = queries(executed)
    assert len(selects) > 40
    with closing(sqlite3.connect(file.path)) as connection:
        plans = {sql: plan(connection, sql) for sql in selects}
    through = [sql for sql, steps in plans.items() if any(map(scans_rows, steps))]
    assert [" ".join(sql.split()) for sql in through] == [
        "SELECT embedding.id, embedding.embedding_model, CASE WHEN (typeof(embedding.vector) = 'text') "
        "THEN 0 ELSE embedding.vector END AS anon_1 FROM embedding"
    ]
    # By their place, invocations are read for outputs alone.
    placed = [
        sql
        for sql, steps in plans.items()
        for step in steps
        if re.match(r"SEARCH invocation\b.*\(rowid=", step)
    ]
    assert placed
    assert all("output_" in sql for sql in placed)
    # A row is found by an index that has all that is asked for, or by its place.
    rows = re.compile(r"SEARCH invocation\b(?!.*( COVERING INDEX |\(rowid=))")
    assert not [step for steps in plans.values() for step in steps if rows.match(step)]


@pytest.mark.parametrize(
    ("migrated", "is_upgraded"),
    [(False, False), (True, False), (True, True)],
    ids=["plain", "migrated", "ours"],
)
def test_no_image_is_read(tmp_path: Path, migrated: bool, is_upgraded: bool) -> None:
    spec = FieldSpec(layout=0, runs=4, length=80, dimensions=64, image_bytes=100_000, migrated=migrated)
    path = write_field_file(tmp_path / "field.sqlite", spec).path
    database = open_database(path)
    if is_upgraded:
        upgrade(database)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    assert size > 160 * spec.image_bytes
    full_cost, _ = cost(path, path.read_bytes)
    if full_cost < size:
        pytest.skip("the file cannot be made to come from the disk here (a file system in memory?)")
    examinations: list[Examination] = []
    n_read, _ = cost(path, lambda: examinations.append(examine_database(database)))
    assert examinations[0].findings == ()
    # The page on which each row begins, and the indexes: a sixteenth, with images of 100 kB.
    assert n_read < 0.1 * size


AS_ANYBODY = """
import os, sys
from panic_tda.storage.database import open_database
from panic_tda.storage.doctor import examine_database
# Whatever is imported on the way: the superuser's own Python may be nobody else's.
examine_database(open_database(sys.argv[2]))
if os.geteuid() == 0:
    os.setuid(65534)
print([(one.kind, one.count) for one in examine_database(open_database(sys.argv[1])).findings])
"""


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["before", "upgraded"])
def test_a_read_only_file_in_a_read_only_folder_is_examined(tmp_path: Path, is_upgraded: bool) -> None:
    """The file is in write-ahead mode, in which SQLite creates files next to it."""
    # The folder of the test itself is the superuser's alone.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        path = Path(folder) / "field.sqlite"
        write_field_file(path, FieldSpec(layout=0, wal=True, null_vectors=2))
        if is_upgraded:
            upgrade(open_database(path))
        other_path = shutil.copyfile(path, tmp_path / "other.sqlite")
        path.chmod(0o444)
        os.chmod(folder, 0o555)
        try:
            before = path.read_bytes()
            process = run_python(AS_ANYBODY, path, other_path)
            assert process.stdout == "[('missing_vector', 2)]\n", process.stderr
            assert [path.name for path in Path(folder).iterdir()] == ["field.sqlite"]
            assert path.read_bytes() == before
        finally:
            os.chmod(folder, 0o755)
