"""How long-running stages say where they are, without knowing who listens."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol, runtime_checkable


class Progress(Protocol):
    """Receives the phases of one model's clustering."""

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin the phase `name`, with `total` units of work where that is known.

        An empty name ends the phase before and begins none.
        """

    def advance(self, amount: float) -> None:
        """Say that `amount` more units of the current phase are done."""


class TimeLeft:
    """Extrapolates the time that a phase still needs from the last third of the time it has taken.

    The average since the beginning would remember for hours that the first tiles were slow, that the machine
    was busy, or that most of the work was there already when a killed run went on.
    """

    _RECENT = 1 / 3
    # Marks get rarer as time goes on: a thousand of them last for days.
    _GROWTH, _SOONEST = 1.02, 0.01

    def __init__(self) -> None:
        self._seconds, self._done = [0.0], [0.0]

    def note(self, seconds: float, done: float) -> None:
        """Take down the share of the work that was done some seconds after the beginning."""
        if seconds < self._SOONEST:
            self._done[0] = done
        elif seconds >= self._seconds[-1] * self._GROWTH + self._SOONEST:
            # Whoever asks from another thread finds a time only when its share is there.
            self._done.append(done)
            self._seconds.append(seconds)

    def seconds(self, seconds: float, done: float) -> float | None:
        """Return the seconds left, or None when nothing was done of late."""
        mark = bisect_right(self._seconds, (1 - self._RECENT) * seconds) - 1
        since, recently = seconds - self._seconds[mark], done - self._done[mark]
        return max(0.0, 1 - done) * since / recently if recently > 0 else None


@runtime_checkable
class Branching(Protocol):
    """A listener that can follow several things at once."""

    def beside(self) -> Progress:
        """Return a listener for what goes on at the same time."""


def child_progress(progress: Progress) -> Progress:
    """Return a listener for what goes on at the same time: `progress` itself where it makes no other."""
    return progress.beside() if isinstance(progress, Branching) else progress


@runtime_checkable
class Failing(Protocol):
    """A listener that tells a phase that failed from one that is done."""

    def failed(self) -> None:
        """End the phase, which failed."""


def report_failure(progress: Progress) -> None:
    """Tell a listener that its phase failed, where it wants to know."""
    if isinstance(progress, Failing):
        progress.failed()


class Silent:
    """A listener that hears nothing; the library's default."""

    def phase(self, name: str, total: float | None = None) -> None:
        """Ignore the phase."""

    def advance(self, amount: float) -> None:
        """Ignore the step."""


class Prefixed:
    """Puts a prefix, such as the name of a model, before the name of every phase."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress = progress
        self._prefix = prefix

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin the phase under its longer name."""
        self._progress.phase(f"{self._prefix}{name}", total)

    def advance(self, amount: float) -> None:
        """Pass the step on."""
        self._progress.advance(amount)
