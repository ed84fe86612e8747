"""One embedding model of a database: load its rows, fit them, and save the result."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from panic_tda.arrays import device
from panic_tda.clustering import backends, geometry
from panic_tda.clustering.advice import warn_if_doubtful
from panic_tda.clustering.checkpoint import Checkpoint, remove_all_states
from panic_tda.clustering.placement import Placement, choose_fallback, choose_placement, require_host_memory
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.doubts import Wording
from panic_tda.errors import (
    BackendFailure,
    PanicTdaError,
    release_frames,
    unexpected,
)
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.progress import Prefixed, Progress, report_failure
from panic_tda.records import COSINE
from panic_tda.storage.database import Database
from panic_tda.storage.read.census import (
    FLOAT_BYTES,
    ModelCensus,
)
from panic_tda.storage.read.loading import input_sha256, load_embeddings
from panic_tda.storage.schema.tables import utc_now
from panic_tda.storage.write.saving import build_result, recut_hint, save_or_write_pending
from panic_tda.types import (
    FAILED,
    SKIPPED,
    EmbeddingMatrix,
    FinishedClustering,
    ModelOutcome,
    SpanningTree,
)
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from panic_tda.clustering.executor import Executor

MIN_ROWS = 2
"""Rows that a clustering needs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The arguments of a call, which are the same for all models."""

    database: Database
    parameters: ClusteringParameters
    downsample: int
    skip_invalid: bool
    resources: Resources
    progress: Progress
    wording: Wording
    executor: Executor | None = None

    @property
    def root(self) -> Path:
        """Return the folder for the states of all models."""
        return self.resources.work_dir or self.database.work_root

    def work_dir(self, model: str) -> Path:
        """Return the folder for the state of one model's clustering."""
        # Dots are escaped too, because `quote` does not do that, and a model `..` would be the folder above.
        return self.root / (quote(model, safe="").replace(".", "%2E") or "%")


@dataclass(frozen=True)
class Fit:
    """The result of a model's fit, before it is saved.

    Attributes
    ----------
    finished : FinishedClustering
        What is saved.
    tree : SpanningTree or None
        Its tree, which is not necessarily saved.
    checkpoint : Checkpoint or None
        The state of the fit, which is removed when the result is saved.
    """

    finished: FinishedClustering
    tree: SpanningTree | None
    checkpoint: Checkpoint | None


def fit_in_worker(task: tuple[Job, ModelCensus], progress: Progress) -> Fit | ModelOutcome:
    """Fit a model in the process of a device."""
    job, census = task
    return fit_model(replace(job, progress=progress), census)


def cluster_model(job: Job, census: ModelCensus) -> ModelOutcome:
    """Fit a model and save the result."""
    return save_fit(job, census, fit_model(job, census))


def fit_model(job: Job, census: ModelCensus) -> Fit | ModelOutcome:
    """Fit a model; return the outcome if it has no result."""
    try:
        return _place_and_fit(job, census)
    except Exception as error:
        # An error in one model must not stop the others.
        return _report_error(job, census, error)
    finally:
        device.free_device_memory()


def save_fit(job: Job, census: ModelCensus, fit: Fit | ModelOutcome) -> ModelOutcome:
    """Save the result of a fit, if it has one."""
    if isinstance(fit, ModelOutcome):
        return fit
    try:
        return _save(job, fit)
    except Exception as error:
        return _report_error(job, census, error)


def _report_error(job: Job, census: ModelCensus, error: Exception) -> ModelOutcome:
    reason = _describe_error(error, census)
    release_frames(error)
    report_failure(job.progress)
    return report_without_result(census, FAILED, reason)


def _describe_error(error: Exception, census: ModelCensus) -> str:
    if isinstance(error, PanicTdaError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'no details'}); sample with --downsample"
    # The log has the traceback.
    _log.debug("%s failed unexpectedly", census.model, exc_info=error)
    return unexpected(error)


def _place_and_fit(job: Job, census: ModelCensus) -> Fit | ModelOutcome:
    shape = census.n_usable, census.width // FLOAT_BYTES
    folder = job.work_dir(census.model)
    limits: dict[str, Any] = {
        "memory_limit": job.resources.memory_limit,
        "work_dir": folder,
        "keep_neighbours": job.resources.keep_neighbours if job.resources.keep_tree else 0,
    }
    placement = choose_placement(job.parameters, *shape, **limits)
    require_host_memory(placement, shape)
    if job.resources.discard_checkpoints:
        remove_all_states(folder)
    try:
        return _fit_with(job, census, placement)
    except BackendFailure as failure:
        if job.parameters.backend != backends.AUTO:
            raise
        reason = f"{census.model}: {failure}"
    # After the exception handler, because the exception keeps the rows of the failed fit in memory. They are
    # loaded again.
    device.free_device_memory()
    placement = choose_fallback(job.parameters, *shape, reason=reason, **limits)
    require_host_memory(placement, shape)
    return _fit_with(job, census, placement)


def _fit_with(job: Job, census: ModelCensus, placement: Placement) -> Fit | ModelOutcome:
    shape = census.n_usable, census.width // FLOAT_BYTES
    translated = device.translate_out_of_memory(*shape, placement.backend.name)
    with translated if placement.on_device else contextlib.nullcontext():
        return _load_and_fit(job, census, placement)


def _load_and_fit(job: Job, census: ModelCensus, placement: Placement) -> Fit | ModelOutcome:
    progress = Prefixed(job.progress, f"{census.model}: ")
    started_at, began = utc_now(), time.monotonic()
    matrix = _load(job, census, placement, progress)
    loaded = time.monotonic()
    if len(matrix.ids) < MIN_ROWS:
        return report_skipped(job, census, len(matrix.ids))
    progress.phase("fingerprint")
    fingerprint = input_sha256(matrix)
    checkpoint = Checkpoint(job.work_dir(census.model), fingerprint) if job.resources.checkpoints else None
    clustering = cluster_rows(
        geometry.convert_rows(matrix.vectors, job.parameters.metric),
        job.parameters,
        progress,
        placement=placement,
        checkpoint=checkpoint,
        executor=job.executor,
        about=matrix.chosen | {"input_sha256": fingerprint, "seconds": {"load": loaded - began}},
    )
    to_store = clustering if job.resources.keep_tree else replace(clustering, tree=None)
    return Fit(build_result(matrix, to_store, started_at), clustering.tree, checkpoint)


def _save(job: Job, fit: Fit) -> ModelOutcome:
    """Save a result, remove the state of its fit, and warn if it is doubtful."""
    finished, model = fit.finished, fit.finished.embedding_model
    folder = job.work_dir(model)
    Prefixed(job.progress, f"{model}: ").phase("save")
    saving = time.monotonic()
    save_or_write_pending(job.database, finished)
    if fit.checkpoint is not None:
        _remove_checkpoint(fit.checkpoint)
    remove_empty_folders(folder, folder.parent if job.resources.work_dir is None else None)
    outcome = _report_clustered(finished, finished.record.seconds | {"save": time.monotonic() - saving})
    remedy = recut_hint(job.database, finished, job.wording)
    warn_if_doubtful(finished.record, fit.tree, name=model, wording=job.wording, remedy=remedy)
    return outcome


def _load(job: Job, census: ModelCensus, placement: Placement, progress: Progress) -> EmbeddingMatrix:
    """Load a model's rows into the memory that the placement names, and log their counts."""
    matrix = load_embeddings(
        job.database,
        census,
        downsample=job.downsample,
        skip_invalid=job.skip_invalid,
        progress=progress,
        memory_limit=job.resources.memory_limit,
        work_dir=job.work_dir(census.model),
        to_device=placement.rows_on_device,
        zeros_allowed=job.parameters.metric != COSINE,
    )
    _log.info(
        "%s: %d embeddings, %d after downsampling by %d, %d excluded, %d to cluster in %d dimensions",
        matrix.model,
        matrix.n_total,
        matrix.n_sampled,
        matrix.downsample,
        matrix.n_excluded,
        *matrix.vectors.shape,
    )
    return matrix


def _remove_checkpoint(checkpoint: Checkpoint) -> None:
    try:
        checkpoint.remove_all()
    except OSError as error:  # not a failure, because the result is saved
        _log.warning("the finished state in %s could not be removed: %s", checkpoint.folder, error)


def remove_empty_folders(*folders: Path | None) -> None:
    """Remove those of the folders that exist and are empty."""
    for folder in folders:
        if folder is not None:
            with contextlib.suppress(OSError):  # it contains another model's state, or does not exist
                folder.rmdir()


def _report_clustered(finished: FinishedClustering, seconds: dict[str, float]) -> ModelOutcome:
    record = finished.record
    _log.info(
        "%s: %d %s, %d %s (%.1f %%) by backend %s in %.1f s; clustering %s",
        finished.embedding_model,
        record.n_clusters,
        pluralize(record.n_clusters, "cluster"),
        record.n_outliers,
        pluralize(record.n_outliers, "outlier"),
        100 * record.n_outliers / record.n_embeddings,
        record.backend,
        sum(seconds.values()),
        finished.id,
    )
    return ModelOutcome.of(finished, seconds)


def report_skipped(job: Job, census: ModelCensus, n_usable: int) -> ModelOutcome:
    """Log and return the outcome of a model with too few rows."""
    reason = (
        f"{n_usable} usable of {census.n_total} "
        f"{pluralize(census.n_total, 'embedding')} at downsample {job.downsample}; "
        f"at least {MIN_ROWS} are needed"
    )
    return report_without_result(census, SKIPPED, reason, n_usable)


def report_without_result(
    census: ModelCensus, status: str, reason: str, n_usable: int | None = None
) -> ModelOutcome:
    """Log and return the outcome of a model without a result: `FAILED` or `SKIPPED`."""
    _log.log(
        logging.ERROR if status == FAILED else logging.WARNING, "%s %s: %s", census.model, status, reason
    )
    return ModelOutcome(
        id=None,
        embedding_model=census.model,
        status=status,
        reason=reason,
        n_total=census.n_total,
        n_sampled=census.n_sampled,
        n_excluded=census.n_orphans + census.n_sampled - (census.n_usable if n_usable is None else n_usable),
    )
