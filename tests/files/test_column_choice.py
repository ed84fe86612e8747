"""Test files with other column names or without texts; similar names are only suggested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import BadInput, WrongUsage
from panic_tda.files.column_choice import Columns
from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import Database, open_database
from tests.command_line import invoke, succeed
from tests.snapshots import opened

VECTORS = pa.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], pa.list_(pa.float32()))


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def stored(database: Database) -> list[tuple[Any, ...]]:
    assert database.path is not None
    with opened(database.path) as connection:
        return connection.execute(
            "SELECT i.id, e.id, output_text, sequence_number, initial_prompt, embedding_model, vector "
            "FROM embedding e JOIN invocation i ON i.id = invocation_id JOIN run r ON r.id = run_id "
            "ORDER BY run_id, sequence_number"
        ).fetchall()


def test_named_columns_are_the_same_rows(tmp_path: Path, database: Database) -> None:
    columns = {
        "text": ["a", "b", "c"],
        "vector": VECTORS,
        "run": ["r", "r", "s"],
        "initial_prompt": ["p", "p", "q"],
        "sequence_number": [1, 3, 1],
    }
    import_embeddings([write(tmp_path / "plain.parquet", **columns)], database, model="M")
    # The usual names hold something else, and one name has a dot.
    others = dict(zip(("content", "emb.v1", "thread", "text", "run"), columns.values(), strict=True))
    others |= {"vector": [[9.0]] * 3, "sequence_number": ["x"] * 3, "run_id": ["other"] * 3}
    chosen = Columns(
        text="content", vector="emb.v1", run="thread", initial_prompt="text", sequence_number="run"
    )
    path = write(tmp_path / "other.parquet", **others)
    before = stored(database)
    assert import_embeddings([path], database, model="M", columns=chosen).n_present == 3
    assert stored(database) == before


def test_a_column_that_is_named_is_not_read_under_its_own_name(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", initial_prompt=["a", "b", "c"], vector=VECTORS)
    import_embeddings([path], database, model="M", columns=Columns(text="initial_prompt"))
    assert [row[2:5] for row in stored(database)] == [("a", 0, ""), ("b", 1, ""), ("c", 2, "")]


def test_messages_name_columns_as_the_file_does(tmp_path: Path, database: Database) -> None:
    columns = Columns(text="content", vector="emb", sequence_number="step", run="thread")
    good = {"content": ["a", "b", "c"], "emb": VECTORS, "step": [0, 1, 2], "thread": ["r"] * 3}
    for changed, message in (
        ({"content": ["a", None, "c"]}, "row 1 .*: content is missing"),
        ({"content": ["a", "b", "c\0"]}, "row 2 .*: content holds the character NUL"),
        ({"content": [1, 2, 3]}, "column content must hold strings; got int64"),
        ({"step": [0.0, 0.5, 1.0]}, r"row 1 .*: step must be a whole number .*got 0\.5"),
        ({"step": [0, 1, -1]}, "row 2 .*: step must be at least 0"),
        ({"thread": ["r", None, "r"]}, "row 1 .*: thread is missing"),
        ({"emb": [1.0, 2.0, 3.0]}, "column emb must hold lists .*got double"),
    ):
        path = write(tmp_path / "a.parquet", **(good | changed))
        with pytest.raises(BadInput, match=message):
            import_embeddings([path], database, model="M", columns=columns)
    assert stored(database) == []


def test_a_named_column_that_is_missing_is_wrong_usage(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", text=["a", "b", "c"], vector=VECTORS)
    with pytest.raises(WrongUsage, match=r"has no column body; it has text, vector"):
        import_embeddings([path], database, model="M", columns=Columns(text="body"))
    with pytest.raises(WrongUsage, match="column text was named for two purposes"):
        Columns(text="text", run="text")
    with pytest.raises(WrongUsage, match="no text were requested"):
        Columns(text="text", no_text=True)
    (tmp_path / "dump").mkdir()
    with pytest.raises(WrongUsage, match="is a folder of the pipeline, whose columns have fixed names"):
        import_embeddings([tmp_path / "dump"], database, columns=Columns(no_text=True))


ADVICE: dict[str, tuple[dict[str, Any], str]] = {
    "both": (
        {"content": ["a"] * 3, "embedding": VECTORS},
        r"no column text and no column vector; it has content, embedding\. "
        r"Use --text-column content --vector-column embedding$",
    ),
    "vector": ({"text": ["a"] * 3, "Embeddings": VECTORS}, r"\. Use --vector-column Embeddings$"),
    "the one list": ({"text": ["a"] * 3, "ada-002": VECTORS}, r"\. Use --vector-column ada-002$"),
    "the one text": ({"quote": ["a"] * 3, "vector": VECTORS}, r"\. Use --text-column quote$"),
    "the usual name": ({"id": ["1"] * 3, "title": ["a"] * 3, "vector": VECTORS}, "Use --text-column title$"),
    "several": (
        {"text": ["a"] * 3, "emb": VECTORS, "openai": VECTORS},
        r"\. Choose one of emb, openai with --vector-column$",
    ),
    "no text": (
        {"id": [1, 2, 3], "emb": VECTORS},
        r"\. Use --vector-column emb; name a column of texts with .*, or import .* --no-text$",
    ),
    "nothing": (
        {"id": [1, 2, 3]},
        r"\. Name a column of texts with .*; name a column of vectors with --vector-column$",
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_similar_columns_are_suggested_and_not_used(tmp_path: Path, database: Database, name: str) -> None:
    columns, message = ADVICE[name]
    with pytest.raises(BadInput, match=message):
        import_embeddings([write(tmp_path / "a.parquet", **columns)], database, model="M")
    assert stored(database) == []


def test_rows_without_texts_are_identified_by_run_and_sequence_number(
    tmp_path: Path, database: Database
) -> None:
    runs = {"run": ["r", "r", "s"], "sequence_number": [0, 1, 0]}
    texts = write(tmp_path / "texts.parquet", text=["a", "b", "c"], vector=VECTORS, **runs)
    bare = write(tmp_path / "bare.parquet", vector=VECTORS, text=["not", "read", "x"], **runs)
    summary = import_embeddings([bare], database, model="A", columns=Columns(no_text=True))
    assert (summary.n_new_embeddings, summary.n_new_runs) == (3, 2)
    assert [row[2] for row in stored(database)] == [None] * 3
    assert import_embeddings([bare], database, model="A", columns=Columns(no_text=True)).n_present == 3

    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_embeddings([texts], other_database, model="B")
    summary = import_embeddings([bare], other_database, model="A", columns=Columns(no_text=True))
    assert (summary.n_new_embeddings, summary.n_new_invocations) == (3, 0)
    assert sorted(row[2] for row in stored(other_database)) == ["a", "a", "b", "b", "c", "c"]


def grown(n_rows: int, seed: int = 0) -> pa.Array:
    values = np.random.default_rng(seed).standard_normal((100, 4)).astype(np.float32)[:n_rows]
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)


def test_files_without_texts_and_runs_can_grow_and_stay_separate(tmp_path: Path, database: Database) -> None:
    def add(vectors: pa.Array, model: str = "M") -> tuple[int, int]:
        path = write(tmp_path / "a.parquet", vector=vectors)
        summary = import_embeddings([path], database, model=model, columns=Columns(no_text=True))
        return summary.n_new_embeddings, summary.n_new_runs

    assert add(grown(60)) == (60, 1)
    assert add(grown(60)) == (0, 0)
    assert add(grown(100)) == (40, 0)
    assert add(grown(60, seed=1)) == (60, 1)
    # Nothing says that the vectors of another model stand for the same outputs.
    assert add(grown(60), "N") == (60, 1)
    assert add(grown(0)) == (0, 0)


def commands(database: Path, file: Path) -> Iterator[list[str]]:
    yield ["import-embeddings", str(file), "--vector-column", "emb", "--no-text", "--model", "M"]
    yield ["cluster-embeddings", "--min-cluster-size", "5"]
    yield ["list-clusterings"]
    yield ["show-clustering"]
    yield ["show-trajectories"]
    yield ["show-density"]
    yield ["show-merges"]
    yield ["show-divergence"]
    yield ["export-clustering", "latest", str(database.with_suffix(".csv"))]
    yield ["report-clustering", "-o", str(database.with_suffix(".html"))]


@pytest.mark.usefixtures("no_umap")
def test_all_commands_work_on_embeddings_without_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    values = (centres + 0.05 * rng.standard_normal(centres.shape)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)
    file = write(tmp_path / "a.parquet", emb=vectors)
    for words in commands(tmp_path / "a.sqlite", file):
        succeed(*words, "-q", db=tmp_path / "a.sqlite")


def test_column_options_select_columns(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        body=["a", "b", "c"],
        emb=VECTORS,
        thread=["r"] * 3,
        step=[4, 5, 6],
        prompt=["p"] * 3,
    )
    words = ["--text-column", "body", "--vector-column", "emb", "--run-column", "thread", "--prompt-column"]
    words += [
        "prompt",
        "--sequence-number-column",
        "step",
        "--model",
        "M",
        "--db",
        str(tmp_path / "a.sqlite"),
    ]
    result = succeed("import-embeddings", file, *words)
    assert [row[2:5] for row in stored(open_database(tmp_path / "a.sqlite"))] == [
        ("a", 4, "p"),
        ("b", 5, "p"),
        ("c", 6, "p"),
    ]
    result = invoke("import-embeddings", file, "--text-column", "x", "--json", db="none")
    assert result.exit_code == 2
    assert "has no column x; it has body, emb" in result.output
