"""The contract of a backend: rows and weights in, spanning tree out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from panic_tda.errors import UnsupportedOnBackend
from panic_tda.progress import Progress, Silent

if TYPE_CHECKING:
    from pathlib import Path

    from panic_tda.clustering.state_files import Form
    from panic_tda.types import Array, IntArray, SpanningTree


class Checkpoint(Protocol):
    """Keeps the state of a fit through a kill; `panic_tda.clustering.checkpoint` has the one there is.

    It belongs to one input; the backend says on what else its states depend.
    """

    def open(self, **parameters: Any) -> None:
        """Turn to the states that were saved with these parameters; others stay where they are."""

    def due(self) -> bool:
        """Say whether enough time has passed since the last save."""

    def save(self, name: str, **arrays: Any) -> None:
        """Store arrays under a name, in the place of those before."""

    def load(
        self,
        name: str,
        forms: Mapping[str, Form],
        *,
        into: Mapping[str, Array] = ...,
        check: Callable[[Mapping[str, Any]], object],
    ) -> dict[str, Any] | None:
        """Return the arrays stored under a name, or None where they are missing or not what they must be.

        `forms` says what they must be, and `check` raises `UnusableState`; some are read into arrays that are
        there.
        """

    def remove(self, name: str) -> None:
        """Forget the arrays stored under a name."""

    def discard(self) -> None:
        """Forget everything: what the fit was for is safe."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What a backend needs beside the rows.

    Parameters
    ----------
    min_samples : int
        Neighbour whose distance is a row's core distance, the row itself (and its copies) counted.
    distance_floor : float
        Smaller chord distances count as this one.
    progress : Progress
        Told the phases and the work done in them.
    checkpoint : Checkpoint or None
        Where a backend that can go on after a kill keeps its state; the others ignore it.
    memory_limit : int or None
        Bytes that a backend may take above its input, as far as it can: what does not fit goes into
        temporary files. None sets no limit.
    work_dir : Path or None
        Folder for these files; None takes the temporary folder.
    on_device : bool
        Work on the CUDA device although the rows lie in host memory, for backends that can. Rows that lie on
        the device are always worked on there.
    exact : bool
        "auto" skips backends whose tree is not that of the complete graph.
    """

    min_samples: int
    distance_floor: float
    progress: Progress = field(default_factory=Silent)
    checkpoint: Checkpoint | None = None
    memory_limit: int | None = None
    work_dir: Path | None = None
    on_device: bool = False
    exact: bool = False


class Backend(Protocol):
    """Builds the minimum spanning tree of the mutual reachability graph.

    One that not every machine can run says so by a method `unusable_because() -> str | None`.
    """

    name: str
    """The word that selects it."""
    exact: bool
    """Whether its tree is that of the complete graph, in float64."""
    weighted: bool
    """Whether it takes distinct rows with multiplicities; otherwise every weight must be 1."""

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Raise `UnsupportedOnBackend` with the reason when this shape cannot be done here."""

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Say whether rows of this shape belong into device memory; asked before they are loaded."""

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Estimate the bytes of a fit in the memory where it works, with the rows where they lie there."""

    def fit(self, vectors: Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree.

        Parameters
        ----------
        vectors : (n, d) float32
            Unit rows, in the memory that `rows_on_device` asked for; distinct where the backend is
            `weighted`.
        weights : (n,) int64
            Multiplicity of each row.
        options : FitOptions
            Neighbour count, floor and listener.

        Returns
        -------
        SpanningTree
            n - 1 edges over the rows given, all heights from one consistent set of numbers, with the core
            distance of every row.
        """


def cannot_run(name: str, reason: str) -> UnsupportedOnBackend:
    """Make the refusal of a backend for which something is missing on this machine."""
    return UnsupportedOnBackend(f"backend {name} cannot run here: {reason}")
