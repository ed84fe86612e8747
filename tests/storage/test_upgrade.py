"""Test that field files of every layout are upgraded, and that nothing else in them changes."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from panic_tda.errors import DatabaseError, NeedsUpgrade
from panic_tda.storage import connections
from panic_tda.storage.database import SCHEMA_VERSION, VERSION_TABLE, open_database
from panic_tda.storage.schema import upgrade as upgrade_module
from panic_tda.storage.schema.tables import Base
from panic_tda.storage.schema.upgrade import CLUSTERING_TABLES, INDEXES, OLD_INDEX, plan_upgrade, upgrade
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, make_finished
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import KILL_AFTER, field_copy, opened, run_python, snapshot

OURS = (*CLUSTERING_TABLES, VERSION_TABLE)
SPECS = {
    "layout 0": FieldSpec(layout=0),
    "layout 1": FieldSpec(layout=1),
    "layout 2": FieldSpec(layout=2),
    "layout 3": FieldSpec(layout=3),
    "everything, layout 1": replace(EVERYTHING, layout=1, unique="constraint"),
    "everything, layout 2": EVERYTHING,
    "everything, layout 3": replace(EVERYTHING, layout=3, wal=False, unique="none"),
    "ids of digits, layout 2": FieldSpec(layout=2, digit_ids=True),
}


def plainly(values: dict[str, Any]) -> dict[str, Any]:
    """Split a definition into sorted words, because added columns follow the constraints."""
    return {
        name: (sorted(re.findall(r"\w+|[^\w\s,]", sql or "")), rows) for name, (sql, rows) in values.items()
    }


def without_ours(path: Path) -> dict[str, object]:
    others: dict[str, object] = dict(snapshot(path, without=OURS))
    for name in (*INDEXES, OLD_INDEX):
        others.pop(name, None)
    return others


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[object]]]:
    """The tables as SQLAlchemy makes them from `schemas`."""
    path = tmp_path_factory.mktemp("described") / "described.sqlite"
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return snapshot(path)


def test_a_new_database_matches_the_schemas(tmp_path: Path, described: dict[str, Any]) -> None:
    path = tmp_path / "new.sqlite"
    open_database(path, create=True).require_current()
    assert plainly(snapshot(path, without=(VERSION_TABLE,))) == plainly(described)
    with opened(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(cluster)")]
    assert columns == [column.name for column in Base.metadata.tables["cluster"].columns]


def test_the_schema_version_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "panic_tda.storage.schema:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_upgrade_changes_the_clustering_tables_only(
    tmp_path: Path, spec: FieldSpec, described: dict[str, Any]
) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", spec)
    before = without_ours(facts.path)
    database = open_database(facts.path)
    with pytest.raises(NeedsUpgrade, match="panic-tda upgrade --db"):
        database.require_current()

    plan = upgrade(database)

    assert dict(plan.dropped) == facts.old_rows
    assert without_ours(facts.path) == before
    after = snapshot(facts.path)
    for name in [*CLUSTERING_TABLES, *INDEXES]:
        assert plainly(after)[name] == plainly(described)[name]
    assert after[VERSION_TABLE][1] == [(SCHEMA_VERSION, "text")]
    database.require_current()


def test_the_old_pipelines_own_version_is_kept(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(alembic_version="3f2a9c1d0b7e"))
    upgrade(open_database(facts.path))
    assert snapshot(facts.path)["alembic_version"][1] == [("3f2a9c1d0b7e", "text")]


def test_rows_of_other_tables_that_refer_to_dropped_ones_stay(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    with opened(facts.path) as connection:
        connection.execute(
            "CREATE TABLE notes (note, result CHAR(32) REFERENCES clusteringresult (id) ON DELETE CASCADE)"
        )
        connection.execute("INSERT INTO notes SELECT 'a remark', id FROM clusteringresult")
    before = snapshot(facts.path)["notes"]
    assert len(before[1]) == 2
    upgrade(open_database(facts.path))
    assert snapshot(facts.path)["notes"] == before


def test_a_plan_lists_what_will_be_deleted_and_changes_nothing(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=2, clusterings=30))
    before = facts.path.read_bytes()
    plan = plan_upgrade(open_database(facts.path))
    assert facts.path.read_bytes() == before
    assert not plan.is_current
    assert (
        dict(plan.dropped)
        == facts.old_rows
        == {
            "clusteringresult": 30,
            "cluster": 90,
            "embeddingcluster": 1200,
        }
    )
    tables = [f"table {table}" for table in CLUSTERING_TABLES]
    indexes = [f"index {index}" for index in INDEXES]
    assert list(plan.created) == [*tables, *indexes, f"table {VERSION_TABLE}"]
    text = str(plan)
    assert "embeddingcluster: 1,200 rows" in text
    assert "The old pipeline's own clustering commands stop working on this file" in text
    assert str(facts.path) in text


def test_a_file_without_old_tables_loses_nothing(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=0))
    plan = plan_upgrade(open_database(facts.path))
    assert plan.dropped == ()
    assert "drops" not in str(plan)
    assert "stop working" not in str(plan)


def as_version_0002(path: Path) -> None:
    """Make an upgraded file what the second version left behind."""
    with opened(path) as connection:
        connection.execute("DROP TABLE clusteringtree")
        connection.execute("ALTER TABLE cluster DROP COLUMN medoid_copies")
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0002'")


def as_version_0001(path: Path) -> None:
    """Make an upgraded file what the first version left behind."""
    as_version_0002(path)
    with opened(path) as connection:
        for name in INDEXES:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(f"CREATE INDEX {OLD_INDEX} ON embedding (embedding_model)")
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")


def test_a_file_of_version_0001_keeps_everything_but_one_index(
    upgraded: MakeFile, described: dict[str, Any]
) -> None:
    database, facts = upgraded(EVERYTHING)
    finished = make_finished([e.id for e in facts.sample("Nomic")])
    with database.writing() as connection:
        save_clustering(connection, finished)
    after = snapshot(facts.path)
    as_version_0001(facts.path)
    with pytest.raises(NeedsUpgrade, match=r"version 0003 yet \(it has 0001\)"):
        database.require_current()

    plan = plan_upgrade(database)

    assert plan.dropped == ()
    assert plan.replaced == (OLD_INDEX,)
    indexes = [f"index {index}" for index in INDEXES]
    assert plan.created == (*indexes, "table clusteringtree", "column cluster.medoid_copies")
    assert f"- drops index {OLD_INDEX}, which the new ones replace" in str(plan)
    assert "- keeps every clustering" in str(plan)
    assert "stop working" not in str(plan)
    # Others write on the disks meanwhile.
    free = {"bytes_free": plan.bytes_free, "sorting_free": plan.sorting_free}
    assert replace(upgrade(database), **free) == plan
    assert snapshot(facts.path) == after
    assert len(after["embeddingcluster"][1]) == len(finished.ids)


def test_a_file_of_version_0002_gets_a_table_and_a_column_without_reading_a_row(upgraded: MakeFile) -> None:
    database, facts = upgraded(EVERYTHING)
    finished = make_finished([e.id for e in facts.sample("Nomic")])
    with database.writing() as connection:
        save_clustering(connection, finished)
    after = snapshot(facts.path)
    as_version_0002(facts.path)
    statements: list[str] = []

    def see(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    sa.event.listen(sa.Engine, "before_cursor_execute", see)
    try:
        plan = upgrade(database)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", see)
    assert plan.created == ("table clusteringtree", "column cluster.medoid_copies")
    assert (plan.dropped, plan.bytes_kept) == ((), 0)
    assert "reads every" not in str(plan)
    assert not any(
        re.search(r"FROM (embedding|invocation)\b|CREATE INDEX", statement) for statement in statements
    )
    assert snapshot(facts.path) == after


def test_an_index_on_the_models_is_dropped_and_named(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    with opened(facts.path) as connection:
        connection.execute(f"CREATE INDEX {OLD_INDEX} ON embedding (embedding_model)")
    plan = upgrade(open_database(facts.path))
    assert f"drops index {OLD_INDEX}" in str(plan)
    assert OLD_INDEX not in snapshot(facts.path)


def test_an_upgrade_of_a_field_file_reads_the_embeddings_for_one_index(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    texts: list[str] = []

    def see(*arguments: object) -> None:
        statement = str(arguments[2])
        if statement.startswith("CREATE INDEX") and "ON embedding " in statement:
            texts.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", see)
    try:
        upgrade(open_database(facts.path))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", see)
    assert len(texts) == 1
    assert INDEXES[0] in texts[0]


def test_a_second_upgrade_has_nothing_to_do(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", EVERYTHING)
    database = open_database(facts.path)
    upgrade(database)
    before = snapshot(facts.path)
    again = upgrade(database)
    assert again.is_current
    assert again.dropped == ()
    assert "up to date" in str(again)
    assert snapshot(facts.path) == before


def test_the_estimate_covers_what_the_file_grows_by(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=0, runs=2, clusterings=0))
    n_rows = 100_000
    with opened(facts.path) as connection:
        connection.executemany(
            "INSERT INTO invocation (id, model, type, seed, run_id, sequence_number) "
            "VALUES (?, 'BLIP2', 'TEXT', -1, ?, ?)",
            ((f"{row:032x}", f"{row // 1000:032x}", row % 1000) for row in range(n_rows)),
        )
        connection.executemany(
            "INSERT INTO embedding (id, invocation_id, embedding_model) VALUES (?, 'none', ?)",
            ((f"{row:032x}", f"STSBDistilRoberta{row % 4}") for row in range(n_rows)),
        )
    database = open_database(facts.path)
    size = facts.path.stat().st_size
    plan = upgrade(database)
    growth = facts.path.stat().st_size - size
    assert growth > 150 * n_rows
    assert 0.8 * growth < plan.bytes_kept < 1.3 * growth
    # An index lies in the log, in the sorter's temporary file and in the file itself.
    assert plan.bytes_needed > 2.5 * growth


def test_too_little_disk_is_an_error_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    before = facts.path.read_bytes()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(upgrade_module.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DatabaseError, match=r"takes up to .* of disk, 0 MiB are free"):
        upgrade(open_database(facts.path))
    assert facts.path.read_bytes() == before


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with opened(path) as connection:
        connection.execute("CREATE TABLE cluster (name)")
        connection.execute("INSERT INTO cluster VALUES ('grapes')")
    before = snapshot(path)
    with pytest.raises(DatabaseError, match="no table embedding"):
        upgrade(open_database(path))
    assert snapshot(path) == before


def test_a_newer_version_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    database = open_database(path, create=True)
    with opened(path) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")
    before = snapshot(path)
    with pytest.raises(DatabaseError, match=r"newer panic_tda \(tables of version 0999"):
        upgrade(database)
    assert snapshot(path) == before


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    facts.path.chmod(0o444)
    before = facts.path.read_bytes()
    with pytest.raises(DatabaseError, match="read-only; make it writable"):
        upgrade(open_database(facts.path))
    assert facts.path.read_bytes() == before


def test_a_file_that_another_process_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(wal=True))
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.05)
    before = snapshot(facts.path)
    writer = sqlite3.connect(facts.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(DatabaseError, match=r"locked .* by another process"):
            upgrade(open_database(facts.path))
    finally:
        writer.close()
    assert snapshot(facts.path) == before


UPGRADE = """
import sys
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.upgrade import upgrade
upgrade(open_database(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE embeddingcluster",
        "CREATE TABLE embeddingcluster",
        "ALTER TABLE cluster ADD",
        f"CREATE INDEX IF NOT EXISTS {INDEXES[-1]}",
        f"INSERT INTO {VERSION_TABLE}",
    ],
)
def test_a_killed_upgrade_leaves_the_file_unchanged(tmp_path: Path, statement: str) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", replace(EVERYTHING, runs=20))
    before = snapshot(facts.path)
    killed = run_python(f"{KILL_AFTER}\nkill_after({statement!r})\n{UPGRADE}", facts.path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert facts.path.with_name(f"{facts.path.name}-wal").stat().st_size > 0
    assert snapshot(facts.path) == before
    database = open_database(facts.path)
    assert dict(upgrade(database).dropped) == facts.old_rows
    database.require_current()


def test_the_library_upgrade_prints_nothing(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    process = run_python(UPGRADE, facts.path)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_a_real_field_file_is_upgraded(tmp_path: Path, described: dict[str, Any]) -> None:
    path = field_copy(tmp_path)
    untouched = tmp_path / "untouched.sqlite"
    shutil.copyfile(path, untouched)
    plan = upgrade(open_database(path))
    assert dict(plan.dropped).keys() == {"clusteringresult", "embeddingcluster"}
    assert without_ours(path) == without_ours(untouched)
    after = snapshot(path)
    for name in [*CLUSTERING_TABLES, *INDEXES]:
        assert plainly(after)[name] == plainly(described)[name]
