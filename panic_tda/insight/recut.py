"""Cut other clusters from a stored tree: the result of another fit, without the fit."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from panic_tda.clustering.advice import warn_if_doubtful
from panic_tda.clustering.recipe import recut_rows
from panic_tda.doubts import Wording
from panic_tda.errors import InvalidParameter
from panic_tda.parameters import ClusteringParameters, validate_memory_limit
from panic_tda.progress import Prefixed, Progress, Silent
from panic_tda.records import ClusteringRecord, EffectiveParameters
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.neighbour_graphs import explain_missing
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.schema.tables import utc_now
from panic_tda.storage.write.saving import build_result, recut_hint, require_savable, save_or_write_pending
from panic_tda.types import UNCHANGED, ModelOutcome
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Settings to change; None keeps the value of the clustering that the tree comes from.

    Kept values that have no effect with the new selection method are dropped.

    Parameters
    ----------
    epsilon, min_cluster_size, selection_method, allow_single_cluster
        As of `ClusteringParameters`.
    max_cluster_size : int or None
        New limit; 0 removes the limit.
    min_samples : int or None
        At most `keep_neighbours` of the clustering, unless it is that of the clustering.
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
            A value outside its range, or a `min_samples` for which no neighbours are stored.
        """
        changes = {name: value for name, value in vars(self).items() if value is not None}
        _require_neighbours(changes.get("min_samples", source.min_samples), source)
        epsilon = changes.get("epsilon", source.cluster_selection_epsilon)
        method = changes.get("selection_method", source.cluster_selection_method)
        stored = replace(source, cluster_selection_epsilon=epsilon, cluster_selection_method=method)
        stored = _drop_ineffective(stored)
        changes["max_cluster_size"] = changes.get("max_cluster_size", stored.max_cluster_size) or None
        requested = ClusteringParameters.of(stored, **changes, backend="auto")
        return replace(requested.resolve(source.n_embeddings), distance_floor=source.distance_floor)


def _require_neighbours(min_samples: int, source: ClusteringRecord) -> None:
    if min_samples == source.min_samples or min_samples < 1:  # `ClusteringParameters` refuses numbers below 1
        return
    if source.keep_neighbours is None:
        raise InvalidParameter(
            f"min_samples must be {source.min_samples}, as the clustering has no neighbour lists; got "
            f"{min_samples}; {explain_missing(source)}"
        )
    if min_samples > source.keep_neighbours:
        raise InvalidParameter(
            f"min_samples must be 1 to {source.keep_neighbours}, up to which neighbours are stored; got "
            f"{min_samples}; cluster again to store more (panic-tda cluster-embeddings --keep-neighbours "
            f"{min_samples})"
        )


def _drop_ineffective(record: ClusteringRecord) -> ClusteringRecord:
    """Drop values without effect, which earlier versions stored with the selection method leaf."""
    if record.cluster_selection_method != "leaf":
        return record
    allowed = record.allow_single_cluster and record.cluster_selection_epsilon > 0
    return replace(record, max_cluster_size=None, allow_single_cluster=allowed)


def recut_clustering(
    database: Database | str | Path,
    source: ClusteringSummary,
    changes: Changes,
    *,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    wording: Wording = "parameters",
) -> ModelOutcome:
    """Cut other clusters from the tree of a stored clustering, and save them as a clustering of their own.

    Parameters
    ----------
    database : Database, str or Path
        Database of the clustering.
    source : ClusteringSummary
        From `results.find_clustering`.
    changes : Changes
        Settings to change.
    memory_limit : int, optional
        Limit in bytes, at least 1 MiB. Larger vectors are mapped from a temporary file.
    progress : Progress, optional
        Receives the phases.
    wording : {"parameters", "options"}
        Whether the log names settings as parameters in Python or as options of the commands.

    Returns
    -------
    ModelOutcome
        As `cluster_all_data` gives it. Labels, probabilities, persistence and medoids are those that a fit of
        the same rows with these values would find; the record names the source as `recut_of`. Where every
        setting is the source's, nothing is stored: the status is `types.UNCHANGED`, the id the source's.

    Raises
    ------
    NoTree
        The clustering was stored without a tree or the neighbour lists that another `min_samples` needs, or
        embeddings were deleted since.
    InvalidParameter
        See `Changes.resolve`; or the memory limit is too small.
    DatabaseError
        Vectors were changed since, or the result cannot be saved.
    """
    if memory_limit is not None:
        validate_memory_limit(memory_limit)
    database = open_current(database)
    effective = changes.resolve(source.record)
    if asdict(effective).items() <= asdict(_drop_ineffective(source.record)).items():
        return _report_unchanged(source)
    require_savable(database)
    progress = Prefixed(progress or Silent(), f"{source.embedding_model}: ")
    started_at, began = utc_now(), time.monotonic()
    with open_clustering(database, source, progress) as stored:
        tree, matrix = stored.tree_at(effective.min_samples), stored.load_matrix(memory_limit=memory_limit)
    loaded = time.monotonic()
    about = {"recut_of": str(source.id), "seconds": {"load": loaded - began}}
    clustering = recut_rows(
        matrix.vectors, tree, effective, source=source.record, progress=progress, about=about
    )
    record, finished = clustering.record, build_result(matrix, clustering, started_at)
    progress.phase("save")
    saving = time.monotonic()
    save_or_write_pending(database, finished)
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
    warn_if_doubtful(
        record,
        clustering.tree,
        name=source.embedding_model,
        wording=wording,
        remedy=recut_hint(database, finished, wording),
    )
    return ModelOutcome.of(finished, record.seconds | {"save": time.monotonic() - saving})


def _report_unchanged(source: ClusteringSummary) -> ModelOutcome:
    reason = f"clustering {source.id} has these settings already; nothing was stored"
    _log.warning("%s: %s", source.embedding_model, reason)
    return ModelOutcome.of_record(source.record, source.id, source.embedding_model, UNCHANGED, reason)
