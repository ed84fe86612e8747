"""Test steps of runs as rows, with the distances to the first and the previous step."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import InvalidParameter
from panic_tda.files.importing import import_embeddings
from panic_tda.insight import step_rows
from panic_tda.insight.step_rows import Course, open_steps
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import ClusteringSummary
from tests.conftest import MakeFile
from tests.exported import clustered, dashed
from tests.field_files import EVERYTHING, FieldSpec
from tests.insight.planted import PlantedRun, plant, run_id
from tests.insight.reference_trajectories import states_of, visits_of
from tests.snapshots import opened

COLUMNS = ["run_id", "step", "sequence_number", "label", "state", "flag", "visit", "predicted"]
ASSIGNED = """
    SELECT run_id, type, sequence_number, label, probability, vector
    FROM embeddingcluster
    JOIN embedding ON embedding.id = embedding_id
    JOIN invocation ON invocation.id = invocation_id
    ORDER BY run_id, sequence_number
"""


def steps_of(database: Database, clustering: ClusteringSummary, **options: Any) -> pa.Table:
    with open_steps(database, clustering, **options) as rows:
        table = pa.Table.from_batches(rows.batches, rows.schema)
    assert table.num_rows == rows.n_rows
    table.validate(full=True)
    return table


def expected_steps(path: Path, core: float) -> list[dict[str, Any]]:
    """Return the expected rows by the definitions, one run after another."""
    runs: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    parities: dict[tuple[str, str], set[int]] = defaultdict(set)
    with opened(path) as connection:
        for run, kind, number in connection.execute("SELECT run_id, type, sequence_number FROM invocation"):
            parities[run, kind].add(number % 2)
        for run, *assigned in connection.execute(ASSIGNED):
            runs[run].append(tuple(assigned))
    rows = []
    for run, assigned in sorted(runs.items()):
        steps = [number // (3 - len(parities[run, kind])) for kind, number, *_ in assigned]
        labels, probabilities = [row[2] for row in assigned], [row[3] for row in assigned]
        states, flags = states_of(labels, probabilities, core)
        begins = [first for _, first, _ in visits_of(steps, states)]
        vectors = [np.frombuffer(row[4], dtype="<f4").astype(float) for row in assigned]
        units = [vector / math.sqrt(sum(vector * vector)) for vector in vectors]
        for row, step in enumerate(steps):
            rows.append(
                {
                    "run_id": dashed(run),
                    "step": step,
                    "sequence_number": assigned[row][1],
                    "label": labels[row],
                    "state": states[row],
                    "flag": flags[row],
                    "visit": sum(first <= step for first in begins) - 1,
                    "predicted": False,
                    "drift": math.dist(units[row], units[0]),
                    "stride": math.dist(units[row], units[row - 1]) if row else None,
                }
            )
    return rows


def require_steps(table: pa.Table, wanted: list[dict[str, Any]]) -> None:
    """Compare the columns of a table with the expected ones."""
    assert table.column_names == [*COLUMNS, "drift", "stride"]
    rows = table.to_pylist()
    assert [{name: row[name] for name in COLUMNS} for row in rows] == [
        {name: row[name] for name in COLUMNS} for row in wanted
    ]
    for name in ("drift", "stride"):
        assert [row[name] is None for row in rows] == [row[name] is None for row in wanted]
        values = [row[name] for row in rows if row[name] is not None]
        expected = [row[name] for row in wanted if row[name] is not None]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("downsample", "core"), [(1, 0.0), (3, 0.0), (1, 0.9)])
@pytest.mark.parametrize("model", ["Nomic", "NomicVision"])
def test_rows_match_the_definitions(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, model: str, downsample: int, core: float
) -> None:
    file = upgraded(EVERYTHING)
    clustering = clustered(file.database, model, downsample)
    wanted = expected_steps(file.path, core)
    assert len({row["run_id"] for row in wanted}) >= 4
    if model == "Nomic" and downsample == 1:
        assert {row["flag"] for row in wanted} >= {"core", "transit"}
    options = {"core_probability": core, "with_drift": True}
    table = steps_of(file.database, clustering, **options)
    require_steps(table, wanted)
    # Whatever the batches, of which a run may have several, or a part.
    for rows in (1, 7, 64):
        monkeypatch.setattr(step_rows, "BATCH_ROWS", rows)
        assert steps_of(file.database, clustering, **options).equals(table)
    assert steps_of(file.database, clustering, core_probability=core).equals(table.select(COLUMNS))


def test_ids_may_be_in_any_order(tmp_path: Path) -> None:
    """Those of an import are hashes: vectors do not come in the order of steps."""
    vectors = np.random.default_rng(0).standard_normal((60, 4)).astype("f4")
    columns = {
        "text": [f"text {row}" for row in range(60)],
        "run": [str(row % 3) for row in range(60)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    database = open_database(tmp_path / "new.sqlite", create=True)
    import_embeddings([tmp_path / "a.parquet"], database, model="Nomic")
    clustering = clustered(database)
    wanted = expected_steps(tmp_path / "new.sqlite", 0.0)
    assert len({row["run_id"] for row in wanted}) == 3
    require_steps(steps_of(database, clustering, with_drift=True), wanted)


def test_planted_steps_have_their_states(tmp_path: Path) -> None:
    runs = [PlantedRun([-1, 0, -1, None, 1, 1, 0]), PlantedRun([-1, -1], stored="texts"), PlantedRun([2])]
    database, clustering = plant(tmp_path / "planted.sqlite", runs)
    table = steps_of(database, clustering, with_drift=True)
    first = [
        (0, 1, -1, 0, "entering", 0),
        (1, 3, 0, 0, "core", 0),
        (2, 5, -1, 0, "transit", 0),
        (4, 9, 1, 1, "core", 1),
        (5, 11, 1, 1, "core", 1),
        (6, 13, 0, 0, "core", 2),
    ]
    second = [(0, 1, -1, -1, "entering", 0), (1, 3, -1, -1, "entering", 0)]
    expected = [(0, *row) for row in first] + [(1, *row) for row in second] + [(2, 0, 1, 2, 2, "core", 0)]
    rows = table.select(COLUMNS[:-1]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(dashed(run_id(n)), *row) for n, *row in expected]
    # The planted vectors are zero, and have no direction.
    assert table["drift"].null_count == table["stride"].null_count == len(expected)


def test_a_deleted_vector_is_in_no_distance(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=2, duplicates=0.0))
    clustering = clustered(file.database)
    all_steps = steps_of(file.database, clustering, with_drift=True).to_pylist()
    run, other_run = sorted({row["run_id"] for row in all_steps})
    assert len([row for row in all_steps if row["run_id"] == run]) == 10
    spoil = (
        "UPDATE embedding SET vector = ? WHERE embedding_model = 'Nomic' AND invocation_id = "
        "(SELECT id FROM invocation WHERE run_id = ? AND sequence_number = ?)"
    )
    with opened(file.path) as connection:
        connection.execute(spoil, (None, run.replace("-", ""), 7))
        connection.execute(spoil, (b"\0" * 12, other_run.replace("-", ""), 1))
    rows = steps_of(file.database, clustering, with_drift=True).to_pylist()
    for before, after in zip(all_steps, rows, strict=True):
        missing = {"drift", "stride"} if (after["run_id"], after["step"]) == (run, 3) else set()
        missing |= {"stride"} if (after["run_id"], after["step"]) == (run, 4) else set()
        missing |= {"stride"} if (after["run_id"], after["step"]) == (other_run, 1) else set()
        missing |= {"drift"} if after["run_id"] == other_run else set()
        assert after == {name: None if name in missing else value for name, value in before.items()}


def test_copies_have_distance_0(upgraded: MakeFile) -> None:
    course = Course(3)
    vectors = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [3e-20, 6e-20, 9e-20], [-0.1, -0.2, -0.3]], "f4")
    drift, stride = course.measure(vectors, np.arange(4))
    assert drift[:2].tolist() == [0, 0]
    assert stride[1] == 0
    np.testing.assert_allclose(drift[2:], [0, 2], atol=1e-7)


def test_the_schema_names_the_clustering(upgraded: MakeFile) -> None:
    file = upgraded()
    clustering = clustered(file.database)
    metadata = json.loads(
        steps_of(file.database, clustering, core_probability=0.5).schema.metadata[b"panic_tda"]
    )
    assert (metadata["clustering"], metadata["core_probability"]) == (str(clustering.id), 0.5)
    with (
        pytest.raises(InvalidParameter, match="core_probability must be a probability"),
        open_steps(file.database, clustering, core_probability=1.5),
    ):
        pass
