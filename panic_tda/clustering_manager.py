"""Clustering of all embedding models of a database: load, cluster and save each model."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from panic_tda.arrays import device
from panic_tda.clustering import backends, geometry
from panic_tda.clustering.advice import warn_if_doubtful
from panic_tda.clustering.checkpoint import Checkpoint, remove_all_states
from panic_tda.clustering.executor_choice import choose_devices, choose_exact, open_executor
from panic_tda.clustering.placement import Placement, choose_fallback, choose_placement, require_host_memory
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.devices import cuda, pool
from panic_tda.disk import require_own_folder
from panic_tda.doubts import Wording
from panic_tda.errors import (
    BackendFailure,
    PanicTdaError,
    release_frames,
    unexpected,
)
from panic_tda.outputs import require_work_folder
from panic_tda.parameters import ClusteringParameters, Resources, validate_downsample
from panic_tda.progress import Prefixed, Progress, Silent, report_failure
from panic_tda.records import COSINE
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import (
    FLOAT_BYTES,
    ModelCensus,
    choose_models,
    require_valid,
    take_census,
    warn_of_mixed,
)
from panic_tda.storage.read.loading import input_sha256, load_embeddings
from panic_tda.storage.read.results import find_clusterings as find_clusterings
from panic_tda.storage.read.results import get_cluster_details as get_cluster_details
from panic_tda.storage.read.results import get_medoid_invocation as get_medoid_invocation
from panic_tda.storage.read.results import list_clusterings as list_clusterings
from panic_tda.storage.schema.tables import utc_now
from panic_tda.storage.write.saving import build_result, recut_hint, require_savable, save_or_write_pending
from panic_tda.storage.write.saving import delete_clusterings as delete_clusterings
from panic_tda.types import FAILED, SKIPPED, EmbeddingMatrix, FinishedClustering, ModelOutcome
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from panic_tda.clustering.executor import Executor

MIN_ROWS = 2

_log = logging.getLogger(__name__)


def cluster_all_data(
    database: Database | str | Path,
    models: Sequence[str] = (),
    *,
    parameters: ClusteringParameters | None = None,
    downsample: int = 1,
    skip_invalid: bool = False,
    resources: Resources | None = None,
    progress: Progress | None = None,
    wording: Wording = "parameters",
) -> list[ModelOutcome]:
    """Cluster all embeddings of all experiments, per embedding model, and save the results.

    Parameters
    ----------
    database : Database, str or Path
        A database with the tables of this version.
    models : sequence of str
        Embedding models; an empty sequence means all.
    parameters : ClusteringParameters, optional
        Parameters; None uses the defaults.
    downsample : int
        Keep every N-th output of a run (see `sampling`); 1 keeps all.
    skip_invalid : bool
        Exclude and count invalid vectors, instead of failing their model.
    resources : Resources, optional
        Memory, the folder for checkpoints, from which the same call resumes after a kill, devices, workers.
        With several devices, as many models are clustered at the same time, each in a process of its own.
        With Dask workers, models are clustered one after the other, each by all workers and their devices.
    progress : Progress, optional
        Receives the phases.
    wording : {"parameters", "options"}
        Whether the log names settings as parameters in Python or as options of the commands.

    Returns
    -------
    list of ModelOutcome
        The outcome of each model. A model that failed has the reason; the others have their results.

    Raises
    ------
    UnknownModel, NoEmbeddings, NeedsUpgrade, DatabaseError, InvalidParameter, UnsupportedOnBackend
        The request is invalid; raised before anything is computed.
    """
    downsample = validate_downsample(downsample)
    models = [models] if isinstance(models, str) else models
    resources = resources or Resources()
    parameters = parameters or ClusteringParameters()
    if resources.uses_dask:
        parameters = choose_exact(parameters)
    devices = choose_devices(resources, parameters)
    database = open_current(database)
    if resources.work_dir is not None:
        require_work_folder(resources.work_dir, database.path)
    job = _Job(
        database=database,
        parameters=parameters,
        downsample=downsample,
        skip_invalid=skip_invalid,
        resources=resources,
        progress=progress or Silent(),
        wording=wording,
    )
    job = _disable_unsafe_checkpoints(job)
    backends.require_available(job.parameters)
    require_savable(database)
    job.progress.phase("count embeddings")
    censuses = take_census(database, downsample)
    chosen = [censuses[model] for model in choose_models(database, models, list(censuses))]
    # Invalid input that the indexes reveal is reported before the first fit, which may take hours.
    refused = {census.model: _refuse_model(job, census) for census in chosen}
    accepted = [census for census in chosen if refused[census.model] is None]
    with open_executor(job.resources, devices) if accepted else contextlib.nullcontext() as executor:
        clustered = _cluster_models(replace(job, executor=executor), accepted, devices)
    return [refused[census.model] or clustered[census.model] for census in chosen]


@dataclass(frozen=True)
class _Job:
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


def _disable_unsafe_checkpoints(job: _Job) -> _Job:
    """Disable checkpoints if the folder beside the database is a link or belongs to another user.

    A folder named by `work_dir` is not checked.
    """
    if job.resources.work_dir is not None or not os.path.lexists(job.root):
        return job
    try:
        require_own_folder(job.root)
    except OSError as error:
        _log.warning(
            "no checkpoints are saved in %s: %s; name a folder of your own with --work-dir",
            job.root,
            error.strerror,
        )
        return replace(job, resources=replace(job.resources, checkpoints=False, discard_checkpoints=False))
    return job


def _refuse_model(job: _Job, census: ModelCensus) -> ModelOutcome | None:
    """Return the outcome of a model that cannot be clustered, or None if it can."""
    try:
        if not job.skip_invalid:
            require_valid(job.database, census, job.downsample)
        # `min_cluster_size` as a share of the rows may contradict another parameter.
        job.parameters.resolve(census.n_usable)
    except PanicTdaError as error:
        return _report_without_result(census, FAILED, str(error))
    if census.n_usable < MIN_ROWS:
        return _report_skipped(job, census, census.n_usable)
    if job.downsample > 1 and census.longest <= job.downsample:
        _log.warning(
            "%s: factor %d is beyond the longest run (%d outputs): only first outputs are sampled",
            census.model,
            job.downsample,
            census.longest,
        )
    warn_of_mixed(job.database, census)
    return None


def _report_skipped(job: _Job, census: ModelCensus, n_usable: int) -> ModelOutcome:
    reason = (
        f"{n_usable} usable of {census.n_total} "
        f"{pluralize(census.n_total, 'embedding')} at downsample {job.downsample}; "
        f"at least {MIN_ROWS} are needed"
    )
    return _report_without_result(census, SKIPPED, reason, n_usable)


def _report_without_result(
    census: ModelCensus, status: str, reason: str, n_usable: int | None = None
) -> ModelOutcome:
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


def _cluster_models(
    job: _Job, censuses: Sequence[ModelCensus], devices: Sequence[int]
) -> dict[str, ModelOutcome]:
    """Cluster the models one after the other in this process, or in parallel on several devices."""
    if job.executor is None and 0 < len(censuses) < len(devices):
        _log.info(
            "%d of %d CUDA devices are used, one for each model; with --workers %d, backend tiled shares "
            "each model among them",
            len(censuses),
            len(devices),
            len(devices),
        )
    devices = devices[: len(censuses)]
    if job.executor is not None or tuple(devices) in ((), (0,)):
        # This process uses the first device anyway.
        no_cuda = job.resources.devices == () or job.executor is not None
        with cuda.cuda_disabled() if no_cuda else contextlib.nullcontext():
            # The smallest first, so that an error which concerns every model is found early.
            ordered = sorted(censuses, key=_estimate_work)
            return {census.model: _cluster_model(job, census) for census in ordered}
    # The largest first, so that no device works on it alone at the end.
    ordered = sorted(censuses, key=_estimate_work, reverse=True)
    # A process must not remove the common folder while another one creates its own in it.
    shared = replace(
        job, progress=Silent(), resources=replace(job.resources, work_dir=job.root, devices=None)
    )
    job.progress.phase("")
    outcomes = pool.run_on_devices(
        _cluster_task,
        [(shared, census) for census in ordered],
        {f"device {number}": cuda.environment(number) for number in devices},
        job.progress,
    )
    if job.resources.work_dir is None:
        _remove_empty(job.root)
    return {
        census.model: _report_without_result(census, FAILED, outcome.reason)
        if isinstance(outcome, pool.WorkerFailure)
        else outcome
        for census, outcome in zip(ordered, outcomes, strict=True)
    }


def _estimate_work(census: ModelCensus) -> int:
    """Return the bytes of a model's vectors, by which the models are ordered."""
    return census.n_usable * census.width


def _cluster_task(task: tuple[_Job, ModelCensus], progress: Progress) -> ModelOutcome:
    """Cluster a model in the process of a device."""
    job, census = task
    return _cluster_model(replace(job, progress=progress), census)


def _cluster_model(job: _Job, census: ModelCensus) -> ModelOutcome:
    try:
        return _place_and_cluster(job, census)
    except Exception as error:
        # An error in one model must not stop the others.
        reason = _describe_error(error, census)
        release_frames(error)
        report_failure(job.progress)
        return _report_without_result(census, FAILED, reason)
    finally:
        device.free_device_memory()


def _describe_error(error: Exception, census: ModelCensus) -> str:
    if isinstance(error, PanicTdaError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'no details'}); sample with --downsample"
    # The log has the traceback.
    _log.debug("%s failed unexpectedly", census.model, exc_info=error)
    return unexpected(error)


def _place_and_cluster(job: _Job, census: ModelCensus) -> ModelOutcome:
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
        return _cluster_with(job, census, placement)
    except BackendFailure as failure:
        if job.parameters.backend != backends.AUTO:
            raise
        reason = f"{census.model}: {failure}"
    # After the exception handler, because the exception keeps the rows of the failed fit in memory. They are
    # loaded again.
    device.free_device_memory()
    placement = choose_fallback(job.parameters, *shape, reason=reason, **limits)
    require_host_memory(placement, shape)
    return _cluster_with(job, census, placement)


def _cluster_with(job: _Job, census: ModelCensus, placement: Placement) -> ModelOutcome:
    shape = census.n_usable, census.width // FLOAT_BYTES
    translated = device.translate_out_of_memory(*shape, placement.backend.name)
    with translated if placement.on_device else contextlib.nullcontext():
        return _load_cluster_save(job, census, placement)


def _load_cluster_save(job: _Job, census: ModelCensus, placement: Placement) -> ModelOutcome:
    progress = Prefixed(job.progress, f"{census.model}: ")
    started_at, began = utc_now(), time.monotonic()
    folder = job.work_dir(census.model)
    matrix = _load(job, census, placement, progress)
    loaded = time.monotonic()
    if len(matrix.ids) < MIN_ROWS:
        return _report_skipped(job, census, len(matrix.ids))
    progress.phase("fingerprint")
    fingerprint = input_sha256(matrix)
    checkpoint = Checkpoint(folder, fingerprint) if job.resources.checkpoints else None
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
    finished = build_result(matrix, to_store, started_at)
    progress.phase("save")
    saving = time.monotonic()
    save_or_write_pending(job.database, finished)
    if checkpoint is not None:
        _remove_checkpoint(checkpoint)
    _remove_empty(folder, folder.parent if job.resources.work_dir is None else None)
    outcome = _report_clustered(finished, finished.record.seconds | {"save": time.monotonic() - saving})
    remedy = recut_hint(job.database, finished, job.wording)
    warn_if_doubtful(finished.record, clustering.tree, name=matrix.model, wording=job.wording, remedy=remedy)
    return outcome


def _load(job: _Job, census: ModelCensus, placement: Placement, progress: Progress) -> EmbeddingMatrix:
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


def _remove_empty(*folders: Path | None) -> None:
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
