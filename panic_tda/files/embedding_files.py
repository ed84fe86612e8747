"""Parquet and Arrow files of embeddings, read as checked batches of plain arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import BadInput, WrongUsage
from panic_tda.files.arrow_files import open_arrow_file, readable
from panic_tda.storage.additions import EmbeddingBatch, RunKey, refuse_row

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, IntArray

BATCH_ROWS = 8192
REQUIRED = ("text", "vector")
OPTIONAL = ("embedding_model", "run", "sequence_number", "initial_prompt", "network", "seed")
UNKNOWN_SEED = -1
"""The seed of runs that have none; the pipeline writes it for runs that were not seeded."""
UNKNOWN_NETWORK = ("imported",)
"""The network of runs that have none, and thereby the model of their invocations."""


class EmbeddingFile:
    """One Parquet, Arrow IPC (Feather) or Arrow stream file, whatever its name ends in.

    Parameters
    ----------
    path : Path
        The file.
    model : str, optional
        The embedding model, where no column `embedding_model` says so.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is of another format, or columns are missing or of a wrong type.
    WrongUsage
        Neither the file nor `model` names the embedding model.
    """

    def __init__(self, path: Path, model: str | None = None) -> None:
        self.path = path
        self._model = model
        self._file = open_arrow_file(path)
        _check_columns(path, self._file.schema)
        # A column of nothing but nulls has no type, and says nothing.
        self._columns = {
            field.name
            for field in self._file.schema
            if field.name in OPTIONAL and not pa.types.is_null(field.type)
        }
        if model is None and "embedding_model" not in self._columns:
            raise WrongUsage(
                f"{path} has no column embedding_model, and no model was named; name it with --model"
            )

    @property
    def n_rows(self) -> int | None:
        """Rows of the file; None where only reading it all would tell."""
        return self._file.n_rows

    def batches(self) -> Iterator[EmbeddingBatch]:
        """Read the file once, some thousand rows at a time (twice where it has no column `run`).

        Raises
        ------
        BadInput
            A row lacks a value or holds an impossible one; the message names it.
        """
        name = None if "run" in self._columns else self._content_name()
        counters: dict[tuple[RunKey, str], int] = {}
        for first, batch in self._record_batches([*REQUIRED, *sorted(self._columns)]):
            with readable(self.path):
                texts = self._texts(batch, first)
                runs, codes = self._runs(batch, first, name)
                numbers = self._sequence_numbers(batch, first)
                parts = list(self._models(batch, first))
            for model, rows in parts:
                part_codes = codes[rows]
                yield EmbeddingBatch(
                    path=self.path,
                    rows=first + rows,
                    model=model,
                    runs=runs,
                    run_codes=part_codes,
                    sequence_numbers=(
                        _row_order(runs, part_codes, model, counters) if numbers is None else numbers[rows]
                    ),
                    texts=texts if len(rows) == len(texts) else [texts[row] for row in rows],
                    vectors=self._vectors(batch, first, rows),
                )

    def _record_batches(self, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        for batch in self._file.batches(columns, batch_rows=BATCH_ROWS):
            yield first, batch
            first += batch.num_rows

    def _content_name(self) -> str:
        """Hash the text and sequence columns: the same texts in another model make the same run."""
        lengths, texts, numbers = (hashlib.sha256() for _ in range(3))
        columns = ["text", "sequence_number"] if "sequence_number" in self._columns else ["text"]
        for first, batch in self._record_batches(columns):
            encoded = [text.encode() for text in self._texts(batch, first)]
            lengths.update(np.array([len(text) for text in encoded], dtype="<i8").tobytes())
            texts.update(b"".join(encoded))
            sequence = self._sequence_numbers(batch, first)
            if sequence is None:
                sequence = np.arange(first, first + batch.num_rows)
            numbers.update(sequence.astype("<i8").tobytes())
        return hashlib.sha256(lengths.digest() + texts.digest() + numbers.digest()).hexdigest()

    def _texts(self, batch: pa.RecordBatch, first: int) -> list[str]:
        texts: list[str] = self._complete(batch, "text", pa.large_string(), first).to_pylist()
        return texts

    def _sequence_numbers(self, batch: pa.RecordBatch, first: int) -> IntArray | None:
        if "sequence_number" not in self._columns:
            return None
        column = self._complete(batch, "sequence_number", pa.int64(), first)
        numbers: IntArray = column.to_numpy(zero_copy_only=False)
        if (numbers < 0).any():
            row = int(np.argmax(numbers < 0))
            refuse_row(self.path, first + row, f"sequence_number must be at least 0; got {numbers[row]}")
        return numbers

    def _models(self, batch: pa.RecordBatch, first: int) -> Iterator[tuple[str, IntArray]]:
        if "embedding_model" not in self._columns:
            assert self._model is not None
            yield self._model, np.arange(batch.num_rows)
            return
        names, codes = _encode(self._complete(batch, "embedding_model", pa.string(), first))
        for code, name in enumerate(names):
            rows = np.flatnonzero(codes == code)
            if not name:
                refuse_row(self.path, first + int(rows[0]), "embedding_model is empty")
            if self._model not in (None, name):
                raise WrongUsage(
                    f"{self.path}, row {first + rows[0]}: column embedding_model says {name}, and model "
                    f"{self._model} was asked for; leave out --model, or the column"
                )
            yield name, rows

    def _runs(self, batch: pa.RecordBatch, first: int, name: str | None) -> tuple[list[RunKey], IntArray]:
        """Return the distinct runs of a batch, and the index of each row's."""
        parts: list[tuple[list[Any], IntArray]] = [
            ([name], np.zeros(batch.num_rows, dtype=np.int64))
            if name is not None
            else _encode(self._complete(batch, "run", pa.string(), first)),
            self._encoded(batch, "seed", pa.int64(), UNKNOWN_SEED),
            self._networks(batch, first),
            self._encoded(batch, "initial_prompt", pa.string(), ""),
        ]
        combined = np.zeros(batch.num_rows, dtype=np.int64)
        for values, codes in parts:
            # At most BATCH_ROWS values each: the fourth power of that fits into 63 bits.
            combined = combined * max(1, len(values)) + codes
        _, rows, codes = np.unique(combined, return_index=True, return_inverse=True)
        keys = [RunKey(*(values[of_rows[row]] for values, of_rows in parts)) for row in rows]
        return keys, codes

    def _networks(self, batch: pa.RecordBatch, first: int) -> tuple[list[Any], IntArray]:
        if "network" not in self._columns:
            return [UNKNOWN_NETWORK], np.zeros(batch.num_rows, dtype=np.int64)
        column = batch.column("network").cast(pa.list_(pa.string()))
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        models = column.flatten()
        if models.null_count:
            row = int(np.searchsorted(lengths.cumsum(), _first_null(models), side="right"))
            refuse_row(self.path, first + row, "network has a model without a name")
        names, codes = _encode(models)
        table = np.full((batch.num_rows, max(1, lengths.max(initial=0))), -1)
        table[np.arange(table.shape[1]) < lengths[:, None]] = codes
        unique, of_rows = np.unique(table, axis=0, return_inverse=True)
        networks = [tuple(names[code] for code in row if code >= 0) or UNKNOWN_NETWORK for row in unique]
        return networks, of_rows.reshape(-1)

    def _encoded(
        self, batch: pa.RecordBatch, name: str, kind: pa.DataType, default: Any
    ) -> tuple[list[Any], IntArray]:
        if name not in self._columns:
            return [default], np.zeros(batch.num_rows, dtype=np.int64)
        return _encode(batch.column(name).cast(kind).fill_null(default))

    def _complete(self, batch: pa.RecordBatch, name: str, kind: pa.DataType, first: int) -> pa.Array:
        column = batch.column(name).cast(kind)
        if column.null_count:
            refuse_row(self.path, first + _first_null(column), f"{name} is missing (null)")
        return column

    def _vectors(self, batch: pa.RecordBatch, first: int, rows: IntArray) -> Float32Array:
        column = batch.column("vector")
        if len(rows) < batch.num_rows:
            column = column.take(pa.array(rows))

        def refuse(wrong: Any, problem: str) -> NoReturn:
            refuse_row(self.path, first + int(rows[int(np.argmax(wrong))]), f"the vector {problem}")

        if column.null_count:
            refuse(column.is_null().to_numpy(zero_copy_only=False), "is missing (null)")
        width = _width(column, refuse)
        values = column.flatten()
        if values.null_count:
            missing = values.is_null().to_numpy(zero_copy_only=False)
            refuse(missing.reshape(-1, width).any(axis=1), "has a missing value (null)")
        with np.errstate(over="ignore"):
            numbers = values.to_numpy(zero_copy_only=False).astype("<f4", copy=False)
        vectors: Float32Array = numbers.reshape(-1, width)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            refuse(~finite, "is not finite in float32 (NaN or infinite)")
        zero = ~vectors.any(axis=1)
        if zero.any():
            refuse(zero, "is zero and has no direction")
        return vectors


def _width(column: pa.Array, refuse: Callable[[Any, str], NoReturn]) -> int:
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(column), column.type.list_size)
    else:
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    width = int(lengths[0])
    if width == 0:
        refuse(lengths == 0, "is empty")
    if (lengths != width).any():
        ragged = lengths != width
        refuse(ragged, f"has {lengths[np.argmax(ragged)]} dimensions, those before it have {width}")
    return width


def _row_order(
    runs: list[RunKey], codes: IntArray, model: str, counters: dict[tuple[RunKey, str], int]
) -> IntArray:
    """Number the rows of each run in the order of the file, on from the counters, which are moved on."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.searchsorted(ordered, np.arange(len(runs)))
    numbers = np.empty_like(codes)
    before = np.array([counters.get((run, model), 0) for run in runs], dtype=np.int64)
    numbers[order] = np.arange(len(codes)) - starts[ordered] + before[ordered]
    for run, start, count in zip(runs, before, np.bincount(codes, minlength=len(runs)), strict=True):
        counters[run, model] = int(start + count)
    return numbers


def _encode(column: pa.Array) -> tuple[list[Any], IntArray]:
    """Return the distinct values of a column without nulls, and the index of each row's."""
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _first_null(column: pa.Array) -> int:
    return int(pc.index(column.is_null(), True).as_py())


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list_of(kind: pa.DataType, is_member: Callable[[pa.DataType], bool]) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and bool(is_member(kind.value_type))


_ALLOWED: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "text": ("strings", _is_string),
    "vector": (
        "lists or fixed-size lists of float16, float32 or float64",
        lambda kind: _is_list_of(kind, pa.types.is_floating),
    ),
    "embedding_model": ("strings", _is_string),
    "run": ("strings or integers", lambda kind: _is_string(kind) or pa.types.is_integer(kind)),
    "sequence_number": ("integers", pa.types.is_integer),
    "initial_prompt": ("strings", _is_string),
    "network": ("lists of strings", lambda kind: _is_list_of(kind, _is_string)),
    "seed": ("integers", pa.types.is_integer),
}


def _check_columns(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in REQUIRED if name not in schema.names]
    if missing:
        raise BadInput(
            f"{path} has no column {' and no column '.join(missing)}; needed are {', '.join(REQUIRED)}, and "
            f"where they are known {', '.join(OPTIONAL)}; it has {', '.join(schema.names) or 'none'}"
        )
    for name, (allowed, is_allowed) in _ALLOWED.items():
        if schema.names.count(name) > 1:
            raise BadInput(f"{path} has several columns {name}; keep one")
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if not is_allowed(kind) and (name in REQUIRED or not pa.types.is_null(kind)):
            raise BadInput(f"{path}: column {name} must hold {allowed}; got {kind}")
