"""Other clusters from a tree that is there: what another fit would find, without the fit."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from panic_tda.clustering.recipe import recut_rows
from panic_tda.errors import InvalidParameter
from panic_tda.parameters import (
    ClusteringParameters,
    ClusteringRecord,
    EffectiveParameters,
    validate_memory_limit,
)
from panic_tda.progress import Prefixed, Progress, Silent
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.loading import load_assigned
from panic_tda.storage.results import ClusteringSummary
from panic_tda.storage.saving import finish, require_savable, save_or_keep
from panic_tda.storage.schemas import utc_now
from panic_tda.storage.trees import require_tree
from panic_tda.types import ModelOutcome
from panic_tda.wording import pluralize

Value = TypeVar("Value")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is to be other than in the clustering that a tree comes from; None is as there.

    Parameters
    ----------
    epsilon, min_cluster_size, selection_method, allow_single_cluster
        As of `ClusteringParameters`.
    max_cluster_size : int or None
        As there, and 0 for none.
    min_samples : int or None
        Belongs to the tree: any other number than the tree's is refused.
    """

    epsilon: float | None = None
    min_cluster_size: int | float | None = None
    selection_method: str | None = None
    max_cluster_size: int | None = None
    allow_single_cluster: bool | None = None
    min_samples: int | None = None

    def resolve(self, source: ClusteringRecord) -> EffectiveParameters:
        """Return every value for the rows of a clustering.

        Raises
        ------
        InvalidParameter
            A value outside its range, or another `min_samples`.
        """
        if self.min_samples not in (None, source.min_samples):
            raise InvalidParameter(
                f"min_samples belongs to the tree, whose heights are made of it: this one has "
                f"{source.min_samples}, got {self.min_samples}; cluster again for another one "
                "(panic-tda cluster-embeddings --min-samples)"
            )
        largest = source.max_cluster_size if self.max_cluster_size is None else self.max_cluster_size or None
        return ClusteringParameters(
            epsilon=_changed(self.epsilon, source.cluster_selection_epsilon),
            min_cluster_size=_changed(self.min_cluster_size, source.min_cluster_size),
            min_samples=source.min_samples,
            allow_single_cluster=_changed(self.allow_single_cluster, source.allow_single_cluster),
            selection_method=_changed(self.selection_method, source.cluster_selection_method),
            max_cluster_size=largest,
            distance_floor=source.distance_floor,
        ).resolve(source.n_embeddings)


def recut_clustering(
    database: Database | str | Path,
    source: ClusteringSummary,
    changes: Changes,
    *,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> ModelOutcome:
    """Cut other clusters from the tree of a stored clustering, and save them as a clustering of their own.

    Parameters
    ----------
    database : Database, str or Path
        The one that the clustering is in.
    source : ClusteringSummary
        From `results.find_clustering`.
    changes : Changes
        What is to be other than there.
    memory_limit : int, optional
        Vectors of more bytes, at least 1 MiB, are mapped from a temporary file.
    progress : Progress, optional
        Told what is being done.

    Returns
    -------
    ModelOutcome
        As `cluster_all_data` gives it. Labels, probabilities, persistence and medoids are those that a fit of
        the same rows with these values would find; the record names the source as `recut_of`.

    Raises
    ------
    NoTree
        It was stored without a tree, or embeddings have gone since.
    InvalidParameter
        See `Changes.resolve`; or the memory limit is too small.
    DatabaseError
        Vectors are others now, or the result cannot be saved.
    """
    if memory_limit is not None:
        validate_memory_limit(memory_limit)
    database = open_current(database)
    effective = changes.resolve(source.record)
    require_savable(database)
    progress = Prefixed(progress or Silent(), f"{source.embedding_model}: ")
    started_at, began = utc_now(), time.monotonic()
    progress.phase("read the tree")
    with database.reading() as connection:
        tree = require_tree(connection, source.id, source.record)
    matrix = load_assigned(
        database,
        source.id,
        source.record,
        model=source.embedding_model,
        progress=progress,
        memory_limit=memory_limit,
    )
    loaded = time.monotonic()
    clustering = recut_rows(matrix.vectors, tree, effective, source=source.record, progress=progress)
    seconds = {"load": loaded - began, **clustering.record.seconds}
    record = replace(clustering.record, seconds=seconds, recut_of=str(source.id))
    finished = finish(matrix, replace(clustering, record=record), started_at)
    progress.phase("save")
    saving = time.monotonic()
    save_or_keep(database, finished)
    _log.info(
        "%s: %d %s, %d %s; clustering %s, cut from the tree of %s",
        source.embedding_model,
        record.n_clusters,
        pluralize(record.n_clusters, "cluster"),
        record.n_outliers,
        pluralize(record.n_outliers, "outlier"),
        finished.id,
        source.id,
    )
    return ModelOutcome.of(finished, seconds | {"save": time.monotonic() - saving})


def _changed(given: Value | None, stored: Value) -> Value:
    return stored if given is None else given
