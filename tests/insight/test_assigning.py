"""New embeddings get the clusters of a stored clustering, which stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from panic_tda import HDBSCAN, clustering_manager
from panic_tda.files.importing import import_embeddings
from panic_tda.insight import assigning
from panic_tda.insight.recut import Changes, recut_clustering
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.progress import Silent
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.clusterings import open_clustering
from tests.command_line import invoke, read_json, succeed
from tests.exported import latest
from tests.snapshots import opened, snapshot

MODEL, EPSILON = "MiniLM", 0.6
SAMPLE = Path(__file__).parents[2] / "panic_tda" / "sample" / "captions_minilm.parquet"
CLUSTERING_TABLES = ("clusteringresult", "cluster", "embeddingcluster", "clusteringtree")
PREDICTIONS = "SELECT embedding_id, label, probability FROM embeddingprediction ORDER BY 1"


def write_parts(folder: Path) -> tuple[Path, Path]:
    """Write the sample in two files, each with whole runs."""
    table = pq.read_table(SAMPLE)
    runs = table["run"].to_pylist()
    first = set(sorted(set(runs))[::2])
    is_first = pa.array([run in first for run in runs])
    parts = folder / "first.parquet", folder / "second.parquet"
    for path, mask in zip(parts, (is_first, pa.compute.invert(is_first)), strict=True):
        pq.write_table(table.filter(mask), path)
    return parts


def fill(database: Database, folder: Path, *, downsample: int = 1, keep_tree: bool = True) -> None:
    """Import half of the runs, cluster them, and import the other half."""
    first, second = write_parts(folder)
    import_embeddings([first], database)
    (outcome,) = clustering_manager.cluster_all_data(
        database,
        parameters=ClusteringParameters(epsilon=EPSILON),
        downsample=downsample,
        resources=Resources(keep_tree=keep_tree),
    )
    assert outcome.id is not None, outcome.reason
    import_embeddings([second], database)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assigned")
    database = open_database(folder / "grown.sqlite", create=True)
    fill(database, folder)
    assert database.path is not None
    return database.path


@pytest.fixture
def grown(template: Path, tmp_path: Path) -> Database:
    """A database whose clustering does not hold half of the embeddings."""
    return open_database(Path(shutil.copyfile(template, tmp_path / "grown.sqlite")))


@pytest.fixture(scope="module")
def assigned_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copyfile(template, tmp_path_factory.mktemp("assigned") / "assigned.sqlite"))
    assigning.assign_all(path)
    return path


@pytest.fixture
def assigned(assigned_template: Path, tmp_path: Path) -> Database:
    """A database in which the new embeddings were assigned."""
    return open_database(Path(shutil.copyfile(assigned_template, tmp_path / "assigned.sqlite")))


def rows_of(database: Database, query: str) -> list[Any]:
    with opened(database.path or str(database.url.render_as_string(hide_password=False))) as connection:
        return list(connection.execute(query).fetchall())


def predict_new(database: Database) -> tuple[list[int], list[float]]:
    """Predict the rows without an assignment with the estimator, by ascending id."""
    vectors = {
        condition: np.stack([np.frombuffer(vector, "<f4") for (vector,) in rows_of(database, query)])
        for condition, query in (
            (word, f"SELECT vector FROM embedding WHERE id {word} IN (SELECT embedding_id FROM "
             "embeddingcluster) ORDER BY id")
            for word in ("", "NOT")
        )
    }  # fmt: skip
    model = HDBSCAN(cluster_selection_epsilon=EPSILON).fit(vectors[""])
    labels, probabilities = model.predict_with_probability(vectors["NOT"])
    return labels.tolist(), probabilities.tolist()


def test_new_embeddings_get_the_labels_that_predict_gives(assigned: Database) -> None:
    _, labels, probabilities = zip(*rows_of(assigned, PREDICTIONS), strict=True)
    expected = predict_new(assigned)
    assert (list(labels), list(probabilities)) == expected
    assert len(labels) == 1200
    assert -1 in labels
    assert len(set(labels)) > 10


def test_assigning_leaves_the_clustering_as_it_was(template: Path, assigned_template: Path) -> None:
    before, after = snapshot(template), snapshot(assigned_template)
    assert {name: before[name] for name in before} == {name: after[name] for name in before}
    assert set(after) - set(before) == {"embeddingprediction", "ix_embeddingprediction_embedding_id"}


class StopAfter(Silent):
    """Progress that interrupts after a number of batches, as Ctrl-C does."""

    def __init__(self, n_batches: int) -> None:
        self.n_batches, self.phase_name = n_batches, ""

    def phase(self, name: str, total: float | None = None) -> None:
        self.phase_name = name

    def advance(self, amount: float) -> None:
        if self.phase_name.endswith("assign"):
            self.n_batches -= 1
            if not self.n_batches:
                raise KeyboardInterrupt


def test_an_interrupted_run_is_continued(
    grown: Database, assigned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigning, "QUERY_ROWS", 100)
    with pytest.raises(KeyboardInterrupt):
        assigning.assign_embeddings(grown, latest(grown), progress=StopAfter(3))
    assert len(rows_of(grown, PREDICTIONS)) == 300
    monkeypatch.undo()
    assert assigning.assign_embeddings(grown, latest(grown)).n_new == 900
    assert rows_of(grown, PREDICTIONS) == rows_of(assigned, PREDICTIONS)
    again = assigning.assign_embeddings(grown, latest(grown))
    assert (again.n_new, again.n_predicted) == (0, 1200)


def test_copies_of_clustered_rows_get_their_assignment_also_after_a_recut(grown: Database) -> None:
    """The cut of another epsilon, selection method and cluster size decides, not the first one."""
    recut_clustering(grown, latest(grown), Changes(epsilon=0.3, selection_method="leaf", min_cluster_size=5))
    assigning.assign_embeddings(grown, latest(grown))
    copies = rows_of(
        grown,
        "SELECT DISTINCT b.id, held.label, held.probability, new.label, new.probability "
        "FROM embedding AS a JOIN embedding AS b ON b.vector = a.vector "
        "JOIN embeddingcluster AS held ON held.embedding_id = a.id "
        "JOIN embeddingprediction AS new ON new.embedding_id = b.id "
        "WHERE held.result_key = 2 AND new.result_key = 2",
    )
    assert len(copies) > 20
    assert [row[1:3] for row in copies] == [row[3:5] for row in copies]
    assert len({row[1] for row in copies}) > 3


def test_lists_and_details_say_how_many_are_predicted(assigned: Database) -> None:
    summary = latest(assigned)
    assert [entry["n_predicted"] for entry in read_json("list-clusterings", db=assigned)] == [1200]
    assert read_json("show-clustering", db=assigned)[0]["n_predicted"] == 1200
    assert "predicted" in invoke("list-clusterings", db=assigned).output.splitlines()[0]
    assert "1200 further embeddings were assigned since" in invoke("show-clustering", db=assigned).output
    assert summary.record.n_embeddings == 1200


@pytest.mark.usefixtures("no_umap")
def test_exports_have_a_column_that_says_predicted(assigned: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    succeed("export-clustering", "latest", path, "--with-map", db=assigned)
    table = pq.read_table(path)
    predicted = table.filter(table["predicted"])
    keys = [identity.replace("-", "") for identity in predicted["embedding_id"].to_pylist()]
    values = predicted["label"].to_pylist(), predicted["probability"].to_pylist()
    assert list(zip(keys, *values, strict=True)) == rows_of(assigned, PREDICTIONS)
    for name in ("core_distance", "outlier_score", "x"):
        assert table[name].null_count == 1200, name
    assert predicted["text"].null_count == 0


def test_trajectories_have_the_steps_of_new_runs(grown: Database, assigned: Database, tmp_path: Path) -> None:
    before, after = (read_json("show-trajectories", db=database) for database in (grown, assigned))
    assert (before["n_steps"], before["n_predicted"]) == (1200, 0)
    assert (after["n_steps"], after["n_predicted"]) == (2400, 1200)
    assert after["total"]["n_runs"] == 2 * before["total"]["n_runs"]
    assert "The clusters of 1,200 steps are predicted" in invoke("show-trajectories", db=assigned).output
    path = tmp_path / "steps.parquet"
    succeed("export-trajectories", "latest", path, "--with-drift", db=assigned)
    table = pq.read_table(path)
    assert table["predicted"].to_pylist().count(True) == 1200
    assert table["drift"].null_count == 0


def test_what_is_computed_of_a_clustering_leaves_predictions_out(grown: Database, assigned: Database) -> None:
    for command in (["show-density"], ["sweep-clustering"], ["show-clustering", "--origins", "--words"]):
        before, after = (read_json(*command, db=database) for database in (grown, assigned))
        if command[0] == "show-clustering":
            assert after[0].pop("n_predicted") == 1200 + before[0].pop("n_predicted")
        assert before == after, command


@pytest.mark.usefixtures("no_umap")
def test_page_and_figure_say_that_they_have_no_predictions(assigned: Database) -> None:
    from panic_tda.report.figure import Style, read_scene
    from panic_tda.report.gathering import gather

    source = latest(assigned)
    notes = gather(assigned, source, map_rows=300)["notes"]
    assert any("1,200 further embeddings were assigned" in note for note in notes)
    scene = read_scene(assigned, source, style=Style(), n_rows=300, seed=0, progress=Silent())
    assert "Without 1,200 embeddings assigned since" in scene.caption


@pytest.fixture
def damaged(assigned: Database) -> Database:
    """A database with four invalid predictions, and four that point nowhere."""
    ids_sql = "(SELECT embedding_id FROM embeddingprediction ORDER BY 1 LIMIT {} OFFSET {})"
    with opened(assigned.path or "") as connection:
        for statement in (
            f"UPDATE embeddingprediction SET label = 999 WHERE embedding_id IN {ids_sql.format(2, 0)}",
            f"UPDATE embeddingprediction SET probability = 7.5 WHERE embedding_id IN {ids_sql.format(1, 10)}",
            "INSERT INTO embeddingprediction SELECT result_key, embedding_id, 0, 0.5 FROM embeddingcluster "
            "LIMIT 1",
            f"UPDATE embeddingprediction SET embedding_id = '{'f' * 32}' WHERE embedding_id IN "
            f"{ids_sql.format(1, 20)}",
            "INSERT INTO embeddingprediction SELECT 77, embedding_id, 0, 0.5 FROM embeddingcluster LIMIT 3",
        ):
            connection.execute(statement)
    return assigned


def test_doctor_finds_and_repairs_damaged_predictions(damaged: Database, assigned_template: Path) -> None:
    kinds = ("damaged_prediction", "orphan_assignment")
    findings = json.loads(invoke("doctor", "--json", db=damaged).stdout)["findings"]
    assert {finding["kind"]: finding["count"] for finding in findings} == dict.fromkeys(kinds, 4)
    result = invoke("doctor", "--yes", *(word for kind in kinds for word in ("--fix", kind)), db=damaged)
    assert result.exit_code == 0, result.output
    assert json.loads(invoke("doctor", "--json", db=damaged).stdout)["findings"] == []
    assert read_json("assign-embeddings", db=damaged)["results"][0]["n_new"] == 4
    assert rows_of(damaged, PREDICTIONS) == rows_of(open_database(assigned_template), PREDICTIONS)


def test_a_damaged_label_is_named_by_readers(damaged: Database) -> None:
    result = invoke("show-trajectories", db=damaged)
    assert result.exit_code == 1
    assert "table embeddingprediction, column probability" in result.output
    assert "doctor --fix damaged_prediction" in result.output


def test_a_copy_has_the_predictions(assigned: Database, tmp_path: Path) -> None:
    target = tmp_path / "copy.sqlite"
    result = CliRunner().invoke(main, ["copy-database", str(assigned), str(target), "-q"])
    assert result.exit_code == 0, result.output
    copy = open_database(target)
    assert rows_of(copy, PREDICTIONS) == rows_of(assigned, PREDICTIONS)
    assert read_json("assign-embeddings", db=copy)["results"][0]["n_new"] == 0


def test_predictions_are_deleted_with_their_clustering_and_their_embedding(assigned: Database) -> None:
    with opened(assigned.path or "") as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM embedding WHERE id IN (SELECT min(embedding_id) FROM "
                           "embeddingprediction)")  # fmt: skip
    assert len(rows_of(assigned, PREDICTIONS)) == 1199
    result = succeed("delete-clusterings", "--all", "--yes", db=assigned)
    assert "1200 assignments, and 1199 predicted assignments" in " ".join(result.output.split())
    assert rows_of(assigned, PREDICTIONS) == []


def test_a_new_clustering_does_not_inherit_predictions_that_are_left(assigned: Database) -> None:
    with opened(assigned.path or "") as connection:
        for table in CLUSTERING_TABLES:
            connection.execute(f"DELETE FROM {table}")  # foreign keys are off
    clustering_manager.cluster_all_data(assigned)
    assert read_json("show-clustering", db=assigned)[0]["n_predicted"] == 0


def test_a_sampled_clustering_gets_all_embeddings_or_those_of_a_factor(tmp_path: Path) -> None:
    database = open_database(tmp_path / "sampled.sqlite", create=True)
    fill(database, tmp_path, downsample=2)
    assert read_json("assign-embeddings", "--downsample", 2, db=database)["results"][0]["n_new"] == 600
    assert read_json("show-trajectories", db=database)["n_steps"] == 1200
    assert read_json("assign-embeddings", db=database)["results"][0]["n_new"] == 1200
    study = read_json("show-trajectories", db=database)
    assert (study["n_steps"], study["n_predicted"]) == (1200, 600)


def test_invalid_vectors_are_named_and_can_be_left_out(grown: Database) -> None:
    new = rows_of(grown, "SELECT id FROM embedding WHERE id NOT IN (SELECT embedding_id FROM "
                  "embeddingcluster) ORDER BY rowid DESC LIMIT 3")  # fmt: skip
    invalid = (None, b"\0" * 1536, b"\0\0")
    with opened(grown.path or "") as connection:
        connection.executemany(
            "UPDATE embedding SET vector = ? WHERE id = ?",
            [(vector, identity) for vector, (identity,) in zip(invalid, new, strict=True)],
        )
    result = invoke("assign-embeddings", db=grown)
    assert result.exit_code == 1
    assert "2 unassigned vectors of model MiniLM are missing or not of the 384 values" in result.output
    outcome = read_json("assign-embeddings", "--skip-invalid", db=grown)["results"][0]
    assert (outcome["n_new"], outcome["n_invalid"], outcome["status"]) == (1197, 3, "assigned")


def test_a_clustering_without_a_tree_or_of_changed_rows_is_refused(tmp_path: Path, grown: Database) -> None:
    database = open_database(tmp_path / "bare.sqlite", create=True)
    fill(database, tmp_path, keep_tree=False)
    result = invoke("assign-embeddings", db=database)
    assert result.exit_code == 1
    assert "has no spanning tree" in result.output
    with opened(grown.path or "") as connection:
        connection.execute("UPDATE embedding SET vector = (SELECT vector FROM embedding LIMIT 1) WHERE id = "
                           "(SELECT max(embedding_id) FROM embeddingcluster)")  # fmt: skip
    result = invoke("assign-embeddings", db=grown)
    assert result.exit_code == 1
    assert "have changed since" in result.output
    assert not rows_of(grown, "SELECT name FROM sqlite_master WHERE name = 'embeddingprediction'")


def test_a_server_gives_what_a_file_gives(url: str, assigned: Database, tmp_path: Path) -> None:
    database = open_database(url, create=True)
    fill(database, tmp_path)
    (outcome,) = assigning.assign_all(database)
    assert outcome.n_new == 1200
    assert rows_of(database, PREDICTIONS) == rows_of(assigned, PREDICTIONS)
    assert assigning.assign_all(database)[0].n_new == 0
    with open_clustering(database, latest(database)) as stored:
        assert stored.n_predicted == 1200
        assert int(stored.mark_predicted(stored.all_steps).sum()) == 1200
    assert read_json_of_server(url)[0]["n_predicted"] == 1200
    clustering_manager.delete_clusterings(database, [latest(database).id])
    assert rows_of(database, PREDICTIONS) == []


def read_json_of_server(url: str) -> Any:
    result = CliRunner().invoke(main, ["list-clusterings", "--json", "--db", url])
    return json.loads(result.stdout)
