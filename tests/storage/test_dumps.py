"""Test imports of dumps: ids are kept, repeats add nothing, new rows are added, other rows stay."""

from __future__ import annotations

import json
import logging
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from panic_tda import cluster_all_data, get_cluster_details, get_medoid_invocation, hdbscan
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.divergence import read_divergence
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.doctor import examine_database
from panic_tda.storage.read.clusterings import find_stored, open_clustering
from panic_tda.storage.write.copying import copy_database
from panic_tda.storage.write.import_summary import LeftOut
from tests.conftest import MakeFile
from tests.dump_files import (
    DumpSpec,
    Tables,
    contents,
    count,
    dump_tables,
    import_tables,
    mixed,
    place,
    plain,
    rows_where,
    write_dump,
)
from tests.field_files import EVERYTHING, FieldSpec
from tests.servers import Server
from tests.snapshots import KILL_AFTER, opened, rows, run_python, snapshot

SPEC = DumpSpec()


# --------------------------------------------------------------------------- what is stored


def test_a_dump_becomes_rows_under_its_own_ids(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    summary = import_tables(tmp_path / "dump", tables, database)
    # 10 texts and 10 images in each of 3 runs; a prompt each, which has an embedding in both text models.
    assert count(database) == (1, 3, 60, 90)
    assert (summary.n_files, summary.n_rows, summary.n_present, summary.experiment_id) == (4, 96, 0, None)
    assert (summary.n_new_runs, summary.n_new_invocations, summary.n_new_embeddings) == (3, 60, 90)
    assert summary.models == ("Nomic", "NomicVision", "Qwen3Embed")
    assert summary.left_out == LeftOut(prompts=3)
    assert str(summary).endswith("and 3 runs; stored 6 embeddings of initial prompts; left out 3 prompts")

    started, completed = "2026-02-12 03:04:05.123456", "2026-02-12 03:04:07.000000"
    experiment, run = plain(tables["experiments"]["id"][0]), tables["runs"]["id"][1]
    prompts = '["prompt 0", "prompt 1", "prompt 2"]'
    models = '["Nomic", "Qwen3Embed", "NomicVision"]'
    network = '["ZImageTurbo", "Moondream"]'
    assert rows(database, "SELECT * FROM experimentconfig") == [
        (experiment, f"[{network}]", "[0, 1, 2]", prompts, models, 20, started, completed)
    ]
    stored = rows(database, f"SELECT * FROM run WHERE id = '{plain(run)}'")
    assert stored == [(plain(run), network, 1, 20, "prompt 1", experiment)]
    steps = tables["invocations"]
    for number, kind, model in ((6, "IMAGE", "ZImageTurbo"), (7, "TEXT", "Moondream")):
        row = place(steps, run_id=run, sequence_number=number)
        identity = plain(steps["id"][row])
        before = plain(steps["id"][place(steps, run_id=run, sequence_number=number - 1)])
        expected = (identity, started, completed, model, kind, 1, plain(run), number, before)
        stored = rows(database, f"SELECT * FROM invocation WHERE id = '{identity}'")
        assert stored == [(*expected, steps["output_text"][row], None)]
        assert (steps["output_text"][row] is None) == (kind == "IMAGE")
    assert rows(
        database, "SELECT DISTINCT sequence_number FROM invocation WHERE input_invocation_id IS NULL"
    ) == [(0,)]
    embeddings = tables["embeddings"]
    row = place(embeddings, invocation_id=steps["id"][row], embedding_model="Qwen3Embed")
    stored = rows(database, f"SELECT * FROM embedding WHERE id = '{plain(embeddings['id'][row])}'")
    vector = np.array(embeddings["vector"][row], dtype="<f4").tobytes()
    assert stored == [(plain(embeddings["id"][row]), started, completed, identity, "Qwen3Embed", vector)]


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, Database, dict[str, UUID]]:
    """A dump, the database that it was imported into, and its clusterings by model."""
    folder, tables = tmp_path_factory.mktemp("clustered"), dump_tables(DumpSpec(runs=6, length=40))
    database = open_database(folder / "new.sqlite", create=True)
    import_tables(folder / "dump", tables, database)
    outcomes = cluster_all_data(database)
    return tables, database, {outcome.embedding_model: outcome.id for outcome in outcomes if outcome.id}


@pytest.mark.parametrize("model", ["Nomic", "NomicVision"])
def test_medoids_lead_back_to_the_invocations_of_the_dump(
    clustered: tuple[Tables, Database, dict[str, UUID]], model: str
) -> None:
    tables, database, clusterings = clustered
    steps = tables["invocations"]
    of_model = rows_where(
        tables["embeddings"],
        lambda row: row["embedding_model"] == model and not row["id"].startswith("prompt-"),
    )
    order = np.argsort([plain(identity) for identity in of_model["id"]])
    expected = hdbscan(np.array(of_model["vector"], dtype=np.float32)[order])
    assert expected.n_clusters > 1
    with database.session() as session:
        for label, medoid in expected.medoid_indices.items():
            named = of_model["invocation_id"][order[medoid]]
            medoid_invocation = get_medoid_invocation(label, clusterings[model], session)
            assert medoid_invocation is not None
            assert str(medoid_invocation.id) == named
            row = place(steps, id=named)
            assert (medoid_invocation.output_text, str(medoid_invocation.run_id)) == (
                steps["output_text"][row],
                steps["run_id"][row],
            )
            assert medoid_invocation.output_image_data is None
        assert get_medoid_invocation(expected.n_clusters, clusterings[model], session) is None


def test_images_without_bytes_are_imported(
    clustered: tuple[Tables, Database, dict[str, UUID]],
) -> None:
    tables, database, clusterings = clustered
    assert examine_database(database).findings == ()
    with database.session() as session:
        for cluster in get_cluster_details(clusterings["NomicVision"], session):
            assert cluster.medoid_text is None
            assert cluster.medoid_image_invocation_id == cluster.medoid_invocation_id
        steps = tables["invocations"]
        images = {
            UUID(identity)
            for identity, kind in zip(steps["id"], steps["type"], strict=True)
            if kind == "image"
        }
        for cluster in get_cluster_details(clusterings["Nomic"], session):
            assert cluster.medoid_image_invocation_id in images


# --------------------------------------------------------------------------- again, and more


def test_importing_a_dump_again_changes_nothing(tmp_path: Path, database: Database) -> None:
    first = import_tables(tmp_path / "dump", dump_tables(), database)
    assert database.path is not None
    before = snapshot(database.path)
    again = import_embeddings([tmp_path / "dump", tmp_path / "dump"], database)
    assert snapshot(database.path) == before
    assert (again.n_rows, again.n_present, again.n_new_runs, again.n_differing) == (192, 192, 0, 0)
    assert again.left_out == first.left_out + first.left_out
    assert "nothing to add, all of them are in the database already; left out 6 prompts" in str(again)


def test_a_dump_that_has_grown_adds_its_new_rows(tmp_path: Path, database: Database) -> None:
    import_tables(tmp_path / "dump", dump_tables(), database)
    (clustering, *_) = cluster_all_data(database)
    before = contents(database)
    grown = dump_tables(replace(SPEC, runs=4, length=30, text_models=(*SPEC.text_models, "Jina")))
    summary = import_tables(tmp_path / "dump", grown, database)
    assert (summary.n_new_runs, summary.n_new_invocations) == (1, 4 * 30 - 60)
    # A text of each two steps, in three models now, and an image.
    assert summary.n_new_embeddings == 4 * 15 * 4 - 90
    assert (summary.n_differing, summary.n_present) == (0, 96)
    after = contents(database)
    for name in ("invocation", "embedding", "clusteringresult", "cluster", "embeddingcluster"):
        assert set(map(repr, before[name])) <= set(map(repr, after[name])), name
    assert rows(database, "SELECT DISTINCT max_length FROM run") == [(30,)]
    ((prompts, models, length),) = rows(
        database, "SELECT prompts, embedding_models, max_length FROM experimentconfig"
    )
    assert (json.loads(prompts), length) == ([f"prompt {run}" for run in range(4)], 30)
    assert set(json.loads(models)) == {"Nomic", "Qwen3Embed", "NomicVision", "Jina"}
    with database.session() as session:
        assert get_medoid_invocation(0, clustering.id or "", session) is not None
    # The older one again has nothing that is not there.
    assert import_tables(tmp_path / "older", dump_tables(), database).n_differing == 0
    assert contents(database) == after
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_embeddings([tmp_path / "dump"], other_database)
    assert {name: after[name] for name in ("run", "invocation", "embedding")} == {
        name: contents(other_database)[name] for name in ("run", "invocation", "embedding")
    }


def test_unknown_times_are_stored_in_columns_that_refuse_null(tmp_path: Path, upgraded: MakeFile) -> None:
    database, _ = upgraded(FieldSpec(times_required=True))
    tables = dump_tables()
    del tables["invocations"]["started_at"]
    tables["embeddings"]["completed_at"] = [None] * len(tables["embeddings"]["id"])
    import_tables(tmp_path / "dump", tables, database)
    unknown, known = "1970-01-01 00:00:00.000000", "2026-02-12 03:04:0"
    for table, where, expected in (
        ("invocation", "model = 'Moondream'", (unknown, f"{known}7.000000")),
        ("embedding", "embedding_model = 'Qwen3Embed'", (f"{known}5.123456", unknown)),
    ):
        query = f"SELECT DISTINCT started_at, completed_at FROM {table} WHERE {where}"
        assert rows(database, query) == [expected]


@pytest.mark.parametrize("seed", range(4))
def test_rows_missing_from_a_partial_dump_are_added_by_the_full_dump(
    tmp_path: Path, database: Database, seed: int
) -> None:
    all_tables = dump_tables(replace(SPEC, runs=2, length=8))
    rng = np.random.default_rng(seed)
    part = {name: rows_where(table, lambda _: rng.random() < 0.7) for name, table in all_tables.items()}
    import_tables(tmp_path / "part", part, database)
    import_tables(tmp_path / "whole", all_tables, database)
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_embeddings([tmp_path / "whole"], other_database)
    assert contents(database) == contents(other_database)


@pytest.mark.parametrize("batch_rows", [7, 8192])
def test_order_and_batches_change_nothing(tmp_path: Path, database: Database, batch_rows: int) -> None:
    import_tables(tmp_path / "dump", dump_tables(), database)
    rng = np.random.default_rng(0)
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    shuffled = {
        name: mixed(table, rng) | {"further": ["x"] * len(table["id"])}
        for name, table in dump_tables().items()
    }
    summary = import_tables(tmp_path / "mixed", shuffled, other_database, batch_rows=batch_rows)
    assert contents(other_database) == contents(database)
    assert (summary.n_unlinked, summary.left_out) == (0, LeftOut(prompts=3))
    before = contents(other_database)
    import_embeddings([tmp_path / "dump", tmp_path / "mixed"], other_database, batch_rows=batch_rows)
    assert contents(other_database) == before


def test_embeddings_of_prompts_are_stored_by_run_and_not_clustered(
    clustered: tuple[Tables, Database, dict[str, UUID]],
) -> None:
    tables, database, clusterings = clustered
    dumped = tables["embeddings"]
    expected = {
        (plain(invocation.removeprefix("prompt-")), model, np.array(vector, dtype="<f4").tobytes())
        for invocation, model, vector in zip(
            dumped["invocation_id"], dumped["embedding_model"], dumped["vector"], strict=True
        )
        if invocation.startswith("prompt-")
    }
    assert len(expected) == 12
    assert set(rows(database, "SELECT run_id, embedding_model, vector FROM promptembedding")) == expected
    _, summary = find_stored(database, str(clusterings["Nomic"]))
    assert summary.record.n_embeddings == 6 * 20
    with open_clustering(database, summary) as stored:
        assert {(run, "Nomic", vector.tobytes()) for run, vector in stored.prompt_vectors.items()} == {
            row for row in expected if row[1] == "Nomic"
        }
    divergence = read_divergence(database, summary)
    first = divergence.steps[0]
    assert (first.step, first.n_runs, first.from_prompt, first.nearest_prompt) == (-1, 6, 0.0, 1.0)
    assert all(step.from_prompt is not None for step in divergence.steps)
    # A database without them has no such table, and the figures are missing.
    _, images = find_stored(database, str(clusterings["NomicVision"]))
    without = read_divergence(database, images)
    assert {(step.from_prompt, step.nearest_prompt) for step in without.steps} == {(None, None)}
    assert without.steps[0].step == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("vector = x'00'", "1 byte, not "),
        ("vector = x''", "0 bytes, not "),
        ("vector = CAST(x'ff41' AS TEXT)", "not text in UTF-8"),
        ("vector = zeroblob(length(vector))", "zero"),
        ("vector = CAST(replace(hex(vector), '0', '0') AS BLOB)", "bytes, not "),
        (f"run_id = '{'f' * 32}'", "run is missing"),
        ("run_id = CAST(x'ff41' AS TEXT)", "UTF-8"),
        ("embedding_model = CAST(x'ff41' AS TEXT)", "UTF-8"),
    ],
)
def test_an_unusable_embedding_of_a_prompt_is_found_and_left_out(
    clustered: tuple[Tables, Database, dict[str, UUID]], tmp_path: Path, damage: str, reason: str
) -> None:
    _, database, clusterings = clustered
    copy_database(database, str(tmp_path / "copy.sqlite"))
    with opened(tmp_path / "copy.sqlite") as connection:
        first = "SELECT rowid FROM promptembedding WHERE embedding_model = 'Nomic' ORDER BY 1 LIMIT 1"
        update = f"UPDATE promptembedding SET {damage} WHERE rowid = ({first})"
        assert connection.execute(update).rowcount == 1
        connection.commit()
    damaged = open_database(tmp_path / "copy.sqlite")
    (finding,) = examine_database(damaged, ["prompt_embedding"]).findings
    assert finding.count == 1
    assert reason in finding.details[0]
    _, summary = find_stored(damaged, str(clusterings["Nomic"]))
    with open_clustering(damaged, summary) as stored:
        of_runs = set(stored.prompt_vectors) & set(stored.runs)
    assert len(of_runs) == 5


def test_a_copy_has_the_embeddings_of_prompts_too(
    clustered: tuple[Tables, Database, dict[str, UUID]], tmp_path: Path
) -> None:
    _, database, _ = clustered
    copy_database(database, str(tmp_path / "copy.sqlite"))
    query = "SELECT run_id, embedding_model, vector FROM promptembedding ORDER BY 1, 2"
    assert rows(open_database(tmp_path / "copy.sqlite"), query) == rows(database, query)
    assert len(rows(database, query)) == 12


@pytest.mark.slow
@pytest.mark.xdist_group("postgres")
def test_a_server_stores_the_embeddings_of_prompts_as_a_file_does(
    clustered: tuple[Tables, Database, dict[str, UUID]], tmp_path: Path, url: str, server: Server
) -> None:
    tables, database, clusterings = clustered
    before = read_divergence(database, find_stored(database, str(clusterings["Nomic"]))[1])
    # Copied from the file with its clusterings, and imported by the server itself.
    copy_database(database, url)
    copied, summary = find_stored(url, str(clusterings["Nomic"]))
    assert read_divergence(copied, summary) == before
    with server.database() as other_url:
        imported = open_database(other_url, create=True)
        assert import_tables(tmp_path / "dump", tables, imported).n_new_prompt_embeddings == 12
        assert import_embeddings([tmp_path / "dump"], imported).n_new_prompt_embeddings == 0
        with imported.reading() as connection:
            query = "SELECT run_id, embedding_model, vector FROM promptembedding ORDER BY 1, 2"
            of_server = {tuple(row) for row in connection.exec_driver_sql(query)}
        assert of_server == set(rows(database, query))
        assert examine_database(imported, ["prompt_embedding"]).findings == ()
        with imported.writing() as connection:
            connection.exec_driver_sql("UPDATE promptembedding SET vector = '\\x00'")
        (finding,) = examine_database(imported, ["prompt_embedding"]).findings
        assert finding.count == 12


def test_without_experiments_runs_belong_to_none(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    experiments = {"experiments": tables.pop("experiments")}
    summary = import_tables(tmp_path / "dump", tables, database)
    assert (summary.n_files, count(database)) == (3, (0, 3, 60, 90))
    assert rows(database, "SELECT DISTINCT experiment_id FROM run") == [(None,)]
    import_tables(tmp_path / "dump", experiments, database)
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_embeddings([tmp_path / "dump"], other_database)
    assert contents(database) == contents(other_database)


# --------------------------------------------------------------------------- what does not belong there


@pytest.mark.parametrize("unique", ["none", "constraint", "index"])
def test_orphaned_and_repeated_rows_are_left_out(
    tmp_path: Path, upgraded: MakeFile, unique: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="panic_tda")
    database, facts = upgraded(replace(EVERYTHING, unique=unique))
    before = contents(database)
    tables = dump_tables()
    steps, embeddings = tables["invocations"], tables["embeddings"]
    run = tables["runs"]["id"].pop(2)
    for name in tables["runs"]:
        if name != "id":
            tables["runs"][name].pop(2)
    last = place(steps, run_id=tables["runs"]["id"][0], sequence_number=19)
    embeddings["vector"][place(embeddings, invocation_id=steps["id"][last], embedding_model="Nomic")] = None
    repeated_step = {name: column[last] for name, column in steps.items()} | {"id": str(UUID(int=1))}
    repeated = {name: column[-1] for name, column in embeddings.items()}
    repeated |= {"id": str(UUID(int=2)), "invocation_id": steps["id"][last], "embedding_model": "Qwen3Embed"}
    for table, row in ((steps, repeated_step), (embeddings, repeated)):
        for name, value in row.items():
            table[name].append(value)
    for again in range(2):
        caplog.clear()
        summary = import_tables(tmp_path / "dump", tables, database)
        assert summary.left_out == LeftOut(
            prompts=3,
            prompt_embeddings=2,
            orphaned_invocations=20,
            orphaned_embeddings=30,
            repeated_invocations=1,
            repeated_embeddings=1,
            embeddings_without_vector=1,
        )
        new = 0 if again else 59
        assert summary.n_new_prompt_embeddings == (0 if again else 4)
        assert (summary.n_new_embeddings, summary.n_present) == (new, 63 if again else 0)
        log = caplog.text
        assert "20 invocations whose run is missing were left out; the first: " in log
        assert "1 embeddings whose invocation has another one of this model were left out" in log
        assert f"first: {UUID(int=2)}" in log
        assert "prompts" not in log
        assert run not in {row[0] for row in rows(database, "SELECT id FROM run")}
    after = contents(database)
    assert all(set(map(repr, before[name])) <= set(map(repr, after[name])) for name in before)
    assert database.path == facts.path


def test_an_invocation_whose_input_is_missing_gets_it_later(tmp_path: Path, database: Database) -> None:
    all_tables = dump_tables()
    part = dump_tables()
    part["invocations"] = rows_where(part["invocations"], lambda row: row["sequence_number"] not in (3, 4))
    summary = import_tables(tmp_path / "dump", part, database)
    assert (summary.n_unlinked, summary.left_out.orphaned_embeddings) == (3, 9)
    assert rows(
        database, "SELECT DISTINCT sequence_number FROM invocation WHERE input_invocation_id IS NULL"
    ) == [(0,), (5,)]
    before = contents(database)
    assert import_embeddings([tmp_path / "dump"], database).n_unlinked == 3
    assert contents(database) == before
    assert import_tables(tmp_path / "dump", all_tables, database).n_unlinked == 0
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_embeddings([tmp_path / "dump"], other_database)
    assert contents(database) == contents(other_database)


def test_stored_rows_that_differ_stay_and_are_counted(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    import_tables(tmp_path / "dump", dump_tables(), database)
    before = contents(database)
    tables = dump_tables()
    embeddings, steps = tables["embeddings"], tables["invocations"]
    changed = [row for row, identity in enumerate(embeddings["id"]) if not identity.startswith("prompt-")]
    for row in changed[:7]:
        embeddings["vector"][row] = embeddings["vector"][row][::-1]
    row = place(steps, run_id=tables["runs"]["id"][0], sequence_number=5)
    steps["output_text"][row] = "another text"
    row = place(steps, run_id=tables["runs"]["id"][1], sequence_number=5)
    steps["input_invocation_id"][row] = steps["id"][0 if not steps["id"][0].startswith("prompt-") else 1]
    tables["runs"]["initial_prompt"][2] = "another prompt"
    summary = import_tables(tmp_path / "dump", tables, database)
    assert contents(database) == before
    assert (summary.n_differing, summary.n_present, summary.n_new_embeddings) == (10, 96, 0)
    assert "10 differ from what is stored under their ids, which stays" in str(summary)
    assert re.search(r"10 rows differ from those under their ids.*another database; the first: ", caplog.text)


def test_prompts_are_known_by_their_sequence_number_too(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    other_by_key = {
        identity: str(UUID(int=number + 1))
        for number, identity in enumerate(tables["invocations"]["id"])
        if identity.startswith("prompt-")
    }
    for table, name in (("invocations", "id"), ("embeddings", "invocation_id")):
        tables[table][name] = [other_by_key.get(identity, identity) for identity in tables[table][name]]
    steps = tables["invocations"]
    for row, number in enumerate(steps["sequence_number"]):
        if number == 0:
            steps["input_invocation_id"][row] = other_by_key[f"prompt-{steps['run_id'][row]}"]
    summary = import_tables(tmp_path / "dump", tables, database)
    assert (summary.left_out, summary.n_unlinked) == (LeftOut(prompts=3), 0)
    assert count(database) == (1, 3, 60, 90)
    assert rows(database, "SELECT count(*) FROM invocation WHERE input_invocation_id IS NULL") == [(3,)]


# --------------------------------------------------------------------------- all or nothing

IMPORT = """
import sys
from panic_tda.storage.database import open_database
from panic_tda.files.importing import import_embeddings
import_embeddings([sys.argv[2]], open_database(sys.argv[1]), batch_rows=16)
"""


@pytest.mark.parametrize(
    ("statement", "times"),
    [("INSERT INTO invocation", 3), ("UPDATE invocation", 2)],
)
def test_a_killed_import_leaves_the_database_unchanged(
    tmp_path: Path, database: Database, statement: str, times: int
) -> None:
    import_tables(tmp_path / "first", dump_tables(replace(SPEC, seed=1)), database)
    before = contents(database)
    # Mixed, so that inputs are named after the invocations are there.
    shuffled = {name: mixed(table, np.random.default_rng(1)) for name, table in dump_tables().items()}
    folder = write_dump(tmp_path / "dump", shuffled)
    code = f"{KILL_AFTER}\nkill_after({statement!r}, {times})\n{IMPORT}"
    killed = run_python(code, database.path, folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert contents(database) == before
    summary = import_embeddings([folder], database)
    assert (summary.n_new_runs, summary.n_new_invocations, summary.n_new_embeddings) == (3, 60, 90)
    assert count(database) == (2, 6, 120, 180)
    assert rows(database, "SELECT count(*) FROM invocation WHERE input_invocation_id IS NULL") == [(6,)]
