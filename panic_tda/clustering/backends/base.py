"""The contract of a backend, which builds a spanning tree from rows and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from panic_tda.clustering.executor import Executor
from panic_tda.clustering.state_files import Form
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.progress import Progress, Silent
from panic_tda.records import COSINE
from panic_tda.types import Array, IntArray, SpanningTree


class Checkpoint(Protocol):
    """Storage for the state of a fit, from which a later process resumes after a kill.

    `panic_tda.clustering.checkpoint` has the implementation. A checkpoint belongs to one input; the backend
    passes everything else that its states depend on to `open`.
    """

    def open(self, **parameters: Any) -> None:
        """Select the states of these parameters; states of other parameters are not changed."""

    def make_folder(self) -> Path:
        """Create the folder of these states, and return it; `discard` removes files of rows there too."""

    def due(self) -> bool:
        """Return whether enough time has passed since the last save."""

    def save(self, name: str, **arrays: Any) -> None:
        """Save arrays under a name, and replace earlier ones."""

    def load(
        self,
        name: str,
        forms: Mapping[str, Form],
        *,
        into: Mapping[str, Array] = ...,
        check: Callable[[Mapping[str, Any]], object],
    ) -> dict[str, Any] | None:
        """Return the arrays saved under a name, or None if they are missing or invalid.

        `forms` has their shapes and data types, and `check` raises `UnusableState` if values are invalid.
        Arrays of a name in `into` are read into the array given there.
        """

    def remove(self, name: str) -> None:
        """Remove the arrays saved under a name."""

    def remove_all(self) -> None:
        """Remove all states, after the result of the fit has been saved."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a fit for a backend.

    Parameters
    ----------
    min_samples : int
        Number of the neighbour whose distance is a row's core distance; the row itself and its copies count.
    distance_floor : float
        Smaller chord distances count as this one.
    progress : Progress
        Receives the phases and the work done in them.
    checkpoint : Checkpoint or None
        Stores the state of a backend that can resume after a kill; other backends ignore it.
    memory_limit : int or None
        Bytes that a backend should use at most, in addition to its input; the rest goes into temporary files.
        None sets no limit.
    work_dir : Path or None
        Folder for these files; None is the temporary folder.
    on_device : bool
        Work on the CUDA device although the rows are in host memory, if the backend can. Rows in device
        memory are always processed on the device.
    exact : bool
        "auto" skips backends whose tree is not that of the complete graph.
    metric : {"cosine", "euclidean"}
        Whether rows are unit rows in float32, or rows of norms up to 1 in float64 and in host memory.
    keep_neighbours : int
        Largest `min_samples` of later trees. Above 0, an exact backend builds the tree of
        `tree_min_samples`, and returns neighbour lists with it; other backends ignore it.
    executor : Executor or None
        Runs the passes over all pairs of rows, if the backend can divide them into tasks. None runs them in
        this process.
    """

    min_samples: int
    distance_floor: float
    progress: Progress = field(default_factory=Silent)
    checkpoint: Checkpoint | None = None
    memory_limit: int | None = None
    work_dir: Path | None = None
    on_device: bool = False
    exact: bool = False
    metric: str = COSINE
    keep_neighbours: int = 0
    executor: Executor | None = None

    @property
    def tree_min_samples(self) -> int:
        """Return the `min_samples` of the tree of an exact backend."""
        return max(self.min_samples, self.keep_neighbours)


class Backend(Protocol):
    """An algorithm that builds the minimum spanning tree of the mutual reachability graph.

    A backend that not every machine can run has a method `unavailable_reason() -> str | None` too.
    """

    name: str
    """Its name in `--backend`."""
    exact: bool
    """Whether its tree is that of the complete graph, in float64."""
    weighted: bool
    """Whether it accepts distinct rows with weights; otherwise every weight must be 1."""

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Raise `UnsupportedOnBackend` with the reason if rows of this shape cannot be processed here."""

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Return whether rows of this shape must be in device memory; called before they are loaded."""

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Estimate the bytes of a fit in the memory where it works, including the rows if they are there."""

    def fit(self, vectors: Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree.

        Parameters
        ----------
        vectors : (n, d) float32
            Unit rows, in the memory that `rows_on_device` names; distinct if the backend is `weighted`.
            For the metric euclidean, (n, d) float64 in host memory with norms of at most 1.
        weights : (n,) int64
            Number of copies of each row.
        options : FitOptions
            Options of the fit.

        Returns
        -------
        SpanningTree
            n - 1 edges over these rows, with the core distance of every row. All heights must be computed
            consistently: the same distance has the same height on every edge, and in the neighbour lists.
        """


def build_unavailable_error(name: str, reason: str) -> UnsupportedOnBackend:
    """Build the error of a backend that cannot run on this machine."""
    return UnsupportedOnBackend(f"backend {name} cannot run here: {reason}")
