"""Plan and apply repairs that lose no data; the repair of each kind is one transaction.

A plan is made while others may write, so `apply` checks every row again in the transaction that deletes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import slices
from panic_tda.storage.doctor import clusterings, predictions, trees
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.duplicates import DUPLICATE, find_copies, find_duplicates, find_removable
from panic_tda.storage.read.summaries import read_result_rows
from panic_tda.storage.schema.tables import Embedding

_AT_ONCE = 500
_embedding: Any = Embedding.__table__


@dataclass(frozen=True)
class Repair:
    """The planned repair of one kind of finding.

    Attributes
    ----------
    kind : str
        Name of the kind, as in `Finding`.
    count : int
        Number of rows that are deleted.
    what : str
        Description: which rows are deleted, and which stay.
    n_left : int
        Number of findings of the kind that stay, because deleting them would lose data.
    apply : callable
        Function that applies the repair inside a write transaction and returns the number of deleted rows.
    """

    kind: str
    count: int
    what: str
    n_left: int
    apply: Callable[[Connection], int]


def plan_duplicates(info: DatabaseInfo) -> Repair:
    """Plan to delete embeddings that equal another one byte by byte and that no clustering refers to."""
    pairs: list[tuple[Any, Any]] = []
    count = n_left = 0
    with info.reading("find duplicate embeddings") as connection:
        for pair, copies in find_duplicates(info, connection, vectors=True):
            n_removable = len(find_removable(copies))
            count, n_left = count + n_removable, n_left + len(copies) - 1 - n_removable
            pairs += [pair] if n_removable else []

    def apply(connection: Connection) -> int:
        return sum(
            _delete_embeddings(connection, ids) for ids in _find_removable_ids(info, connection, pairs)
        )

    what = "embeddings that equal an older one of their invocation and model, byte by byte, are deleted"
    return Repair(DUPLICATE, count, what, n_left, apply)


def plan_orphan_assignments(info: DatabaseInfo) -> Repair:
    """Plan to delete assignments without an embedding, and all rows of keys without a clustering."""
    with info.reading("find orphan assignments") as connection:
        planned = [orphans for orphans in clusterings.find_orphans(info, connection) if orphans.n_assignments]
        n_missing = {
            (row.key, table): n_embeddings
            for row in read_result_rows(connection)
            for table in clusterings.ASSIGNMENTS
            if info.has_ours(table.name)
            and (
                n_embeddings := sum(
                    1 for _ in clusterings.find_missing_embeddings(connection, row.key, table)
                )
            )
        }

    def apply(connection: Connection) -> int:
        keys = {orphans.key for orphans in planned}
        current = [orphans for orphans in clusterings.find_orphans(info, connection) if orphans.key in keys]
        for orphans in current:
            clusterings.delete_key(info, connection, orphans.key)
        n_removed = sum(orphans.n_assignments for orphans in current)
        return n_removed + sum(clusterings.delete_missing(connection, *place) for place in n_missing)

    what = (
        "assignments whose clustering (with its clusters and tree) or whose embedding is missing are deleted"
    )
    count = sum(orphans.n_assignments for orphans in planned) + sum(n_missing.values())
    return Repair(clusterings.ORPHAN, count, what, 0, apply)


def plan_broken_clusterings(info: DatabaseInfo) -> Repair:
    """Plan to delete incomplete clusterings with their assignments; embeddings stay."""
    with info.reading("find broken clusterings") as connection:
        broken = _find_broken_keys(info, connection)

    def apply(connection: Connection) -> int:
        # Nobody else can write now: only clusterings that are still broken are deleted.
        still_broken = _find_broken_keys(info, connection, among=broken)
        for key in still_broken:
            clusterings.delete_key(info, connection, key)
        return len(still_broken)

    what = "incomplete clusterings are deleted with their assignments; embeddings stay"
    return Repair(clusterings.BROKEN, len(broken), what, 0, apply)


def plan_damaged_trees(info: DatabaseInfo) -> Repair:
    """Plan to delete unreadable trees; their clusterings stay, but can no longer be cut again."""
    keys = [key for _, key, _ in trees.find_damaged(info, trees.TREE)]
    what = "trees that cannot be read are deleted; their clusterings stay, without a tree"
    return Repair(trees.TREE, len(keys), what, 0, _delete_each(keys, trees.delete_tree))


def plan_damaged_neighbours(info: DatabaseInfo) -> Repair:
    """Plan to delete unreadable neighbour lists; clusterings and trees stay."""
    keys = [key for _, key, _ in trees.find_damaged(info, trees.NEIGHBOURS)]
    what = "neighbour lists that cannot be read are deleted; their clusterings and trees stay"
    return Repair(trees.NEIGHBOURS, len(keys), what, 0, _delete_each(keys, trees.delete_neighbours))


def plan_damaged_predictions(info: DatabaseInfo) -> Repair:
    """Plan to delete invalid predicted assignments; the embeddings can be assigned again."""
    damaged = predictions.find_damaged_predictions(info)
    what = "invalid predicted assignments are deleted; the embeddings can be assigned again"

    def apply(connection: Connection) -> int:
        return sum(predictions.delete_damaged(connection, key) for key in damaged)

    n_rows = sum(len(ids) for ids in damaged.values())
    return Repair(predictions.DAMAGED, n_rows, what, 0, apply)


def _delete_each(
    keys: Sequence[Any], delete: Callable[[Connection, Any], None]
) -> Callable[[Connection], int]:
    def apply(connection: Connection) -> int:
        for key in keys:
            delete(connection, key)
        return len(keys)

    return apply


def _find_broken_keys(
    info: DatabaseInfo, connection: Connection, among: list[Any] | None = None
) -> list[Any]:
    orphan_keys = [
        orphans.key for orphans in clusterings.find_orphans(info, connection) if not orphans.n_assignments
    ]
    broken = orphan_keys + [
        row.key
        for row in read_result_rows(connection)
        if (among is None or row.key in among)
        and clusterings.describe_difference(
            connection, row, sum(1 for _ in clusterings.find_missing_embeddings(connection, row.key))
        )
    ]
    return broken if among is None else [key for key in broken if key in among]


def _find_removable_ids(
    info: DatabaseInfo, connection: Connection, pairs: list[tuple[Any, Any]]
) -> Iterator[list[Any]]:
    for chunk in slices(len(pairs), _AT_ONCE):
        groups = find_copies(info, connection, pairs[chunk], vectors=True)
        yield [identity for _, copies in groups for identity in find_removable(copies)]


def _delete_embeddings(connection: Connection, ids: list[Any]) -> int:
    column = sa.type_coerce(_embedding.c.id, sa.String)
    return int(connection.execute(sa.delete(Embedding).where(column.in_(ids))).rowcount) if ids else 0
