"""Parquet and Arrow files of embeddings, read as checked batches of plain arrays."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import BadInput, WrongUsage
from panic_tda.files.arrow_files import first_failing, open_arrow_file, readable
from panic_tda.storage.batches import EmbeddingBatch, RunKey, TextBatch, refuse_row

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
        Neither the file nor `model` names the embedding model, or `model` is no name.
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
        problem = None if model is None else _wrong_with(model)
        if problem:
            raise WrongUsage(f"the model's name {problem}; got {model!r}")
        if model is None and "embedding_model" not in self._columns:
            raise WrongUsage(
                f"{path} has no column embedding_model, and no model was named; name it with --model"
            )

    @property
    def n_rows(self) -> int | None:
        """Rows of the file; None where only reading it all would tell."""
        return self._file.n_rows

    @property
    def names_runs(self) -> bool:
        """Whether the file says which run each row belongs to."""
        return "run" in self._columns

    def batches(self, name: str = "") -> Iterator[EmbeddingBatch]:
        """Read the file once, some thousand rows at a time.

        Parameters
        ----------
        name : str
            Of the run, where the file has no column `run`.

        Raises
        ------
        BadInput
            A row lacks a value or holds an impossible one; the message names it.
        """
        counters: dict[tuple[RunKey, str], int] = {}
        for first, batch in self._record_batches([*REQUIRED, *sorted(self._columns)]):
            for part in self._parts(batch, first, name, counters):
                vectors = self._vectors(batch, first, part.rows - first)
                yield EmbeddingBatch(**vars(part), vectors=vectors)

    def texts(self, name: str = "") -> Iterator[TextBatch]:
        """Read the same batches without their vectors, which are most of the file."""
        counters: dict[tuple[RunKey, str], int] = {}
        for first, batch in self._record_batches(["text", *sorted(self._columns)]):
            yield from self._parts(batch, first, name, counters)

    def contents(self) -> Iterator[tuple[list[str], IntArray]]:
        """Read the texts in the order of the file, with its sequence numbers or else those of its rows."""
        numbered = "sequence_number" in self._columns
        for first, batch in self._record_batches(["text", *(["sequence_number"] if numbered else [])]):
            numbers = self._sequence_numbers(batch, first)
            if numbers is None:
                numbers = np.arange(first, first + batch.num_rows)
            yield self._texts(batch, first), numbers

    def _parts(
        self, batch: pa.RecordBatch, first: int, name: str, counters: dict[tuple[RunKey, str], int]
    ) -> Iterator[TextBatch]:
        """Divide some rows by their embedding model."""
        with readable(self.path):
            texts = self._texts(batch, first)
            runs, codes = self._runs(batch, first, name)
            numbers = self._sequence_numbers(batch, first)
            models = list(self._models(batch, first))
        for model, rows in models:
            of_rows = codes[rows]
            yield TextBatch(
                path=self.path,
                rows=first + rows,
                model=model,
                runs=runs,
                run_codes=of_rows,
                sequence_numbers=(
                    _row_order(runs, of_rows, model, counters) if numbers is None else numbers[rows]
                ),
                texts=texts if len(rows) == len(texts) else [texts[row] for row in rows],
            )

    def _record_batches(self, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        for batch in self._file.batches(columns, batch_rows=BATCH_ROWS):
            yield first, batch
            first += batch.num_rows

    def _texts(self, batch: pa.RecordBatch, first: int) -> list[str]:
        column = self._complete(batch, "text", pa.large_string(), first)
        self._refuse_nul(column, "text", first)
        texts: list[str] = column.to_pylist()
        return texts

    def _sequence_numbers(self, batch: pa.RecordBatch, first: int) -> IntArray | None:
        if "sequence_number" not in self._columns:
            return None
        column = self._complete(batch, "sequence_number", pa.int64(), first)
        numbers: IntArray = column.to_numpy(zero_copy_only=False)
        # The length of a run is one more, and has to be a number too.
        wrong = (numbers < 0) | (numbers == np.iinfo(np.int64).max)
        if wrong.any():
            row = int(np.argmax(wrong))
            problem = f"sequence_number must be at least 0, and below 2⁶³ − 1; got {numbers[row]}"
            refuse_row(self.path, first + row, problem)
        return numbers

    def _models(self, batch: pa.RecordBatch, first: int) -> Iterator[tuple[str, IntArray]]:
        if "embedding_model" not in self._columns:
            assert self._model is not None
            yield self._model, np.arange(batch.num_rows)
            return
        names, codes = _encode(self._complete(batch, "embedding_model", pa.string(), first))
        for code, name in enumerate(names):
            rows = np.flatnonzero(codes == code)
            problem = _wrong_with(name)
            if problem:
                refuse_row(self.path, first + int(rows[0]), f"embedding_model {problem}; got {name!r}")
            if self._model not in (None, name):
                raise WrongUsage(
                    f"{self.path}, row {first + rows[0]}: column embedding_model says {name}, and model "
                    f"{self._model} was asked for; leave out --model, or the column"
                )
            yield name, rows

    def _runs(self, batch: pa.RecordBatch, first: int, name: str) -> tuple[list[RunKey], IntArray]:
        """Return the distinct runs of a batch, and the index of each row's."""
        prompts = self._encoded(batch, "initial_prompt", pa.string(), "", first)
        self._refuse_nul(pa.array(prompts[0], pa.string()).take(prompts[1]), "initial_prompt", first)
        parts: list[tuple[list[Any], IntArray]] = [
            _encode(self._complete(batch, "run", pa.string(), first))
            if self.names_runs
            else ([name], np.zeros(batch.num_rows, dtype=np.int64)),
            self._encoded(batch, "seed", pa.int64(), UNKNOWN_SEED, first),
            self._networks(batch, first),
            prompts,
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
        column = self._cast(batch, "network", pa.list_(pa.string()), first)
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        models = column.flatten()
        if models.null_count:
            row = int(np.searchsorted(lengths.cumsum(), _first_null(models), side="right"))
            refuse_row(self.path, first + row, "network has a model without a name")
        wrong = pc.find_substring(models, "\0").to_numpy(zero_copy_only=False) >= 0
        if wrong.any():
            row = int(np.searchsorted(lengths.cumsum(), np.argmax(wrong), side="right"))
            refuse_row(self.path, first + row, f"network {_HOLDS_NUL}")
        names, codes = _encode(models)
        table = np.full((batch.num_rows, max(1, lengths.max(initial=0))), -1)
        table[np.arange(table.shape[1]) < lengths[:, None]] = codes
        unique, of_rows = np.unique(table, axis=0, return_inverse=True)
        networks = [tuple(names[code] for code in row if code >= 0) or UNKNOWN_NETWORK for row in unique]
        return networks, of_rows.reshape(-1)

    def _encoded(
        self, batch: pa.RecordBatch, name: str, kind: pa.DataType, default: Any, first: int
    ) -> tuple[list[Any], IntArray]:
        if name not in self._columns:
            return [default], np.zeros(batch.num_rows, dtype=np.int64)
        return _encode(self._cast(batch, name, kind, first).fill_null(default))

    def _complete(self, batch: pa.RecordBatch, name: str, kind: pa.DataType, first: int) -> pa.Array:
        column = self._cast(batch, name, kind, first)
        if column.null_count:
            refuse_row(self.path, first + _first_null(column), f"{name} is missing (null)")
        return column

    def _cast(self, batch: pa.RecordBatch, name: str, kind: pa.DataType, first: int) -> pa.Array:
        column = batch.column(name)
        try:
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            row = first_failing(len(column), lambda n_rows: column.slice(0, n_rows).cast(kind))
            refuse_row(self.path, first + (row or 0), f"{name} cannot be read: {error}")

    def _refuse_nul(self, column: pa.Array, name: str, first: int) -> None:
        # PostgreSQL takes no such text, and SQLite's functions end where it stands.
        found = pc.find_substring(column, "\0").to_numpy(zero_copy_only=False) >= 0
        if found.any():
            refuse_row(self.path, first + int(np.argmax(found)), f"{name} {_HOLDS_NUL}")

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


_HOLDS_NUL = "holds the character NUL, which databases do not take in texts"


def _wrong_with(model: str) -> str | None:
    """Say why an embedding model cannot have this name; None where it can."""
    if not model.strip():
        return "is empty"
    # It is typed and shown in commands, which show such characters as something else.
    if any(not character.isprintable() and unicodedata.category(character) != "Zs" for character in model):
        return "holds a control character"
    return None


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
