"""Measure how runs of one prompt drift apart, and for how long a run shows its prompt.

References
----------
.. [1] Fisher (1936). The use of multiple measurements in taxonomic problems. Annals of Eugenics 7(2),
   179-188. https://doi.org/10.1111/j.1469-1809.1936.tb02137.x
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize

from panic_tda.insight.intervals import Interval
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, IntArray

MOST_STEPS = 50
MOST_RUNS = 2_000
"""The distances of all pairs of 2,000 runs take 32 MB per step."""
N_FOLDS = 5
N_RESAMPLES = 200
_SEED = 0


@dataclass(frozen=True)
class Relaxation:
    """A fit of d(t) = d∞ - (d∞ - d₀) e^(-t / τ) to a mean distance over steps.

    Attributes
    ----------
    start, limit, time : float
        d₀, d∞ (chords) and τ (output steps).
    time_interval : Interval or None
        Of τ, by resampling runs.
    """

    start: float
    limit: float
    time: float
    time_interval: Interval | None


@dataclass(frozen=True)
class StepDivergence:
    """Distances between runs, and what they show of their prompts, at one step.

    Attributes
    ----------
    step : int
        Output step.
    n_runs : int
        Number of runs with this step.
    same_prompt, other_prompt : float or None
        Mean chord between two runs of one prompt, and of different prompts; None if there are no pairs.
    recovered : float or None
        Share of runs for which the nearest mean vector of the other runs, by prompt, is that of their own
        prompt; None if fewer than two prompts have two runs.
    by_chance : float or None
        This share if every run were assigned to the most frequent prompt.
    """

    step: int
    n_runs: int
    same_prompt: float | None
    other_prompt: float | None
    recovered: float | None
    by_chance: float | None


@dataclass(frozen=True)
class Divergence:
    """Divergence of the runs of a clustering.

    Attributes
    ----------
    steps : list of StepDivergence
        Results at up to `MOST_STEPS` steps.
    same_prompt, other_prompt : Relaxation or None
        Fits; None if fewer than four steps have pairs, or the distance does not settle.
    """

    steps: list[StepDivergence]
    same_prompt: Relaxation | None
    other_prompt: Relaxation | None

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `show-divergence --json` prints, of plain values."""
        fits = {}
        for name in ("same_prompt", "other_prompt"):
            fit: Relaxation | None = getattr(self, name)
            fits[name] = (
                None
                if fit is None
                else asdict(fit)
                | {"time_interval": None if fit.time_interval is None else fit.time_interval.to_list()}
            )
        return {"steps": [asdict(step) for step in self.steps], **fits}


def read_divergence(
    database: Database, clustering: ClusteringSummary, *, progress: Progress | None = None
) -> Divergence:
    """Read the vectors of all runs of a stored clustering at up to `MOST_STEPS` steps, and measure.

    Runs whose own row has gone are left out. Of more than `MOST_RUNS` runs, so many are drawn, always the
    same.
    """
    progress = progress or Silent()
    with open_clustering(database, clustering, progress) as stored:
        steps, facts = stored.steps, stored.runs
        known = np.array([run in facts for run in steps.run_ids], dtype=bool)
        runs = np.flatnonzero(known)
        if len(runs) > MOST_RUNS:
            runs = np.sort(np.random.default_rng(_SEED).choice(runs, MOST_RUNS, replace=False))
        numbers = np.full(len(steps.run_ids), -1)
        numbers[runs] = np.arange(len(runs))
        prompts = [facts[steps.run_ids[run]].initial_prompt for run in runs.tolist()]
        codes = {prompt: code for code, prompt in enumerate(sorted(set(prompts)))}
        occurring = np.unique(steps.steps)
        chosen = occurring[:: max(1, -(-len(occurring) // MOST_STEPS))]

        def read_step(step: int) -> tuple[IntArray, Float32Array]:
            of_step = np.flatnonzero((steps.steps == step) & (numbers[steps.run_numbers] >= 0))
            return numbers[steps.run_numbers[of_step]], stored.read_vectors(steps.rows[of_step])

        of_runs = np.array([codes[prompt] for prompt in prompts], dtype=np.int64)
        return measure_divergence(read_step, chosen.tolist(), of_runs)


def measure_divergence(
    read_step: Callable[[int], tuple[IntArray, Float32Array]], steps: list[int], prompts: IntArray
) -> Divergence:
    """Measure how runs drift apart, step by step.

    Parameters
    ----------
    read_step : callable
        Returns for an output step the runs that have it, (m,) int64 in ascending order, and their vectors,
        (m, d) float32. One step's vectors are in memory at a time.
    steps : list of int
        Output steps, ascending.
    prompts : (r,) int64
        Number of the initial prompt of each run.

    Notes
    -----
    Mean chords come from all pairs of runs; intervals from `N_RESAMPLES` bootstrap samples of runs, in which
    a pair counts as often as both were drawn. The mean vector of a prompt is that of its runs outside the
    run's fold of `N_FOLDS`, so that no run predicts itself [1]_.
    """
    n_runs = len(prompts)
    if not n_runs:
        return Divergence([], None, None)
    rng = np.random.default_rng(_SEED)
    weights = np.vstack([np.ones(n_runs), rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), N_RESAMPLES)])
    folds = rng.permutation(n_runs) % N_FOLDS
    rows, means = [], np.full((2, len(weights), len(steps)), np.nan)
    for position, step in enumerate(steps):
        runs, vectors = read_step(step)
        units = scale_to_unit(vectors)
        known = np.isfinite(units).all(axis=1)
        runs, units = runs[known], units[known]
        means[:, :, position] = mean_chords(units, prompts[runs], weights[:, runs])
        recovered, by_chance = recover_prompts(units, prompts[runs], folds[runs])
        same_prompt, other_prompt = (
            None if np.isnan(value) else float(value) for value in means[:, 0, position]
        )
        rows.append(StepDivergence(step, len(runs), same_prompt, other_prompt, recovered, by_chance))
    times = np.array(steps, dtype=float)
    return Divergence(rows, *(_fit_with_interval(times, of_pairs) for of_pairs in means))


def scale_to_unit(vectors: Float32Array) -> FloatArray:
    """Scale rows to unit length; zero vectors become NaN."""
    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def mean_chords(units: FloatArray, prompts: IntArray, weights: FloatArray) -> FloatArray:
    """Return mean chords between runs of one prompt and of different prompts.

    Parameters
    ----------
    units : (m, d) float64
        Unit vectors.
    prompts : (m,) int64
        Of the runs.
    weights : (b, m) float64
        Number of times that each run is in each of b samples.

    Returns
    -------
    (2, b) float64
        Of one prompt, and of different ones; NaN where there are no pairs.
    """
    chords = np.sqrt(np.maximum(0, 2 - 2 * units @ units.T))
    of_one_prompt = (prompts[:, None] == prompts[None, :]).astype(float)
    np.fill_diagonal(of_one_prompt, 0)
    of_other_prompts = (prompts[:, None] != prompts[None, :]).astype(float)
    means = np.empty((2, len(weights)))
    for kind, pairs in enumerate((of_one_prompt, of_other_prompts)):
        sums = ((weights @ (pairs * chords)) * weights).sum(axis=1)
        counts = ((weights @ pairs) * weights).sum(axis=1)
        means[kind] = np.divide(sums, counts, out=np.full(len(weights), np.nan), where=counts > 0)
    return means


def recover_prompts(
    units: FloatArray, prompts: IntArray, folds: IntArray
) -> tuple[float | None, float | None]:
    """Return the share of runs whose prompt is recovered by the nearest mean vector, and the share by chance.

    The means are over the runs of the other folds. Runs whose prompt has no run there are left out.
    """
    hits = tried = 0
    counted = []
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        names, codes = np.unique(prompts[outside], return_inverse=True)
        judged = inside & np.isin(prompts, names)
        if len(names) < 2 or not judged.any():
            continue
        sums = np.zeros((len(names), units.shape[1]))
        np.add.at(sums, codes, units[outside])
        centres = sums / np.bincount(codes)[:, None]
        distances = (centres**2).sum(axis=1) - 2 * units[judged] @ centres.T
        hits += int((names[distances.argmin(axis=1)] == prompts[judged]).sum())
        tried += int(judged.sum())
        counted.append(prompts[judged])
    if not tried:
        return None, None
    return hits / tried, float(np.unique(np.concatenate(counted), return_counts=True)[1].max() / tried)


def fit_relaxation(times: FloatArray, distances: FloatArray) -> tuple[float, float, float] | None:
    """Fit d(t) = d∞ - (d∞ - d₀) e^(-t / τ) by least squares.

    Returns
    -------
    d₀, d∞, τ : float
        None if there are fewer than four distances, or the best τ is at a bound of the search.
    """
    known = np.isfinite(distances)
    times, distances = times[known], distances[known]
    if len(times) < 4 or np.ptp(distances) == 0:
        return None
    span = float(times[-1] - times[0])

    def residuals(log_time: float) -> tuple[float, FloatArray]:
        # For a given τ the model is linear in the other two parameters.
        decay = np.exp(-times / np.exp(log_time))
        design = np.column_stack([decay, 1 - decay])
        coefficients = np.linalg.lstsq(design, distances, rcond=None)[0]
        return float(((design @ coefficients - distances) ** 2).sum()), coefficients

    bounds = np.log(span / 100), np.log(span * 10)
    grid = np.linspace(*bounds, 40)
    best = int(np.argmin([residuals(log_time)[0] for log_time in grid]))
    if best in (0, len(grid) - 1):
        return None
    search = optimize.minimize_scalar(
        lambda log_time: residuals(log_time)[0], bounds=(grid[best - 1], grid[best + 1]), method="bounded"
    )
    start, limit = residuals(search.x)[1]
    return float(start), float(limit), float(np.exp(search.x))


def _fit_with_interval(times: FloatArray, means: FloatArray) -> Relaxation | None:
    fit = fit_relaxation(times, means[0])
    if fit is None:
        return None
    times_of_samples = [
        refit[2] for sample in means[1:] if (refit := fit_relaxation(times, sample)) is not None
    ]
    # If many samples have no fit, an interval over the others would be misleading.
    enough = len(times_of_samples) > 0.9 * (len(means) - 1)
    interval = Interval(*np.quantile(times_of_samples, [0.025, 0.975]).tolist()) if enough else None
    return Relaxation(*fit, time_interval=interval)
