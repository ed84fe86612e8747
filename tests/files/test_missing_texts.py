"""Test outputs without a text: where texts may be missing, and how such rows are identified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from panic_tda.errors import BadInput
from panic_tda.files.column_choice import Columns
from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import Database
from tests.files.test_importing import count, ragged, rows, write

NO_TEXT = Columns(no_text=True)
STORED = "SELECT type, output_text FROM invocation ORDER BY sequence_number"


def write_format(path: Path, columns: dict[str, list[Any]]) -> Path:
    """Write columns in the format of the file's ending."""
    if path.suffix == ".ndjson":
        lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif path.suffix == ".csv":
        cells = [
            [
                "" if value is None else json.dumps(value) if isinstance(value, list) else value
                for value in column
            ]
            for column in columns.values()
        ]
        path.write_text(
            "\n".join("\t".join(map(str, row)) for row in [tuple(columns), *zip(*cells, strict=True)])
        )
    elif path.suffix == ".npz":
        texts = {"text": ["" if text is None else text for text in columns["text"]]}
        np.savez(path, **{name: np.array(column) for name, column in (columns | texts).items()})
    else:
        write(path, {name: pa.array(column) for name, column in columns.items()})
    return path


@pytest.mark.parametrize("form", ["parquet", "ndjson", "csv", "npz"])
@pytest.mark.parametrize("no_text", [False, True])
def test_images_have_no_text_in_any_format(
    tmp_path: Path, database: Database, form: str, no_text: bool
) -> None:
    columns = {
        "text": ["a", None, "b"],
        "output_type": ["text", "image", "TEXT"],
        "run": ["r"] * 3,
        "vector": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    }
    path = write_format(tmp_path / f"a.{form}", columns)
    import_embeddings([path], database, model="M", columns=Columns(no_text=no_text))
    texts = [None] * 3 if no_text else columns["text"]
    assert rows(database, STORED) == list(zip(["TEXT", "IMAGE", "TEXT"], texts, strict=True))
    again = import_embeddings([path], database, model="M", columns=NO_TEXT)
    assert (again.n_new_embeddings, again.n_present, again.n_differing) == (0, 3, 0)


@pytest.mark.parametrize(
    ("stored", "new", "problem"),
    [
        (("text", "a"), ("text", "a"), None),
        (("text", "a"), ("text", None), None),
        (("text", None), ("text", None), None),
        (("image", None), ("image", None), None),
        (("text", "a"), ("text", "b"), "another text is stored for this step"),
        (("text", None), ("text", "b"), "an output without a text is stored for this step"),
        (("text", "a"), ("image", None), "an output of type text is stored for this step, not image"),
        (("text", None), ("image", None), "an output of type text is stored for this step, not image"),
        (("image", None), ("text", None), "an output of type image is stored for this step, not text"),
    ],
)
def test_equal_outputs_without_a_text_are_recognised(
    tmp_path: Path,
    database: Database,
    stored: tuple[str, str | None],
    new: tuple[str, str | None],
    problem: str | None,
) -> None:
    def add(model: str, output: tuple[str, str | None]) -> None:
        columns = {"text": pa.array([output[1]], pa.string()), "output_type": [output[0]], "run": ["r"]}
        path = write(tmp_path / "a.parquet", columns | {"vector": ragged([1, 2])})
        import_embeddings([path], database, model=model)

    add("A", stored)
    if problem is None:
        add("B", new)
        assert count(database) == (1, 1, 1, 2)
    else:
        with pytest.raises(BadInput, match=f"row 0 .*model B: {problem}; give this one another"):
            add("B", new)
        assert count(database) == (1, 1, 1, 1)
    assert rows(database, STORED) == [(stored[0].upper(), stored[1])]


@pytest.mark.parametrize("why", ["--no-text", "output_type"])
@pytest.mark.parametrize("batch_rows", [2, 8192])
def test_files_without_texts_are_identified_by_their_first_usable_vector(
    tmp_path: Path, database: Database, why: str, batch_rows: int
) -> None:

    def add(*vectors: Any) -> tuple[int, int, int]:
        columns: dict[str, Any] = {"vector": ragged(*vectors, kind=pa.float64())}
        if why == "output_type":
            columns |= {"text": pa.nulls(len(vectors)), "output_type": ["image"] * len(vectors)}
        summary = import_embeddings(
            [write(tmp_path / "a.parquet", columns)],
            database,
            model="M",
            columns=Columns(no_text=why == "--no-text"),
            skip_invalid=True,
            batch_rows=batch_rows,
        )
        return summary.n_new_runs, summary.n_new_invocations, summary.n_new_embeddings

    first = [None, [0, 0], [1, 2], [3, 4]]
    assert add(*first) == (1, 4, 2)
    assert add(*first) == (0, 0, 0)
    assert add(*first, None, [5, 6]) == (0, 2, 1)
    assert add(None, [0, 0], [1, 3], [3, 4]) == (1, 4, 2)
    assert add(None, None) == (1, 2, 0)
    with pytest.raises(BadInput, match=r"row 3 .*another vector is stored for this step, and no text tells"):
        add(None, [0, 0], [1, 2], [4, 4])


def test_of_several_models_the_first_row_with_a_vector_names_the_run(
    tmp_path: Path, database: Database
) -> None:
    columns = {
        "embedding_model": ["A", "B"] * 3,
        "vector": ragged(None, [1, 2], None, [3, 4], [5, 6], [7, 8]),
    }
    path = write(tmp_path / "a.parquet", columns)
    for batch_rows, n_new in ((8192, 4), (2, 0), (3, 0)):
        summary = import_embeddings(
            [path], database, columns=NO_TEXT, skip_invalid=True, batch_rows=batch_rows
        )
        assert summary.n_new_embeddings == n_new
    assert count(database) == (1, 1, 3, 4)
