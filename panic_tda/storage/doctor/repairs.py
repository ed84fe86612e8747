"""Repairs that lose nothing: what would be done is said first, and done in one transaction a kind.

What is to go is found while others may write, and is looked at once more in the transaction in which it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.doctor import clusterings
from panic_tda.storage.doctor.duplicates import DUPLICATE, copies_of, duplicates, without_loss
from panic_tda.storage.doctor.subject import Subject
from panic_tda.storage.schema.tables import Embedding

_AT_ONCE = 500
_embedding: Any = Embedding.__table__


@dataclass(frozen=True)
class Repair:
    """What is to be done about one kind.

    Attributes
    ----------
    kind : str
        As findings name it.
    count : int
        How many of them go.
    what : str
        What goes, and what becomes of the rest.
    n_left : int
        How many of the kind stay, because something would be lost with them.
    apply : callable
        Does it inside a write transaction, and returns how many were removed.
    """

    kind: str
    count: int
    what: str
    n_left: int
    apply: Callable[[Connection], int]


def plan_duplicates(subject: Subject) -> Repair:
    """Remove embeddings that are equal, byte by byte, to one that stays, and that no clustering names."""
    pairs: list[tuple[Any, Any]] = []
    count = n_left = 0
    with subject.reading("look for embeddings of one output") as connection:
        for pair, copies in duplicates(subject, connection, vectors=True):
            n_gone = len(without_loss(copies))
            count, n_left = count + n_gone, n_left + len(copies) - 1 - n_gone
            pairs += [pair] if n_gone else []

    def apply(connection: Connection) -> int:
        return sum(_delete(connection, gone) for gone in _without_loss(subject, connection, pairs))

    what = "embeddings that repeat an older one of their invocation and model, byte for byte, are deleted"
    return Repair(DUPLICATE, count, what, n_left, apply)


def plan_orphan_assignments(subject: Subject) -> Repair:
    """Remove assignments without a clustering, with its clusters and tree, and those without an embedding."""
    with subject.reading("look for the clusterings of assignments") as connection:
        gone = [one for one in clusterings.gone_keys(subject, connection) if one.n_assignments]
        lost = {
            one.key: n_lost
            for one in clusterings.stored_clusterings(connection)
            if (n_lost := sum(1 for _ in clusterings.lost_embeddings(connection, one.key)))
        }

    def apply(connection: Connection) -> int:
        keys = {one.key for one in gone}
        still = [one for one in clusterings.gone_keys(subject, connection) if one.key in keys]
        for one in still:
            clusterings.delete_key(connection, one.key)
        n_removed = sum(one.n_assignments for one in still)
        return n_removed + sum(clusterings.delete_lost(connection, key) for key in lost)

    what = "assignments whose clustering (with its clusters and tree) or whose embedding is gone are deleted"
    count = sum(one.n_assignments for one in gone) + sum(lost.values())
    return Repair(clusterings.ORPHAN, count, what, 0, apply)


def plan_broken_clusterings(subject: Subject) -> Repair:
    """Remove clusterings that are not whole, with their assignments; embeddings stay."""
    with subject.reading("look for broken clusterings") as connection:
        broken = _broken(subject, connection)

    def apply(connection: Connection) -> int:
        # Broken for good: only these are looked at again, while nobody else can write.
        still = _broken(subject, connection, among=broken)
        for key in still:
            clusterings.delete_key(connection, key)
        return len(still)

    what = "clusterings that are not whole are deleted with their assignments; embeddings stay"
    return Repair(clusterings.BROKEN, len(broken), what, 0, apply)


def plan_damaged_trees(subject: Subject) -> Repair:
    """Remove trees that cannot be read; their clusterings stay, and can no longer be cut anew."""
    keys = [key for _, key, _ in clusterings.damaged_trees(subject)]

    def apply(connection: Connection) -> int:
        for key in keys:
            clusterings.delete_tree(connection, key)
        return len(keys)

    what = "trees that cannot be read are deleted; their clusterings stay, without a tree"
    return Repair(clusterings.TREE, len(keys), what, 0, apply)


def _broken(subject: Subject, connection: Connection, among: list[Any] | None = None) -> list[Any]:
    left = [one.key for one in clusterings.gone_keys(subject, connection) if not one.n_assignments]
    broken = left + [
        one.key
        for one in clusterings.stored_clusterings(connection)
        if (among is None or one.key in among)
        and clusterings.differs(
            connection, one, sum(1 for _ in clusterings.lost_embeddings(connection, one.key))
        )
    ]
    return broken if among is None else [key for key in broken if key in among]


def _without_loss(
    subject: Subject, connection: Connection, pairs: list[tuple[Any, Any]]
) -> Iterator[list[Any]]:
    for start in range(0, len(pairs), _AT_ONCE):
        some = copies_of(subject, connection, pairs[start : start + _AT_ONCE], vectors=True)
        yield [identity for _, copies in some for identity in without_loss(copies)]


def _delete(connection: Connection, ids: list[Any]) -> int:
    column = sa.type_coerce(_embedding.c.id, sa.String)
    return int(connection.execute(sa.delete(Embedding).where(column.in_(ids))).rowcount) if ids else 0
