"""The interface by which long-running stages report their progress, and simple receivers of it."""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol, runtime_checkable


class Progress(Protocol):
    """Receiver of the phases of a computation."""

    def phase(self, name: str, total: float | None = None) -> None:
        """End the previous phase and begin the phase `name`, with `total` units of work if known.

        An empty name only ends the previous phase.
        """

    def advance(self, amount: float) -> None:
        """Report that `amount` more units of the current phase have been completed."""


class TimeLeft:
    """Estimate of the time left in a phase, extrapolated from the last third of its time so far.

    An average since the beginning would be wrong for hours if the first tiles were slow, if the machine was
    busy for a while, or if a resumed run began with most of the work completed.
    """

    _RECENT = 1 / 3
    # The intervals between marks grow with time, so that a thousand marks are enough for days.
    _GROWTH, _SOONEST = 1.02, 0.01

    def __init__(self) -> None:
        self._seconds, self._shares = [0.0], [0.0]

    def note(self, seconds: float, share: float) -> None:
        """Record the completed share of the work, some seconds after the beginning."""
        if seconds < self._SOONEST:
            self._shares[0] = share
        elif seconds >= self._seconds[-1] * self._GROWTH + self._SOONEST:
            # The share first: another thread that reads the time must also find its share.
            self._shares.append(share)
            self._seconds.append(seconds)

    def seconds(self, seconds: float, share: float) -> float | None:
        """Return the seconds left, or None if the share has not grown recently."""
        mark = bisect_right(self._seconds, (1 - self._RECENT) * seconds) - 1
        duration, growth = seconds - self._seconds[mark], share - self._shares[mark]
        return max(0.0, 1 - share) * duration / growth if growth > 0 else None


@runtime_checkable
class Branching(Protocol):
    """A receiver that can follow several computations at the same time."""

    def branch(self) -> Progress:
        """Return a receiver for a computation that runs at the same time."""


def child_progress(progress: Progress) -> Progress:
    """Return a receiver for a parallel computation: a new one if `progress` can make it, else `progress`."""
    return progress.branch() if isinstance(progress, Branching) else progress


@runtime_checkable
class Failing(Protocol):
    """A receiver that distinguishes failed phases from completed ones."""

    def failed(self) -> None:
        """End the current phase, which has failed."""


def report_failure(progress: Progress) -> None:
    """Report to a receiver that its phase has failed, if it distinguishes that."""
    if isinstance(progress, Failing):
        progress.failed()


@runtime_checkable
class Annotated(Protocol):
    """A receiver that shows a text beside the progress of the current phase."""

    def note(self, text: str) -> None:
        """Show a text, such as the number of workers, from now on."""


def annotate(progress: Progress, text: str) -> None:
    """Show a text beside the progress of the current phase, if the receiver can."""
    if text and isinstance(progress, Annotated):
        progress.note(text)


class Silent:
    """A receiver that ignores everything; the default of all functions."""

    def phase(self, name: str, total: float | None = None) -> None:
        """Ignore the phase."""

    def advance(self, amount: float) -> None:
        """Ignore the amount."""


class Prefixed:
    """A receiver that puts a prefix, such as the name of a model, before the name of every phase."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress = progress
        self._prefix = prefix

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin the phase with the prefix before its name."""
        self._progress.phase(f"{self._prefix}{name}", total)

    def advance(self, amount: float) -> None:
        """Pass the amount to the receiver."""
        self._progress.advance(amount)

    def note(self, text: str) -> None:
        """Pass the text to the receiver, if it can show it."""
        annotate(self._progress, text)
