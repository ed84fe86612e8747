"""Measure how runs of one prompt drift apart, and for how long a run shows its prompt.

References
----------
.. [1] Fisher (1936). The use of multiple measurements in taxonomic problems. Annals of Eugenics 7(2),
   179-188. https://doi.org/10.1111/j.1469-1809.1936.tb02137.x
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from panic_tda.insight.intervals import Interval
from panic_tda.insight.relaxation import Relaxation, fit_with_interval
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import BoolArray, Float32Array, FloatArray, IntArray

MOST_STEPS = 50
MOST_RUNS = 2_000
"""The distances of all pairs of 2,000 runs take 32 MB per step."""
N_FOLDS = 5
N_RESAMPLES = 200
"""Bootstrap samples of runs. Each takes four operations per step and pair of runs: 1,000 samples of 2,000
runs at 50 steps would take 10^12."""
PROMPT_STEP = -1
"""Step of the initial prompt, before the first output."""
_KNOWN_SHARE = 0.9
"""Share of the samples that must have a figure; an interval over fewer would be misleading."""
_SEED = 0


@dataclass(frozen=True)
class StepDivergence:
    """Distances between runs, and what they show of their prompts, at one step.

    Attributes
    ----------
    step : int
        Output step; `PROMPT_STEP` has the embeddings of the prompts themselves.
    n_runs : int
        Number of runs with this step.
    same_prompt, other_prompt : float or None
        Mean chord between two runs of one prompt, and of different prompts; None if there are no pairs.
    from_prompt : float or None
        Mean chord from a run to the embedding of its own prompt; None if the database has none.
    recovered : float or None
        Share of runs for which the nearest mean vector of the other runs, by prompt, is that of their own
        prompt; None if fewer than two prompts have two runs.
    by_chance : float or None
        This share if every run were assigned to the most frequent prompt.
    nearest_prompt : float or None
        Share of runs for which the nearest embedding of a prompt is that of their own prompt; None if the
        database has those of fewer than two prompts.
    intervals : dict of str to (Interval or None)
        Bootstrap intervals over runs of the five figures other than `by_chance`; None if the figure is
        undefined or there are fewer than two runs.
    """

    step: int
    n_runs: int
    same_prompt: float | None
    other_prompt: float | None
    from_prompt: float | None
    recovered: float | None
    by_chance: float | None
    nearest_prompt: float | None
    intervals: dict[str, Interval | None]

    def to_dict(self) -> dict[str, Any]:
        """Return an element of `steps` in `show-divergence --json`, of plain values."""
        intervals = {
            name: None if interval is None else interval.to_list()
            for name, interval in self.intervals.items()
        }
        return asdict(self) | {"intervals": intervals}


@dataclass(frozen=True)
class Divergence:
    """Divergence of the runs of a clustering.

    Attributes
    ----------
    steps : list of StepDivergence
        Results at up to `MOST_STEPS` steps, and before them at `PROMPT_STEP` if the database has embeddings
        of prompts.
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
        return {"steps": [step.to_dict() for step in self.steps], **fits}


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
        own = stored.prompt_vectors
        embedded = [number for number, run in enumerate(runs.tolist()) if steps.run_ids[run] in own]
        vectors = np.array([own[steps.run_ids[run]] for run in runs[embedded].tolist()], dtype=np.float32)
        start = PromptVectors(np.array(embedded, dtype=np.int64), vectors) if embedded else None
        return measure_divergence(read_step, chosen.tolist(), of_runs, start=start)


@dataclass(frozen=True)
class PromptVectors:
    """The embeddings of the initial prompts of some runs.

    Attributes
    ----------
    runs : (p,) int64
        The runs, ascending.
    vectors : (p, d) float32
        Vector of the prompt of each.
    """

    runs: IntArray
    vectors: Float32Array


def measure_divergence(
    read_step: Callable[[int], tuple[IntArray, Float32Array]],
    steps: list[int],
    prompts: IntArray,
    *,
    start: PromptVectors | None = None,
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
    start : PromptVectors, optional
        Embeddings of the initial prompts. They are no part of the fits: from a prompt to the first output
        the modality changes twice.

    Notes
    -----
    Mean chords come from all pairs of runs; intervals from `N_RESAMPLES` bootstrap samples of runs, in which
    a pair counts as often as both were drawn. The mean vector of a prompt is that of its runs outside the
    run's fold of `N_FOLDS`, so that no run predicts itself [1]_. The samples keep the predictions: if a run
    were drawn twice, it would predict itself.
    """
    n_runs = len(prompts)
    if not n_runs:
        return Divergence([], None, None)
    rng = np.random.default_rng(_SEED)
    weights = np.vstack([np.ones(n_runs), rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), N_RESAMPLES)])
    judge = _StepJudge(prompts, weights, rng.permutation(n_runs) % N_FOLDS, start)
    rows, means = [], np.full((2, len(weights), len(steps)), np.nan)
    if start is not None:
        rows.append(judge.measure(PROMPT_STEP, start.runs, start.vectors)[0])
    for position, step in enumerate(steps):
        row, means[:, :, position] = judge.measure(step, *read_step(step))
        rows.append(row)
    times = np.array(steps, dtype=float)
    return Divergence(rows, *(fit_with_interval(times, of_pairs) for of_pairs in means))


class _StepJudge:
    """Measurement of the figures of one step after another, with the same samples of runs for all."""

    def __init__(
        self, prompts: IntArray, weights: FloatArray, folds: IntArray, start: PromptVectors | None
    ) -> None:
        self._prompts, self._weights, self._folds = prompts, weights, folds
        self._first = np.full(len(prompts), -1)
        self._first_units = np.empty((0, 0))
        if start is not None:
            self._first[start.runs] = np.arange(len(start.runs))
            self._first_units = scale_to_unit(start.vectors)

    def measure(self, step: int, runs: IntArray, vectors: Float32Array) -> tuple[StepDivergence, FloatArray]:
        """Return the figures of a step, and the two mean chords of all samples, (2, b)."""
        units = scale_to_unit(vectors)
        known = np.isfinite(units).all(axis=1)
        runs, units = runs[known], units[known]
        prompts, weights = self._prompts[runs], self._weights[:, runs]
        chords = mean_chords(units, prompts, weights)
        recovered, tried = recover_prompts(units, prompts, self._folds[runs])
        distances, nearest, has_prompt = self._compare_with_prompts(runs, units)
        samples = {
            "same_prompt": chords[0],
            "other_prompt": chords[1],
            "from_prompt": _average(distances, has_prompt, weights),
            "recovered": _average(recovered, tried, weights),
            "nearest_prompt": _average(nearest, has_prompt & (nearest >= 0), weights),
        }
        by_chance = (
            np.unique(prompts[tried], return_counts=True)[1].max() / tried.sum() if tried.any() else None
        )
        row = StepDivergence(
            step=step,
            n_runs=len(runs),
            **{name: _as_known(values[0]) for name, values in samples.items()},
            by_chance=None if by_chance is None else float(by_chance),
            intervals={
                name: _find_interval(values) if len(runs) > 1 else None for name, values in samples.items()
            },
        )
        return row, chords

    def _compare_with_prompts(
        self, runs: IntArray, units: FloatArray
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return for each of m runs the chord to its prompt, whether it is the nearest (-1: unknown), and
        whether the embedding of its prompt is known."""
        at = self._first[runs]
        has_prompt = at >= 0
        distances, nearest = np.zeros(len(runs)), np.full(len(runs), -1.0)
        if not has_prompt.any():
            return distances, nearest, has_prompt
        own = self._first_units[at[has_prompt]]
        distances[has_prompt] = np.linalg.norm(units[has_prompt] - own, axis=1)
        # Runs of one prompt have one embedding.
        embedded = np.flatnonzero(self._first >= 0)
        names, first = np.unique(self._prompts[embedded], return_index=True)
        if len(names) > 1:
            candidates = self._first_units[self._first[embedded[first]]]
            nearest_names = names[(units[has_prompt] @ candidates.T).argmax(axis=1)]
            nearest[has_prompt] = nearest_names == self._prompts[runs[has_prompt]]
        return distances, nearest, has_prompt


def _average(values: FloatArray | BoolArray, counted: BoolArray, weights: FloatArray) -> FloatArray:
    """Return the means of the counted values, (m,), by each row of weights, (b, m); NaN if none count."""
    above, below = weights @ (values * counted), weights @ counted.astype(float)
    return np.asarray(np.divide(above, below, out=np.full(len(weights), np.nan), where=below > 0))


def _as_known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _find_interval(samples: FloatArray) -> Interval | None:
    """Return the percentile interval of a figure, whose first value is that of all runs."""
    known = samples[1:][np.isfinite(samples[1:])]
    if np.isnan(samples[0]) or len(known) < _KNOWN_SHARE * (len(samples) - 1):
        return None
    return Interval(*np.quantile(known, [0.025, 0.975]).tolist())


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


def recover_prompts(units: FloatArray, prompts: IntArray, folds: IntArray) -> tuple[BoolArray, BoolArray]:
    """Return for which runs the nearest mean vector is that of their prompt, and which runs were tried.

    The means are over the runs of the other folds. Runs whose prompt has no run there are not tried.
    """
    recovered, tried = np.zeros(len(units), dtype=bool), np.zeros(len(units), dtype=bool)
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
        recovered[judged] = names[distances.argmin(axis=1)] == prompts[judged]
        tried |= judged
    return recovered, tried
