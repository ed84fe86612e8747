"""What the columns of a query hold: how a stored value is converted, or named where it cannot be."""

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

from panic_tda.errors import OUTLIER, DamagedValue

AnySelect: TypeAlias = "Select[*tuple[Any, ...]]"

_ID = re.compile("[0-9a-f]{32}", flags=re.ASCII)
_SHOWN_CHARACTERS = 40
ROUNDING = 1e-6
"""By how much a stored share may lie outside 0 to 1."""
_LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("cluster", "size"): (1, 2**31 - 1),
    ("cluster", "persistence"): (-ROUNDING, 1 + ROUNDING),
    ("cluster", "medoid_copies"): (0, 2**31 - 1),
    ("embeddingcluster", "label"): (OUTLIER, 2**31 - 1),
    ("embeddingcluster", "probability"): (-ROUNDING, 1 + ROUNDING),
    ("clusteringtree", "part"): (0, 2**31 - 1),
}
"""The least and the greatest value of columns that not every number of their type may stand in."""
_SHAPES: dict[tuple[str, str], Any] = {
    ("experimentconfig", "networks"): [[str]],
    ("experimentconfig", "seeds"): [int],
    ("experimentconfig", "prompts"): [str],
    ("experimentconfig", "embedding_models"): [str],
    ("run", "network"): [str],
    ("clusteringresult", "parameters"): dict,
}
"""What the JSON of some columns is: a type, or a list of one."""
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
"""What converting a stored value raises where the value is another than its column's."""


@dataclass(frozen=True)
class ResultColumn:
    """A result column of a query, and the stored column behind it.

    Attributes
    ----------
    table, name : str
        Of the stored column; the table is empty where an expression has no column.
    convert : callable
        Returns the value of a stored one; raises one of `FAULTS` where it is none.
    optional : bool
        Whether it may be NULL.
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
        """Whether it is a column of the primary key itself."""
        return self.name in {key.name for key in self.keys}

    def read(self, value: Any) -> Any:
        """Return the value of a stored one; raises one of `FAULTS` where it is none."""
        if value is None:
            if not self.optional:
                raise ValueError("it is NULL")
            return None
        return self.convert(value)

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with a stored value of which texts are undecoded, or None."""
        try:
            self.read(decode(value))
        except FAULTS as error:
            return str(error)
        return None


def damaged_value(table: str, column: str, keys: Sequence[Any], reason: str) -> DamagedValue:
    """Return the error that names a stored value.

    Parameters
    ----------
    table, column : str
        Where it is stored.
    keys : sequence
        The row's primary key; empty where it is not known.
    reason : str
        What is wrong with it.
    """
    row = ", ".join(show_value(key) for key in keys)
    place = f"{f'table {table}, ' if table else ''}column {column}{f', row {row}' if row else ''}"
    remedy = (
        "delete that clustering and cluster again"
        if table in _OURS
        else "correct it in the database (panic-tda doctor lists such values)"
    )
    message = f"{place}: the stored value cannot be read ({reason}); {remedy}"
    return DamagedValue(message, place=place, reason=reason)


def show_value(value: Any) -> str:
    """Return a stored value as a message shows it: an id with dashes, others shortened."""
    value = decode_or_bytes(value)
    if isinstance(value, str):
        try:
            return str(UUID(value)) if len(value) == 32 else _shortened(value)
        except ValueError:
            return _shortened(value)
    return _shortened(value)


def describe_columns(query: AnySelect) -> list[ResultColumn]:
    """Return the result columns of a query."""
    optional = {
        table
        for source in query.get_final_froms()
        for element in visitors.iterate(source)
        if isinstance(element, Join) and element.isouter
        for table in visitors.iterate(element.right)
    }
    return [_describe(element, optional) for element in query.selected_columns]


def parse_json(text: Any) -> Any:
    """Return the value of stored JSON, in which every number is finite.

    Raises
    ------
    ValueError, RecursionError
        It is no JSON.
    """
    # Drivers of other databases have parsed it.
    return json.loads(text, parse_constant=_refuse, parse_float=_finite) if isinstance(text, str) else text


def are_ids(values: Sequence[Any]) -> bool:
    """Tell whether stored values are ids: text of 32 lower-case hexadecimal digits."""
    return all(isinstance(value, str) and _ID.fullmatch(value) for value in values)


def _describe(element: Any, outer: Collection[Any]) -> ResultColumn:
    element = element.element if isinstance(element, sa.Label) else element
    stored = next((part for part in visitors.iterate(element) if isinstance(part, sa.Column)), None)
    convert = _converter(element.type)
    if stored is None:
        return ResultColumn("", getattr(element, "name", "value"), convert, optional=True, keys=())
    source = stored.table
    table = getattr(source, "element", source)
    if (table.name, stored.name) == ("clusteringresult", "id"):
        convert = _exact_id
    if element is stored and (limits := _LIMITS.get((table.name, stored.name))):
        convert = _within(convert, *limits)
    if element is stored and (shape := _SHAPES.get((table.name, stored.name))):
        convert = _shaped(convert, shape)
    is_plain = element is stored or isinstance(element, sa.TypeCoerce)
    return ResultColumn(
        table.name,
        stored.name,
        convert,
        optional=bool(stored.nullable) or source in outer or not is_plain,
        keys=tuple(source.primary_key),
    )


def _converter(kind: sa.types.TypeEngine[Any]) -> Callable[[Any], Any]:
    """Return what makes a value of this type of a stored one."""
    plain = kind.impl_instance if isinstance(kind, sa.types.TypeDecorator) else kind
    # In this order: an enumeration is a kind of text.
    for known, convert in (
        (sa.Enum, _enumerated(kind)),
        (sa.Uuid, _id),
        (sa.DateTime, _time),
        (sa.JSON, parse_json),
        (sa.BigInteger, _integer),
        (sa.Integer, _within(_integer, -(2**31), 2**31 - 1)),
        (sa.Numeric, _number),
        (sa.String, _text),
        (sa.LargeBinary, _bytes),
    ):
        if isinstance(plain, known):
            return convert
    return lambda value: value


def _enumerated(kind: Any) -> Callable[[Any], Any]:
    names: dict[str, enum.Enum] = {member.name: member for member in getattr(kind, "enum_class", None) or ()}

    def convert(value: Any) -> enum.Enum:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{show_value(value)} is not one of {', '.join(names)}")
        return names[value]

    return convert


def _id(value: Any) -> UUID:
    if not isinstance(value, str):
        raise ValueError(f"{show_value(value)} is not an id stored as text")
    try:
        return UUID(value)
    except ValueError:
        raise ValueError(f"{show_value(value)} is not an id of 32 hexadecimal digits") from None


def _exact_id(value: Any) -> UUID:
    # Rows are looked up by it, as it is written.
    if not are_ids((value,)):
        raise ValueError(f"{show_value(value)} is not an id of 32 lower-case hexadecimal digits")
    return UUID(value)


def _time(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"{show_value(value)} is not a time") from None
    if time.tzinfo is not None:
        raise ValueError(f"{show_value(value)} is a time with a zone")
    return time


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{show_value(value)} is not an integer")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{show_value(value)} is not a finite number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show_value(value)} is not a text")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, (bytes, memoryview)):
        raise ValueError(f"{show_value(value)} is not bytes")
    return bytes(value)


def _within(convert: Callable[[Any], Any], least: float, most: float) -> Callable[[Any], Any]:
    def limited(value: Any) -> Any:
        number = convert(value)
        if not least <= number <= most:
            raise ValueError(f"{show_value(value)} is not from {least} to {most}")
        return number

    return limited


def _shaped(convert: Callable[[Any], Any], shape: Any) -> Callable[[Any], Any]:
    def of_shape(value: Any) -> Any:
        parsed = convert(value)
        if not _has_shape(parsed, shape):
            raise ValueError(f"{show_value(value)} is JSON of another form")
        return parsed

    return of_shape


def _has_shape(parsed: Any, shape: Any) -> bool:
    if isinstance(shape, list):
        return isinstance(parsed, list) and all(_has_shape(item, shape[0]) for item in parsed)
    return isinstance(parsed, shape) and not isinstance(parsed, bool)


class Undecoded(bytes):
    """A text as SQLite stores it."""


def decode(value: Any) -> Any:
    """Return a text decoded; raises ValueError where it is not UTF-8."""
    if not isinstance(value, Undecoded):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{_shortened(bytes(value))} is not text in UTF-8") from None


def decode_or_bytes(value: Any) -> Any:
    """Return a text decoded, or as bytes where it is not UTF-8; other values as they are."""
    try:
        return decode(value)
    except ValueError:
        return bytes(value)


def _shortened(value: Any) -> str:
    shown = repr(value[: _SHOWN_CHARACTERS + 1] if isinstance(value, (str, bytes)) else value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
