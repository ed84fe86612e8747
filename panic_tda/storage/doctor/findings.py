"""The results of checks: for each kind of finding its count, first ids and details."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from panic_tda.storage.columns import are_ids


@dataclass(frozen=True)
class Finding:
    """All errors of one kind in a database.

    Attributes
    ----------
    kind : str
        One of `kinds.KINDS`.
    count : int
        How many there are.
    ids : tuple of str
        Some of them, ascending: ids with dashes, names of tables, paths. An invalid id is shown as stored.
    what : str
        Description of the kind.
    remedy : str
        Steps that solve the problem.
    details : tuple of str
        Further descriptions, at most as many as `ids`.
    """

    kind: str
    count: int
    ids: tuple[str, ...]
    what: str
    remedy: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unchecked:
    """A kind of finding that could not be checked, with the reason."""

    kind: str
    why: str


@dataclass(frozen=True)
class Examination:
    """The findings of one database.

    Attributes
    ----------
    database : str
        Its path or URL.
    findings : tuple of Finding
        Empty if there are no errors.
    unchecked : tuple of Unchecked
        Kinds that could not be checked without reading images before an upgrade, or without a missing column.
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
    """A collection of findings: the count, the first ids and the details of each kind.

    Parameters
    ----------
    limit : int
        Largest number of ids and details of a kind; 0 keeps all.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.unchecked: list[Unchecked] = []
        self._tallies: dict[str, _Tally] = {}

    def add(self, kind: str, identity: object, detail: str = "") -> None:
        """Add one finding of a kind, with an optional detail."""
        self.add_all(kind, 1, [identity])
        if detail:
            self.say(kind, f"{show_id(identity)}: {detail}")

    def add_all(self, kind: str, count: int, identities: Iterable[object]) -> None:
        """Add several findings of a kind; `identities` may stop after `limit` of them."""
        tally = self._get_tally(kind)
        tally.count += count
        for identity in identities:
            if self._is_full(tally.ids):
                return
            tally.ids.append(show_id(identity))

    def say(self, kind: str, detail: str) -> None:
        """Add a detail about a kind."""
        tally = self._get_tally(kind)
        if not self._is_full(tally.details):
            tally.details.append(detail)

    def leave_out(self, kinds: Iterable[str], why: str) -> None:
        """Record that kinds cannot be checked, or not completely."""
        self.unchecked += [Unchecked(kind, why) for kind in kinds]

    def count(self, kind: str) -> int:
        """Return the number of findings of a kind so far."""
        return self._tallies[kind].count if kind in self._tallies else 0

    def ids(self, kind: str) -> tuple[str, ...]:
        """Return the stored ids of a kind, ascending."""
        return tuple(sorted(self._get_tally(kind).ids))

    def details(self, kind: str) -> tuple[str, ...]:
        """Return the details about a kind."""
        return tuple(self._get_tally(kind).details)

    def _get_tally(self, kind: str) -> _Tally:
        return self._tallies.setdefault(kind, _Tally())

    def _is_full(self, items: Sequence[str]) -> bool:
        return bool(self.limit) and len(items) >= self.limit


def show_id(stored: Any) -> str:
    """Return an id with dashes; an invalid id as it is stored."""
    if are_ids([stored]):
        return str(UUID(stored))
    return stored if isinstance(stored, str) else f"{stored!r:.80}"
