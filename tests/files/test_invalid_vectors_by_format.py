"""Test that `--skip-invalid` leaves out the same rows for every format and type of vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from panic_tda.errors import BadInput
from panic_tda.files.column_choice import Columns
from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import Database
from tests.command_line import invoke
from tests.files.test_importing import count, rows, write
from tests.files.test_missing_texts import write_format

NAN = float("nan")
TEXTS = [f"t{row}" for row in range(6)]


def lists(path: Path, vectors: list[Any]) -> None:
    write_format(path, {"text": TEXTS, "vector": vectors})


def arrays(path: Path, vectors: list[Any]) -> None:
    np.savez(path, text=np.array(TEXTS), vector=np.array(vectors))


def arrow(kind: pa.DataType) -> Callable[[Path, list[Any]], object]:
    return lambda path, vectors: write(path, {"text": TEXTS, "vector": pa.array(vectors, kind)})


def tensors(path: Path, vectors: list[Any]) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), (1, 2))
    storage = pa.array(vectors, pa.list_(pa.float32(), 2))
    write(path, {"text": TEXTS, "vector": pa.ExtensionArray.from_storage(kind, storage)})


GOOD: list[Any] = [[1.0, row] for row in range(6)]
DECIMALS = [[Decimal(1), Decimal(row)] for row in range(6)]
# How a file is written, its vectors, and the rows among them that cannot be used.
CASES: dict[str, tuple[str, Any, list[Any], dict[int, Any]]] = {
    "CSV": ("a.csv", lists, GOOD, {0: None, 2: [1.0], 3: [0.0, 0.0], 4: [NAN, 1.0], 5: [1e300, 1.0]}),
    "CSV, empty and null": ("a.csv", lists, GOOD, {0: [], 2: [None, 1.0]}),
    "NDJSON": ("a.ndjson", lists, GOOD, {0: None, 2: [1.0], 3: [0.0, 0.0], 4: [None, 1.0], 5: []}),
    "npz": ("a.npz", arrays, GOOD, {0: [NAN, 1.0], 3: [0.0, 0.0], 5: [np.inf, 1.0]}),
    "npz of integers": ("a.npz", arrays, [[1, row] for row in range(6)], {2: [0, 0]}),
    "decimals": (
        "a.parquet",
        arrow(pa.list_(pa.decimal128(20, 5))),
        DECIMALS,
        {0: None, 1: [Decimal(1)], 3: [Decimal(0)] * 2, 4: [None, Decimal(1)], 5: []},
    ),
    "decimals of 32 bits": (
        "a.parquet",
        arrow(pa.list_(pa.decimal32(5, 2))),
        DECIMALS,
        {3: [None, Decimal(1)]},
    ),
    "integers": (
        "a.parquet",
        arrow(pa.list_(pa.int64())),
        [[1, row] for row in range(6)],
        {0: None, 4: [0, 0]},
    ),
    "views": ("a.arrow", arrow(pa.list_view(pa.float32())), GOOD, {0: None, 2: [None, 1.0], 4: []}),
    "tensors": ("a.parquet", tensors, GOOD, {0: None, 3: [0.0, 0.0]}),
    "lists of nulls": ("a.parquet", arrow(pa.list_(pa.null())), [[None, None]] * 6, dict.fromkeys(range(6))),
    "nulls": ("a.parquet", arrow(pa.null()), [None] * 6, dict.fromkeys(range(6))),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("no_text", [False, True])
def test_every_format_and_type_leaves_out_invalid_vectors(
    tmp_path: Path, database: Database, name: str, no_text: bool
) -> None:
    file, write_vectors, good, bad = CASES[name]
    write_vectors(tmp_path / file, [bad[row] if row in bad else good[row] for row in range(6)])
    columns = Columns(no_text=no_text)
    with pytest.raises(BadInput, match=rf"a\.\w+, row {min(bad)} .*leave such embeddings out with --skip-"):
        import_embeddings([tmp_path / file], database, model="M", columns=columns)
    assert count(database) == (0, 0, 0, 0)
    for n_new in (6 - len(bad), 0):
        summary = import_embeddings(
            [tmp_path / file], database, model="M", columns=columns, skip_invalid=True
        )
        assert (summary.n_new_embeddings, summary.left_out.invalid_vectors) == (n_new, len(bad))
    assert count(database)[1:] == (1, 6, 6 - len(bad))
    query = (
        "SELECT sequence_number, output_text, vector FROM embedding "
        "JOIN invocation ON invocation.id = invocation_id ORDER BY sequence_number"
    )
    stored = [
        (row, text, np.frombuffer(vector, "<f4").tolist()) for row, text, vector in rows(database, query)
    ]
    assert stored == [
        (row, None if no_text else TEXTS[row], list(map(float, good[row])))
        for row in range(6)
        if row not in bad
    ]


@pytest.mark.parametrize("texts", [["--no-text"], ["--texts", "~/t.txt"]], ids=["no texts", "texts"])
def test_an_array_leaves_out_invalid_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", np.array([[NAN, 1.0], *GOOD[1:]]))
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    words = ["import-embeddings", "~/a.npy", "--db=~/a.sqlite", "--model", "M", "--json", *texts]
    refused = invoke(*words)
    assert refused.exit_code == 1
    assert "leave such embeddings out with --skip-invalid" in " ".join(refused.output.split())
    summary = json.loads(invoke(*words, "--skip-invalid").stdout)
    assert (summary["n_new_embeddings"], summary["n_new_invocations"]) == (5, 6)
    assert summary["left_out"]["invalid_vectors"] == 1


def test_a_cell_without_numbers_is_refused_anyway(tmp_path: Path, database: Database) -> None:
    (tmp_path / "a.csv").write_text("text\tvector\na\t[1, 2]\nb\t[1, x]\n")
    with pytest.raises(BadInput, match=r"row 1 .*vector must be a list of numbers.*got '\[1, x\]'"):
        import_embeddings([tmp_path / "a.csv"], database, model="M", skip_invalid=True)
