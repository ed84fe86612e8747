"""Test that CSV, NDJSON and NumPy arrays give the same rows as Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import BadInput, MissingPath, WrongUsage
from panic_tda.files import text_tables
from panic_tda.files.column_choice import Columns
from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.files.importing import import_embeddings, require_files
from panic_tda.files.text_tables import parse_vectors
from panic_tda.storage.database import open_database
from tests.snapshots import run_python

VALUES = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
TEXTS = ["a", "", "two\nlines", 'a "quoted", text', "風船 🎈", "=1", "last"]
RUNS = ["r", "r", "s", "s", "s", "t", "t"]
NUMBERS = [0, 1, 0, 1, 2, 5, 7]


def frame() -> pd.DataFrame:
    table = pd.DataFrame({"text": TEXTS, "run": RUNS, "sequence_number": NUMBERS})
    return table.assign(vector=[row.tolist() for row in VALUES], network=['["A"]'] * 7)


def rows_of(path: Path, **settings: Any) -> list[Any]:
    """Return all rows of a file of embeddings."""
    return [
        (row, text, batch.runs[code], number, vector.tobytes())
        for batch in EmbeddingFile(path, "M", **settings).batches()
        for row, text, code, number, vector in zip(
            batch.rows.tolist(),
            batch.texts,
            batch.run_codes,
            batch.sequence_numbers.tolist(),
            batch.vectors,
            strict=True,
        )
    ]


def expected_rows(folder: Path) -> list[Any]:
    frame().to_parquet(folder / "expected.parquet")
    return rows_of(folder / "expected.parquet")


def as_csv(separator: str = ",", **changed: Any) -> Callable[[Path], object]:
    return lambda path: frame().assign(**changed).to_csv(path, index=False, sep=separator)


def joined(mark: str, ends: str = "") -> list[str]:
    return [ends[:1] + mark.join(map(repr, row.tolist())) + ends[1:] for row in VALUES]


def with_polars(path: Path) -> None:
    pl.from_pandas(frame()).with_columns(
        pl.format("[{}]", pl.col("vector").cast(pl.List(pl.String)).list.join(", ")).alias("vector")
    ).write_csv(path)


def with_duckdb(path: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("made", pa.Table.from_pandas(frame()))
        connection.execute(f"COPY made TO '{path}' (FORMAT csv, DELIMITER '\t')")


CSV: dict[str, Callable[[Path], object]] = {
    "lists": as_csv(),
    "blanks": as_csv(vector=joined(" ")),
    "commas": as_csv(vector=joined(",")),
    "tabs": as_csv("\t"),
    "semicolons": as_csv(";"),
    "parentheses": as_csv(vector=joined(", ", "()")),
    "braces": as_csv(vector=joined(",", "{}")),
    "arrays": as_csv(vector=[np.array2string(row, floatmode="unique", max_line_width=12) for row in VALUES]),
    "whole floats": as_csv(sequence_number=np.array(NUMBERS, float)),
    "other columns": as_csv(id=range(7), score=0.5),
    "polars": with_polars,
    "DuckDB": with_duckdb,
}


@pytest.mark.parametrize("name", CSV)
def test_csv_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    CSV[name](tmp_path / "a")
    assert rows_of(tmp_path / "a", batch_rows=3) == expected_rows(tmp_path)


def as_ndjson(**changed: Any) -> Callable[[Path], object]:
    return lambda path: (
        frame().assign(**changed).to_json(path, orient="records", lines=True, double_precision=15)
    )


NDJSON: dict[str, Callable[[Path], object]] = {
    "pandas": as_ndjson(),
    "lists of names": as_ndjson(network=[["A"]] * 7),
    "other columns": as_ndjson(id=range(7), nested=[{"a": [1]}] * 7),
    "whole floats": as_ndjson(sequence_number=np.array(NUMBERS, float)),
    "polars": lambda path: pl.from_pandas(frame()).write_ndjson(path),
    "blank lines": lambda path: path.write_text(
        "\n" + "\n\n".join(json.dumps(row) for row in frame().to_dict("records")) + "\n", "utf-8"
    ),
}


@pytest.mark.parametrize("name", NDJSON)
def test_ndjson_gives_the_same_rows(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "BLOCK_BYTES", 200)
    NDJSON[name](tmp_path / "a")
    assert rows_of(tmp_path / "a") == expected_rows(tmp_path)


def test_later_json_lines_may_add_columns(tmp_path: Path) -> None:
    lines = [
        {"text": "2020-01-01", "vector": [1, 2], "seed": None},
        {"text": "x", "vector": [1.5, 2e-3], "seed": 3, "initial_prompt": "p", "network": ["A"]},
    ]
    (tmp_path / "a").write_text("\n".join(map(json.dumps, lines)))
    rows = rows_of(tmp_path / "a")
    assert [row[1] for row in rows] == ["2020-01-01", "x"]
    assert [row[2].seed for row in rows] == [-1, 3]
    assert [row[2].network for row in rows] == [("imported",), ("A",)]
    assert rows[1][4] == np.array([1.5, 2e-3], np.float32).tobytes()


def test_columns_of_text_files_are_named(tmp_path: Path) -> None:
    renamed = frame().rename(columns={"text": "title", "vector": "emb", "run": "thread"})
    renamed.to_csv(tmp_path / "a", index=False)
    renamed.to_json(tmp_path / "b", orient="records", lines=True, double_precision=15)
    columns = Columns(text="title", vector="emb", run="thread")
    for name in ("a", "b"):
        assert rows_of(tmp_path / name, columns=columns) == expected_rows(tmp_path)
        with pytest.raises(BadInput, match=r"Use --text-column title --vector-column emb$"):
            rows_of(tmp_path / name)
    without = rows_of(tmp_path / "a", columns=Columns(vector="emb", run="thread", no_text=True))
    assert [row[1] for row in without] == [None] * 7


BAD_CSV = {
    "a word": ('a,"[1, 2]"\nb,"[1, x]"\n', r"row 1 .*vector must be a list of numbers, .*got '\[1, x\]'"),
    "a hole": ('a,"1,2"\nb,"1,,2"\n', r"row 1 .*vector must be a list of numbers"),
    "cut by NumPy": ('a,"[1 2]"\nb,"[1 ... 2]"\n', r"row 1 .*vector must be a list of numbers"),
    "empty": ('a,"[1, 2]"\nb,\n', "row 1 .*vector is missing"),
    "empty list": ('a,"[1, 2]"\nb,"[]"\n', "row 1 .*vector is empty"),
    "null inside": ('a,"[1, null]"\n', "row 0 .*vector is not finite"),
    "a number is missing": ('a,"[1,,2]"\n', "row 0 .*vector must be a list of numbers"),
    "ragged": ('a,"[1, 2]"\nb,"[1, 2, 3]"\n', "row 1 .*vector has 3 dimensions, those before it have 2"),
    "nan": ('a,"[1, nan]"\n', "row 0 .*not finite"),
    "too large": ('a,"[1, 1e39]"\n', "row 0 .*not finite in float32"),
    "bytes": ('a,"1 2"\nb\xff,"1 2"\n', "row 1 .*text is not UTF-8"),
    "cells": ('a,"1 2"\nb,1 2,c\n', "cannot be read as CSV: .*Expected 2 columns, got 3"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_cells_are_named_by_row(tmp_path: Path, name: str) -> None:
    content, message = BAD_CSV[name]
    # Behind what tells the format.
    filler = "f,1 2\n" * 12_000
    (tmp_path / "a.csv").write_bytes(b"text,vector\n" + content.encode("latin-1"))
    with pytest.raises(BadInput, match=message if name != "bytes" else "is text that is not UTF-8"):
        rows_of(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"text,vector\n" + (filler + content).encode("latin-1"))
    with pytest.raises(BadInput, match=message.replace("row 1", "row 12001").replace("row 0", "row 12000")):
        rows_of(tmp_path / "a.csv")


BAD_JSON = {
    "a word": ('{"text": "b", "vector": [1, "x"]}', "row 1 .*JSON parse error"),
    "text": ('{"text": 7, "vector": [1, 2]}', "row 1 .*JSON parse error.*text"),
    "cut": ('{"text": "b", "vector": [1,', "row 1 .*JSON parse error"),
    "null": ('{"text": "b", "vector": null, "sequence_number": 1}', "row 1 .*vector is missing"),
    "absent": ('{"vector": [1, 2]}', "row 1 .*text is missing"),
    "half a character": ('{"text": "\\ud800", "vector": [1, 2]}', "row 1 "),
    "a fraction": ('{"text": "b", "vector": [1, 2], "sequence_number": 0.5}', "row 1 .*sequence_number"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_lines_of_json_are_named_by_row(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tables, "BLOCK_BYTES", 50)
    line, message = BAD_JSON[name]
    good = '{"text": "a", "vector": [1, 2], "sequence_number": 0}\n'
    (tmp_path / "a").write_text(f"{good}{line}\n{good}", "utf-8")
    with pytest.raises(BadInput, match=rf"a, {message}"):
        rows_of(tmp_path / "a")


def test_vectors_are_parsed_to_the_nearest_number() -> None:
    cells = ["[0.1, 1e-45]", "3.4028234e38 -0", " ( 16777217 ; .5 ) ", None]
    expected = [[0.1, 1e-45], [3.4028234e38, -0.0], [16777217.0, 0.5], None]
    assert parse_vectors(pa.array(cells)).to_pylist() == expected


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,vector\n")
    assert rows_of(tmp_path / "a.csv") == []


# --------------------------------------------------------------------------- NumPy


def texts_file(folder: Path, texts: list[str] = TEXTS) -> Path:
    (folder / "texts.json").write_text(json.dumps(texts), "utf-8")
    return folder / "texts.json"


def matrix_rows(folder: Path) -> list[Any]:
    pq.write_table(pa.table({"text": TEXTS, "vector": VALUES.tolist()}), folder / "matrix.parquet")
    return rows_of(folder / "matrix.parquet")


ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "float32": VALUES,
    "float64": VALUES.astype(np.float64),
    "big-endian": VALUES.astype(">f4"),
    "by columns": np.asfortranarray(VALUES),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("write", [np.save, np.savez, np.savez_compressed])
def test_arrays_give_the_same_rows(tmp_path: Path, name: str, write: Callable[..., None]) -> None:
    with (tmp_path / "a").open("wb") as file:
        write(file, ARRAYS[name])
    assert rows_of(tmp_path / "a", texts=texts_file(tmp_path), batch_rows=3) == matrix_rows(tmp_path)
    without = rows_of(tmp_path / "a", columns=Columns(no_text=True), batch_rows=3)
    assert [row[4] for row in without] == [row.tobytes() for row in VALUES]


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.float16, np.int64])
def test_arrays_of_other_numbers_are_float32(tmp_path: Path, kind: Any) -> None:
    values = np.array([[1, 2], [100, 0]], kind)
    np.save(tmp_path / "a.npy", values)
    rows = rows_of(tmp_path / "a.npy", columns=Columns(no_text=True))
    assert [row[4] for row in rows] == [row.tobytes() for row in values.astype(np.float32)]


def test_arrays_of_an_archive_are_columns(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        emb=VALUES,
        text=np.array(TEXTS),
        run=np.array(RUNS).astype("S"),
        sequence_number=np.array(NUMBERS, np.float64),
        objects=np.array([None] * 7),
    )
    with pytest.raises(BadInput, match=r"no column vector; .*\. Use --vector-column emb$"):
        rows_of(tmp_path / "a.npz")
    rows = rows_of(tmp_path / "a.npz", columns=Columns(vector="emb"))
    assert [(row[1], row[2].name, row[3], row[4]) for row in rows] == list(
        zip(TEXTS, RUNS, NUMBERS, [row.tobytes() for row in VALUES], strict=True)
    )


def test_texts_may_be_read_from_lines_of_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES[:3])
    for content in (b"a\n\n\xc3\xa9", b"\xef\xbb\xbfa\r\n\r\n\xc3\xa9\r\n"):
        (tmp_path / "texts.txt").write_bytes(content)
        rows = rows_of(tmp_path / "a.npy", texts=tmp_path / "texts.txt")
        assert [row[1] for row in rows] == ["a", "", "é"]


def test_arrays_and_texts_that_are_wrong_are_refused(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.npy", tmp_path / "t.txt"
    texts.write_text("a\n" * 8)
    bare = Columns(no_text=True)
    np.save(path, VALUES)
    with pytest.raises(BadInput, match=r"a\.npy contains only vectors; .*--texts FILE.*--no-text"):
        rows_of(path)
    with pytest.raises(BadInput, match=r"t\.txt has 8 texts, and .*a\.npy 7 rows"):
        rows_of(path, texts=texts)
    with pytest.raises(MissingPath, match=r"no file .*nowhere\.txt"):
        rows_of(path, texts=tmp_path / "nowhere.txt")
    texts.write_bytes(b"a\n" * 3 + b"\xff\n" + b"a\n" * 3)
    with pytest.raises(BadInput, match=r"t\.txt, row 3 .*not UTF-8"):
        rows_of(path, texts=texts)
    (tmp_path / "t.json").write_text('{"a": 1}')
    with pytest.raises(BadInput, match="must hold a JSON list of strings"):
        rows_of(path, texts=tmp_path / "t.json")
    with pytest.raises(BadInput, match="a text that is not Unicode"):
        rows_of(path, texts=texts_file(tmp_path, ["\ud800"] * 7))
    with pytest.raises(WrongUsage, match="the texts come from"):
        rows_of(path, texts=texts, columns=bare)
    frame().to_parquet(tmp_path / "a.parquet")
    with pytest.raises(WrongUsage, match=r"only with \.npy and \.npz files"):
        rows_of(tmp_path / "a.parquet", texts=texts)
    with pytest.raises(WrongUsage, match="one at a time"):
        require_files([path, path], model="M", texts=texts_file(tmp_path))
    for array, message in (
        (np.ones(3), r"two dimensions, \(rows, dimensions\); got float64 of shape \(3,\)"),
        (np.ones((2, 2, 2)), "two dimensions"),
        (np.ones((2, 2), bool), "array of numbers"),
        (np.ones((2, 2), complex), "array of numbers"),
        (np.array([["a"]]), "array of numbers"),
        (np.array([[None]]), "Python objects, which could run code"),
        (np.array([[1.0, np.nan]]), "row 0 .*not finite"),
        (np.array([[1.0, 1.0], [0, 0]]), "row 1 .*is zero"),
    ):
        np.save(path, array)
        with pytest.raises(BadInput, match=message):
            rows_of(path, columns=bare)
    np.savez(tmp_path / "b.npz", vector=VALUES, text=np.array(TEXTS[:3]))
    with pytest.raises(BadInput, match=r"different numbers of rows: .*text has 3"):
        rows_of(tmp_path / "b.npz")
    assert rows_of(tmp_path / "b.npz", columns=bare)


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    bare = Columns(no_text=True)
    np.save(tmp_path / "a.npy", VALUES)
    np.savez_compressed(tmp_path / "a.npz", vector=np.ones((5000, 64), np.float32))
    np.savez(tmp_path / "b.npz", vector=np.ones((5000, 64), np.float32))
    for name in ("a.npy", "a.npz", "b.npz"):
        content = bytearray((tmp_path / name).read_bytes())
        for damaged in (content[:-9], content[:9], content[:200] + b"\0\1\2" + content[203:]):
            if name == "a.npy" and len(damaged) == len(content):
                continue  # Nothing tells that numbers are others.
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(BadInput, match=f"{tmp_path}/damaged "):
                rows_of(tmp_path / "damaged", columns=bare)


PEAK = """
import sys, tracemalloc
import pyarrow as pa
from pathlib import Path
from panic_tda.files import text_tables
from panic_tda.files.column_choice import Columns
from panic_tda.files.embedding_files import EmbeddingFile

def count(path):
    file = EmbeddingFile(Path(path), "M", columns=Columns(no_text=True), batch_rows=1024)
    return sum(len(batch.rows) for batch in file.batches())

text_tables.BLOCK_BYTES = 1 << 16
count(sys.argv[1])  # What is imported and kept by the first one does not count.
tracemalloc.start()
print(count(sys.argv[2]), pa.default_memory_pool().max_memory(), tracemalloc.get_traced_memory()[1])
"""


def write_rows(path: Path, form: str, n_rows: int) -> Path:
    values = np.tile(np.arange(1, 385, dtype=np.float32), (n_rows, 1))
    if form == "npy":
        np.save(path, values)
    elif form == "npz":
        with path.open("wb") as file:
            np.savez_compressed(file, values)
    else:
        cell = json.dumps(values[0].astype(int).tolist())
        line = f'"{cell}",1\n' if form == "csv" else f'{{"vector": {cell}}}\n'
        path.write_text(("vector,seed\n" if form == "csv" else "") + line * n_rows)
    return path


@pytest.mark.parametrize("form", ["npy", "npz", "csv", "ndjson"])
def test_files_are_streamed(tmp_path: Path, form: str) -> None:
    n_rows = 10_000
    small, large = (write_rows(tmp_path / f"{count}.{form}", form, count) for count in (10, n_rows))
    process = run_python(PEAK, small, large)
    assert process.returncode == 0, process.stderr
    n_found, arrow_bytes, python_bytes = map(int, process.stdout.split())
    assert n_found == n_rows
    # All of it is 15 MB of float32, and 46 MB as text or as numbers that were parsed.
    assert python_bytes < 10e6
    assert arrow_bytes < 14e6


def test_imports_of_all_formats_share_runs(tmp_path: Path) -> None:
    database = open_database(tmp_path / "new.sqlite", create=True)
    pq.write_table(pa.table({"text": TEXTS, "vector": VALUES.tolist()}), tmp_path / "a.parquet")
    assert import_embeddings([tmp_path / "a.parquet"], database, model="M").n_new_embeddings == 7
    frame()[["text", "vector"]].to_csv(tmp_path / "a.csv", index=False)
    frame()[["text", "vector"]].to_json(
        tmp_path / "a.json", orient="records", lines=True, double_precision=15
    )
    for name in ("a.csv", "a.json"):
        assert import_embeddings([tmp_path / name], database, model="M").n_present == 7
    np.save(tmp_path / "a.npy", VALUES)
    summary = import_embeddings([tmp_path / "a.npy"], database, model="M", texts=texts_file(tmp_path))
    assert summary.n_present == 7
