"""Trajectory-like embeddings for the benchmark: attractors, drifting walks, copies, a common mean.

The shape follows caption embeddings of real runs: one shared direction holds about 28 % of the energy, a
few dozen axes hold most of the rest, most runs settle near an attractor and some drift for as long as
they are watched, and one row in seven repeats an earlier caption word for word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

RUN_LENGTH = 100


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the energy of a row is divided, and how fast the spectra fall.

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


def _draw(rng: np.random.Generator, count: int, spectrum: FloatArray) -> FloatArray:
    return rng.standard_normal((count, len(spectrum))) * np.sqrt(spectrum)
