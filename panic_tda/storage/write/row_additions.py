"""Look up and count the rows of an import, whether they come from files of embeddings or from a dump."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import slices
from panic_tda.storage.bulk import read_by_keys
from panic_tda.storage.cells import read_rows
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.write.import_summary import ImportSummary
from panic_tda.storage.write.times import UnknownTimes
from panic_tda.types import Float32Array
from panic_tda.wording import pluralize

_QUERY_KEYS = 8192
"""Number of keys that fit into one SQL statement."""


class RowAdditions:
    """The counts of added rows of one import, the vector length of each model, and look-ups by key.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`: all rows are added, or none.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._times = UnknownTimes(connection)
        self._widths: dict[str, int] = {}
        self._n_rows = self._n_runs = self._n_invocations = self._n_embeddings = 0

    def _select(
        self, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Sequence[Any]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query whose column has one of these values."""
        for chunk in slices(len(values), _QUERY_KEYS):
            yield from read_rows(self._connection, query.where(column.in_(values[chunk])))

    def _read_by_id(
        self, table: Any, columns: Sequence[str], ids: Iterable[str]
    ) -> dict[str, tuple[Any, ...]]:
        """Return columns of the rows with these ids, by id, the first column."""
        rows = read_by_keys(self._connection, table, columns, {"id": list(ids)})
        return {row[0]: tuple(row) for row in rows}

    def _describe_other_width(self, model: str, width: int) -> str | None:
        """Describe how the length of a vector differs from earlier ones of its model; None if it does not."""
        if model not in self._widths:
            self._widths[model] = stored_width(self._connection, model) // FLOAT_BYTES or width
        expected = self._widths[model]
        if width == expected:
            return None
        dimensions = pluralize(width, "dimension")
        return f"the vector has {width} {dimensions}, those of {model} before it have {expected}"

    def _build_summary(self, n_files: int, **more: Any) -> ImportSummary:
        return ImportSummary(
            n_files=n_files,
            n_rows=self._n_rows,
            n_new_embeddings=self._n_embeddings,
            n_new_invocations=self._n_invocations,
            n_new_runs=self._n_runs,
            models=tuple(sorted(self._widths)),
            **more,
        )


def as_blobs(vectors: Float32Array) -> list[bytes]:
    """Return each row, (u, d) float32, as the bytes that are stored."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    blobs: list[bytes] = rows.view(f"V{FLOAT_BYTES * rows.shape[1]}")[:, 0].tolist()
    return blobs
