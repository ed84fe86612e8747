"""Clustering of all embedding models of a database: choose what is fitted, where, and in which order."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from panic_tda.clustering import backends
from panic_tda.clustering.executor_choice import Workers, choose_exact, choose_workers, open_executor
from panic_tda.devices import cuda
from panic_tda.disk import require_own_folder
from panic_tda.doubts import Wording
from panic_tda.errors import (
    PanicTdaError,
)
from panic_tda.model_fits import (
    MIN_ROWS,
    Job,
    cluster_model,
    fit_in_worker,
    remove_empty_folders,
    report_skipped,
    report_without_result,
    save_fit,
)
from panic_tda.outputs import require_work_folder
from panic_tda.parameters import ClusteringParameters, Resources, validate_downsample
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import (
    ModelCensus,
    choose_models,
    require_valid,
    take_census,
    warn_of_mixed,
)
from panic_tda.storage.read.results import find_clusterings as find_clusterings
from panic_tda.storage.read.results import get_cluster_details as get_cluster_details
from panic_tda.storage.read.results import get_medoid_invocation as get_medoid_invocation
from panic_tda.storage.read.results import list_clusterings as list_clusterings
from panic_tda.storage.write.saving import delete_clusterings as delete_clusterings
from panic_tda.storage.write.saving import require_savable
from panic_tda.types import FAILED, ModelOutcome

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
        Models are clustered one after the other, each by all workers, of which every device has one. Backend
        `cuml` takes one device, so that as many models are clustered at the same time.
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
    workers = choose_workers(resources, parameters)
    if workers.share_models:
        parameters = choose_exact(parameters)
    database = open_current(database)
    if resources.work_dir is not None:
        require_work_folder(resources.work_dir, database.path)
    job = Job(
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
    clustered = _cluster_models(job, accepted, workers) if accepted else {}
    return [refused[census.model] or clustered[census.model] for census in chosen]


def _disable_unsafe_checkpoints(job: Job) -> Job:
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


def _refuse_model(job: Job, census: ModelCensus) -> ModelOutcome | None:
    """Return the outcome of a model that cannot be clustered, or None if it can."""
    try:
        if not job.skip_invalid:
            require_valid(job.database, census, job.downsample)
        # `min_cluster_size` as a share of the rows may contradict another parameter.
        job.parameters.resolve(census.n_usable)
    except PanicTdaError as error:
        return report_without_result(census, FAILED, str(error))
    if census.n_usable < MIN_ROWS:
        return report_skipped(job, census, census.n_usable)
    if job.downsample > 1 and census.longest <= job.downsample:
        _log.warning(
            "%s: factor %d is beyond the longest run (%d outputs): only first outputs are sampled",
            census.model,
            job.downsample,
            census.longest,
        )
    warn_of_mixed(job.database, census)
    return None


def _cluster_models(job: Job, censuses: Sequence[ModelCensus], workers: Workers) -> dict[str, ModelOutcome]:
    """Cluster the models one after the other, or on several devices at the same time."""
    if workers.count and not workers.share_models:
        return _spread_models(job, censuses, workers.devices)
    use_devices = job.resources.devices != ()
    with open_executor(workers, use_devices=use_devices) as executor:
        # This process uses the first device, unless its workers have the devices.
        no_cuda = not use_devices or executor is not None
        with cuda.cuda_disabled() if no_cuda else contextlib.nullcontext():
            # The smallest first, so that an error which concerns every model is found early.
            ordered = sorted(censuses, key=_estimate_work)
            shared = replace(job, executor=executor)
            return {census.model: cluster_model(shared, census) for census in ordered}


def _spread_models(
    job: Job, censuses: Sequence[ModelCensus], devices: Sequence[int]
) -> dict[str, ModelOutcome]:
    """Cluster each model by a worker with a device of its own, and save the results in this process."""
    from panic_tda.clustering import dask_models

    if len(censuses) < len(devices):
        _log.info(
            "%d of %d CUDA devices are used, because backend %s takes one for a model; tiled shares a model "
            "among all",
            len(censuses),
            len(devices),
            job.parameters.backend,
        )
    # With several devices the largest first, so that no device works on it alone at the end.
    ordered = sorted(censuses, key=_estimate_work, reverse=len(devices) > 1)
    # A worker must not remove the common folder while another one creates its own in it.
    own = replace(job, resources=replace(job.resources, work_dir=job.root, devices=None))
    job.progress.phase("")
    fits = dask_models.run_on_devices(
        fit_in_worker,
        [(replace(own, progress=Silent()), census) for census in ordered],
        {f"device {number}": cuda.environment(number) for number in devices[: len(ordered)]},
        job.progress,
    )
    outcomes = {}
    with contextlib.closing(fits):
        for (_, census), fit in fits:
            if isinstance(fit, dask_models.Unfinished):
                fit = report_without_result(census, FAILED, fit.reason)
            outcomes[census.model] = save_fit(own, census, fit)
            # The devices have phases of their own, which do not end this one.
            job.progress.phase("")
    if job.resources.work_dir is None:
        remove_empty_folders(job.root)
    return outcomes


def _estimate_work(census: ModelCensus) -> int:
    """Return the bytes of a model's vectors, by which the models are ordered."""
    return census.n_usable * census.width
