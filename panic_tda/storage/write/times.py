"""Convert the times of imported rows to the form that databases of the generation pipeline store.

The times of clusterings are UTC. The times of experiments, invocations and embeddings are local times of the
pipeline's machine: their time zone is unknown, so they are stored without one.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

TIMES = ("started_at", "completed_at")
"""The columns with times in `experimentconfig`, `invocation` and `embedding`."""
UNKNOWN_TIME = datetime(1970, 1, 1)
"""The value for an unknown time in a column that does not allow NULL."""


class UnknownTimes:
    """The values for unknown times in the tables of one database: NULL if a column allows it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tables: dict[str, dict[str, datetime | None]] = {}

    def unknown(self, table: str) -> dict[str, datetime | None]:
        """Return the value for an unknown time of each of the `TIMES` columns of a table, by name."""
        if table not in self._tables:
            takes_null = {
                column["name"]: column["nullable"]
                for column in sa.inspect(self._connection).get_columns(table)
            }
            self._tables[table] = {name: None if takes_null[name] else UNKNOWN_TIME for name in TIMES}
        return self._tables[table]

    def stored(self, table: str) -> list[str | None]:
        """Return the values of `unknown` as they are stored, in the order of `TIMES`."""
        return [as_stored(time) for time in self.unknown(table).values()]


def as_stored(time: datetime | None) -> str | None:
    """Return a time without time zone as stored text."""
    return None if time is None else time.isoformat(sep=" ", timespec="microseconds")
