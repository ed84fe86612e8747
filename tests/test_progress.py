"""Test the estimate of the time left."""

from __future__ import annotations

import pytest

from panic_tda.progress import TimeLeft


def estimate_left(work: list[tuple[float, float]]) -> float | None:
    """Return the seconds left after the last of these (seconds, share done)."""
    left = TimeLeft()
    for seconds, share in work:
        left.note(seconds, share)
    return left.seconds(*work[-1])


def steady(begin: float, end: float, shares: tuple[float, float]) -> list[tuple[float, float]]:
    """Work at one speed, a step a tenth of a second."""
    steps = round((end - begin) * 10)
    low, high = shares
    return [(begin + step / 10, low + (high - low) * step / steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize("end", [1, 60, 86_400])
def test_at_constant_speed_the_estimate_is_exact(end: int) -> None:
    assert estimate_left([(end * step / 100, step / 200) for step in range(101)]) == pytest.approx(end)


def test_a_slow_start_does_not_bias_the_estimate() -> None:
    work = steady(0, 60, (0, 0.1)) + steady(60, 100, (0.1, 0.5))
    assert estimate_left(work) == pytest.approx(50, rel=0.05)


def test_work_of_an_earlier_run_does_not_count_as_speed() -> None:
    assert estimate_left([(0.001, 0.6), (25.0, 0.62), (30.0, 0.624)]) == pytest.approx(0.376 / 0.024 * 30)


def test_without_recent_progress_there_is_no_estimate() -> None:
    assert estimate_left([(0, 0.0)]) is None
    assert estimate_left([(10, 0.5), (60, 0.5)]) is None
    assert estimate_left([(10, 0.5), (60, 1 + 1e-12)]) == 0
