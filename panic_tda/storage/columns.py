"""Describe the columns of a query: convert their stored values, and report values that do not match."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql import Select, visitors
from sqlalchemy.sql.selectable import Join

from panic_tda.errors import DamagedValue
from panic_tda.types import OUTLIER

AnySelect: TypeAlias = "Select[*tuple[Any, ...]]"

_ID = re.compile("[0-9a-f]{32}", flags=re.ASCII)
_SHOWN_CHARACTERS = 40
ROUNDING = 1e-6
"""Tolerance of stored numbers from 0 to 1, for rounding errors."""
_LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("cluster", "size"): (1, 2**31 - 1),
    ("cluster", "persistence"): (-ROUNDING, 1 + ROUNDING),
    ("cluster", "medoid_copies"): (0, 2**31 - 1),
    ("embeddingcluster", "label"): (OUTLIER, 2**31 - 1),
    ("embeddingcluster", "probability"): (-ROUNDING, 1 + ROUNDING),
    ("embeddingprediction", "label"): (OUTLIER, 2**31 - 1),
    ("embeddingprediction", "probability"): (-ROUNDING, 1 + ROUNDING),
    ("clusteringtree", "part"): (0, 2**31 - 1),
}
"""Smallest and largest value of columns that do not allow every number of their type."""
_SHAPES: dict[tuple[str, str], Any] = {
    ("experimentconfig", "networks"): [[str]],
    ("experimentconfig", "seeds"): [int],
    ("experimentconfig", "prompts"): [str],
    ("experimentconfig", "embedding_models"): [str],
    ("run", "network"): [str],
    ("clusteringresult", "parameters"): dict,
}
"""Shape of the JSON in a column: a type, or a list of a type."""
_OURS = ("clusteringresult", "cluster", "embeddingcluster", "clusteringtree")
FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
    pa.ArrowException,
)
"""Exceptions that the conversion of an invalid stored value raises."""


@dataclass(frozen=True)
class ResultColumn:
    """A result column of a query, and the stored column behind it.

    Attributes
    ----------
    table, name : str
        Name of the stored column and of its table; the table is empty for an expression without a column.
    convert : callable
        Converts a stored value; raises one of `FAULTS` if it is invalid.
    optional : bool
        Whether the value may be NULL.
    keys : tuple
        The columns of the row's primary key.
    """

    table: str
    name: str
    convert: Callable[[Any], Any]
    optional: bool
    keys: tuple[sa.Column[Any], ...]

    @property
    def is_key(self) -> bool:
        """Return whether the column is part of the primary key."""
        return self.name in {key.name for key in self.keys}

    def read(self, value: Any) -> Any:
        """Convert a stored value; raise one of `FAULTS` if it is invalid."""
        if value is None:
            if not self.optional:
                raise ValueError("it is NULL")
            return None
        return self.convert(value)

    def fault(self, value: Any) -> str | None:
        """Return why a stored value with undecoded text is invalid, or None if it is valid."""
        try:
            self.read(decode(value))
        except FAULTS as error:
            return str(error)
        return None


def build_damage_error(table: str, column: str, keys: Sequence[Any], reason: str) -> DamagedValue:
    """Build the error that names an invalid stored value.

    Parameters
    ----------
    table, column : str
        Table and column of the value.
    keys : sequence
        Primary key of the row; empty if unknown.
    reason : str
        Why the value is invalid.
    """
    row = ", ".join(show_value(key) for key in keys)
    place = f"{f'table {table}, ' if table else ''}column {column}{f', row {row}' if row else ''}"
    remedy = "correct it in the database (panic-tda doctor lists such values)"
    if table in _OURS:
        remedy = "delete that clustering and cluster again"
    elif table == "embeddingprediction":
        remedy = "delete it (panic-tda doctor --fix damaged_prediction) and assign the embeddings again"
    message = f"{place}: the stored value cannot be read ({reason}); {remedy}"
    return DamagedValue(message, place=place, reason=reason)


def show_value(value: Any) -> str:
    """Return a stored value for a message: an id with dashes, other values shortened."""
    value = decode_or_bytes(value)
    if isinstance(value, str):
        try:
            return str(UUID(value)) if len(value) == 32 else _shorten(value)
        except ValueError:
            return _shorten(value)
    return _shorten(value)


def describe_columns(query: AnySelect) -> list[ResultColumn]:
    """Return the result columns of a query."""
    optional = {
        table
        for source in query.get_final_froms()
        for element in visitors.iterate(source)
        if isinstance(element, Join) and element.isouter
        for table in visitors.iterate(element.right)
    }
    return [_describe_column(element, optional) for element in query.selected_columns]


def parse_json(text: Any) -> Any:
    """Parse stored JSON, and check that every number is finite.

    Raises
    ------
    ValueError, RecursionError
        It is not JSON, or a number is not finite.
    """
    # The driver of PostgreSQL has parsed JSON already.
    return (
        json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_finite)
        if isinstance(text, str)
        else text
    )


def are_ids(values: Sequence[Any]) -> bool:
    """Return whether stored values are ids: text of 32 lower-case hexadecimal digits."""
    return all(isinstance(value, str) and _ID.fullmatch(value) for value in values)


def _describe_column(element: Any, outer: Collection[Any]) -> ResultColumn:
    element = element.element if isinstance(element, sa.Label) else element
    stored = next((part for part in visitors.iterate(element) if isinstance(part, sa.Column)), None)
    convert = _choose_converter(element.type)
    if stored is None:
        return ResultColumn("", getattr(element, "name", "value"), convert, optional=True, keys=())
    source = stored.table
    table = getattr(source, "element", source)
    if (table.name, stored.name) == ("clusteringresult", "id"):
        convert = _convert_exact_id
    if element is stored and (limits := _LIMITS.get((table.name, stored.name))):
        convert = _limit_range(convert, *limits)
    if element is stored and (shape := _SHAPES.get((table.name, stored.name))):
        convert = _require_shape(convert, shape)
    is_plain = element is stored or isinstance(element, sa.TypeCoerce)
    return ResultColumn(
        table.name,
        stored.name,
        convert,
        optional=bool(stored.nullable) or source in outer or not is_plain,
        keys=tuple(source.primary_key),
    )


def _choose_converter(kind: sa.types.TypeEngine[Any]) -> Callable[[Any], Any]:
    """Return the function that converts stored values to this column type."""
    plain = kind.impl_instance if isinstance(kind, sa.types.TypeDecorator) else kind
    # In this order, because Enum is a subclass of String.
    for known, convert in (
        (sa.Enum, _make_enum_converter(kind)),
        (sa.Uuid, _convert_id),
        (sa.DateTime, _convert_time),
        (sa.JSON, parse_json),
        (sa.BigInteger, _convert_integer),
        (sa.Integer, _limit_range(_convert_integer, -(2**31), 2**31 - 1)),
        (sa.Numeric, _convert_number),
        (sa.String, _convert_text),
        (sa.LargeBinary, _convert_bytes),
    ):
        if isinstance(plain, known):
            return convert
    return lambda value: value


def _make_enum_converter(kind: Any) -> Callable[[Any], Any]:
    names: dict[str, enum.Enum] = {member.name: member for member in getattr(kind, "enum_class", None) or ()}

    def convert(value: Any) -> enum.Enum:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{show_value(value)} is not one of {', '.join(names)}")
        return names[value]

    return convert


def _convert_id(value: Any) -> UUID:
    if not isinstance(value, str):
        raise ValueError(f"{show_value(value)} is not an id stored as text")
    try:
        return UUID(value)
    except ValueError:
        raise ValueError(f"{show_value(value)} is not an id of 32 hexadecimal digits") from None


def _convert_exact_id(value: Any) -> UUID:
    # Rows are looked up by the stored text of this id.
    if not are_ids((value,)):
        raise ValueError(f"{show_value(value)} is not an id of 32 lower-case hexadecimal digits")
    return UUID(value)


def _convert_time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"{show_value(value)} is not a time") from None
    if time.tzinfo is not None:
        raise ValueError(f"{show_value(value)} is a time with a zone")
    return time


def _convert_integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{show_value(value)} is not an integer")
    return value


def _convert_number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{show_value(value)} is not a finite number")
    return float(value)


def _convert_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show_value(value)} is not a text")
    return value


def _convert_bytes(value: Any) -> bytes:
    if not isinstance(value, (bytes, memoryview)):
        raise ValueError(f"{show_value(value)} is not bytes")
    return bytes(value)


def _limit_range(convert: Callable[[Any], Any], least: float, most: float) -> Callable[[Any], Any]:
    def convert_limited(value: Any) -> Any:
        number = convert(value)
        if not least <= number <= most:
            raise ValueError(f"{show_value(value)} is not from {least} to {most}")
        return number

    return convert_limited


def _require_shape(convert: Callable[[Any], Any], shape: Any) -> Callable[[Any], Any]:
    def convert_shaped(value: Any) -> Any:
        parsed = convert(value)
        if not _has_shape(parsed, shape):
            raise ValueError(f"{show_value(value)} is JSON of another form")
        return parsed

    return convert_shaped


def _has_shape(parsed: Any, shape: Any) -> bool:
    if isinstance(shape, list):
        return isinstance(parsed, list) and all(_has_shape(item, shape[0]) for item in parsed)
    return isinstance(parsed, shape) and not isinstance(parsed, bool)


class Undecoded(bytes):
    """The bytes of a text in SQLite, which may not be valid UTF-8."""


def decode(value: Any) -> Any:
    """Decode a text; raise ValueError if it is not UTF-8."""
    if not isinstance(value, Undecoded):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{_shorten(bytes(value))} is not text in UTF-8") from None


def decode_or_bytes(value: Any) -> Any:
    """Decode a text; return it as `Undecoded` if it is not UTF-8, and return other values unchanged."""
    try:
        return decode(value)
    except ValueError:
        return value


def _shorten(value: Any) -> str:
    shown = repr(value[: _SHOWN_CHARACTERS + 1] if isinstance(value, (str, bytes)) else value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
