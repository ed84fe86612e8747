"""What checks hand over: a count of each kind, and the first ids of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

_ID = re.compile(r"[0-9a-f]{32}", flags=re.ASCII)


@dataclass(frozen=True)
class Finding:
    """Something that should not be there.

    Attributes
    ----------
    kind : str
        One of `kinds.KINDS`.
    count : int
        How many there are.
    ids : tuple of str
        Some of them, ascending: ids with dashes, names of tables, paths. What should be an id and is none
        stands as it is stored.
    what : str
        What they are.
    remedy : str
        What can be done.
    details : tuple of str
        What else there is to say, of no more of them than `ids` names.
    """

    kind: str
    count: int
    ids: tuple[str, ...]
    what: str
    remedy: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unchecked:
    """What could not be looked for, and why."""

    kind: str
    why: str


@dataclass(frozen=True)
class Examination:
    """What was found in one database.

    Attributes
    ----------
    database : str
        Its path or URL.
    findings : tuple of Finding
        None where all is well.
    unchecked : tuple of Unchecked
        What could not be looked for before an upgrade without reading images, or for want of a column.
    """

    database: str
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]


@dataclass
class _Tally:
    count: int = 0
    ids: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


class Findings:
    """Counts what checks find, and keeps the first ids of each kind.

    Parameters
    ----------
    limit : int
        Most ids and details of a kind; 0 keeps all.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.unchecked: list[Unchecked] = []
        self._tallies: dict[str, _Tally] = {}

    def add(self, kind: str, identity: object, detail: str = "") -> None:
        """Count one more of a kind."""
        self.add_all(kind, 1, [identity])
        if detail:
            self.say(kind, f"{show(identity)}: {detail}")

    def add_all(self, kind: str, count: int, identities: Iterable[object]) -> None:
        """Count some more of a kind, of which at least as many are named as are kept."""
        tally = self._tally(kind)
        tally.count += count
        for identity in identities:
            if self._is_full(tally.ids):
                return
            tally.ids.append(show(identity))

    def say(self, kind: str, detail: str) -> None:
        """Add a line about a kind."""
        tally = self._tally(kind)
        if not self._is_full(tally.details):
            tally.details.append(detail)

    def leave_out(self, kinds: Iterable[str], why: str) -> None:
        """Say that kinds, or a part of what belongs to them, cannot be looked for."""
        self.unchecked += [Unchecked(kind, why) for kind in kinds]

    def count(self, kind: str) -> int:
        """Return how many of a kind were found so far."""
        return self._tallies[kind].count if kind in self._tallies else 0

    def ids(self, kind: str) -> tuple[str, ...]:
        """Return the ids that were kept, ascending."""
        return tuple(sorted(self._tally(kind).ids))

    def details(self, kind: str) -> tuple[str, ...]:
        """Return the lines about a kind."""
        return tuple(self._tally(kind).details)

    def _tally(self, kind: str) -> _Tally:
        return self._tallies.setdefault(kind, _Tally())

    def _is_full(self, kept: Sequence[str]) -> bool:
        return bool(self.limit) and len(kept) >= self.limit


def is_id(stored: object) -> bool:
    """Tell whether a stored value is an id: 32 lower-case hexadecimal digits, as text."""
    return isinstance(stored, str) and _ID.fullmatch(stored) is not None


def show(stored: Any) -> str:
    """Return an id with dashes; what is none, as it is stored."""
    if is_id(stored):
        return str(UUID(stored))
    return stored if isinstance(stored, str) else f"{stored!r:.80}"
