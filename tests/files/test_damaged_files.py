"""Test that reading any bytes ends in batches or in an error that names the file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import BadInput, WrongUsage
from panic_tda.files import arrow_files
from panic_tda.files.embedding_files import EmbeddingFile
from tests.snapshots import run_python

N_ROWS = 40


def table(**changed: Any) -> pa.Table:
    """Return a table of all columns that are read, with some missing values."""
    vectors = np.random.default_rng(0).standard_normal((N_ROWS, 3)).tolist()
    columns = {
        "text": [f"text {row} é" for row in range(N_ROWS)],
        "vector": pa.array(vectors, pa.list_(pa.float32())),
        "embedding_model": ["Ä" if row % 2 else "B" for row in range(N_ROWS)],
        "run": [f"r{row % 3}" for row in range(N_ROWS)],
        "sequence_number": pa.array(range(N_ROWS), pa.uint64()),
        "initial_prompt": ["a pear" if row % 4 else None for row in range(N_ROWS)],
        "network": [["A", "B"] if row % 5 else None for row in range(N_ROWS)],
        "seed": pa.array([7] * N_ROWS, pa.int32()),
    }
    return pa.table(columns | changed)


def encoded(table: pa.Table) -> pa.Table:
    """Return the table with dictionary encoding and vectors of fixed width."""
    for name in ("embedding_model", "initial_prompt", "text"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].dictionary_encode())
    place = table.schema.get_field_index("vector")
    return table.set_column(place, "vector", table["vector"].cast(pa.list_(pa.float32(), 3)))


def as_parquet(table: pa.Table, compression: str | None = None) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression=compression or "none", row_group_size=25)
    return file.getvalue()


def as_file(table: pa.Table, compression: str | None = None) -> bytes:
    return _as_ipc(pa.ipc.new_file, table, compression)


def as_stream(table: pa.Table, compression: str | None = None) -> bytes:
    return _as_ipc(pa.ipc.new_stream, table, compression)


def _as_ipc(new: Any, table: pa.Table, compression: str | None) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=25)
    return bytes(sink.getvalue().to_pybytes())


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    "parquet": as_parquet,
    "file": as_file,
    "stream": as_stream,
}


def read_patched(folder: str, seeds: range) -> None:
    """Read files with some bytes patched in both ways, and print how many could be read and how many not."""
    files = [
        content
        for original in (table(), encoded(table()))
        for content in (
            *(as_parquet(original, compression) for compression in (None, "snappy")),
            *(
                write(original, compression)
                for write in (as_file, as_stream)
                for compression in (None, "lz4")
            ),
        )
    ]
    path, counts = Path(folder) / "patched", {True: 0, False: 0}
    for seed in seeds:
        path.write_bytes(patched(files[seed % len(files)], np.random.default_rng(seed)))
        try:
            file = EmbeddingFile(path)
            for batch in (*file.texts(), *file.batches()):
                repr(batch)
            counts[True] += 1
        except (BadInput, WrongUsage):
            # The latter where the name of the column is gone that names the model.
            counts[False] += 1
    print(counts[True], counts[False])  # noqa: T201


def patched(content: bytes, rng: np.random.Generator) -> bytes:
    """Change up to three numbers to values that make offsets and lengths invalid."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place, kind = int(rng.integers(6, len(data) - 8)), rng.integers(4)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.integers(256))
        else:
            width = 4 * int(kind) - 4
            top = 1 << (8 * width - 1)
            number = [0, 1, -1, top - 1, -top, 1000, 1 << 20][rng.integers(7)]
            data[place : place + width] = number.to_bytes(width, "little", signed=True)
    return bytes(data)


@pytest.mark.parametrize("first", [0, 200])
def test_patched_bytes_never_crash_the_process(tmp_path: Path, first: int) -> None:
    code = (
        "import sys; from tests.files.test_damaged_files import read_patched; "
        f"read_patched(sys.argv[1], range({first}, {first + 200}))"
    )
    process = run_python(code, tmp_path)
    assert process.returncode == 0, process.stderr
    read, refused = map(int, process.stdout.split())
    assert read + refused == 200
    assert min(read, refused) > 10


def test_a_column_name_that_is_not_utf8_is_a_damaged_file(tmp_path: Path) -> None:
    for write in (as_file, as_stream):
        path = tmp_path / "a"
        path.write_bytes(write(table()).replace(b"network", b"netw\xefrk"))
        with pytest.raises(BadInput, match="a cannot be read as Parquet or Arrow"):
            EmbeddingFile(path)


def strings(values: list[bytes]) -> pa.Array:
    """Strings of any bytes."""
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), array.buffers())


def far_offset() -> pa.Array:
    """Return strings whose row 30 has an offset beyond their end."""
    offsets = np.arange(N_ROWS + 1, dtype="<i4")
    offsets[30] = 1 << 30
    return pa.Array.from_buffers(
        pa.string(), N_ROWS, [None, pa.py_buffer(offsets), pa.py_buffer(b"x" * N_ROWS)]
    )


def far_index() -> pa.Array:
    """Return dictionary-encoded strings whose row 33 has an index out of range."""
    indices = pa.array([9 if row == 33 else row % 2 for row in range(N_ROWS)], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)


NO_UTF8 = strings([b"\xff\xfe" if row == 28 else b"text" for row in range(N_ROWS)])
ANY, ARROW = ("parquet", "file", "stream"), ("file", "stream")
BY_ROW = {
    "text": (ANY, {"text": NO_UTF8}, r"row 28 .*text is damaged: .*UTF8"),
    "prompt": (ANY, {"initial_prompt": NO_UTF8}, r"row 28 .*initial_prompt is damaged: .*UTF8"),
    # Row 29 ends where row 30 begins.
    "offset": (ARROW, {"text": far_offset()}, r"row 29 .*text is damaged: "),
    "index": (
        ARROW,
        {"embedding_model": far_index()},
        r"row 33 .*embedding_model is damaged: .*out of bounds: 9 ",
    ),
}


@pytest.mark.parametrize("batch_rows", [7, 4096])
@pytest.mark.parametrize(
    ("form", "changed", "message"),
    [
        pytest.param(form, changed, message, id=f"{name}-{form}")
        for name, (forms, changed, message) in BY_ROW.items()
        for form in forms
    ],
)
def test_damaged_values_are_named_by_their_row(
    tmp_path: Path,
    form: str,
    changed: dict[str, pa.Array],
    message: str,
    batch_rows: int,
) -> None:
    path = tmp_path / "a"
    path.write_bytes(FORMATS[form](table(**changed)))
    with pytest.raises(BadInput, match=message) as caught:
        list(EmbeddingFile(path, batch_rows=batch_rows).batches())
    assert re.search(rf"^{re.escape(str(path))}, row ", str(caught.value))


@pytest.mark.parametrize("form", FORMATS)
def test_undamaged_files_are_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a"
    for original in (table(), encoded(table())):
        path.write_bytes(FORMATS[form](original))
        assert sum(len(batch.texts) for batch in EmbeddingFile(path).batches()) == N_ROWS


CLAIMS = {
    "vector": ("column vector claims 131,072 values in a row", {"vector": (128, 1 << 17)}),
    "text": ("column text claims 67,108,8.. bytes a value", {"text": 1 << 26}),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_small_file_that_claims_gigabytes_is_refused_before_it_takes_them(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_files, "MAX_VALUE_BYTES", 1 << 26)
    message, claims = CLAIMS[name]
    n_rows, width = claims.get("vector", (1, 2))
    offsets = pa.array(np.arange(n_rows + 1, dtype=np.int32) * width)
    vectors = pa.ListArray.from_arrays(offsets, pa.array(np.ones(n_rows * width, np.float32)))
    texts = pa.array(["a" * claims.get("text", 1)] * n_rows, pa.large_string())
    table = pa.table({"text": texts, "vector": vectors, "embedding_model": ["B"] * n_rows})
    path = tmp_path / "a"
    pq.write_table(table, path, compression="zstd", use_dictionary=name == "vector")
    assert path.stat().st_size < 1e5 < 6e7 < table.nbytes
    del table, texts, vectors, offsets
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(BadInput, match=message):
            list(EmbeddingFile(path).batches())
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 1e7


EXTENSION = """
import pickle, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq

class Touch:
    def __reduce__(self):
        return Path.touch, (Path(sys.argv[1]) / "touched",)

told = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Touch())}
schema = pa.schema([
    pa.field("text", pa.string(), metadata=told),
    pa.field("vector", pa.list_(pa.float32()), metadata=told),
    pa.field("embedding_model", pa.string(), metadata={"pickled": pickle.dumps(Touch())}),
])
made = pa.table([["a"], [[1.0, 2.0]], ["B"]], schema=schema)
pq.write_table(made, sys.argv[1] + "/parquet")
with pa.ipc.new_file(sys.argv[1] + "/file", schema) as file:
    file.write_table(made)
"""


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    """Arrow once made Python objects of pickled types as soon as a schema was read (CVE-2023-47248)."""
    assert run_python(EXTENSION, tmp_path).returncode == 0
    for name in ("parquet", "file"):
        with suppress(BadInput):
            list(EmbeddingFile(tmp_path / name).batches())
    assert not (tmp_path / "touched").exists()
