"""When rows were made, as databases of the generation pipeline store it.

The times of clusterings are UTC. Those of experiments, invocations and embeddings are what the clock of the
pipeline's machine showed: nothing says in which zone, and none is made up.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

TIMES = ("started_at", "completed_at")
"""Columns of an experiment, an invocation and an embedding."""
UNKNOWN_TIME = datetime(1970, 1, 1)
"""What stands for a time that is not known where a column does not take NULL: before there was any model."""


class UnknownTimes:
    """What stands for times that are not known in the tables of one database: NULL, where columns take it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tables: dict[str, dict[str, datetime | None]] = {}

    def unknown(self, table: str) -> dict[str, datetime | None]:
        """Return the values of these columns, by name."""
        if table not in self._tables:
            takes_null = {
                column["name"]: column["nullable"]
                for column in sa.inspect(self._connection).get_columns(table)
            }
            self._tables[table] = {name: None if takes_null[name] else UNKNOWN_TIME for name in TIMES}
        return self._tables[table]

    def stored(self, table: str) -> list[str | None]:
        """Return the same as these columns are written."""
        return [as_stored(time) for time in self.unknown(table).values()]


def as_stored(time: datetime | None) -> str | None:
    """Return a naive time as it is written."""
    return None if time is None else time.isoformat(sep=" ", timespec="microseconds")
