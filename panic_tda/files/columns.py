"""Columns of a file as checked arrays; errors name the row of the first invalid value."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import BadInput, InvalidParameter
from panic_tda.files import casting
from panic_tda.files.arrow_files import ArrowFile, find_first_failing
from panic_tda.storage.write.batches import refuse_row
from panic_tda.types import Float32Array, IntArray

Kind = tuple[str, Callable[[pa.DataType], bool]]
"""Allowed types of a column: their name in messages, and a function that checks a type."""
OUTPUT_TYPES = ("TEXT", "IMAGE")
BATCH_ROWS, MAX_BATCH_ROWS = 8192, 32_768
"""Number of rows that are read at a time, and the largest number that callers may choose."""
CONTAINS_NUL = "holds the character NUL, which databases do not accept in texts"


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, with their row numbers.

    Attributes
    ----------
    path : Path
        The file.
    numbers : (b,) int64
        Row numbers in the file, counted from 0.
    batch : pyarrow.RecordBatch
        Columns of plain types (see `casting`).
    names : mapping of str to str
        Name of a column in the file, by the other name under which it is read.
    """

    path: Path
    numbers: IntArray
    batch: pa.RecordBatch
    names: Mapping[str, str | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: IntArray) -> Rows:
        """Return the rows with these indices."""
        if len(rows) == len(self):
            return self
        return replace(self, numbers=self.numbers[rows], batch=self.batch.take(pa.array(rows)))

    def stored_name(self, name: str) -> str:
        """Return the name of a column in the file."""
        return self.names.get(name) or name

    def refuse(self, row: int, problem: str) -> NoReturn:
        """Raise `BadInput` about the row at this index."""
        refuse_row(self.path, int(self.numbers[row]), problem)

    def refuse_first(self, wrong: Any, problem: str) -> NoReturn:
        """Raise `BadInput` about the first row for which a mask is true."""
        self.refuse(int(np.argmax(wrong)), problem)

    def cast(self, name: str, kind: pa.DataType) -> pa.Array:
        """Return a column as this type; refuse values that cannot be converted."""
        column = self.batch.column(name)
        try:
            return casting.cast(column, kind)
        except pa.ArrowInvalid as error:
            row = (
                find_first_failing(len(column), lambda n_rows: casting.cast(column.slice(0, n_rows), kind))
                or 0
            )
            if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
                allowed = "a whole number of 64 bits at most"
                self.refuse(row, f"{self.stored_name(name)} must be {allowed}; got {column[row].as_py()}")
            self.refuse(row, f"{self.stored_name(name)} cannot be read: {error}")

    def complete(self, name: str, kind: pa.DataType) -> pa.Array:
        """Return a column as this type; refuse missing values."""
        column = self.cast(name, kind)
        if column.null_count:
            self.refuse(find_first_null(column), f"{self.stored_name(name)} is missing (null)")
        return column

    def integers(self, name: str, *, least: int) -> IntArray:
        """Return a column of integers; refuse missing values and those below `least`."""
        numbers: IntArray = self.complete(name, pa.int64()).to_numpy(zero_copy_only=False)
        # The length of a run is its largest sequence number plus 1, and must fit into 64 bits too.
        wrong = (numbers < least) | (numbers == np.iinfo(np.int64).max)
        if wrong.any():
            value = numbers[int(np.argmax(wrong))]
            self.refuse_first(
                wrong, f"{self.stored_name(name)} must be at least {least}, and below 2⁶³ − 1; got {value}"
            )
        return numbers

    def texts(self, name: str) -> list[str]:
        """Return a column of texts; refuse missing ones."""
        column = self.complete(name, pa.large_string())
        self.refuse_nul(column, name)
        texts: list[str] = column.to_pylist()
        return texts

    def known_texts(self, name: str) -> list[str | None]:
        """Return a column of texts, of which some may be missing."""
        column = self.cast(name, pa.large_string())
        self.refuse_nul(column, name)
        texts: list[str | None] = column.to_pylist()
        return texts

    def output_types(self, name: str) -> list[str]:
        """Return a column of output types as databases store them; refuse missing and other values."""
        types = pc.ascii_upper(self.complete(name, pa.string()))
        wrong = pc.index(pc.is_in(types, pa.array(OUTPUT_TYPES)), False).as_py()
        if wrong >= 0:
            allowed = " or ".join(OUTPUT_TYPES).lower()
            value = self.batch.column(name)[wrong].as_py()
            self.refuse(wrong, f"{self.stored_name(name)} must be {allowed}; got {value!r}")
        output_types: list[str] = types.to_pylist()
        return output_types

    def refuse_nul(self, column: pa.Array, name: str) -> None:
        """Refuse texts of a column that contain NUL."""
        # PostgreSQL does not accept such texts, and SQLite's functions stop at the NUL.
        has_nul = pc.find_substring(column, "\0").fill_null(-1).to_numpy(zero_copy_only=False) >= 0
        if has_nul.any():
            self.refuse_first(has_nul, f"{self.stored_name(name)} {CONTAINS_NUL}")

    def models(self) -> Iterator[tuple[str, IntArray]]:
        """Yield the name of each embedding model, and the indices of its rows."""
        names, codes = encode(self.complete("embedding_model", pa.string()))
        for code, name in enumerate(names):
            rows = np.flatnonzero(codes == code)
            problem = find_model_name_problem(name)
            if problem:
                self.refuse(int(rows[0]), f"embedding_model {problem}; got {name!r}")
            yield name, rows


def require_batch_rows(batch_rows: int) -> int:
    """Return the number of rows to read at a time, or raise `InvalidParameter`."""
    if not 1 <= batch_rows <= MAX_BATCH_ROWS:
        raise InvalidParameter(f"batch_rows must be from 1 to {MAX_BATCH_ROWS:,}; got {batch_rows}")
    return batch_rows


def read_rows(file: ArrowFile, columns: Sequence[str], *, batch_rows: int) -> Iterator[Rows]:
    """Read the named columns of a file, at most `batch_rows` rows at a time.

    Raises
    ------
    BadInput
        The file is damaged.
    """
    first = 0
    for batch in file.batches(list(columns), batch_rows=batch_rows):
        yield Rows(file.path, np.arange(first, first + batch.num_rows), batch, file.names)
        first += batch.num_rows


def check_columns(file: ArrowFile, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> list[str]:
    """Check the columns of a file, and return the names of those that have values, the required ones first.

    Raises
    ------
    BadInput
        A required column is missing, a column occurs twice, or a column has a wrong type.
    """
    path, schema = file.path, file.schema
    missing = [name for name in required if file.stored_name(name) is None]
    if missing:
        raise BadInput(
            f"{path} has no column {' and no column '.join(missing)}; needed are {', '.join(required)}, and "
            f"where they are known {', '.join(optional)}; it has {', '.join(schema.names) or 'none'}"
        )
    present = []
    for name, (allowed, is_allowed) in {**required, **optional}.items():
        stored = file.stored_name(name)
        if stored is None:
            continue
        if schema.names.count(stored) > 1:
            raise BadInput(f"{path} has several columns {stored}; keep one")
        kind = schema.field(stored).type
        # A column of nulls only has no type and no values.
        if pa.types.is_null(kind) and name in optional:
            continue
        if not (is_allowed(kind) or pa.types.is_null(kind)):
            raise BadInput(f"{path}: column {stored} must hold {allowed}; got {kind}")
        present.append(name)
    return present


def find_model_name_problem(model: str) -> str | None:
    """Explain why an embedding model cannot have this name, or return None if it can."""
    if not model.strip():
        return "is empty"
    # Users type the name in commands, and see such characters only as escape sequences.
    if any(not character.isprintable() and unicodedata.category(character) != "Zs" for character in model):
        return "holds a control character"
    return None


def to_float32(numbers: pa.Array) -> Float32Array:
    """Convert numbers to float32: missing ones become NaN, and too large ones infinite."""
    if pa.types.is_decimal(numbers.type) or pa.types.is_null(numbers.type):
        numbers = casting.cast(numbers, pa.float64())
    with np.errstate(over="ignore"):
        values: Float32Array = numbers.to_numpy(zero_copy_only=False).astype("<f4", copy=False)
    return values


def encode(column: pa.Array) -> tuple[list[Any], IntArray]:
    """Return the distinct values of a column without nulls, and for each row the index of its value."""
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def find_first_null(column: pa.Array) -> int:
    """Return the index of the first missing value of a column that has one."""
    return int(pc.index(column.is_null(), True).as_py())


def is_string(kind: pa.DataType) -> bool:
    """Return whether a plain type is a string."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether a plain type is a string, or bytes, which are read as UTF-8."""
    return is_string(kind) or bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a plain type is an integer, a float or a decimal."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_list_of(kind: pa.DataType, is_member: Callable[[pa.DataType], bool]) -> bool:
    """Return whether a type is a list, of any layout, whose values satisfy `is_member`."""
    return casting.is_list(kind) and bool(is_member(kind.value_type))


STRINGS: Kind = ("strings", is_text)
INTEGERS: Kind = ("integers", is_number)
"""Floats and decimals are accepted if they are whole numbers."""
VECTORS: Kind = (
    "lists or tensors of one dimension of numbers",
    lambda kind: is_list_of(kind, lambda value: is_number(value) or pa.types.is_null(value)),
)
