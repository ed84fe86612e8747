"""Test that clustering all data does what was requested in every database and changes nothing else."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
import pytest

from panic_tda import model_fits, parameters
from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering_manager import (
    cluster_all_data,
    delete_clusterings,
    find_clusterings,
    get_cluster_details,
    get_medoid_invocation,
    list_clusterings,
)
from panic_tda.errors import (
    DatabaseError,
    InvalidParameter,
    MissingPath,
    NeedsUpgrade,
    NoEmbeddings,
    UnknownModel,
)
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.storage import connections
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.loading import input_sha256, load_embeddings
from panic_tda.storage.schema.upgrade import CLUSTERING_TABLES
from panic_tda.storage.write import pending, saving
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import CLUSTERED, FAILED, SKIPPED, ModelOutcome
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import REPOSITORY, opened, snapshot

SPECS = {
    "layout 0": FieldSpec(layout=0),
    "layout 1": FieldSpec(layout=1, vision_models=("NomicVision",), dummy_rows=25),
    "layout 2": FieldSpec(layout=2, wal=True),
    "layout 3": FieldSpec(layout=3, migrated=True, unique="index"),
    "holes": FieldSpec(holes=((0, 1), (1, 2), (2, 19))),
    "text-only runs": FieldSpec(runs=0, text_only_runs=4),
    "both parities": FieldSpec(runs=0, both_parities_runs=3),
    "orphans": FieldSpec(orphan_embeddings=5, orphan_invocations=3),
    "ids of digits": FieldSpec(digit_ids=True),
    "everything, good vectors": replace(
        EVERYTHING, null_vectors=0, short_vectors=0, nan_vectors=0, infinite_vectors=0, zero_vectors=0
    ),
}
DESIGN_KEYS = {
    "cluster_selection_epsilon",
    "min_cluster_size",
    "min_samples",
    "allow_single_cluster",
    "cluster_selection_method",
    "max_cluster_size",
    "distance_floor",
    "keep_neighbours",
    "metric",
    "downsample",
    "backend",
    "exact",
    "n_total",
    "n_sampled",
    "n_excluded",
    "n_embeddings",
    "n_unique",
    "n_clusters",
    "n_outliers",
    "root_selected",
    "largest_cluster_size",
    "input_sha256",
    "versions",
    "seconds",
}


pytestmark = pytest.mark.usefixtures("temporary_folder")


def others(path: Path) -> dict[str, Any]:
    """Return all rows except those of the clustering tables."""
    return dict(snapshot(path, without=CLUSTERING_TABLES))


def by_model(outcomes: list[ModelOutcome]) -> dict[str, ModelOutcome]:
    assert len({outcome.embedding_model for outcome in outcomes}) == len(outcomes)
    return {outcome.embedding_model: outcome for outcome in outcomes}


def assignments(database: Database, clustering_id: UUID | None) -> dict[str, tuple[int, float]]:
    assert clustering_id is not None
    connection = sqlite3.connect(str(database.path))
    rows = connection.execute(
        "SELECT embedding_id, label, probability FROM embeddingcluster "
        "JOIN clusteringresult ON key = result_key WHERE id = ?",
        (clustering_id.hex,),
    ).fetchall()
    connection.close()
    return {identity: (label, probability) for identity, label, probability in rows}


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_model_of_every_database_layout_is_clustered(
    upgraded: MakeFile, spec: FieldSpec, factor: int
) -> None:
    file = upgraded(spec)
    before = others(file.path)
    outcomes = by_model(cluster_all_data(file.database, downsample=factor))
    assert list(outcomes) == file.facts.models
    assert others(file.path) == before
    for model, outcome in outcomes.items():
        sampled = file.facts.sample(model, factor)
        assert (outcome.status, outcome.reason) == (CLUSTERED, None), outcome
        assert outcome.n_total == file.facts.count(model)
        assert outcome.n_sampled == outcome.n_embeddings == len(sampled)
        assert outcome.n_excluded == file.facts.count(model) - len(file.facts.sample(model))
        direct = hdbscan(np.array([embedding.vector for embedding in sampled]))
        stored = assignments(file.database, outcome.id)
        assert stored == {
            embedding.id: (int(label), float(probability))
            for embedding, label, probability in zip(
                sampled, direct.labels, direct.probabilities, strict=True
            )
        }
        assert (outcome.n_clusters, outcome.n_outliers) == (
            direct.n_clusters,
            int((direct.labels == -1).sum()),
        )
        with file.database.session() as session:
            for label, row in direct.medoid_indices.items():
                medoid_invocation = get_medoid_invocation(label, outcome.id or "", session)
                invocation = sampled[row].invocation
                assert medoid_invocation is not None
                assert invocation is not None
                assert medoid_invocation.id == UUID(invocation.id)
    assert sum(outcome.n_clusters for outcome in outcomes.values()) > 0


def test_the_real_field_file_is_clustered(real_file: Database) -> None:
    assert real_file.path is not None
    before = others(real_file.path)
    outcomes = by_model(cluster_all_data(real_file))
    assert {model: outcome.n_embeddings for model, outcome in outcomes.items()} == {
        "Dummy": 25,
        "Nomic": 985,
        "STSBMpnet": 985,
        "STSBRoberta": 985,
    }
    assert {outcome.status for outcome in outcomes.values()} == {CLUSTERED}
    assert others(real_file.path) == before
    tenth = by_model(cluster_all_data(real_file, downsample=1000))
    assert {model: outcome.status for model, outcome in tenth.items()}.pop("Dummy") == SKIPPED
    assert tenth["Nomic"].n_embeddings == 12
    with real_file.session() as session:
        assert len(list_clusterings(session)) == 7


def test_stored_parameters_are_the_parameters_used(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(orphan_embeddings=2, duplicates=0.3))
    parameters = ClusteringParameters(epsilon=0.123, min_cluster_size=0.1, selection_method="leaf")
    (outcome,) = cluster_all_data(file.database, ["Nomic"], parameters=parameters, downsample=2)
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    stored_parameters = summary.record.to_json()
    assert set(stored_parameters) == DESIGN_KEYS
    assert stored_parameters["cluster_selection_epsilon"] == 0.123
    assert stored_parameters["min_cluster_size"] == 2
    assert stored_parameters["keep_neighbours"] == 20
    assert stored_parameters | asdict(parameters.resolve(20)) == stored_parameters
    assert (stored_parameters["downsample"], stored_parameters["backend"], stored_parameters["exact"]) == (
        2,
        outcome.backend,
        outcome.exact,
    )
    assert (
        stored_parameters["n_total"],
        stored_parameters["n_sampled"],
        stored_parameters["n_excluded"],
        stored_parameters["n_embeddings"],
    ) == (42, 20, 2, 20)
    vectors = np.array([embedding.vector for embedding in file.facts.sample("Nomic", 2)])
    assert stored_parameters["n_unique"] == len(np.unique(vectors, axis=0))
    census = take_census(file.database, 2)["Nomic"]
    assert stored_parameters["input_sha256"] == input_sha256(
        load_embeddings(file.database, census, downsample=2)
    )
    # Compiling is counted where it was done.
    assert set(stored_parameters["seconds"]) - {"compile"} == {"load", "fit", "medoids"}
    assert set(outcome.seconds) == {*stored_parameters["seconds"], "save"}
    direct = hdbscan(vectors, epsilon=0.123, min_cluster_size=0.1, selection_method="leaf")
    assert stored_parameters["n_clusters"] == direct.n_clusters
    assert summary.created_at >= summary.completed_at >= summary.started_at


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_the_stored_epsilon_is_the_epsilon_used(upgraded: MakeFile, epsilon: float) -> None:
    # In the old tables it was another one.
    file = upgraded()
    (outcome,) = cluster_all_data(file.database, ["Nomic"], parameters=ClusteringParameters(epsilon=epsilon))
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    assert summary.record.cluster_selection_epsilon == epsilon
    vectors = np.array([embedding.vector for embedding in file.facts.sample("Nomic")])
    expected = hdbscan(vectors, epsilon=epsilon).labels.tolist()
    stored = assignments(file.database, outcome.id)
    assert [stored[identity][0] for identity in sorted(stored)] == expected


def test_named_models_are_clustered_once_each_in_the_given_order(upgraded: MakeFile) -> None:
    database = upgraded(FieldSpec(dummy_rows=5)).database
    named = ["STSBMpnet", "Dummy", "STSBMpnet"]
    assert list(by_model(cluster_all_data(database, named))) == ["STSBMpnet", "Dummy"]
    assert list(by_model(cluster_all_data(database, "Nomic"))) == ["Nomic"]
    assert list(by_model(cluster_all_data(str(database.path)))) == ["Dummy", "Nomic", "STSBMpnet"]


def test_a_new_run_never_deletes_an_old_one(upgraded: MakeFile) -> None:
    database = upgraded().database
    runs = [cluster_all_data(database, ["Nomic"])[0].id for _ in range(3)]
    with database.session() as session:
        assert [clustering.id for clustering in list_clusterings(session)] == runs[::-1]
        assert [clustering.id for clustering in find_clusterings(session)] == runs[-1:]
    stored = [assignments(database, run) for run in runs]
    assert stored[0] == stored[1] == stored[2]
    assert len(stored[0]) == 40
    delete_clusterings(database, [run for run in runs[1:2] if run])
    with database.session() as session:
        assert [clustering.id for clustering in list_clusterings(session)] == [runs[2], runs[0]]
    assert assignments(database, runs[1]) == {}


@pytest.mark.parametrize("kind", ["null", "short", "nan", "infinite", "zero"])
def test_invalid_vectors_fail_their_own_model_only(upgraded: MakeFile, kind: str) -> None:
    file = upgraded(FieldSpec(**{f"{kind}_vectors": 3}))  # type: ignore[arg-type]
    outcomes = by_model(cluster_all_data(file.database))
    failed = outcomes["Nomic"]
    assert failed.status == FAILED
    assert failed.id is None
    assert failed.reason is not None
    for bad in file.facts.bad("Nomic"):
        assert str(UUID(bad)) in failed.reason
    assert outcomes["STSBMpnet"].status == CLUSTERED
    with file.database.session() as session:
        assert [clustering.embedding_model for clustering in list_clusterings(session)] == ["STSBMpnet"]

    outcomes = by_model(cluster_all_data(file.database, skip_invalid=True))
    assert outcomes["Nomic"].status == CLUSTERED
    assert (outcomes["Nomic"].n_sampled, outcomes["Nomic"].n_excluded) == (40, 3)
    good = {embedding.id for embedding in file.facts.sample("Nomic") if embedding.kind == "good"}
    assert set(assignments(file.database, outcomes["Nomic"].id)) == good


def test_missing_vectors_are_found_before_the_first_fit(upgraded: MakeFile) -> None:
    # Found late, they would cost the hours that the models before them take.
    file = upgraded(FieldSpec(text_models=("Zulu", "Alpha"), null_vectors=2))
    phases: list[str] = []

    class Recorder:
        def phase(self, name: str, total: float | None = None) -> None:
            phases.append(name)

        def advance(self, amount: float) -> None:
            pass

    refused_at: list[int] = []

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Zulu" in record.getMessage() and "invalid" in record.getMessage():
                refused_at.append(len(phases))

    handler = Log()
    logging.getLogger("panic_tda").addHandler(handler)
    try:
        outcomes = by_model(cluster_all_data(file.database, progress=Recorder()))
    finally:
        logging.getLogger("panic_tda").removeHandler(handler)
    assert outcomes["Zulu"].status == FAILED
    assert outcomes["Alpha"].status == CLUSTERED
    assert not any(phase.startswith("Zulu") for phase in phases)
    assert refused_at == [1], "only the counting comes before the refusal"


def test_the_smallest_model_is_clustered_first(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    # What only shows when vectors are loaded is to cost the least.
    file = upgraded(FieldSpec(text_models=("Alpha", "Beta"), dummy_rows=5, orphan_embeddings=30))
    with opened(file.path) as connection:
        connection.execute(
            "DELETE FROM embedding WHERE id IN "
            "(SELECT id FROM embedding WHERE embedding_model = 'Beta' LIMIT 20)"
        )
    with caplog.at_level(logging.INFO, "panic_tda"):
        outcomes = cluster_all_data(file.database)
    assert [outcome.embedding_model for outcome in outcomes] == ["Alpha", "Beta", "Dummy"]
    saved = [r.getMessage().split(":")[0] for r in caplog.records if "; clustering " in r.getMessage()]
    assert saved == ["Dummy", "Beta", "Alpha"]


def test_repeated_embeddings_are_counted_in_a_warning(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(FieldSpec(unique="none", vision_models=("NomicVision",)))
    with opened(file.path) as connection:
        connection.execute(
            "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
            "SELECT 'f' || substr(id, 2), invocation_id, embedding_model, vector FROM embedding "
            "WHERE embedding_model = 'Nomic' LIMIT 4"
        )
    with caplog.at_level(logging.WARNING, "panic_tda"):
        outcomes = by_model(cluster_all_data(file.database))
    assert outcomes["Nomic"].n_embeddings == 44
    warned = [record.getMessage() for record in caplog.records if "of an invocation" in record.getMessage()]
    assert warned == [
        "Nomic: 4 of 44 embeddings are of an invocation that has another embedding of this model; "
        "all are clustered"
    ]
    assert "of images" not in caplog.text


def test_images_among_the_texts_of_a_model_are_counted_in_a_warning(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(FieldSpec(vision_models=("NomicVision",), orphan_embeddings=2))
    with opened(file.path) as connection:
        connection.execute(
            "UPDATE embedding SET embedding_model = 'STSBMpnet' WHERE id IN "
            "(SELECT id FROM embedding WHERE embedding_model = 'NomicVision' LIMIT 3)"
        )
    with caplog.at_level(logging.WARNING, "panic_tda"):
        cluster_all_data(file.database, downsample=2)
    warned = [record.getMessage() for record in caplog.records if "of images" in record.getMessage()]
    assert warned == [
        "STSBMpnet: 3 of 43 embeddings are of images, the others of texts; they are clustered together"
    ]
    assert "of an invocation" not in caplog.text


def test_an_unexpected_failure_of_one_model_leaves_the_others_saved(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(FieldSpec(text_models=("A", "B", "C")))
    cluster_rows = model_fits.cluster_rows
    errors = iter([ZeroDivisionError("division by zero"), MemoryError("12 GiB"), None])

    def failing(*arguments: Any, **options: Any) -> Any:
        if error := next(errors):
            raise error
        return cluster_rows(*arguments, **options)

    monkeypatch.setattr(model_fits, "cluster_rows", failing)
    with caplog.at_level(logging.DEBUG, "panic_tda"):
        outcomes = by_model(cluster_all_data(file.database))
    assert outcomes["A"].reason == "unexpected ZeroDivisionError: division by zero"
    assert "out of memory (12 GiB)" in (outcomes["B"].reason or "")
    assert "--downsample" in (outcomes["B"].reason or "")
    assert outcomes["C"].status == CLUSTERED
    assert any(record.exc_info for record in caplog.records), "the traceback is kept in the log"


def test_models_with_fewer_than_two_usable_rows_are_skipped(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(FieldSpec(dummy_rows=1, text_models=("Nomic",)))
    with caplog.at_level(logging.WARNING, "panic_tda"):
        outcomes = by_model(cluster_all_data(file.database))
    assert outcomes["Dummy"].status == SKIPPED
    assert outcomes["Dummy"].reason in caplog.text
    assert "1" in (outcomes["Dummy"].reason or "")
    assert outcomes["Nomic"].status == CLUSTERED


def test_a_model_without_rows_after_skipping_is_skipped(upgraded: MakeFile) -> None:
    for number, kind in enumerate(("null", "nan")):
        spec = FieldSpec(runs=1, **{f"{kind}_vectors": 9})  # type: ignore[arg-type]
        file = upgraded(spec, f"{number}.sqlite")
        outcomes = by_model(cluster_all_data(file.database, skip_invalid=True))
        assert outcomes["Nomic"].status == SKIPPED
        assert (outcomes["Nomic"].n_sampled, outcomes["Nomic"].n_excluded) == (10, 9)
        assert outcomes["STSBMpnet"].status == CLUSTERED


def test_two_rows_can_be_clustered(upgraded: MakeFile) -> None:
    outcomes = by_model(cluster_all_data(upgraded(FieldSpec(dummy_rows=2)).database))
    assert outcomes["Dummy"].status == CLUSTERED
    assert outcomes["Dummy"].n_embeddings == 2


@pytest.mark.parametrize(("factor", "warned"), [(9, False), (10, True), (1000, True)])
def test_a_factor_longer_than_every_run_is_warned_about(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture, factor: int, warned: bool
) -> None:
    file = upgraded()
    with caplog.at_level(logging.WARNING, "panic_tda"):
        outcomes = cluster_all_data(file.database, downsample=factor)
    assert (f"factor {factor} is beyond the longest run (10 outputs)" in caplog.text) is warned
    assert {outcome.n_sampled for outcome in outcomes} == {4 if warned else 8}


def test_the_log_has_the_figures_of_every_model(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    file = upgraded(FieldSpec(orphan_embeddings=2))
    with caplog.at_level(logging.INFO, "panic_tda"):
        (outcome,) = cluster_all_data(file.database, ["Nomic"], downsample=2)
    assert "Nomic: 42 embeddings, 20 after downsampling by 2, 2 excluded, 20 to cluster in 8 dimensions" in (
        caplog.text
    )
    assert f"Nomic: {outcome.n_clusters} clusters, {outcome.n_outliers} outliers" in caplog.text
    assert str(outcome.id) in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"models": ["Nomic", "Nonesuch"]},
            UnknownModel,
            "no embeddings of model Nonesuch; .* Nomic, STSBMpnet",
        ),
        ({"models": ["nomic"]}, UnknownModel, "no embeddings of model nomic"),
        ({"downsample": 0}, InvalidParameter, "downsample must be"),
        ({"downsample": -3}, InvalidParameter, "downsample must be"),
    ],
)
def test_invalid_requests_change_nothing(
    upgraded: MakeFile, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    file = upgraded()
    before = snapshot(file.path)
    with pytest.raises(error, match=message):
        cluster_all_data(file.database, **arguments)
    assert snapshot(file.path) == before


def test_files_that_cannot_be_clustered_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no database at .*nowhere\.sqlite"):
        cluster_all_data(tmp_path / "nowhere.sqlite")
    assert list(tmp_path.glob("nowhere*")) == []
    with pytest.raises(NoEmbeddings, match="panic-tda import-embeddings"):
        cluster_all_data(open_database(tmp_path / "empty.sqlite", create=True))
    facts = write_field_file(tmp_path / "field.sqlite")
    with pytest.raises(NeedsUpgrade, match=r"panic-tda upgrade --db .*field\.sqlite"):
        cluster_all_data(facts.path)
    (tmp_path / "text.sqlite").write_text("a text that is no database " * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        cluster_all_data(tmp_path / "text.sqlite")


def test_a_read_only_file_is_refused_before_computing(upgraded: MakeFile) -> None:
    file = upgraded()
    before = snapshot(file.path)
    file.path.chmod(0o444)
    with pytest.raises(DatabaseError, match=r"read-only; make it writable \(chmod u\+w\)"):
        cluster_all_data(file.database)
    assert snapshot(file.path) == before


def test_a_locked_file_is_refused_before_computing(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.05)
    writer = sqlite3.connect(file.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match=r"locked for 0\.05 s by another process; try again"):
        cluster_all_data(file.database)
    writer.close()


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something to the database while the rows are being clustered."""
    cluster_rows = model_fits.cluster_rows

    def during(*arguments: Any, **options: Any) -> Any:
        act()
        return cluster_rows(*arguments, **options)

    monkeypatch.setattr(model_fits, "cluster_rows", during)


def write_meanwhile(file: UpgradedFile, sql: str) -> Callable[[], None]:
    def act() -> None:
        with opened(file.path, timeout=0.1) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(sql)

    return act


def test_no_connection_is_open_while_computing(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upgraded()
    open_files: list[str] = []

    def look() -> None:
        open_files.extend(opened.path for opened in psutil.Process().open_files())

    meanwhile(monkeypatch, look)
    assert {outcome.status for outcome in cluster_all_data(file.database)} == {CLUSTERED}
    assert [path for path in open_files if path.startswith(str(file.path))] == []


def test_an_embedding_deleted_during_the_fit_makes_the_result_a_pending_file(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    victim = file.facts.of("Nomic")[3].id
    before = snapshot(file.path, without=("embedding",))
    meanwhile(monkeypatch, write_meanwhile(file, f"DELETE FROM embedding WHERE id = '{victim}'"))
    (outcome,) = cluster_all_data(file.database, ["Nomic"])
    assert outcome.status == FAILED
    assert "computed but not saved" in (outcome.reason or "")
    (path,) = pending.find_pending(file.database)
    assert f"panic-tda save-pending --db {file.path} {path}" in (outcome.reason or "")
    assert snapshot(file.path, without=("embedding",)) == before

    (saved,) = save_pending(file.database)
    assert (saved.embedding_model, saved.n_vanished) == ("Nomic", 1)
    stored = assignments(file.database, saved.id)
    direct = hdbscan(np.array([embedding.vector for embedding in file.facts.sample("Nomic")]))
    expected = {
        embedding.id: int(label)
        for embedding, label in zip(file.facts.sample("Nomic"), direct.labels, strict=True)
        if embedding.id != victim
    }
    assert {identity: label for identity, (label, _) in stored.items()} == expected


def test_a_lock_during_saving_makes_the_result_a_pending_file(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.05)
    writer = sqlite3.connect(file.path, isolation_level=None, check_same_thread=False)
    meanwhile(monkeypatch, lambda: writer.execute("BEGIN IMMEDIATE") and None)
    (outcome,) = cluster_all_data(file.database, ["Nomic"])
    writer.close()
    assert outcome.status == FAILED
    assert "locked" in (outcome.reason or "")
    (saved,) = save_pending(file.database)
    assert len(assignments(file.database, saved.id)) == 40


LIMITED = """
import json, resource, sys
from dataclasses import asdict
from panic_tda import clustering_manager, model_fits
from panic_tda.parameters import Resources
limit = int(sys.argv[2])
cluster_rows = model_fits.cluster_rows

def limited(*arguments, **options):
    found = cluster_rows(*arguments, **options)
    # From here on no file grows beyond the limit, as on a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return found

model_fits.cluster_rows = limited
outcomes = clustering_manager.cluster_all_data(sys.argv[1], resources=Resources(keep_neighbours=0))
print(json.dumps([asdict(outcome) for outcome in outcomes], default=str))
"""


def cluster_with_limit(file: UpgradedFile, folder: Path, limit: int) -> ModelOutcome:
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file.path), str(limit)],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    (outcome,) = json.loads(process.stdout)
    return ModelOutcome(**outcome)


@pytest.fixture
def large(upgraded: MakeFile) -> UpgradedFile:
    return upgraded(FieldSpec(runs=40, length=100, text_models=("Nomic",), dimensions=4, image_bytes=8))


@pytest.mark.slow
def test_a_disk_that_is_full_during_saving_makes_the_result_a_pending_file(
    large: UpgradedFile, temporary_folder: Path
) -> None:
    before = snapshot(large.path)
    # 2,000 assignments take 200 kB in the log, the kept file (without neighbour lists) 100 kB.
    outcome = cluster_with_limit(large, temporary_folder, 150_000)
    assert outcome.status == FAILED
    assert "computed but not saved" in (outcome.reason or "")
    assert snapshot(large.path) == before
    (path,) = pending.find_pending(large.database)
    assert str(path) in (outcome.reason or "")
    (saved,) = save_pending(large.database)
    assert saved.n_vanished == 0
    stored = assignments(large.database, saved.id)
    sampled = large.facts.sample("Nomic")
    direct = hdbscan(np.array([embedding.vector for embedding in sampled]))
    assert [stored[embedding.id][0] for embedding in sampled] == direct.labels.tolist()
    (row,) = (row for row in snapshot(large.path)["clusteringresult"][1])
    assert str(saved.id.hex) in row


@pytest.mark.slow
def test_with_no_disk_space_anywhere_both_errors_are_reported(
    large: UpgradedFile, temporary_folder: Path
) -> None:
    before = snapshot(large.path)
    outcome = cluster_with_limit(large, temporary_folder, 40_000)
    assert outcome.status == FAILED
    assert "computed but not saved" in (outcome.reason or "")
    assert "could not be written to a file either" in (outcome.reason or "")
    assert snapshot(large.path) == before
    assert pending.find_pending(large.database) == []
    assert list(large.path.parent.rglob("*.part")) == []


def test_medoids_and_details_of_unknown_clusterings_are_empty(upgraded: MakeFile) -> None:
    database = upgraded().database
    (outcome,) = cluster_all_data(database, ["Nomic"])
    assert outcome.id is not None
    with database.session() as session:
        assert get_medoid_invocation(0, outcome.id.hex, session) is not None
        assert get_medoid_invocation(0, str(outcome.id), session) is not None
        assert get_medoid_invocation(99, outcome.id, session) is None
        assert get_medoid_invocation(-1, outcome.id, session) is None
        assert get_medoid_invocation(0, UUID(int=0), session) is None
        assert get_cluster_details(UUID(int=0), session) == []
        assert [c.label for c in get_cluster_details(str(outcome.id), session, limit=1)] == [0]
        sizes = [c.size for c in get_cluster_details(outcome.id, session)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == outcome.n_clusters


def test_an_invalid_id_is_refused_with_a_reason(tmp_path: Path) -> None:
    database = open_database(tmp_path / "new.sqlite", create=True)
    with database.session() as session, pytest.raises(InvalidParameter, match="32 hexadecimal digits"):
        get_medoid_invocation(0, "garbage", session)


def test_a_memory_limit_and_a_work_folder_do_not_change_the_result(
    upgraded: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "LEAST_MEMORY", 1)
    file = upgraded(FieldSpec(text_models=("A",), runs=8, length=60))
    tiled_parameters = ClusteringParameters(backend="tiled")
    limits = Resources(memory_limit=1000, work_dir=tmp_path / "work")
    plain, limited = (
        cluster_all_data(file.database, parameters=tiled_parameters, resources=resources)[0]
        for resources in (None, limits)
    )
    query = "SELECT embedding_id, label, probability FROM embeddingcluster WHERE result_key = ? ORDER BY 1"
    with opened(file.path) as connection:
        first, second = (connection.execute(query, (key,)).fetchall() for key in (1, 2))
    assert first == second
    assert (plain.status, limited.status) == (CLUSTERED, CLUSTERED)
    # Finished runs leave no state behind, neither there nor beside the database.
    assert [path for path in (tmp_path / "work").rglob("*") if path.is_file()] == []
    assert list(file.path.parent.glob("*.panic-tda")) == []


def test_a_model_named_dot_dot_changes_nothing_in_the_parent_folder(
    upgraded: MakeFile, tmp_path: Path
) -> None:
    file = upgraded(FieldSpec(text_models=("..",)))
    (tmp_path / "work").mkdir()
    mine = tmp_path / "checkpoint.json"
    mine.write_text("mine")
    (outcome,) = cluster_all_data(file.database, [".."], resources=Resources(work_dir=tmp_path / "work"))
    assert outcome.status == CLUSTERED
    assert mine.read_text() == "mine"


def test_a_result_is_saved_even_where_its_state_cannot_be_removed(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    (tmp_path / "work" / "Nomic" / "checkpoint.json").mkdir(parents=True)
    (outcome,) = cluster_all_data(file.database, ["Nomic"], resources=Resources(work_dir=tmp_path / "work"))
    assert outcome.status == CLUSTERED
    assert len(assignments(file.database, outcome.id)) == outcome.n_embeddings


def test_a_result_becomes_a_pending_file_after_any_error_during_saving(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: object) -> None:
        raise ZeroDivisionError

    file = upgraded()
    with monkeypatch.context() as broken:
        broken.setattr(saving, "save_clustering", save)
        (outcome,) = cluster_all_data(file.database, ["Nomic"])
    assert outcome.status == FAILED
    assert "computed but not saved (ZeroDivisionError)" in (outcome.reason or "")
    (saved,) = save_pending(file.database)
    assert len(assignments(file.database, saved.id)) == outcome.n_sampled
