"""Test that `--skip-invalid` leaves out only rows without a usable vector."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from panic_tda.errors import BadInput
from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import Database
from tests.command_line import invoke
from tests.dump_files import contents, dump_tables, write_dump
from tests.files.test_importing import count, ragged, rows, write
from tests.files.test_pipeline_databases import SPEC, write_pipeline_database

NAN, INFINITY = float("nan"), float("inf")
BAD: dict[str, Any] = {
    "missing": None,
    "NaN": [NAN, 1],
    "infinite": [INFINITY, 1],
    "infinite in float32": [1e300, 1],
    "zero": [0, 0],
    "zero in float32": [1e-300, 0],
    "null inside": [None, 1],
    "all null inside": [None, None],
    "empty": [],
    "shorter": [1],
    "longer": [1, 2, 3],
}
TEXTS = [f"t{row}" for row in range(6)]


def six(**changed: Any) -> list[Any]:
    """Return six vectors, some of them replaced."""
    return [changed.get(f"at{row}", [1.0, row]) for row in range(6)]


def file_of(path: Path, vectors: list[Any], **more: Any) -> Path:
    return write(path, {"text": TEXTS, "vector": ragged(*vectors, kind=pa.float64())} | more)


def vectors_by_text(database: Database, model: str) -> dict[str, list[float]]:
    query = (
        "SELECT output_text, vector FROM embedding JOIN invocation ON invocation.id = invocation_id "
        f"WHERE embedding_model = '{model}'"
    )
    return {text: np.frombuffer(vector, "<f4").tolist() for text, vector in rows(database, query)}


# --------------------------------------------------------------------------- invalid vectors are left out


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("batch_rows", [2, 8192])
def test_an_invalid_row_is_left_out_and_keeps_its_number(
    tmp_path: Path, database: Database, bad: Any, place: int, batch_rows: int
) -> None:
    if bad is not None and len(bad) not in (0, 2) and batch_rows == 2:
        pytest.skip("of two rows of different lengths none is the commoner one")
    path = file_of(tmp_path / "b.parquet", six(**{f"at{place}": bad}))
    import_embeddings([file_of(tmp_path / "a.parquet", six())], database, model="A", batch_rows=batch_rows)
    before = contents(database)
    with pytest.raises(
        BadInput, match=r"nothing was imported; leave such embeddings out with --skip-invalid"
    ):
        import_embeddings([path], database, model="B", batch_rows=batch_rows)
    assert contents(database) == before
    summary = import_embeddings([path], database, model="B", skip_invalid=True, batch_rows=batch_rows)
    assert (summary.n_rows, summary.n_new_embeddings, summary.n_present) == (6, 5, 0)
    assert (summary.n_new_runs, summary.n_new_invocations, summary.left_out.invalid_vectors) == (0, 0, 1)
    assert count(database) == (1, 1, 6, 11)
    assert vectors_by_text(database, "B") == {f"t{row}": [1, row] for row in range(6) if row != place}


def test_the_next_model_reuses_the_text_of_an_invalid_row(tmp_path: Path, database: Database) -> None:
    path = file_of(tmp_path / "b.parquet", six(at0=None, at3=[0, 0]))
    import_embeddings([path], database, model="B", skip_invalid=True)
    assert count(database) == (1, 1, 6, 4)
    import_embeddings([file_of(tmp_path / "a.parquet", six())], database, model="A")
    assert count(database) == (1, 1, 6, 10)
    # And the model's own, when it has a vector for it.
    summary = import_embeddings([file_of(tmp_path / "b.parquet", six())], database, model="B")
    assert (summary.n_new_embeddings, summary.n_present, summary.n_differing) == (2, 4, 0)
    assert count(database) == (1, 1, 6, 12)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float16()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float64(), 2),
    ],
    ids=str,
)
def test_invalid_vectors_of_every_type_are_left_out(
    tmp_path: Path, database: Database, kind: pa.DataType
) -> None:
    bad = [None, [np.float16(NAN), np.float16(1)], [np.float16(0)] * 2, [None, np.float16(1)]]
    good = [[np.float16(1), np.float16(row)] for row in range(2)]
    path = write(tmp_path / "a.parquet", {"text": TEXTS, "vector": pa.array([*bad, *good], kind)})
    summary = import_embeddings([path], database, model="M", skip_invalid=True)
    assert (summary.n_new_embeddings, summary.left_out.invalid_vectors) == (2, 4)
    assert vectors_by_text(database, "M") == {"t4": [1, 0], "t5": [1, 1]}


def test_invalid_rows_of_several_models_and_runs_are_left_out(tmp_path: Path, database: Database) -> None:
    columns = {
        "embedding_model": ["A", "B"] * 3,
        "run": ["x", "x", "x", "x", "y", "y"],
        "vector": ragged([1, 2], [1, 2, 3], None, [3, 2, 1], [2, 2], [0, 0, 0]),
    }
    path = write(tmp_path / "a.parquet", {"text": ["a", "a", "b", "b", "c", "c"]} | columns)
    summary = import_embeddings([path], database, skip_invalid=True)
    assert (summary.n_new_embeddings, summary.left_out.invalid_vectors, summary.models) == (4, 2, ("A", "B"))
    placed = "SELECT sequence_number, output_text FROM invocation ORDER BY output_text"
    assert rows(database, placed) == [(0, "a"), (1, "b"), (0, "c")]


def test_a_file_of_other_dimensions_is_refused_anyway(tmp_path: Path, database: Database) -> None:
    import_embeddings([file_of(tmp_path / "a.parquet", six())], database, model="M")
    other_path = write(tmp_path / "b.parquet", {"text": ["x", "y"], "vector": ragged([1, 2, 3], [3, 2, 1])})
    with pytest.raises(BadInput, match="the vector has 3 dimensions, those of M before it have 2"):
        import_embeddings([other_path], database, model="M", skip_invalid=True)


def test_rows_whose_majority_has_another_length_are_refused(tmp_path: Path, database: Database) -> None:
    path = file_of(tmp_path / "a.parquet", six(at0=[1]))
    with pytest.raises(BadInput, match=r"row 1 .*the vector has 2 dimensions, those before it have 1"):
        import_embeddings([path], database, model="M", skip_invalid=True, batch_rows=1)
    assert count(database) == (0, 0, 0, 0)


def test_lengths_that_are_equally_common_are_refused(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a", "b"], "vector": ragged([1, 2], [1, 2, 3])})
    with pytest.raises(BadInput, match=r"row 1 .*has 3 dimensions, and as many others have 2"):
        import_embeddings([path], database, model="M", skip_invalid=True)


def test_texts_are_stored_even_if_all_vectors_are_invalid(tmp_path: Path, database: Database) -> None:
    path = file_of(tmp_path / "a.parquet", [None] * 6)
    summary = import_embeddings([path], database, model="M", skip_invalid=True)
    assert (summary.n_new_embeddings, summary.left_out.invalid_vectors, summary.models) == (0, 6, ())
    assert count(database) == (1, 1, 6, 0)


def test_other_faults_of_a_row_are_refused(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a", "b\0"], "vector": ragged([1, 2], None)})
    with pytest.raises(BadInput, match=r"row 1 .*text holds the character NUL"):
        import_embeddings([path], database, model="M", skip_invalid=True)


def test_the_log_names_the_first_and_the_command_counts_all(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.parquet", [None, [NAN, 1], [0, 0], [None, 1], [], [1, 1]])
    words = ["import-embeddings", str(path), "--model", "M", "--skip-invalid"]
    result = invoke(*words, "--json", db=tmp_path / "json.sqlite")
    summary = json.loads(result.stdout)
    assert summary["left_out"]["invalid_vectors"] == 5
    assert (summary["n_new_embeddings"], summary["n_new_invocations"]) == (1, 6)
    for row, problem in enumerate(
        (
            *("is missing (null)", "is not finite in float32 (NaN or infinite)"),
            *("is zero and has no direction", "has a missing value (null)", "is empty"),
        )
    ):
        assert f"a.parquet, row {row} (counted from 0): the vector {problem}" in result.stderr
    assert "5 embeddings with an invalid vector were left out" in result.stderr
    result = invoke("-q", *words, db=tmp_path / "text.sqlite")
    assert "added 1 embedding (M), 6 invocations and 1 run" in result.stdout
    assert "left out 5 embeddings whose vector is invalid" in " ".join(result.stdout.split())


@pytest.mark.parametrize("batch_rows", [40, 8192])
@pytest.mark.parametrize("form", ["dump", "database"])
def test_invalid_rows_of_dumps_and_pipeline_databases_are_left_out(
    tmp_path: Path,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    form: str,
    batch_rows: int,
) -> None:
    tables = dump_tables(SPEC)
    vectors, ids = tables["embeddings"]["vector"], tables["embeddings"]["id"]
    for row, bad in {3: None, 10: [0.0] * 8, 20: [NAN] * 8, 30: [1.0] * 7}.items():
        vectors[row] = bad
    if form == "dump":
        path = write_dump(tmp_path / "dump", tables)
    else:
        path = write_pipeline_database(tmp_path / "panic.db", tables)
    with pytest.raises(BadInput, match="leave such embeddings out with --skip-invalid"):
        import_embeddings([path], database, batch_rows=batch_rows)
    with caplog.at_level(logging.WARNING):
        summary = import_embeddings([path], database, skip_invalid=True, batch_rows=batch_rows)
    left_out = summary.left_out
    assert (left_out.embeddings_without_vector, left_out.invalid_vectors) == (1, 3)
    assert (summary.n_rows, summary.n_new_embeddings, summary.n_present) == (90, 86, 0)
    assert count(database) == (1, 3, 60, 86)
    assert "3 embeddings whose vector is invalid were left out" in caplog.text
    assert all(ids[row] in caplog.text for row in (10, 20, 30))
    again = import_embeddings([path], database, skip_invalid=True, batch_rows=batch_rows)
    assert (again.n_new_embeddings, again.n_present) == (0, 86)


# --------------------------------------------------------------------------- the same text embedded again


def test_stored_rows_stay_and_new_rows_are_added(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    old = np.array([[0.6, 0.8], [0.8, 0.6]], np.float32)
    new = np.vstack([old + np.float32(1e-6), [[1, 0]]]).astype(np.float32)

    def file(name: str, texts: list[str], vectors: Any) -> Path:
        return write(tmp_path / name, {"text": texts, "vector": ragged(*vectors)})

    import_embeddings([file("one.parquet", ["a", "b"], old)], database, model="M")
    with caplog.at_level(logging.WARNING):
        summary = import_embeddings([file("two.parquet", ["a", "b", "c"], new)], database, model="M")
    assert (summary.n_new_embeddings, summary.n_present, summary.n_differing) == (1, 2, 2)
    assert "2 differ from what is stored under their ids, which stays" in summary.describe()
    expected = dict(zip("abc", [*old.tolist(), [1, 0]], strict=True))
    assert vectors_by_text(database, "M") == expected
    assert count(database) == (1, 1, 3, 3)
    assert "M: 2 embeddings have another vector than the one stored for the same text" in caplog.text
    assert "chord distance between the two is 2e-07" in caplog.text
    assert "another name" not in caplog.text


def test_vectors_of_another_model_under_the_same_name_are_reported(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    run = {"run": ["r"] * 6}
    import_embeddings([file_of(tmp_path / "one.parquet", six(), **run)], database, model="M")
    turned = [[-1.0, row] for row in range(6)]
    with caplog.at_level(logging.WARNING):
        summary = import_embeddings([file_of(tmp_path / "two.parquet", turned, **run)], database, model="M")
    assert (summary.n_differing, summary.n_new_embeddings) == (6, 0)
    # (1, 0) and (-1, 0) are opposite.
    assert "largest chord distance between the two is 2: if these are of another model" in caplog.text
    assert "import them under another name with --model" in caplog.text
    assert vectors_by_text(database, "M")["t0"] == [1, 0]


def test_another_text_under_the_same_key_is_refused_with_the_remedy(
    tmp_path: Path, database: Database
) -> None:
    run = {"run": ["r"] * 6}
    import_embeddings([file_of(tmp_path / "one.parquet", six(), **run)], database, model="M")
    path = write(tmp_path / "two.parquet", {"text": ["u0"], "run": ["r"], "vector": ragged([1, 0])})
    problem = (
        "another text is stored for this step; give this one another sequence number, or its run another"
    )
    with pytest.raises(BadInput, match=f"row 0 .*sequence number 0, model M: {problem} name"):
        import_embeddings([path], database, model="M")


# --------------------------------------------------------------------------- outputs without a text


def test_an_output_without_a_text_needs_a_type(tmp_path: Path, database: Database) -> None:
    columns: dict[str, Any] = {"text": ["a", None, None], "run": ["r"] * 3, "vector": ragged(*[[1, 2]] * 3)}
    with pytest.raises(BadInput, match=r"row 1 .*text is missing \(null\)"):
        import_embeddings([write(tmp_path / "a.parquet", columns)], database, model="M")
    for types, problem in {
        ("text", None, "image"): r"row 1 .*output_type is missing \(null\)",
        ("text", "sound", "image"): r"row 1 .*output_type must be text or image; got 'sound'",
        ("image", "text", "image"): "row 0 .*output_type is image, but the row has a text",
    }.items():
        path = write(tmp_path / "a.parquet", columns | {"output_type": list(types)})
        with pytest.raises(BadInput, match=problem):
            import_embeddings([path], database, model="M")
    path = write(tmp_path / "a.parquet", columns | {"output_type": ["Text", "TEXT", "image"]})
    import_embeddings([path], database, model="M")
    stored = "SELECT type, output_text, output_image_data FROM invocation ORDER BY sequence_number"
    assert rows(database, stored) == [("TEXT", "a", None), ("TEXT", None, None), ("IMAGE", None, None)]


@pytest.mark.parametrize("names_runs", [True, False])
def test_without_a_text_another_vector_is_the_same_output_only_in_a_named_run(
    tmp_path: Path, database: Database, names_runs: bool
) -> None:
    def file(name: str, x: float) -> Path:
        columns: dict[str, Any] = {"text": pa.nulls(2, pa.string()), "output_type": ["image"] * 2}
        columns |= {"run": ["r"] * 2} if names_runs else {}
        return write(tmp_path / name, columns | {"vector": ragged([1, 2], [x, 1])})

    import_embeddings([file("a.parquet", 1.0)], database, model="M")
    assert import_embeddings([file("a.parquet", 1.0)], database, model="M").n_present == 2
    if names_runs:
        assert import_embeddings([file("b.parquet", 1.5)], database, model="M").n_differing == 1
    else:
        with pytest.raises(
            BadInput, match="another vector is stored for this step, and no text tells whether"
        ):
            import_embeddings([file("b.parquet", 1.5)], database, model="M")
    assert count(database) == (1, 1, 2, 2)
