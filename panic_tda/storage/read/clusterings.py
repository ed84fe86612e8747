"""One stored clustering, read part by part inside one transaction.

Everything that shows, compares, recuts, draws or exports a clustering reads it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy.engine import Connection

from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.assignments import Assignments, count_assignments, read_assignments
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.read.loading import load_assigned
from panic_tda.storage.read.medoids import read_medoid_ids
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary, find_clustering, read_details
from panic_tda.storage.read.trajectories import (
    RunFacts,
    RunSteps,
    RunTexts,
    read_runs,
    read_steps,
    stream_texts,
)
from panic_tda.storage.read.trees import require_tree
from panic_tda.storage.read.vectors_by_id import require_vectors
from panic_tda.types import EmbeddingMatrix, SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, Float32Array, IntArray


class StoredClustering:
    """A stored clustering whose parts are read when they are first asked for, and kept.

    Parts that were read stay usable after the transaction; others are not available any more. Who needs
    steps asks for them before `assignments`: then one pass through the rows gives both.

    Attributes
    ----------
    connection : Connection
        From `Database.reading`.
    summary : ClusteringSummary
        Its row, with its record.
    """

    def __init__(
        self, connection: Connection, summary: ClusteringSummary, progress: Progress | None = None
    ) -> None:
        self.connection = connection
        self.summary = summary
        self._progress = progress or Silent()
        self._assignments: Assignments | None = None

    @cached_property
    def n_assigned(self) -> int:
        """Number of its assignments: fewer than its record says where embeddings have gone since."""
        return count_assignments(self.connection, self.summary.id)

    @property
    def assignments(self) -> Assignments:
        """The cluster of each embedding, by ascending embedding id."""
        return self._read_assignments(with_locators=False)

    @cached_property
    def clusters(self) -> list[ClusterDetails]:
        """Its clusters by label, with their medoids."""
        return read_details(self.connection, self.summary.id)

    @cached_property
    def medoids(self) -> dict[int, int]:
        """Positions of the medoids among the assignments, by ascending label; those that are there still."""
        ids = read_medoid_ids(self.connection, self.summary.id)
        return dict(zip(ids, find_rows(self.assignments.ids, list(ids.values())).tolist(), strict=True))

    @cached_property
    def steps(self) -> RunSteps:
        """The sampled outputs of its runs; see `read_steps`."""
        assignments = self._read_assignments(with_locators=True)
        return read_steps(self.connection, self.summary, self._progress, assignments=assignments)

    @cached_property
    def runs(self) -> dict[str, RunFacts]:
        """What all runs of the database were started with, by id."""
        return read_runs(self.connection)

    @cached_property
    def tree(self) -> SpanningTree:
        """The spanning tree over its assignments; see `require_tree`."""
        self._progress.phase("read the tree")
        return require_tree(self.connection, self.summary.id, self.summary.record)

    @cached_property
    def dimensions(self) -> int:
        """Dimensions of the vectors of its embedding model; 0 where there are none."""
        return stored_width(self.connection, self.summary.embedding_model) // FLOAT_BYTES

    def read_texts(self, *take: Callable[[RunTexts], None]) -> None:
        """Pass the texts of each of its runs to all of these functions; one run is in memory at a time."""
        run_ids = self.steps.run_ids
        self._progress.phase("read texts", total=len(run_ids))
        for run in stream_texts(self.connection, run_ids):
            for function in take:
                function(run)
            self._progress.advance(1)

    def read_vectors(self, rows: IntArray) -> Float32Array:
        """Read the vectors of some assignments, (n, d) float32; see `require_vectors`."""
        self._progress.phase("read vectors", total=len(rows))
        return require_vectors(
            self.connection,
            self.assignments.ids[rows],
            model=self.summary.embedding_model,
            dimensions=self.dimensions,
            progress=self._progress,
        )

    def load_matrix(self, *, memory_limit: int | None = None) -> EmbeddingMatrix:
        """Load the vectors of all assignments; see `load_assigned`."""
        return load_assigned(
            self.connection, self.summary, progress=self._progress, memory_limit=memory_limit
        )

    def _read_assignments(self, *, with_locators: bool) -> Assignments:
        if self._assignments is None or (with_locators and self._assignments.locators is None):
            self._progress.phase("read assignments", total=self.summary.record.n_embeddings)
            self._assignments = read_assignments(
                self.connection, self.summary.id, with_locators=with_locators, progress=self._progress
            )
        return self._assignments


@contextmanager
def open_clustering(
    database: Database | str | Path, summary: ClusteringSummary, progress: Progress | None = None
) -> Iterator[StoredClustering]:
    """Open a stored clustering for reading, in one transaction that lasts as long as the block.

    Raises
    ------
    MissingPath, DatabaseError, NeedsUpgrade
        There is no such database, it is something else, or older.
    """
    database = database if isinstance(database, Database) else open_current(database)
    with database.reading() as connection:
        yield StoredClustering(connection, summary, progress)


def find_stored(
    target: Database | str | Path, reference: str, *, model: str | None = None
) -> tuple[Database, ClusteringSummary]:
    """Open a database, and find the one clustering that a reference means; see `find_clustering`."""
    database = open_current(target)
    with database.session() as session:
        return database, find_clustering(session, reference, model=model)


def find_rows(ids: BytesArray, wanted: Sequence[bytes]) -> IntArray:
    """Return the positions of ids among ascending ones, (k,) int64; all of them are there."""
    return np.searchsorted(ids, np.array(wanted, dtype="S32"))
