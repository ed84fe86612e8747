"""How long-running stages say where they are, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the phases of one model's clustering."""

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin the phase `name`, with `total` units of work where that is known."""

    def advance(self, amount: float) -> None:
        """Say that `amount` more units of the current phase are done."""


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
