"""Test that columns of other types with equal values give equal rows, and that others are refused by row."""

from __future__ import annotations

import decimal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import BadInput
from panic_tda.files import casting
from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import open_database
from tests.files.test_importing import write_stream

RUN = uuid.UUID("6f9619ff-8b86-4d11-b42d-00c04fc964ff")
OTHER = uuid.UUID("00000000-0000-0000-0000-0000000000ff")
VECTORS = [[1.0, 0.0], [0.0, 2.0], [-3.0, 1.0]]


def plain() -> dict[str, pa.Array]:
    """Return three rows of every column, of the simplest types."""
    return {
        "text": pa.array(["a", "b", "a"]),
        "vector": pa.array(VECTORS, pa.list_(pa.float32())),
        "embedding_model": pa.array(["M", "N", "M"]),
        "run": pa.array([str(RUN), str(RUN), str(OTHER)]),
        "sequence_number": pa.array([0, 3, 1]),
        "initial_prompt": pa.array(["p", "", "q"]),
        "network": pa.array([["A", "B"], [], ["A", "B"]]),
        "seed": pa.array([4, 5, 6]),
    }


def flat(kind: pa.DataType) -> pa.Array:
    return pa.array([value for row in VECTORS for value in row]).cast(kind)


def fixed(kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(flat(kind), 2)


def decimals(kind: pa.DataType) -> pa.Array:
    return pa.array([[decimal.Decimal(str(value)) for value in row] for row in VECTORS], pa.list_(kind))


def tensor(*shape: int, kind: pa.DataType | None = None) -> pa.Array:
    kind = kind or pa.float32()
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(kind, shape), fixed(kind))


def encoded(array: pa.Array, values: pa.DataType | None = None) -> pa.Array:
    """Return an array in dictionary encoding, also for types that Arrow does not encode itself."""
    encoded_array = array.dictionary_encode()
    dictionary = encoded_array.dictionary.cast(values or encoded_array.dictionary.type)
    return pa.DictionaryArray.from_arrays(encoded_array.indices.cast(pa.uint32()), dictionary)


def encoded_vectors(kind: pa.DataType) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), pa.array(VECTORS, kind))


def runs(array: pa.Array) -> pa.Array:
    """Return an array in run-end encoding, one run per row, with a sliced-off run in front."""
    values = pa.concat_arrays([array[:1], array])
    return pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 4, 5], pa.int32()), values).slice(2)


def extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


def uuids() -> pa.Array:
    return extension(pa.uuid(), pa.array([RUN.bytes, RUN.bytes, OTHER.bytes], pa.binary(16)))


NUMBERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float16(), pa.float64())
VIEWS, VIEW = pa.list_view(pa.float64()), pa.string_view()
JSON_NETWORK = ['["A","B"]', "[]", '["A","B"]']
# By column and by what it is: the column, and whether Parquet can hold it.
SAME: dict[str, tuple[str, Callable[[], pa.Array], bool]] = {
    "uuid": ("run", uuids, True),
    "uuid runs": ("run", lambda: runs(uuids()), False),
    "binary text": ("text", lambda: plain()["text"].cast(pa.binary()), True),
    "binary view text": ("text", lambda: plain()["text"].cast(pa.binary_view()), True),
    "text in runs": ("text", lambda: runs(plain()["text"].cast(VIEW)), False),
    "opaque text": ("text", lambda: extension(pa.opaque(VIEW, "x", "y"), plain()["text"].cast(VIEW)), True),
    "prompts in a dictionary of views": (
        "initial_prompt",
        lambda: encoded(plain()["initial_prompt"], VIEW),
        False,
    ),
    "network of views": ("network", lambda: plain()["network"].cast(pa.list_(VIEW)), True),
    "network as list view": (
        "network",
        lambda: pa.array(plain()["network"].to_pylist(), pa.list_view(VIEW)),
        False,
    ),
    "network of dictionaries": ("network", lambda: encoded_networks(), False),
    "network as binary JSON": ("network", lambda: pa.array(JSON_NETWORK).cast(pa.binary()), True),
    "whole sequence numbers": ("sequence_number", lambda: pa.array([0.0, 3.0, 1.0]), True),
    "half sequence numbers": ("sequence_number", lambda: pa.array([0, 3, 1]).cast(pa.float16()), True),
    "decimal sequence numbers": (
        "sequence_number",
        lambda: pa.array([0, 3, 1]).cast(pa.decimal128(38, 0)),
        True,
    ),
    "wide sequence numbers": (
        "sequence_number",
        lambda: pa.array([0, 3, 1]).cast(pa.decimal256(60, 2)),
        True,
    ),
    "dictionary of sequence numbers": ("sequence_number", lambda: encoded(pa.array([0, 3, 1])), True),
    "sequence numbers in runs": ("sequence_number", lambda: runs(pa.array([0.0, 3, 1])), False),
    "whole seeds": ("seed", lambda: pa.array([4.0, 5.0, 6.0], pa.float32()), True),
    "tensor": ("vector", lambda: tensor(2), True),
    "tensor of a column": ("vector", lambda: tensor(2, 1), True),
    "tensor of a row": ("vector", lambda: tensor(1, 2, kind=pa.int32()), True),
    "list view": ("vector", lambda: pa.array(VECTORS, VIEWS), False),
    "large list view": ("vector", lambda: pa.array(VECTORS, pa.large_list_view(pa.int8())), False),
    "dictionary of vectors": ("vector", lambda: encoded_vectors(pa.list_(pa.float64())), False),
    "dictionary of views of vectors": ("vector", lambda: encoded_vectors(VIEWS), False),
    "vectors in runs": ("vector", lambda: runs(fixed(pa.float32())), False),
    "decimal vectors": ("vector", lambda: decimals(pa.decimal128(9, 3)), True),
    "wide decimal vectors": ("vector", lambda: decimals(pa.decimal256(50, 3)), True),
    **{f"{kind} vectors": ("vector", lambda kind=kind: fixed(kind), True) for kind in NUMBERS},
}


def encoded_networks() -> pa.Array:
    names = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1, 0], pa.int8()), pa.array(["B", "A"], VIEW))
    return pa.ListArray.from_arrays(pa.array([0, 2, 2, 4], pa.int32()), names)


def write_feather(table: pa.Table, path: Path) -> None:
    pyarrow.feather.write_feather(table, path, compression="zstd", chunksize=2)


def batches_of(path: Path, **options: Any) -> list[Any]:
    """Return all batches of a file of embeddings as lists."""
    return [
        (
            (batch.model, batch.rows.tolist(), batch.texts, batch.sequence_numbers.tolist()),
            ([batch.runs[code] for code in batch.run_codes], batch.vectors.dtype.str, batch.vectors.tolist()),
        )
        for batch in EmbeddingFile(path, **options).batches()
    ]


@pytest.mark.parametrize("name", SAME)
def test_columns_of_other_types_are_the_same_rows(tmp_path: Path, name: str) -> None:
    column, make, in_parquet = SAME[name]
    expected_path, path = tmp_path / "plain", tmp_path / "changed"
    changed = pa.table(plain() | {column: make()})
    assert changed.schema.field(column).type != plain()[column].type
    for write in [write_feather, write_stream, *([pq.write_table] if in_parquet else [])]:
        # Files that say where their batches end may have other ones.
        write(pa.table(plain()), expected_path)
        write(changed, path)
        assert batches_of(path, batch_rows=2) == batches_of(expected_path, batch_rows=2)


def test_a_chunked_column_of_several_dictionaries_is_one_column(tmp_path: Path) -> None:
    texts = pa.chunked_array([pa.array(["a"]).dictionary_encode(), pa.array(["b", "a"]).dictionary_encode()])
    pq.write_table(pa.table(plain()), tmp_path / "plain")
    pq.write_table(pa.table(plain() | {"text": texts}), tmp_path / "changed")
    assert batches_of(tmp_path / "changed") == batches_of(tmp_path / "plain")
    write_stream(pa.table(plain() | {"text": texts}), tmp_path / "stream")
    texts_of_batches = [batch.texts for batch in EmbeddingFile(tmp_path / "stream").batches()]
    assert sorted(text for texts in texts_of_batches for text in texts) == ["a", "a", "b"]


def test_integer_runs_have_the_same_names_for_every_column_type(tmp_path: Path) -> None:
    names = []
    for run in (
        pa.array(["7", "12", "7"]),
        pa.array([7, 12, 7], pa.uint64()),
        pa.array([7.0, 12.0, 7.0]),
        pa.array([7, 12, 7]).cast(pa.decimal128(38, 0)),
        encoded(pa.array([7, 12, 7], pa.int16())),
    ):
        pq.write_table(pa.table(plain() | {"run": run}), tmp_path / "a")
        names.append(batches_of(tmp_path / "a"))
    assert names == names[:1] * 5


def test_a_column_without_a_type_is_a_column_of_missing_values(tmp_path: Path) -> None:
    absent = {name: column for name, column in plain().items() if name not in ("seed", "network")}
    pq.write_table(pa.table(absent), tmp_path / "absent")
    pq.write_table(pa.table(absent | {"seed": pa.nulls(3), "network": pa.nulls(3)}), tmp_path / "null")
    assert batches_of(tmp_path / "null") == batches_of(tmp_path / "absent")
    for name, message in (("text", "row 0 .*text is missing"), ("vector", "row 0 .*vector is missing")):
        pq.write_table(pa.table(plain() | {name: pa.nulls(3)}), tmp_path / "null")
        with pytest.raises(BadInput, match=message):
            batches_of(tmp_path / "null")
        pq.write_table(pa.table(plain() | {name: pa.nulls(3)}).slice(0, 0), tmp_path / "empty")
        assert batches_of(tmp_path / "empty") == []


def test_numbers_are_rounded_to_the_nearest_float(tmp_path: Path) -> None:
    values = [[decimal.Decimal("0.1"), decimal.Decimal("16777217.00000000001")]]
    wide = pa.array(values, pa.list_(pa.decimal256(60, 40)))
    integers = pa.array([[2**24 + 1, 2**63 - 1]], pa.list_(pa.int64()))
    unsigned = pa.array([[1, 2**64 - 1]], pa.list_(pa.uint64()))
    for column in (wide, integers, unsigned):
        data = {name: array[:1] for name, array in plain().items()} | {"vector": column}
        pq.write_table(pa.table(data), tmp_path / "a")
        (batch,) = EmbeddingFile(tmp_path / "a").batches()
        expected = np.array([float(value) for value in column[0].as_py()]).astype(np.float32)
        np.testing.assert_array_equal(batch.vectors[0], expected)


REFUSED: dict[str, tuple[str, Any, str]] = {
    "a fraction": ("sequence_number", [0.0, 1.5, 2.0], r"row 1 .*sequence_number must be a whole .*got 1\.5"),
    "NaN": ("sequence_number", [0.0, 1.0, np.nan], r"row 2 .*sequence_number must be a whole .*got nan"),
    "beyond 64 bits": ("seed", [0.0, 2.0**63, 2.0], r"row 1 .*seed must be a whole number .*got 9\.22"),
    "a fraction of decimals": (
        "sequence_number",
        pa.array([decimal.Decimal(value) for value in ("1.00", "2.00", "2.25")]),
        r"row 2 .*sequence_number must be a whole .*got 2\.25",
    ),
    "a fraction as a run": ("run", [0.0, 1.0, 0.5], r"row 2 .*run must be a whole number .*got 0\.5"),
    "no UTF-8": ("text", pa.array([b"a", b"\xff", b"c"]), r"row 1 .*text cannot be read: Invalid UTF8"),
    "too large": (
        "vector",
        pa.array([[1, 2], [1, 10**39], [1, 2]], pa.list_(pa.decimal256(50, 0))),
        r"row 1 .*not finite in float32",
    ),
    "a null among decimals": (
        "vector",
        pa.array([[1, 2], [1, 2], [None, 1]], pa.list_(pa.decimal128(5, 0))),
        r"row 2 .*missing value",
    ),
    "a null in views": ("vector", pa.array([[1.0], None, [2.0]], VIEWS), r"row 1 .*vector is missing"),
    "ragged views": ("vector", pa.array([[1.0], [2.0], [2.0, 3.0]], VIEWS), r"row 2 .*has 2 dimensions"),
    "booleans": ("vector", pa.array([[True]] * 3), r"column vector must hold lists .*got list<.*bool>"),
    "8-bit booleans": (
        "vector",
        pa.array([[1]] * 3, pa.list_(pa.int8())).cast(pa.list_(pa.bool8())),
        r"column vector must hold lists .*bool",
    ),
    "a matrix": (
        "vector",
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2, 2]), pa.array([[1.0] * 4] * 3, pa.list_(pa.float32(), 4))
        ),
        r"tensors of one dimension of numbers; got extension<arrow.fixed_shape_tensor.*shape=\[2,2\]",
    ),
    "strings": ("vector", pa.array([["1"]] * 3), r"column vector must hold lists .*got list<.*string>"),
    "booleans as numbers": ("seed", [True] * 3, r"column seed must hold integers; got bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    column, values, message = REFUSED[name]
    write_stream(pa.table(plain() | {"embedding_model": ["M"] * 3, column: values}), tmp_path / "a")
    with pytest.raises(BadInput, match=message):
        batches_of(tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["views", "dictionary"])
def test_a_small_file_whose_rows_share_their_values_takes_bounded_memory(tmp_path: Path, kind: str) -> None:
    n_rows, width = 4096, 32_768
    values = pa.array(np.ones(width, np.float32))
    zeros = np.zeros(n_rows, np.int32)
    column = (
        pa.ListViewArray.from_arrays(pa.array(zeros), pa.array(zeros + width), values)
        if kind == "views"
        else pa.DictionaryArray.from_arrays(pa.array(zeros), pa.FixedSizeListArray.from_arrays(values, width))
    )
    assert casting.widest(column) == width
    data = {"text": ["a"] * n_rows, "vector": column, "embedding_model": ["M"] * n_rows}
    write_stream(pa.table(data), tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 1e6
    lengths = [len(batch.rows) for batch in EmbeddingFile(tmp_path / "a").batches()]
    assert sum(lengths) == n_rows
    assert max(lengths) * width <= casting.BATCH_VALUES
    too_wide = pa.ListViewArray.from_arrays(pa.array([0]), pa.array([70_000]), pa.array(np.ones(70_000)))
    write_stream(pa.table({"text": ["a"], "vector": too_wide, "embedding_model": ["M"]}), tmp_path / "b")
    with pytest.raises(BadInput, match="column vector claims 70,000 values in a row; at most 65,536"):
        batches_of(tmp_path / "b")


# --------------------------------------------------------------------------- other programs' writers


def with_duckdb(path: Path) -> None:
    relation = pa.table(plain() | {"network": JSON_NETWORK})
    with duckdb.connect() as connection:
        connection.register("made", relation)
        connection.execute(
            "COPY (SELECT text, vector::DECIMAL(9, 2)[] AS vector, embedding_model, run::UUID AS run, "
            "sequence_number::HUGEINT AS sequence_number, initial_prompt, network::JSON AS network, "
            f"seed::UTINYINT AS seed FROM made) TO '{path}' (FORMAT parquet)"
        )


def with_duckdb_arrays(path: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("made", pa.table(plain()))
        connection.execute(
            "COPY (SELECT * EXCLUDE (vector), vector::FLOAT[2] AS vector FROM made) "
            f"TO '{path}' (FORMAT parquet)"
        )


def with_polars(path: Path) -> None:
    frame = pl.from_arrow(pa.table(plain()))
    assert isinstance(frame, pl.DataFrame)
    frame = frame.with_columns(
        pl.col("text", "embedding_model", "run").cast(pl.Categorical),
        pl.col("network").cast(pl.List(pl.Categorical)),
        pl.col("vector").cast(pl.Array(pl.Float64, 2)),
        pl.col("sequence_number").cast(pl.Decimal(20, 0)),
    )
    frame.write_ipc(path) if path.suffix == ".arrow" else frame.write_parquet(path)


def with_pandas(path: Path) -> None:
    frame = pd.DataFrame({name: column.to_pylist() for name, column in plain().items()})
    frame["vector"] = [np.array(row) for row in VECTORS]
    frame["text"] = frame["text"].astype("category")
    frame["sequence_number"] = frame["sequence_number"].astype(float)
    write = frame.to_feather if path.suffix == ".feather" else frame.to_parquet
    write(path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (with_duckdb, "a.parquet"),
        (with_duckdb_arrays, "a.parquet"),
        (with_polars, "a.parquet"),
        (with_polars, "a.arrow"),
        (with_pandas, "a.parquet"),
        (with_pandas, "a.feather"),
    ],
)
def test_files_of_other_programs_are_the_same_rows(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    database = open_database(tmp_path / "new.sqlite", create=True)
    pq.write_table(pa.table(plain()), tmp_path / "plain.parquet")
    assert import_embeddings([tmp_path / "plain.parquet"], database).n_new_embeddings == 3
    write(tmp_path / name)
    assert import_embeddings([tmp_path / name], database).n_present == 3
