"""Stored clusterings: rows that belong to none, and clusterings that are not whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import OUTLIER, DamagedTree, DamagedValue, DatabaseError
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage.cells import as_literal, find_damaged, read_each
from panic_tda.storage.columns import ROUNDING
from panic_tda.storage.doctor.findings import Findings, show
from panic_tda.storage.doctor.subject import Subject, first_values
from panic_tda.storage.read import trees
from panic_tda.storage.schema.tables import (
    Cluster,
    ClusteringResult,
    ClusteringTree,
    Embedding,
    EmbeddingCluster,
)
from panic_tda.wording import pluralize

ORPHAN, BROKEN, OLD = "orphan_assignment", "broken_clustering", "old_clustering_tables"
TREE = "damaged_tree"
_TABLES = {table.__tablename__: table for table in (EmbeddingCluster, Cluster, ClusteringTree)}
_OLD_TABLES = ("clusteringresult", "cluster", "embeddingcluster")
_result: Any = ClusteringResult.__table__
_cluster: Any = Cluster.__table__
_assignment: Any = EmbeddingCluster.__table__
_embedding: Any = Embedding.__table__


class Clustering(NamedTuple):
    """A stored clustering: its short number and its id, as they are stored.

    Attributes
    ----------
    key, id
        As stored.
    record : ClusteringRecord or None
        None where the row cannot be read.
    fault : str
        Why it cannot be read; empty where it can.
    """

    key: Any
    id: Any
    record: ClusteringRecord | None
    fault: str


@dataclass(frozen=True)
class Gone:
    """Rows by table of a result key without a clustering."""

    key: Any
    n_rows: dict[str, int]

    @property
    def n_assignments(self) -> int:
        """How many assignments there are; clusters and parts of a tree may be left alone."""
        return self.n_rows["embeddingcluster"]

    def __str__(self) -> str:
        words = {
            "embeddingcluster": "assignments",
            "cluster": "clusters",
            "clusteringtree": "parts of a tree",
        }
        counts = ", ".join(f"{n_rows} {words[table]}" for table, n_rows in self.n_rows.items() if n_rows)
        return f"result_key {show(self.key)}: {counts} without a clustering"


def check_clusterings(subject: Subject, found: Findings) -> None:
    """Find assignments without a clustering or an embedding, and clusterings that are not whole."""
    if not subject.has_ours("clusteringresult"):
        return
    with subject.reading("look for the clusterings of assignments") as connection:
        for gone in gone_keys(subject, connection):
            if not gone.n_assignments:
                found.add(BROKEN, f"result_key {show(gone.key)}")
            found.add_all(ORPHAN, gone.n_assignments, _assigned(connection, gone.key))
            found.say(ORPHAN if gone.n_assignments else BROKEN, str(gone))
        clusterings = stored_clusterings(connection)
    for one in clusterings:
        with subject.reading(f"look at clustering {show(one.id)}") as connection:
            n_lost = 0
            for identity in lost_embeddings(connection, one.key):
                found.add(ORPHAN, identity, f"no such embedding; in clustering {show(one.id)}")
                n_lost += 1
            reason = differs(connection, one, n_lost)
        if reason:
            found.add(BROKEN, one.id, reason)


def check_trees(subject: Subject, found: Findings) -> None:
    """Find stored trees that are not spanning trees of distances."""
    if not subject.has_ours("clusteringtree"):
        return
    for clustering_id, _, fault in damaged_trees(subject):
        found.add(TREE, clustering_id.hex, fault)


def damaged_trees(subject: Subject) -> Iterator[tuple[UUID, Any, str]]:
    """Yield the ids and keys of clusterings whose trees cannot be read, and why; a tree at a time."""
    with subject.reading("look for trees") as connection:
        clusterings = [one for one in stored_clusterings(connection) if one.record is not None]
    for one in clusterings:
        with subject.reading(f"look at the tree of clustering {show(one.id)}") as connection:
            try:
                trees.read_tree(connection, UUID(one.id))
            except DamagedTree as error:
                yield UUID(one.id), one.key, error.fault


def delete_tree(connection: Connection, key: Any) -> None:
    """Delete the tree of a clustering; the clustering stays."""
    connection.execute(sa.delete(ClusteringTree).where(ClusteringTree.result_key == as_literal(key)))


def check_old_tables(subject: Subject, found: Findings) -> None:
    """Find the clustering tables of the old pipeline."""
    present = [table for table in _OLD_TABLES if table in subject.columns and not subject.has_ours(table)]
    if present:
        with subject.reading("count rows of old clusterings") as connection:
            for table in present:
                count = sa.select(sa.func.count()).select_from(sa.table(table))
                n_rows = connection.execute(count).scalar_one()
                found.add(OLD, table, f"{n_rows} {pluralize(n_rows, 'row')}")


def gone_keys(subject: Subject, connection: Connection) -> list[Gone]:
    """Count the rows of keys without a clustering: one look into an index for each key."""
    known = set(first_values(connection, sa.select(_result.c.key)))
    tables = {name: table for name, table in _TABLES.items() if name in subject.columns}
    gone = {key for table in tables.values() for key in _keys(connection, table.result_key)} - known
    return [
        Gone(
            key,
            {name: _count(connection, table.result_key == as_literal(key)) for name, table in tables.items()},
        )
        for key in sorted(
            gone, key=lambda key: (not isinstance(key, int), key if isinstance(key, int) else repr(key))
        )
    ]


def stored_clusterings(connection: Connection) -> list[Clustering]:
    """Return the stored clusterings, whatever is wrong with them, the oldest first."""
    names = (
        "key",
        "id",
        "created_at",
        "started_at",
        "completed_at",
        "embedding_model",
        "algorithm",
        "parameters",
    )
    query = sa.select(*(_result.c[name] for name in names)).order_by(_result.c.key)
    clusterings = []
    keys = first_values(connection, sa.select(_result.c.key).order_by(_result.c.key))
    for key, (values, damaged, stored) in zip(keys, read_each(connection, query), strict=True):
        record, fault = None, str(damaged or "")
        try:
            record = None if values is None else ClusteringRecord.from_json(values[-1])
        except DatabaseError as error:
            fault = str(error)
        clusterings.append(Clustering(key, stored["id"], record, fault))
    return clusterings


def lost_embeddings(connection: Connection, key: Any) -> Iterator[Any]:
    """Yield the ids of embeddings that a clustering names and that are not there, by the indexes on both."""
    joined = _assignment.outerjoin(_embedding, _embedding.c.id == _assignment.c.embedding_id)
    query = sa.select(_assignment.c.embedding_id).select_from(joined)
    of_key = _assignment.c.result_key == as_literal(key)
    return first_values(connection, query.where(of_key, _embedding.c.id.is_(None)))


def differs(connection: Connection, one: Clustering, n_lost: int) -> str:
    """Say how the rows of a clustering differ from what is stored of them; nothing where they do not."""
    if one.record is None:
        return f"its row cannot be read ({one.fault})"
    if (damaged := _damaged(connection, one.key)) is not None:
        return str(damaged)
    said = one.record
    sizes = _sizes(connection, one.key)
    clusters = _clusters(connection, one.key)
    counts = {
        "assignments": (said.n_embeddings, sum(sizes.values()) - n_lost),
        "outliers": (said.n_outliers, sizes.pop(OUTLIER, 0)),
        "clusters": (said.n_clusters, len(clusters)),
    }
    reasons = [
        f"{stored} {name} stored and {there} there"
        for name, (stored, there) in counts.items()
        if stored != there
    ]
    unknown = sorted(sizes.keys() - clusters.keys())
    if unknown:
        reasons.append(f"no cluster for label {', '.join(map(str, unknown))}")
    for label, (size, label_of_medoid) in clusters.items():
        if label < 0:
            reasons.append(f"label {label} is no cluster's")
        if size != sizes.get(label, 0):
            n_members = sizes.get(label, 0)
            reasons.append(f"cluster {label} has {n_members} {pluralize(n_members, 'member')}, not {size}")
        if label_of_medoid != label:
            reasons.append(f"the medoid of cluster {label} is none of its members")
    return ", ".join(reasons)


def delete_key(connection: Connection, key: Any) -> None:
    """Delete a clustering with all that names its key."""
    for table in (ClusteringTree, EmbeddingCluster, Cluster):
        connection.execute(sa.delete(table).where(table.result_key == as_literal(key)))
    connection.execute(sa.delete(ClusteringResult).where(ClusteringResult.key == as_literal(key)))


def delete_lost(connection: Connection, key: Any) -> int:
    """Delete the assignments of a clustering whose embeddings are not there, and return how many."""
    there = sa.select(_embedding.c.id).where(_embedding.c.id == _assignment.c.embedding_id).exists()
    of_key = _assignment.c.result_key == as_literal(key)
    done = connection.execute(sa.delete(EmbeddingCluster).where(of_key, ~there))
    return int(done.rowcount)


def _damaged(connection: Connection, key: Any) -> DamagedValue | None:
    """Return the first value of a clustering's clusters and assignments that cannot be read, or None."""
    clusters = sa.select(*_cluster.c).where(_cluster.c.result_key == as_literal(key))
    label, probability = _assignment.c.label, _assignment.c.probability
    wrong = [~label.between(OUTLIER, 2**31 - 1), ~probability.between(-ROUNDING, 1 + ROUNDING)]
    if connection.dialect.name == "sqlite":
        wrong += [sa.func.typeof(label) != "integer", sa.func.typeof(probability).not_in(["real", "integer"])]
    assignments = sa.select(*_assignment.c).where(_assignment.c.result_key == as_literal(key), sa.or_(*wrong))
    return find_damaged(connection, clusters) or find_damaged(connection, assignments.limit(1))


def _sizes(connection: Connection, key: int) -> dict[int, int]:
    query = sa.select(_assignment.c.label, sa.func.count()).where(_assignment.c.result_key == key)
    return {row[0]: row[1] for row in connection.execute(query.group_by(_assignment.c.label))}


def _clusters(connection: Connection, key: int) -> dict[int, tuple[int, int | None]]:
    """Return by label the size that is stored, and the label that the medoid was assigned."""
    of_medoid = sa.and_(
        _assignment.c.result_key == _cluster.c.result_key,
        _assignment.c.embedding_id == _cluster.c.medoid_embedding_id,
    )
    query = sa.select(_cluster.c.label, _cluster.c.size, _assignment.c.label)
    query = query.select_from(_cluster.outerjoin(_assignment, of_medoid)).where(_cluster.c.result_key == key)
    return {label: (size, of_one) for label, size, of_one in connection.execute(query)}


def _assigned(connection: Connection, key: int) -> Iterator[Any]:
    return first_values(
        connection, sa.select(_assignment.c.embedding_id).where(_assignment.c.result_key == as_literal(key))
    )


def _count(connection: Connection, condition: Any) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(condition)).scalar_one())


def _keys(connection: Connection, column: Any) -> Iterator[Any]:
    """Go from key to key through the index, past all the rows that have the same."""
    query = sa.select(sa.func.min(column))
    key = next(first_values(connection, query))
    while key is not None:
        yield key
        key = next(first_values(connection, query.where(column > as_literal(key))))
