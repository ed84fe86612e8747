"""Assign the embeddings that were added after a fit to the clusters of the stored clustering.

The clustering stays as it is: its numbers, labels and medoids are those of the fit. New embeddings get the
cluster of their nearest neighbour (see `clustering.prediction`), and are stored as predicted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.arrays.frames import Frame
from panic_tda.arrays.rows import has_direction, slices
from panic_tda.clustering import geometry
from panic_tda.clustering.prediction import QUERY_ROWS, Predictor, build_predictor
from panic_tda.errors import BadVectors, DatabaseError, InvalidParameter, PanicTdaError, UnknownClustering
from panic_tda.parameters import METRICS, validate_downsample, validate_memory_limit
from panic_tda.progress import Prefixed, Progress, Silent, report_failure
from panic_tda.records import COSINE
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import FLOAT_BYTES, NAMED_IDS, show_id
from panic_tda.storage.read.clusterings import StoredClustering, open_clustering
from panic_tda.storage.read.loading import read_assigned_width
from panic_tda.storage.read.predictions import (
    NewRows,
    UnassignedRows,
    find_unassigned,
    read_new_rows,
    read_shown_id,
)
from panic_tda.storage.read.results import ClusteringSummary, find_clusterings
from panic_tda.storage.write.predictions import save_predictions
from panic_tda.types import ASSIGNED, FAILED, OUTLIER, Clustering
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AssignmentOutcome:
    """The embeddings that were assigned to a clustering.

    Attributes
    ----------
    clustering : UUID
        Id of the clustering.
    embedding_model : str
        Its embedding model.
    status : {"assigned", "failed"}
        Whether all of them were assigned.
    reason : str or None
        Reason of a failure. Embeddings that were assigned before it stay assigned.
    n_new : int
        Number of embeddings that were stored as predicted.
    n_outliers : int
        Number of these that belong to no cluster.
    n_invalid : int
        Number of embeddings that were left out, as their vector or id is invalid.
    n_predicted : int
        Number of all predicted embeddings of the clustering now.
    seconds : float
        Wall-clock time.
    """

    clustering: UUID
    embedding_model: str
    status: str = ASSIGNED
    reason: str | None = None
    n_new: int = 0
    n_outliers: int = 0
    n_invalid: int = 0
    n_predicted: int = 0
    seconds: float = 0.0


def assign_all(
    database: Database | str | Path,
    references: Sequence[str] = (),
    *,
    model: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[AssignmentOutcome]:
    """Assign new embeddings to several clusterings; a failure of one does not stop the others.

    Parameters
    ----------
    database : Database, str or Path
        Database of the clusterings.
    references : sequence of str
        Ids, beginnings of ids, or `latest`, which is the latest clustering of each model; the default.
    model : str, optional
        Only clusterings of this embedding model.
    progress : Progress, optional
        Receives the phases.
    **options
        As for `assign_embeddings`.

    Raises
    ------
    UnknownClustering, UnknownModel, DatabaseError
        There is no such clustering, or the database cannot be read or written.
    """
    database = open_current(database)
    database.require_writable()
    with database.session() as session:
        sources = find_clusterings(session, references, model=model)
    if not sources:
        raise UnknownClustering("no clustering is stored; make one with panic-tda cluster-embeddings")
    outcomes = []
    for source in sources:
        try:
            outcomes.append(assign_embeddings(database, source, progress=progress, **options))
        except (PanicTdaError, MemoryError) as error:
            report_failure(progress or Silent())
            reason = str(error) or "out of memory; set --memory-limit"
            _log.error("%s: %s", source.embedding_model, reason)
            outcomes.append(AssignmentOutcome(source.id, source.embedding_model, FAILED, reason))
    return outcomes


def assign_embeddings(
    database: Database | str | Path,
    source: ClusteringSummary,
    *,
    downsample: int = 1,
    skip_invalid: bool = False,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> AssignmentOutcome:
    """Assign every embedding that a clustering does not hold yet, and store it as predicted.

    Parameters
    ----------
    database : Database, str or Path
        Database of the clustering.
    source : ClusteringSummary
        From `results.find_clustering`.
    downsample : int
        Keep every N-th output of each run; 1 assigns all embeddings.
    skip_invalid : bool
        Leave out, count and log invalid vectors and ids instead of raising an error.
    memory_limit : int, optional
        Limit in bytes, at least 1 MiB. Larger vectors of the fit are mapped from a temporary file.
    progress : Progress, optional
        Receives the phases.

    Raises
    ------
    NoTree
        The clustering was stored without a tree, or embeddings were deleted since.
    BadVectors
        A vector or an id is invalid, and `skip_invalid` is off.
    DatabaseError
        Vectors of the fit were changed since, or the database cannot be written.

    Notes
    -----
    Embeddings are saved in batches of `prediction.QUERY_ROWS`, each in one transaction. After an
    interruption, the next call assigns the remaining ones. Those whose invocation is missing are left out, as
    in a fit.
    """
    if memory_limit is not None:
        validate_memory_limit(memory_limit)
    validate_downsample(downsample)
    database, began = open_current(database), time.monotonic()
    progress = Prefixed(progress or Silent(), f"{source.embedding_model}: ")
    with open_clustering(database, source, progress) as stored:
        width = read_assigned_width(stored.connection, source.id)
        if not width:
            raise DatabaseError(f"all embeddings of clustering {source.id} were deleted; cluster again")
        before = stored.predictions
        assigned = [stored.assignments_with_locators(), before]
        unassigned = find_unassigned(stored.connection, source, assigned, width=width, downsample=downsample)
        if unassigned.n_invalid:
            _report_lengths(stored, unassigned, width, skip_invalid=skip_invalid)
        n_unassigned = len(unassigned.locators)
        assigner = _build_assigner(stored, memory_limit) if n_unassigned else None
    n_new = n_outliers = 0
    n_invalid = unassigned.n_invalid
    progress.phase("assign", total=n_unassigned)
    for batch in slices(n_unassigned, QUERY_ROWS):
        assert assigner is not None
        with database.reading() as connection:
            rows = read_new_rows(connection, source, unassigned.locators[batch], width=width)
        valid, n_left_out = _choose_valid(rows, assigner.metric, source, skip_invalid=skip_invalid)
        labels, probabilities = assigner.assign(valid.vectors)
        n_saved = save_predictions(database, source.id, valid.ids, labels, probabilities)
        n_new, n_invalid = n_new + n_saved, n_invalid + n_left_out
        n_outliers += int(np.count_nonzero(labels == OUTLIER))
        progress.advance(batch.stop - batch.start)
    _log.info(
        "%s: %d new %s assigned to clustering %s, %d of them outliers",
        source.embedding_model,
        n_new,
        pluralize(n_new, "embedding"),
        source.id,
        n_outliers,
    )
    return AssignmentOutcome(
        clustering=source.id,
        embedding_model=source.embedding_model,
        n_new=n_new,
        n_outliers=n_outliers,
        n_invalid=n_invalid,
        n_predicted=len(before.ids) + n_new,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Assigner:
    """The predictor of a clustering, and the preparation of vectors for it."""

    metric: str
    frame: Frame | None
    predictor: Predictor

    def assign(self, vectors: Any) -> tuple[Any, Any]:
        """Return labels and probabilities of stored vectors."""
        rows = geometry.convert_rows(vectors, self.metric)
        geometry.prepare_more_rows(rows, self.frame)
        return self.predictor.predict(rows)


def _build_assigner(stored: StoredClustering, memory_limit: int | None) -> _Assigner:
    record, tree = stored.summary.record, stored.tree
    metric = record.metric or COSINE
    if metric not in METRICS:
        raise InvalidParameter(
            f"this panic_tda assigns by the metrics {', '.join(METRICS)}; clustering {stored.summary.id} has "
            f"the metric {metric}"
        )
    rows = geometry.convert_rows(stored.load_matrix(memory_limit=memory_limit).vectors, metric)
    frame = geometry.prepare_rows(rows, metric)
    clustering = Clustering(
        labels=stored.assignments.labels,
        probabilities=stored.assignments.probabilities,
        persistence=np.zeros(record.n_clusters),  # only their number counts
        medoid_indices={},
        medoid_copies={},
        record=record,
        tree=tree,
    )
    return _Assigner(metric, frame, build_predictor(rows, clustering, 1.0 if frame is None else frame.scale))


def _report_lengths(
    stored: StoredClustering, unassigned: UnassignedRows, width: int, *, skip_invalid: bool
) -> None:
    n, first = unassigned.n_invalid, read_shown_id(stored.connection, unassigned.first_invalid)
    _report_invalid(
        f"{n} unassigned {pluralize(n, 'vector')} of model {stored.summary.embedding_model} "
        f"{pluralize(n, 'is', 'are')} missing or not of the {width // FLOAT_BYTES} values that the "
        f"clustering has; first embedding id: {first}",
        skip_invalid=skip_invalid,
    )


def _choose_valid(
    rows: NewRows, metric: str, source: ClusteringSummary, *, skip_invalid: bool
) -> tuple[NewRows, int]:
    """Return the rows that can be assigned, and the number of those that cannot."""
    valid = has_direction(rows.vectors) if metric == COSINE else np.isfinite(rows.vectors).all(axis=1)
    invalid = [*rows.invalid_ids, *(show_id(identity.decode()) for identity in rows.ids[~valid])]
    if invalid:
        n = len(invalid)
        _report_invalid(
            f"{n} unassigned {pluralize(n, 'embedding')} of model {source.embedding_model} "
            f"{pluralize(n, 'has', 'have')} an invalid id, or a vector that is zero, NaN or infinite; "
            f"first embedding ids: {', '.join(sorted(invalid)[:NAMED_IDS])}",
            skip_invalid=skip_invalid,
        )
    return NewRows(rows.ids[valid], rows.vectors[valid]), len(invalid)


def _report_invalid(summary: str, *, skip_invalid: bool) -> None:
    if not skip_invalid:
        raise BadVectors(f"{summary}; repair them, or leave them out with --skip-invalid")
    _log.warning("left out: %s", summary)
