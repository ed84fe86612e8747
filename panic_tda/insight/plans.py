"""Estimates of time and memory by model and sampling factor, as `planning` makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from panic_tda.insight.memory import BackendMemory

FEWEST_ROWS = 2


@dataclass(frozen=True)
class Seconds:
    """Predicted time of the stages of one model's clustering."""

    load: float
    fit: float
    save: float

    @property
    def total(self) -> float:
        """Total seconds."""
        return self.load + self.fit + self.save


@dataclass(frozen=True, kw_only=True)
class FactorPlan:
    """Estimate for one model at one sampling factor.

    Attributes
    ----------
    downsample : int
        Sampling factor.
    n_rows : int
        Rows with a valid vector.
    backend : str or None
        Backend that would be used; None if there is none.
    reason : str or None
        Reason why there would be no clustering, or why it does not fit into memory.
    memory : dict of str to BackendMemory
        Memory by backend.
    measured_rows, measured_runs : int
        Rows and runs that the time is predicted from.
    seconds : Seconds or None
        Predicted times; None if there would be no clustering.
    """

    downsample: int
    n_rows: int
    backend: str | None = None
    reason: str | None = None
    memory: dict[str, BackendMemory] = field(default_factory=dict)
    measured_rows: int = 0
    measured_runs: int = 0
    seconds: Seconds | None = None

    @property
    def usable_seconds(self) -> float | None:
        """Total seconds; None if there would be no clustering, or not enough memory."""
        if self.n_rows < FEWEST_ROWS:
            return 0.0
        return None if self.reason or self.seconds is None else self.seconds.total


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Measurements that a model's predictions are made from.

    Attributes
    ----------
    n_rows : int
        Rows that were read and fitted, for all factors.
    counting_seconds, seconds : float
        Seconds of counting the rows (loading a sample counts twice), and of the whole measurement.
    """

    n_rows: int
    counting_seconds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Estimates for one model, by sampling factor.

    Attributes
    ----------
    embedding_model : str
    n_total : int
        Number of embeddings.
    dimensions : int
        Dimensions of the vectors.
    longest_run : int
        Outputs of the longest run; 0 if no factor above 1 was planned.
    calibration : Calibration
        Measurements that the times are predicted from.
    plans : tuple of FactorPlan
        Estimates by ascending factor.
    smallest_factor_within : int or None
        Smallest factor that ends in time, if there is one.
    notes : tuple of str
        Warnings about the rows.
    """

    embedding_model: str
    n_total: int
    dimensions: int
    longest_run: int
    calibration: Calibration
    plans: tuple[FactorPlan, ...]
    smallest_factor_within: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> dict[int, float | None]:
        """Total seconds by factor."""
        return {plan.downsample: plan.usable_seconds for plan in self.plans}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Estimates for several models.

    Attributes
    ----------
    models : tuple of ModelPlan
    within_seconds : float or None
    smallest_factor_within : int or None
        The smallest factor at which all models together end within it.
    totals : dict of int to float or None
        Seconds of all models by factor, divided among the devices; None if a model would have no clustering.
    start_seconds : float
        Seconds of each fit's time for loading compiled code and libraries.
    busy_cores : float
        Cores that were busy before. If hardly any core was free, the predicted times are too long.
    seconds : float
        Seconds that planning took.
    """

    models: tuple[ModelPlan, ...]
    within_seconds: float | None
    smallest_factor_within: int | None
    totals: dict[int, float | None]
    start_seconds: float
    busy_cores: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `plan-clustering --json` prints, of plain values."""
        plain = asdict(self)
        for model, of_model in zip(self.models, plain["models"], strict=True):
            for plan, of_factor in zip(model.plans, of_model["plans"], strict=True):
                if plan.seconds is not None:
                    of_factor["seconds"]["total"] = plan.seconds.total
        return plain


def smallest_within(seconds: Mapping[int, float | None], within: float | None) -> int | None:
    """Return the smallest factor with a known time of at most `within` seconds, or None."""
    if within is None:
        return None
    return min(
        (factor for factor, duration in seconds.items() if duration is not None and duration <= within),
        default=None,
    )


def factor_between(seconds: Mapping[int, float | None], within: float) -> int | None:
    """Return the next factor to try when searching the smallest one that ends in time.

    It lies between the smallest factor that ends in time and the next smaller one, at the point where a power
    law through both ends just in time. None if there is no integer between them.
    """
    best = smallest_within(seconds, within)
    below = max((factor for factor in seconds if best is not None and factor < best), default=None)
    if best is None or below is None or best - below < 2:
        return None
    faster, slower = seconds[best], seconds[below]
    if slower is None or not faster or slower <= faster:
        candidate = math.sqrt(best * below)
    else:
        growth = math.log(slower / faster) / math.log(best / below)
        candidate = best * (faster / within) ** (1 / growth)
    return min(max(math.ceil(candidate), below + 1), best - 1)
