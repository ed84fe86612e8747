"""Check stored clusterings for rows without a clustering, and for incomplete clusterings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DamagedValue
from panic_tda.storage.cells import as_literal, find_damaged, read_distinct_values, read_stored_values
from panic_tda.storage.columns import ROUNDING
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.findings import Findings, show_id
from panic_tda.storage.read.summaries import ResultRow, read_result_rows
from panic_tda.storage.schema.tables import (
    EMBEDDING_PREDICTION,
    Cluster,
    ClusteringResult,
    ClusteringTree,
    Embedding,
    EmbeddingCluster,
)
from panic_tda.types import OUTLIER
from panic_tda.wording import pluralize

ORPHAN, BROKEN, OLD = "orphan_assignment", "broken_clustering", "old_clustering_tables"
_OLD_TABLES = ("clusteringresult", "cluster", "embeddingcluster")
_result: Any = ClusteringResult.__table__
_cluster: Any = Cluster.__table__
_assignment: Any = EmbeddingCluster.__table__
_embedding: Any = Embedding.__table__
_tree: Any = ClusteringTree.__table__
_TABLES = {table.name: table for table in (_tree, _assignment, EMBEDDING_PREDICTION, _cluster)}
"""Tables whose rows belong to a clustering, in the order in which they are deleted."""
ASSIGNMENTS = (_assignment, EMBEDDING_PREDICTION)
"""Tables with the assignments of embeddings: of the fit, and predicted."""


@dataclass(frozen=True)
class OrphanRows:
    """The number of rows in each table whose `result_key` belongs to no clustering."""

    key: Any
    n_rows: dict[str, int]

    @property
    def n_assignments(self) -> int:
        """Return the number of assignments; it is 0 where only clusters or parts of a tree are left."""
        return sum(self.n_rows.get(table.name, 0) for table in ASSIGNMENTS)

    def __str__(self) -> str:
        words = {
            "embeddingcluster": "assignments",
            "embeddingprediction": "predicted assignments",
            "cluster": "clusters",
            "clusteringtree": "parts of a tree",
        }
        counts = ", ".join(f"{n_rows} {words[table]}" for table, n_rows in self.n_rows.items() if n_rows)
        return f"result_key {show_id(self.key)}: {counts} without a clustering"


def check_clusterings(info: DatabaseInfo, findings: Findings) -> None:
    """Find assignments without a clustering or an embedding, and incomplete clusterings."""
    if not info.has_ours("clusteringresult"):
        return
    with info.reading("find orphan assignments") as connection:
        for orphans in find_orphans(info, connection):
            if not orphans.n_assignments:
                findings.add(BROKEN, f"result_key {show_id(orphans.key)}")
            ids = _read_assigned_ids(info, connection, orphans.key)
            findings.add_all(ORPHAN, orphans.n_assignments, ids)
            findings.say(ORPHAN if orphans.n_assignments else BROKEN, str(orphans))
        clusterings = list(read_result_rows(connection))
    for row in clusterings:
        with info.reading(f"check clustering {show_id(row.id)}") as connection:
            n_lost = 0
            for identity in find_missing_embeddings(connection, row.key):
                findings.add(ORPHAN, identity, f"no such embedding; in clustering {show_id(row.id)}")
                n_lost += 1
            if info.has_ours(EMBEDDING_PREDICTION.name):
                missing = find_missing_embeddings(connection, row.key, EMBEDDING_PREDICTION)
                for identity in missing:
                    findings.add(
                        ORPHAN, identity, f"no such embedding; predicted in clustering {show_id(row.id)}"
                    )
            reason = describe_difference(connection, row, n_lost)
        if reason:
            findings.add(BROKEN, row.id, reason)


def check_old_tables(info: DatabaseInfo, findings: Findings) -> None:
    """Find the clustering tables of the old pipeline."""
    present = [table for table in _OLD_TABLES if table in info.columns and not info.has_ours(table)]
    if present:
        with info.reading("count rows of old clusterings") as connection:
            for table in present:
                count = sa.select(sa.func.count()).select_from(sa.table(table))
                n_rows = connection.execute(count).scalar_one()
                findings.add(OLD, table, f"{n_rows} {pluralize(n_rows, 'row')}")


def find_orphans(info: DatabaseInfo, connection: Connection) -> list[OrphanRows]:
    """Count the rows of each key without a clustering, by one index lookup for each key."""
    known = set(read_stored_values(connection, sa.select(_result.c.key)))
    tables = {name: table for name, table in _TABLES.items() if name in info.columns}
    columns = [table.c.result_key for table in tables.values()]
    count = sa.select(sa.func.count())
    orphan_keys = {key for column in columns for key in read_distinct_values(connection, column)} - known
    return [
        OrphanRows(
            key,
            {
                name: int(connection.execute(count.where(table.c.result_key == as_literal(key))).scalar_one())
                for name, table in tables.items()
            },
        )
        for key in sorted(
            orphan_keys,
            key=lambda key: (not isinstance(key, int), key if isinstance(key, int) else repr(key)),
        )
    ]


def find_missing_embeddings(connection: Connection, key: Any, table: sa.Table = _assignment) -> Iterator[Any]:
    """Yield the ids of missing embeddings that a clustering refers to, by the indexes of both tables."""
    joined = table.outerjoin(_embedding, _embedding.c.id == table.c.embedding_id)
    query = sa.select(table.c.embedding_id).select_from(joined)
    of_key = table.c.result_key == as_literal(key)
    return read_stored_values(connection, query.where(of_key, _embedding.c.id.is_(None)))


def describe_difference(connection: Connection, row: ResultRow, n_lost: int) -> str:
    """Describe how the rows of a clustering differ from its stored record; "" where they agree."""
    if row.record is None:
        return f"its row cannot be read ({row.fault})"
    if (damaged := _find_damaged_value(connection, row.key)) is not None:
        return str(damaged)
    record = row.record
    sizes = _count_members(connection, row.key)
    clusters = _read_clusters(connection, row.key)
    counts = {
        "assignments": (record.n_embeddings, sum(sizes.values()) - n_lost),
        "outliers": (record.n_outliers, sizes.pop(OUTLIER, 0)),
        "clusters": (record.n_clusters, len(clusters)),
    }
    reasons = [
        f"{n_stored} {name} stored and {n_present} there"
        for name, (n_stored, n_present) in counts.items()
        if n_stored != n_present
    ]
    unknown = sorted(sizes.keys() - clusters.keys())
    if unknown:
        reasons.append(f"no cluster for label {', '.join(map(str, unknown))}")
    for label, (size, label_of_medoid) in clusters.items():
        if label < 0:
            reasons.append(f"label {label} is negative")
        if size != sizes.get(label, 0):
            n_members = sizes.get(label, 0)
            reasons.append(f"cluster {label} has {n_members} {pluralize(n_members, 'member')}, not {size}")
        if label_of_medoid != label:
            reasons.append(f"the medoid of cluster {label} is not one of its members")
    return ", ".join(reasons)


def delete_key(info: DatabaseInfo, connection: Connection, key: Any) -> None:
    """Delete a clustering with all rows that have its key."""
    for name, table in _TABLES.items():
        if info.has_ours(name):
            connection.execute(sa.delete(table).where(table.c.result_key == as_literal(key)))
    connection.execute(sa.delete(ClusteringResult).where(ClusteringResult.key == as_literal(key)))


def delete_missing(connection: Connection, key: Any, table: sa.Table = _assignment) -> int:
    """Delete the assignments of a clustering whose embeddings are missing; return their number."""
    embedding_exists = sa.select(_embedding.c.id).where(_embedding.c.id == table.c.embedding_id).exists()
    of_key = table.c.result_key == as_literal(key)
    deletion = connection.execute(sa.delete(table).where(of_key, ~embedding_exists))
    return int(deletion.rowcount)


def _find_damaged_value(connection: Connection, key: Any) -> DamagedValue | None:
    """Return the first unreadable value in the clusters and assignments of a clustering, or None."""
    clusters = sa.select(*_cluster.c).where(_cluster.c.result_key == as_literal(key))
    label, probability = _assignment.c.label, _assignment.c.probability
    wrong = [~label.between(OUTLIER, 2**31 - 1), ~probability.between(-ROUNDING, 1 + ROUNDING)]
    if connection.dialect.name == "sqlite":
        wrong += [sa.func.typeof(label) != "integer", sa.func.typeof(probability).not_in(["real", "integer"])]
    assignments = sa.select(*_assignment.c).where(_assignment.c.result_key == as_literal(key), sa.or_(*wrong))
    return find_damaged(connection, clusters) or find_damaged(connection, assignments.limit(1))


def _count_members(connection: Connection, key: int) -> dict[int, int]:
    query = sa.select(_assignment.c.label, sa.func.count()).where(_assignment.c.result_key == key)
    return {row[0]: row[1] for row in connection.execute(query.group_by(_assignment.c.label))}


def _read_clusters(connection: Connection, key: int) -> dict[int, tuple[int, int | None]]:
    """Return the stored size and the label of the medoid's assignment by cluster label."""
    of_medoid = sa.and_(
        _assignment.c.result_key == _cluster.c.result_key,
        _assignment.c.embedding_id == _cluster.c.medoid_embedding_id,
    )
    query = sa.select(_cluster.c.label, _cluster.c.size, _assignment.c.label)
    query = query.select_from(_cluster.outerjoin(_assignment, of_medoid)).where(_cluster.c.result_key == key)
    return {label: (size, label_of_medoid) for label, size, label_of_medoid in connection.execute(query)}


def _read_assigned_ids(info: DatabaseInfo, connection: Connection, key: int) -> Iterator[Any]:
    for table in ASSIGNMENTS:
        if info.has_ours(table.name):
            of_key = table.c.result_key == as_literal(key)
            yield from read_stored_values(connection, sa.select(table.c.embedding_id).where(of_key))
