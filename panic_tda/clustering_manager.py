"""The main job: load, cluster and save, model by model; and what was saved before."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from panic_tda.arrays import device
from panic_tda.clustering import backends
from panic_tda.clustering.advice import warn_if_doubtful
from panic_tda.clustering.checkpoint import Checkpoint, discard_all
from panic_tda.clustering.placement import Placement, place, place_instead, require_host_memory
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.devices import cuda, pool
from panic_tda.disk import require_own_folder
from panic_tda.doubts import Wording
from panic_tda.errors import BackendFailure, PanicTdaError, release_frames, unexpected
from panic_tda.parameters import ClusteringParameters, Resources, validate_downsample
from panic_tda.progress import Prefixed, Progress, Silent, failed
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import (
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
from panic_tda.storage.write.saving import delete_clusterings as delete_clusterings
from panic_tda.storage.write.saving import finish, how_to_recut, require_savable, save_or_keep
from panic_tda.types import FAILED, SKIPPED, FinishedClustering, ModelOutcome
from panic_tda.wording import pluralize

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
        A database with tables of this version.
    models : sequence of str
        Embedding models; none means all.
    parameters : ClusteringParameters, optional
        The defaults where not given.
    downsample : int
        Keep every N-th output of a run (see `sampling`); 1 keeps all.
    skip_invalid : bool
        Exclude and count invalid vectors, instead of failing their model.
    resources : Resources, optional
        Memory, the folder from which a killed run goes on when it is called again alike, and devices: with
        several of them as many models are clustered at once, each in a process of its own.
    progress : Progress, optional
        Told what is being done.
    wording : {"parameters", "options"}
        Whether the log names settings as parameters in Python or as options of the commands.

    Returns
    -------
    list of ModelOutcome
        One a model. A model that failed says why; it cost no other model its result.

    Raises
    ------
    UnknownModel, NoEmbeddings, NeedsUpgrade, DatabaseError, InvalidParameter, UnsupportedOnBackend
        Before anything was computed.
    """
    downsample = validate_downsample(downsample)
    models = [models] if isinstance(models, str) else models
    resources = resources or Resources()
    parameters = parameters or ClusteringParameters()
    devices = _devices(resources, parameters)
    database = open_current(database)
    job = _Job(
        database=database,
        parameters=parameters,
        downsample=downsample,
        skip_invalid=skip_invalid,
        resources=resources,
        progress=progress or Silent(),
        wording=wording,
    )
    job = _without_foreign_folder(job)
    backends.require_usable(job.parameters)
    require_savable(database)
    job.progress.phase("count embeddings")
    censuses = take_census(database, downsample)
    chosen = [censuses[model] for model in choose_models(database, models, list(censuses))]
    # What the indexes show of bad input is found before the first fit, which may take hours.
    refused = {census.model: _refusal(job, census) for census in chosen}
    clustered = _cluster_models(job, [one for one in chosen if refused[one.model] is None], devices)
    return [refused[census.model] or clustered[census.model] for census in chosen]


@dataclass(frozen=True)
class _Job:
    """What all models of one call share."""

    database: Database
    parameters: ClusteringParameters
    downsample: int
    skip_invalid: bool
    resources: Resources
    progress: Progress
    wording: Wording

    @property
    def root(self) -> Path:
        """Folder for the state of all models."""
        return self.resources.work_dir or self.database.work_root

    def work_dir(self, model: str) -> Path:
        """Folder for the state of one model's clustering."""
        # No model's folder is another folder: quoting leaves dots, and two of them are the folder above.
        return self.root / (quote(model, safe="").replace(".", "%2E") or "%")


def _without_foreign_folder(job: _Job) -> _Job:
    """Do without states where the folder beside the database is a link or another user's.

    A folder that was named may be either.
    """
    if job.resources.work_dir is not None or not os.path.lexists(job.root):
        return job
    try:
        require_own_folder(job.root)
    except OSError as error:
        _log.warning(
            "no states are kept in %s: %s; name a folder of your own with --work-dir",
            job.root,
            error.strerror,
        )
        return replace(job, resources=replace(job.resources, checkpoints=False, discard_checkpoints=False))
    return job


def _refusal(job: _Job, census: ModelCensus) -> ModelOutcome | None:
    try:
        if not job.skip_invalid:
            require_valid(job.database, census, job.downsample)
        # A share of the rows may contradict another parameter.
        job.parameters.resolve(census.n_usable)
    except PanicTdaError as error:
        return _without_result(census, FAILED, str(error))
    if census.n_usable < MIN_ROWS:
        return _skipped(job, census, census.n_usable)
    if job.downsample > 1 and census.longest <= job.downsample:
        _log.warning(
            "%s: factor %d is beyond the longest run (%d outputs): only first outputs are sampled",
            census.model,
            job.downsample,
            census.longest,
        )
    warn_of_mixed(job.database, census)
    return None


def _skipped(job: _Job, census: ModelCensus, n_usable: int) -> ModelOutcome:
    reason = (
        f"{n_usable} usable of {census.n_total} "
        f"{pluralize(census.n_total, 'embedding')} at downsample {job.downsample}; "
        f"at least {MIN_ROWS} are needed"
    )
    return _without_result(census, SKIPPED, reason, n_usable)


def _without_result(
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


def _devices(resources: Resources, parameters: ClusteringParameters) -> tuple[int, ...]:
    # Asking for all imports CuPy, which nobody should wait for who named a backend without use for it.
    if parameters.backend in backends.ON_HOST and not resources.devices:
        return ()
    chosen = cuda.choose(resources.devices)
    return () if parameters.backend in backends.ON_HOST else chosen


def _cluster_models(
    job: _Job, censuses: Sequence[ModelCensus], devices: Sequence[int]
) -> dict[str, ModelOutcome]:
    """Cluster one model after the other in this process, or on several devices as many at once."""
    devices = devices[: len(censuses)]
    if tuple(devices) in ((), (0,)):
        # The first device is the one that this process takes anyway.
        with cuda.ruled_out() if job.resources.devices == () else contextlib.nullcontext():
            # The smallest first: a vector that is not finite is found when its model is loaded, and what
            # fails on every model fails on the cheapest.
            return {census.model: _cluster_model(job, census) for census in sorted(censuses, key=_work)}
    # The longest first, so that no device is left with it at the end.
    ordered = sorted(censuses, key=_work, reverse=True)
    # One process must not remove the common folder while another one makes its own in it.
    shared = replace(
        job, progress=Silent(), resources=replace(job.resources, work_dir=job.root, devices=None)
    )
    job.progress.phase("")
    found = pool.run_on_devices(
        _cluster_task,
        [(shared, census) for census in ordered],
        {f"device {number}": cuda.environment(number) for number in devices},
        job.progress,
    )
    if job.resources.work_dir is None:
        _remove_empty(job.root)
    return {
        census.model: _without_result(census, FAILED, outcome.reason)
        if isinstance(outcome, pool.Lost)
        else outcome
        for census, outcome in zip(ordered, found, strict=True)
    }


def _work(census: ModelCensus) -> int:
    """Return what a model's clustering is ordered by: the bytes of its vectors."""
    return census.n_usable * census.width


def _cluster_task(task: tuple[_Job, ModelCensus], progress: Progress) -> ModelOutcome:
    """Cluster a model in the process of a device."""
    job, census = task
    return _cluster_model(replace(job, progress=progress), census)


def _cluster_model(job: _Job, census: ModelCensus) -> ModelOutcome:
    try:
        return _place_and_cluster(job, census)
    except Exception as error:
        # Whatever breaks in one model must not cost the others theirs.
        reason = _reason_of(error, census)
        release_frames(error)
        return _failed(job, census, reason)
    finally:
        device.release()


def _reason_of(error: Exception, census: ModelCensus) -> str:
    if isinstance(error, PanicTdaError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'no details'}); sample with --downsample"
    # The log has the whole story.
    _log.debug("%s failed unexpectedly", census.model, exc_info=error)
    return unexpected(error)


def _failed(job: _Job, census: ModelCensus, reason: str) -> ModelOutcome:
    failed(job.progress)
    return _without_result(census, FAILED, reason)


def _place_and_cluster(job: _Job, census: ModelCensus) -> ModelOutcome:
    shape = census.n_usable, census.width // 4
    folder = job.work_dir(census.model)
    limits: dict[str, Any] = {"memory_limit": job.resources.memory_limit, "work_dir": folder}
    placement = place(job.parameters, *shape, **limits)
    require_host_memory(placement, job.parameters, shape)
    if job.resources.discard_checkpoints:
        discard_all(folder)
    try:
        return _cluster_at(job, census, placement)
    except BackendFailure as failure:
        if job.parameters.backend != backends.AUTO:
            raise
        reason = f"{census.model}: {failure}"
    # Out of the handler, which holds the rows of the failed fit; they are loaded again.
    device.release()
    placement = place_instead(job.parameters, *shape, reason=reason, **limits)
    require_host_memory(placement, job.parameters, shape)
    return _cluster_at(job, census, placement)


def _cluster_at(job: _Job, census: ModelCensus, placement: Placement) -> ModelOutcome:
    if not placement.on_device:
        return _load_cluster_save(job, census, placement)
    with device.explained(census.n_usable, census.width // 4, placement.backend.name):
        return _load_cluster_save(job, census, placement)


def _load_cluster_save(job: _Job, census: ModelCensus, placement: Placement) -> ModelOutcome:
    progress = Prefixed(job.progress, f"{census.model}: ")
    started_at, began = utc_now(), time.monotonic()
    folder = job.work_dir(census.model)
    matrix = load_embeddings(
        job.database,
        census,
        downsample=job.downsample,
        skip_invalid=job.skip_invalid,
        progress=progress,
        memory_limit=job.resources.memory_limit,
        work_dir=folder,
        to_device=placement.rows_on_device,
    )
    loaded = time.monotonic()
    _log.info(
        "%s: %d embeddings, %d after downsampling by %d, %d excluded, %d to cluster in %d dimensions",
        matrix.model,
        matrix.n_total,
        matrix.n_sampled,
        matrix.downsample,
        matrix.n_excluded,
        *matrix.vectors.shape,
    )
    if len(matrix.ids) < MIN_ROWS:
        return _skipped(job, census, len(matrix.ids))
    progress.phase("fingerprint")
    fingerprint = input_sha256(matrix)
    checkpoint = Checkpoint(folder, fingerprint) if job.resources.checkpoints else None
    clustering = cluster_rows(
        matrix.vectors,
        job.parameters,
        progress,
        placement=placement,
        checkpoint=checkpoint,
    )
    seconds = {"load": loaded - began, **clustering.record.seconds}
    record = replace(clustering.record, **matrix.chosen, seconds=seconds, input_sha256=fingerprint)
    stored_tree = clustering.tree if job.resources.keep_tree else None
    finished = finish(matrix, replace(clustering, record=record, tree=stored_tree), started_at)
    progress.phase("save")
    saving = time.monotonic()
    save_or_keep(job.database, finished)
    if checkpoint is not None:
        _discard(checkpoint)
    _remove_empty(folder, folder.parent if job.resources.work_dir is None else None)
    outcome = _outcome(finished, seconds | {"save": time.monotonic() - saving})
    warn_if_doubtful(
        record,
        clustering.tree,
        name=matrix.model,
        wording=job.wording,
        remedy=how_to_recut(job.database, finished, job.wording),
    )
    return outcome


def _discard(checkpoint: Checkpoint) -> None:
    try:
        checkpoint.discard()
    except OSError as error:  # the result is saved: what is left over is no failure
        _log.warning("the finished state in %s could not be removed: %s", checkpoint.folder, error)


def _remove_empty(*folders: Path | None) -> None:
    for folder in folders:
        if folder is not None:
            with contextlib.suppress(OSError):  # another model's state is still in it, or it never was there
                folder.rmdir()


def _outcome(finished: FinishedClustering, seconds: dict[str, float]) -> ModelOutcome:
    said = finished.record
    _log.info(
        "%s: %d %s, %d %s (%.1f %%) by backend %s in %.1f s; clustering %s",
        finished.embedding_model,
        said.n_clusters,
        pluralize(said.n_clusters, "cluster"),
        said.n_outliers,
        pluralize(said.n_outliers, "outlier"),
        100 * said.n_outliers / said.n_embeddings,
        said.backend,
        sum(seconds.values()),
        finished.id,
    )
    return ModelOutcome.of(finished, seconds)
