"""Test that steps of runs are read from every kind of field file, from indexes alone."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sqlalchemy.engine import Connection

from panic_tda.insight.trajectories import study_trajectories
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from panic_tda.storage.read.trajectories import (
    read_medoid_texts,
    read_runs,
    read_steps,
    read_writers,
    stream_texts,
)
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, UpgradedFile, make_finished
from tests.field_files import EVERYTHING, FieldSpec, StoredEmbedding
from tests.storage.test_query_plans import (
    IMAGE_BYTES,
    cost,
    plan,
    queries,
    scans_rows,
    statements,
    tables_read,
)

pytestmark = pytest.mark.both_engines

HOLES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 19), (3, 10), (3, 11))
SPECS = {
    "alternating": FieldSpec(vision_models=("NomicVision",)),
    "holes": FieldSpec(holes=HOLES, vision_models=("NomicVision",)),
    "text-only runs": FieldSpec(runs=0, text_only_runs=3, holes=HOLES),
    "both parities": FieldSpec(runs=0, both_parities_runs=3, holes=HOLES),
    "both parities but for one": FieldSpec(
        runs=0, both_parities_runs=1, length=6, holes=((0, 0), (0, 2), (0, 4))
    ),
    "migrated": FieldSpec(layout=3, migrated=True),
    "ids of digits": FieldSpec(digit_ids=True),
    "everything": EVERYTHING,
}


def saved(
    file: UpgradedFile, sample: list[StoredEmbedding], model: str, factor: int = 1
) -> ClusteringSummary:
    finished = make_finished([summary.id for summary in sample], model=model)
    finished = replace(finished, record=replace(finished.record, downsample=factor))
    with file.database.writing() as connection:
        save_clustering(connection, finished)
    with file.database.session() as session:
        return find_clustering(session, str(finished.id))


@contextmanager
def clustered(
    file: UpgradedFile, model: str = "Nomic", factor: int = 1
) -> Iterator[tuple[Connection, ClusteringSummary]]:
    rows = saved(file, file.facts.sample(model, factor), model, factor)
    with file.database.reading() as connection:
        yield connection, rows


def strides(file: UpgradedFile) -> dict[tuple[str, str], int]:
    parities: dict[tuple[str, str], set[int]] = defaultdict(set)
    for invocation in file.facts.invocations:
        parities[invocation.run_id, invocation.type].add(invocation.sequence_number % 2)
    return {key: 1 if len(parity) == 2 else 2 for key, parity in parities.items()}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_steps_are_read_from_every_kind_of_file(upgraded: MakeFile, spec: FieldSpec) -> None:
    file = upgraded(spec)
    stride = strides(file)
    for model, factor in product((*spec.text_models[:1], *spec.vision_models), (1, 2, 5)):
        sample = {embedding.id: embedding for embedding in file.facts.sample(model, factor)}
        with clustered(file, model, factor) as (connection, clustering):
            steps = read_steps(connection, clustering)
        with file.opened() as raw:
            stored = raw.execute(
                "SELECT embedding_id, label, probability FROM embeddingcluster JOIN clusteringresult "
                "ON key = result_key WHERE id = ? ORDER BY embedding_id",
                (clustering.id.hex,),
            ).fetchall()
        invocations = [sample[stored[row][0]].invocation for row in steps.rows]
        assert sorted(steps.rows.tolist()) == list(range(len(sample)))
        assert [steps.run_ids[number] for number in steps.run_numbers] == [
            invocation.run_id for invocation in invocations if invocation
        ]
        assert steps.sequence_numbers.tolist() == [
            invocation.sequence_number for invocation in invocations if invocation
        ]
        assert steps.are_texts.tolist() == [
            invocation.type == "TEXT" for invocation in invocations if invocation
        ]
        assert steps.steps.tolist() == [
            invocation.sequence_number // stride[invocation.run_id, invocation.type]
            for invocation in invocations
            if invocation
        ]
        assert steps.labels.tolist() == [stored[row][1] for row in steps.rows]
        assert steps.probabilities.tolist() == [stored[row][2] for row in steps.rows]
        assert list(steps.run_ids) == sorted(steps.run_ids)
        for begin, end in zip(steps.offsets[:-1], steps.offsets[1:], strict=True):
            assert (np.diff(steps.steps[begin:end]) > 0).all()
            assert begin < end
        assert (steps.steps % factor == 0).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_texts_are_all_texts_of_a_run(upgraded: MakeFile, spec: FieldSpec) -> None:
    file = upgraded(spec)
    stride = strides(file)
    runs = sorted({invocation.run_id for invocation in file.facts.invocations})
    with file.database.reading() as connection:
        texts_by_run = {run.run_id: (run.steps.tolist(), run.texts) for run in stream_texts(connection, runs)}
    expected = {}
    for run in runs:
        texts = [
            invocation
            for invocation in file.facts.invocations
            if (invocation.run_id, invocation.type) == (run, "TEXT")
        ]
        texts.sort(key=lambda invocation: invocation.sequence_number)
        numbers = [invocation.sequence_number // stride[run, "TEXT"] for invocation in texts]
        expected[run] = numbers, [invocation.text for invocation in texts]
    assert texts_by_run == {run: of_run for run, of_run in expected.items() if of_run[0]}
    assert list(texts_by_run) == sorted(texts_by_run)


def test_a_missing_text_is_a_missing_step(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=2))
    with file.opened() as connection:
        connection.execute(
            "UPDATE invocation SET output_text = NULL WHERE run_id = ? AND sequence_number IN (3, 9)",
            (file.facts.runs[0],),
        )
    with file.database.reading() as connection:
        runs = list(stream_texts(connection, file.facts.runs))
    assert [run.steps.tolist() for run in runs] == [[0, 2, 3, 5, 6, 7, 8, 9], list(range(10))]
    assert [len(run.texts) for run in runs] == [8, 10]


def test_runs_read_by_several_queries_are_complete(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=203, length=2, layout=0))
    with clustered(file) as (connection, clustering):
        assert len(read_steps(connection, clustering).run_ids) == 203
        run_ids = [run.run_id for run in stream_texts(connection, sorted(file.facts.runs))]
        assert run_ids == sorted(file.facts.runs)
        assert set(read_runs(connection)) == set(file.facts.runs)


def test_deleted_rows_are_left_out_and_counted(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    file = upgraded(FieldSpec(runs=3))
    clustering = saved(file, file.facts.sample("Nomic"), "Nomic")
    embedding = file.facts.sample("Nomic")[5]
    assert embedding.invocation is not None
    run, *others = file.facts.runs
    # Without foreign keys the assignments stay.
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding WHERE id = ?", (embedding.id,))
        connection.execute("DELETE FROM invocation WHERE run_id = ?", (run,))
    with caplog.at_level(logging.WARNING, logger="panic_tda"), file.database.reading() as connection:
        steps = read_steps(connection, clustering)
    assert set(steps.run_ids) == set(others)
    assert len(steps.steps) == 20 - (embedding.invocation.run_id != run)
    assert f"{30 - len(steps.steps)} of 30 assignments belong to no step" in caplog.text


def test_an_invocation_with_two_embeddings_is_one_step(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(FieldSpec(runs=2))
    sample = file.facts.sample("Nomic")
    # Embeddings of an invocation that has one already, with ids before and after all others.
    with file.opened() as connection:
        connection.execute("DROP INDEX IF EXISTS uq_embedding_invocation_id")
        for identity, embedding in (("0" * 32, sample[3]), ("f" * 32, sample[4])):
            assert embedding.invocation is not None
            connection.execute(
                "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
                "SELECT ?, invocation_id, embedding_model, vector FROM embedding WHERE id = ?",
                (identity, embedding.id),
            )
    extra = [replace(sample[3], id="0" * 32), replace(sample[4], id="f" * 32)]
    clustering = saved(file, [*sample, *extra], "Nomic")
    with caplog.at_level(logging.WARNING, logger="panic_tda"), file.database.reading() as connection:
        steps = read_steps(connection, clustering)
    assert len(steps.steps) == 20
    ids = sorted([summary.id for summary in sample] + ["0" * 32, "f" * 32])
    assert {ids[row] for row in steps.rows} == {summary.id for summary in sample} - {sample[3].id} | {
        "0" * 32
    }
    assert "2 of 22 embeddings belong to a step that has another embedding" in caplog.text


def test_generating_models_and_medoids_are_looked_up(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(vision_models=("NomicVision",)))
    runs = file.facts.runs
    with clustered(file) as (connection, clustering):
        writers = read_writers(
            connection, [(runs[0], [1, 3]), (runs[1], [2]), (runs[2], [0, 1]), (runs[3], [])]
        )
        assert list(writers) == [{"BLIP2"}, {"SDXLTurbo"}, {"BLIP2", "SDXLTurbo"}, set()]
        texts = read_medoid_texts(connection, clustering.id, [0, 2, 99])
    with file.opened() as raw:
        medoids = dict(raw.execute("SELECT label, medoid_embedding_id FROM cluster").fetchall())
    by_id = {
        embedding.id: embedding.invocation.text
        for embedding in file.facts.of("Nomic")
        if embedding.invocation
    }
    assert texts == {label: by_id[medoids[label]] for label in (0, 2)}


@pytest.mark.sqlite_only("its plans")
def test_no_row_of_an_embedding_or_an_image_is_read(upgraded: MakeFile) -> None:
    for unique in ("none", "constraint", "index"):
        file = upgraded(replace(EVERYTHING, unique=unique), f"{unique}.sqlite")
        for model in ("Nomic", "NomicVision"):
            clustering = saved(file, file.facts.sample(model), model)
            with statements() as executed:
                study_trajectories(file.database, clustering)
            selects = [sql for sql in queries(executed) if "sqlite_master" not in sql]
            with file.opened() as raw:
                plans = {sql: plan(raw, sql) for sql in selects}
                rows = {sql: tables_read(raw, sql) for sql in selects}
            assert not [step for steps in plans.values() for step in steps if scans_rows(step)]
            assert not [step for steps in plans.values() for step in steps if "TEMP B-TREE" in step]
            with_rows = {sql: tables for sql, tables in rows.items() if tables}
            # Only texts are in rows, and the index leads to those alone.
            assert all("output_text" in sql and tables == {"invocation"} for sql, tables in with_rows.items())
            assert {step for sql in with_rows for step in plans[sql]} == {
                "SEARCH invocation USING INDEX ix_invocation_run_type_number (run_id=? AND type=?)"
            }


@pytest.mark.sqlite_only("its plans")
def test_the_generating_model_is_looked_up_by_run_and_sequence_number(upgraded: MakeFile) -> None:
    file = upgraded(replace(EVERYTHING, unique="none"))
    clustering = saved(file, file.facts.sample("NomicVision"), "NomicVision")
    with statements() as executed:
        study_trajectories(file.database, clustering, by="model")
    selects = [sql for sql in queries(executed) if sql.startswith("SELECT invocation.model")]
    # A network of two, of which one paints: one look for each run.
    assert len(selects) == len(
        {
            embedding.invocation.run_id
            for embedding in file.facts.sample("NomicVision")
            if embedding.invocation
        }
    )
    with file.opened() as raw:
        for sql in selects:
            (step,) = plan(raw, sql)
            assert step.startswith("SEARCH invocation USING INDEX")
            assert "sequence_number=?" in step


@pytest.mark.sqlite_only("its pages")
def test_images_are_not_read(upgraded: MakeFile) -> None:
    # As in the field: most of the file are images. Each is a page of the table and 24 behind it.
    file = upgraded(FieldSpec(layout=0, runs=12, length=60, dimensions=768, image_bytes=IMAGE_BYTES))
    clustering = saved(file, file.facts.sample("Nomic"), "Nomic")
    with file.opened() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = file.path.stat().st_size
    assert size > 360 * IMAGE_BYTES
    full_cost, _ = cost(file.path, file.path.read_bytes)
    if full_cost < size:
        pytest.skip("the file cannot be made to come from the disk here (a file system in memory?)")
    n_read, n_written = cost(file.path, lambda: study_trajectories(file.database, clustering))
    # Each of the 360 texts is a page among the images, and the system reads some pages ahead.
    assert n_read < 0.25 * size
    assert n_written < 100_000
