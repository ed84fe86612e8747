"""Trajectory-like embeddings for the benchmark: attractors, drifting walks, copies, a common mean.

The shape follows caption embeddings of real runs: one shared direction holds about 28 % of the energy, a
few dozen axes hold most of the rest, most runs settle near an attractor and some drift for as long as
they are watched, and one row in seven repeats an earlier caption word for word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

RUN_LENGTH = 100
RUNS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Parts of a row's energy, and the decay of their spectra.

    Parameters
    ----------
    mean, attractor, walk, noise : float
        Energy (squared length) of the parts of a row; they add up to 1.
    decay : float
        Variance of axis j is j ** -decay for attractors and walks; 0 spreads it evenly over all axes.
    noise_decay : float
        The same for the noise of single rows.
    copies : float
        Share of rows that repeat an earlier row of their run exactly.
    drifting : float
        Share of runs that stay near no attractor.
    """

    mean: float = 0.28
    attractor: float = 0.48
    walk: float = 0.14
    noise: float = 0.10
    decay: float = 1.0
    noise_decay: float = 0.7
    copies: float = 0.15
    drifting: float = 0.15


TRAJECTORIES = Shape()
FLAT = Shape(decay=0.0, noise_decay=0.0)
"""No axis matters more than another: the worst case for every bound by principal axes."""


def trajectories(n: int, d: int, *, seed: int = 0, shape: Shape = TRAJECTORIES) -> Float32Array:
    """Draw `n` unit rows of `d` dimensions.

    Returns
    -------
    (n, d) float32
        Rows in random order, as runs interleave in a database; every row of unit length.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    n_runs = max(1, -(-n // RUN_LENGTH))
    centres = _draw(rng, max(4, n_runs // 12), _spectrum(d, shape.decay)) * np.sqrt(shape.attractor)
    rows = np.empty((n_runs * RUN_LENGTH, d), dtype=np.float32)
    for run in range(n_runs):
        block = _one_run(rng, centres, shape)
        # Divided before they are rounded: dividing once more then changes no bit, and every peer has the
        # numbers that this package, which always divides, works on.
        block /= np.linalg.norm(block, axis=1)[:, None]
        rows[run * RUN_LENGTH : (run + 1) * RUN_LENGTH] = block @ basis.T
    rows = rows[:n]
    _copy_within_runs(rng, rows, shape.copies)
    return rows[rng.permutation(n)]


def trajectories_at_once(
    n: int,
    d: int,
    *,
    seed: int = 0,
    shape: Shape = TRAJECTORIES,
    xp: Any = np,
    shuffled: bool = True,
    like: Float32Array | None = None,
) -> Any:
    """Draw `n` unit rows of `d` dimensions like `trajectories`, many runs in one step and in float32.

    The law is the same, the rows are others. 50,000 rows of 768 dimensions took 3.6 s of processor time
    instead of 16.9 s, and a device can draw them too.

    Parameters
    ----------
    xp : module
        numpy, or cupy to draw and keep the rows on a device.
    shuffled : bool
        In random order, not run after run.
    like : (m, d) float32, optional
        Rows whose mean direction and spectrum take the place of those of `shape`.

    Returns
    -------
    (n, d) float32
        Of `xp`; every row of unit length.
    """
    host, rng = np.random.default_rng(seed), xp.random.default_rng(seed)
    n_runs = max(1, -(-n // RUN_LENGTH))
    if like is None:
        axes, variances = np.linalg.qr(host.standard_normal((d, d)))[0], _spectrum(d, shape.decay)
        noise_variances, mean = _spectrum(d, shape.noise_decay), axes[:, 0]
    else:
        axes, variances, mean = _measure_spectrum(like)
        noise_variances = variances
    basis = xp.asarray(axes, dtype=xp.float32)
    spectrum = xp.asarray(np.sqrt(variances), dtype=xp.float32)
    noise = xp.asarray(np.sqrt(shape.noise * noise_variances), dtype=xp.float32)
    shift = xp.asarray(shape.mean**0.5 * mean, dtype=xp.float32)

    def draw(*count: int) -> Any:
        return rng.standard_normal((*count, d), dtype=xp.float32)

    centres = draw(max(4, n_runs // 12)) * spectrum * shape.attractor**0.5
    rows = xp.empty((n_runs * RUN_LENGTH, d), dtype=xp.float32)
    for begin in range(0, n_runs, RUNS_AT_ONCE):
        count = min(RUNS_AT_ONCE, n_runs - begin)
        drifts = rng.random(count) < shape.drifting
        home = centres[(len(centres) * rng.random(count) ** 2).astype(xp.int64)]
        home = xp.where(drifts[:, None], draw(count) * spectrum * shape.attractor**0.5, home)
        keep = xp.where(drifts, 0.99, 0.9).astype(xp.float32)[:, None]
        stride = xp.sqrt(shape.walk * (1 - keep**2)) * spectrum
        state = draw(count) * spectrum * shape.walk**0.5
        block = draw(count, RUN_LENGTH) * noise
        for t in range(RUN_LENGTH):
            state = keep * state + draw(count) * stride
            block[:, t] += state + home
        turned = block.reshape(-1, d) @ basis.T + shift
        turned /= xp.linalg.norm(turned, axis=1)[:, None]
        rows[begin * RUN_LENGTH : (begin + count) * RUN_LENGTH] = turned
    taken = _sources_within_runs(host, n_runs, shape.copies)[:n]
    return rows[xp.asarray(taken[host.permutation(n)] if shuffled else taken)]


def _sources_within_runs(
    rng: np.random.Generator, n_runs: int, share: float
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Say which row every row is: itself, or an earlier one of its run that it repeats."""
    source = np.tile(np.arange(RUN_LENGTH), (n_runs, 1))
    runs = np.arange(n_runs)
    for t in range(1, RUN_LENGTH):
        repeats = rng.random(n_runs) < share
        earlier = rng.integers(max(0, t - 20), t, n_runs)
        source[repeats, t] = source[runs[repeats], earlier[repeats]]
    return (source + RUN_LENGTH * runs[:, None]).reshape(-1)


def _one_run(rng: np.random.Generator, centres: FloatArray, shape: Shape) -> FloatArray:
    d = centres.shape[1]
    # Popular attractors are visited by many runs, rare ones by one or two.
    home = centres[int(len(centres) * rng.random() ** 2)]
    if rng.random() < shape.drifting:
        home = _draw(rng, 1, _spectrum(d, shape.decay))[0] * np.sqrt(shape.attractor)
        keep = 0.99
    else:
        keep = 0.9
    spectrum = _spectrum(d, shape.decay)
    steps = _draw(rng, RUN_LENGTH, spectrum) * np.sqrt(shape.walk * (1 - keep**2))
    walk = np.empty_like(steps)
    state = _draw(rng, 1, spectrum)[0] * np.sqrt(shape.walk)
    for t, step in enumerate(steps):
        state = keep * state + step
        walk[t] = state
    noise = _draw(rng, RUN_LENGTH, _spectrum(d, shape.noise_decay)) * np.sqrt(shape.noise)
    rows = home + walk + noise
    rows[:, 0] += np.sqrt(shape.mean)
    return np.asarray(rows, dtype=np.float64)


def _copy_within_runs(rng: np.random.Generator, rows: Float32Array, share: float) -> None:
    for start in range(0, len(rows), RUN_LENGTH):
        run = rows[start : start + RUN_LENGTH]
        copied = np.flatnonzero(rng.random(len(run)) < share)
        for row in copied[copied > 0]:
            run[row] = run[rng.integers(max(0, row - 20), row)]


def _spectrum(d: int, decay: float) -> FloatArray:
    variance = np.arange(1, d + 1, dtype=np.float64) ** -decay
    return variance / variance.sum()


def _measure_spectrum(rows: Float32Array) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the principal axes of some rows, their shares of the variance, and the mean direction."""
    exact = rows.astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(exact.T))
    variances = np.maximum(variances[::-1], 1e-9)
    mean = exact.mean(axis=0)
    return axes[:, ::-1], variances / variances.sum(), mean / np.linalg.norm(mean)


def _draw(rng: np.random.Generator, count: int, spectrum: FloatArray) -> FloatArray:
    return rng.standard_normal((count, len(spectrum))) * np.sqrt(spectrum)
