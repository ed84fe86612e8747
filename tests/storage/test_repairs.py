"""Test that repairs lose nothing and that undamaged rows stay unchanged."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panic_tda.errors import NeedsUpgrade, WrongUsage
from panic_tda.storage.database import open_database
from panic_tda.storage.doctor import Repair, examine_database, plan_repairs, repair
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, ids_of, make_finished
from tests.field_files import write_field_file
from tests.snapshots import KILL_AFTER, opened, run_python, snapshot
from tests.storage.doctor_oracle import OURS, expected, read_tables, shown
from tests.storage.field_damage import LAYOUTS, change, changes, copy_of, damage, found_in
from tests.storage.test_query_plans import plan, queries, scans_rows, statements

pytestmark = pytest.mark.usefixtures("temporary_folder")

MENDABLE = [
    *("duplicate_embedding", "orphan_assignment", "broken_clustering", "damaged_tree", "damaged_neighbours"),
    "damaged_prediction",
]


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sound file with two clusterings."""
    return LAYOUTS["layout 1, upgraded"].write(tmp_path_factory.mktemp("whole") / "field.sqlite")


def mend(path: Path, *kinds: str) -> dict[str, tuple[int, int, int]]:
    """Repair everything; return by kind the numbers planned, left and done."""
    database = open_database(path)
    before = snapshot(path)
    planned = plan_repairs(database, kinds)
    assert snapshot(path) == before
    removed = repair(database, planned)
    return {
        finding.kind: (finding.count, finding.n_left, n) for finding, n in zip(planned, removed, strict=True)
    }


def rows_of(path: Path, table: str = "embedding") -> set[Any]:
    name = {"embeddingcluster": "result_key", "cluster": "result_key"}.get(table, "id")
    return {row[name] for row in read_tables(path)[table]}


def test_of_exact_copies_the_oldest_stays(upgraded: MakeFile) -> None:
    file = upgraded()
    first, two, three, four, five = ids_of(file)[:5]
    early, late, none = "'2020-01-01 00:00:00'", "'2030-01-01 00:00:00'", "NULL"
    a, b, c, d, e, f, g = (letter * 32 for letter in "1203456")
    damage(
        file.path,
        # Older than the first one, younger, of the same time with a smaller id, and of no time.
        copy_of(first, a, started=early),
        copy_of(two, b, started=late),
        copy_of(three, c),
        copy_of(four, d, started=none),
        # Other vectors, and none at all: twice.
        copy_of(five, e, vector="zeroblob(32)"),
        copy_of(five, f, vector="NULL"),
        copy_of(five, g, vector="NULL"),
    )
    findings = found_in(file.path)
    assert findings["duplicate_embedding"] == sorted(map(shown, [first, b, three, d, e, f, g]))
    before = rows_of(file.path)
    assert mend(file.path) == {
        "duplicate_embedding": (4, 3, 4),
        "orphan_assignment": (0, 0, 0),
        "broken_clustering": (0, 0, 0),
        "damaged_tree": (0, 0, 0),
        "damaged_neighbours": (0, 0, 0),
        "damaged_prediction": (0, 0, 0),
    }
    assert before - rows_of(file.path) == {first, b, three, d}
    assert mend(file.path)["duplicate_embedding"] == (0, 3, 0)


def test_rows_that_a_clustering_refers_to_stay(upgraded: MakeFile) -> None:
    file = upgraded()
    first, second = ids_of(file)[:2]
    text, not_utf8 = "'text'", "CAST(x'ff41' AS TEXT)"
    damage(
        file.path,
        copy_of(first, "a" * 32, vector=text),
        copy_of(first, "b" * 32, vector=not_utf8),
        copy_of(first, "c" * 32, started=not_utf8),
        copy_of(second, "d" * 32),
    )
    (planned,) = plan_repairs(file.database, ["duplicate_embedding"])
    assert (planned.count, planned.n_left) == (2, 2)
    assert repair(file.database, [planned]) == [2]
    with opened(file.path) as connection:
        ids = {identity for (identity,) in connection.execute("SELECT id FROM embedding")}
    assert {"a" * 32, "b" * 32} < ids
    assert len({first, "c" * 32} & ids) == len({second, "d" * 32} & ids) == 1


def test_what_a_clustering_names_stays(upgraded: MakeFile) -> None:
    file = upgraded()
    ids = ids_of(file)
    copies = [f"{number:032x}" for number in range(40)]
    early = "'2020-01-01 00:00:00'"
    # Older than all that the clustering has; then one that has both copies of ten.
    damage(
        file.path,
        *(
            copy_of(identity, other_copy, started=early)
            for identity, other_copy in zip(ids, copies, strict=True)
        ),
    )
    save_or_write_pending(file.database, make_finished(ids))
    save_or_write_pending(file.database, make_finished([*ids[:10], *copies[:10]]))
    assert mend(file.path) == {
        "duplicate_embedding": (30, 10, 30),
        "orphan_assignment": (0, 0, 0),
        "broken_clustering": (0, 0, 0),
        "damaged_tree": (0, 0, 0),
        "damaged_neighbours": (0, 0, 0),
        "damaged_prediction": (0, 0, 0),
    }
    assert set(copies) & rows_of(file.path) == set(copies[:10])
    assert set(ids) < rows_of(file.path)
    assert list(found_in(file.path)) == ["duplicate_embedding"]
    # What is left of clusterings that are gone names nothing.
    damage(file.path, "DELETE FROM clusteringresult")
    assert mend(file.path, "duplicate_embedding") == {"duplicate_embedding": (10, 0, 10)}


def broken(undamaged: Path, path: Path) -> Path:
    """Write a file with three clusterings: one complete, one broken, one deleted."""
    shutil.copyfile(undamaged, path)
    rows = read_tables(path)["embedding"]
    ids = sorted(row["id"] for row in rows if row["embedding_model"] == "STSBMpnet")
    save_or_write_pending(open_database(path), make_finished(ids, model="STSBMpnet"))
    assigned = sorted(
        row["embedding_id"] for row in read_tables(path)["embeddingcluster"] if row["result_key"] == 2
    )
    damage(
        path,
        "DELETE FROM clusteringresult WHERE key = 1",
        f"DELETE FROM embedding WHERE id IN ('{assigned[0]}', '{assigned[1]}')",
        copy_of(ids[0], "f" * 32),
        "INSERT INTO clusteringtree SELECT 1, 0, x'00'",
        "INSERT INTO cluster (result_key, label, medoid_embedding_id, size, persistence) "
        f"VALUES (9, 0, '{ids[0]}', 1, 0.5)",
    )
    return path


def test_each_kind_is_repaired_alone(undamaged: Path, tmp_path: Path) -> None:
    path = broken(undamaged, tmp_path / "field.sqlite")
    embeddings = rows_of(path)
    findings = found_in(path)
    # All twelve of the clustering that is gone, and the two that are gone from the other one.
    assert {kind: len(ids) for kind, ids in findings.items()} == {
        "duplicate_embedding": 1,
        "orphan_assignment": 14,
        "broken_clustering": 2,
    }
    assert findings["broken_clustering"] == [shown(UUID(int=2).hex), "result_key 9"]
    for kind, count in zip(MENDABLE, (1, 14, 2, 0, 0, 0), strict=True):
        assert mend(path, kind) == {kind: (count, 0, count)}
        findings.pop(kind, None)
        assert {name: len(ids) for name, ids in found_in(path).items()} == {
            k: len(v) for k, v in findings.items()
        }
    assert embeddings - rows_of(path) == {"f" * 32}
    for table in ("cluster", "embeddingcluster"):
        assert rows_of(path, table) == {3}
    with opened(path) as connection:
        assert connection.execute("SELECT count(*) FROM clusteringtree").fetchone() == (0,)
    before = snapshot(path)
    assert set(mend(path).values()) == {(0, 0, 0)}
    assert snapshot(path) == before


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=st.lists(changes, max_size=10))
def test_repairs_delete_no_sound_row(
    undamaged: Path, tmp_path: Path, drawn: list[tuple[str, int, Any]]
) -> None:
    path = tmp_path / "damaged.sqlite"
    shutil.copyfile(undamaged, path)
    with opened(path) as connection:
        for damaged in drawn:
            change(connection, *damaged)
    before, wrong = read_tables(path), expected(read_tables(path))
    mend(path)
    after, left = read_tables(path), expected(read_tables(path))
    assert not set(left) & {"orphan_assignment", "broken_clustering"}
    for table in set(before) - {"embedding", *OURS}:
        assert after[table] == before[table]
    stay = [
        row
        for row in before["clusteringresult"]
        if shown(row["id"]) not in wrong.get("broken_clustering", [])
    ]
    assert after["clusteringresult"] == stay
    for table in ("cluster", "embeddingcluster"):
        keys = {row["key"] for row in stay}
        assert after[table] == [row for row in before[table] if row["result_key"] in keys]
    # Every vector that was there of an invocation and a model still is.
    remaining_kinds = [
        {(r["invocation_id"], r["embedding_model"], r["vector"]) for r in t["embedding"]}
        for t in (before, after)
    ]
    assert remaining_kinds[0] == remaining_kinds[1]
    assert set(left.get("duplicate_embedding", [])) <= set(wrong.get("duplicate_embedding", []))


def test_planned_repairs_are_checked_again(undamaged: Path, tmp_path: Path) -> None:
    path = broken(undamaged, tmp_path / "field.sqlite")
    database = open_database(path)
    planned = plan_repairs(database)
    # Meanwhile somebody put back what was missing, and gave the copy another vector.
    with opened(path) as connection:
        for row in read_tables(undamaged)["embedding"]:
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            connection.execute(
                f"INSERT OR IGNORE INTO embedding ({names}) VALUES ({marks})", tuple(row.values())
            )
        connection.execute(f"UPDATE embedding SET vector = zeroblob(24) WHERE id = '{'f' * 32}'")
        connection.execute("UPDATE cluster SET result_key = 11 WHERE result_key = 9")
        # And an embedding of the clustering that was whole has gone.
        of_whole = "SELECT max(embedding_id) FROM embeddingcluster WHERE result_key = 3"
        connection.execute(f"DELETE FROM embedding WHERE id = ({of_whole})")
    assert repair(database, planned) == [0, 12, 0, 0, 0, 0]
    # What nobody was asked about stays.
    findings = found_in(path)
    assert sorted(findings) == [
        "broken_clustering",
        "duplicate_embedding",
        "orphan_assignment",
        "vector_zero",
    ]
    assert len(findings["orphan_assignment"]) == 1
    assert len(findings["broken_clustering"]) == 2
    assert findings["broken_clustering"][1] == "result_key 11"


def test_kinds_without_a_repair_are_refused(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    with pytest.raises(WrongUsage, match=f"{', '.join(MENDABLE)} can be repaired .*; got bad_id, nonsense"):
        plan_repairs(file.database, ["nonsense", "orphan_assignment", "bad_id"])
    with pytest.raises(WrongUsage, match=r"missing_vector, .* unfinished_work are known; got nonsense"):
        examine_database(file.database, ["nonsense"])
    facts = write_field_file(tmp_path / "old.sqlite")
    with pytest.raises(NeedsUpgrade):
        plan_repairs(open_database(facts.path))


KILLED = """
import sys
from panic_tda.storage.database import open_database
from panic_tda.storage.doctor import plan_repairs, repair
database = open_database(sys.argv[1])
planned = plan_repairs(database)
kill_after(sys.argv[2])
repair(database, planned)
"""


@pytest.mark.parametrize(
    ("beginning", "left"),
    [
        ("DELETE FROM embedding WHERE", MENDABLE[:3]),
        ("DELETE FROM clusteringtree WHERE", MENDABLE[1:3]),
        ("DELETE FROM clusteringresult WHERE", MENDABLE[1:3]),
    ],
)
def test_a_kill_leaves_each_kind_repaired_or_untouched(
    undamaged: Path, tmp_path: Path, beginning: str, left: list[str]
) -> None:
    path = broken(undamaged, tmp_path / "field.sqlite")
    before = found_in(path)
    process = run_python(KILL_AFTER + KILLED, path, beginning)
    assert process.returncode == -9, process.stderr
    assert found_in(path) == {kind: before[kind] for kind in left}
    mend(path)
    assert found_in(path) == {}


def test_no_repair_reads_sound_rows(undamaged: Path, tmp_path: Path) -> None:
    path = broken(undamaged, tmp_path / "field.sqlite")
    with statements() as executed:
        mend(path)
    sqls = [sql for sql in queries(executed) if not sql.lstrip().startswith("INSERT")]
    assert sum(sql.lstrip().startswith("DELETE") for sql in sqls) > 5
    with closing(sqlite3.connect(path)) as connection:
        steps = [step for sql in sqls for step in plan(connection, sql)]
    assert not [step for step in steps if scans_rows(step)]
    assert isinstance(plan_repairs(open_database(path))[0], Repair)
