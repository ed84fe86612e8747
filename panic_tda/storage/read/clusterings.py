"""Read one stored clustering, part by part, inside one transaction.

All commands that show, compare, recut, draw or export a clustering read it here. Modules that import Numba
are imported on first use: most commands need neither a tree nor a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.assignments import (
    Assignments,
    count_assignments,
    read_assignments,
    read_invocations,
)
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.read.medoids import read_medoid_ids
from panic_tda.storage.read.predictions import count_predictions, read_predictions
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary, find_clustering, read_details
from panic_tda.storage.read.trajectories import (
    RunFacts,
    RunSteps,
    RunTexts,
    read_medoid_texts,
    read_runs,
    read_steps,
    stream_texts,
)
from panic_tda.storage.read.vectors_by_id import read_prompt_vectors, require_vectors
from panic_tda.types import BoolArray, BytesArray, EmbeddingMatrix, Float32Array, IntArray, SpanningTree


class StoredClustering:
    """A stored clustering whose parts are read on first access and then cached.

    Parts that were read stay usable after the transaction; other parts can no longer be read then. Read
    `steps` before `assignments` if both are needed: one pass through the rows then gives both.

    Attributes
    ----------
    connection : Connection
        From `Database.reading`.
    summary : ClusteringSummary
        The row of the clustering, with its record.
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
        """Return the number of assignments, below `record.n_embeddings` if embeddings were deleted since."""
        return count_assignments(self.connection, self.summary.id)

    @cached_property
    def n_predicted(self) -> int:
        """Return the number of predicted assignments."""
        return count_predictions(self.connection, self.summary.id)

    @property
    def assignments(self) -> Assignments:
        """Return the cluster of each embedding, by ascending embedding id."""
        return self._read_assignments(with_locators=False)

    @cached_property
    def clusters(self) -> list[ClusterDetails]:
        """Return the clusters by label, with their medoids."""
        return read_details(self.connection, self.summary.id)

    @cached_property
    def medoids(self) -> dict[int, int]:
        """Return the row of each medoid in `assignments`, by ascending label, without missing medoids."""
        ids = read_medoid_ids(self.connection, self.summary.id)
        rows = np.searchsorted(self.assignments.ids, np.array(list(ids.values()), dtype="S32"))
        return dict(zip(ids, rows.tolist(), strict=True))

    def assignments_with_locators(self) -> Assignments:
        """Return the assignments with the row locators of the embeddings."""
        return self._read_assignments(with_locators=True)

    @cached_property
    def predictions(self) -> Assignments:
        """Return the predicted assignments with locators, by ascending embedding id; often there are none."""
        return read_predictions(self.connection, self.summary.id, progress=self._progress)

    @cached_property
    def steps(self) -> RunSteps:
        """Return the sampled outputs of the runs; see `read_steps`."""
        assignments = self._read_assignments(with_locators=True)
        return read_steps(self.connection, self.summary, self._progress, assignments=assignments)

    @cached_property
    def all_steps(self) -> RunSteps:
        """Return the steps with those of predicted assignments, whose rows come after `assignments`."""
        return read_steps(
            self.connection,
            self.summary,
            self._progress,
            assignments=self.assignments_with_locators(),
            predictions=self.predictions,
        )

    def mark_predicted(self, steps: RunSteps) -> BoolArray:
        """Return whether the assignment of each step is predicted, (n,) bool."""
        return steps.rows >= len(self.assignments.ids)

    @cached_property
    def runs(self) -> dict[str, RunFacts]:
        """Return network, prompt and seed of all runs of the database, by id."""
        return read_runs(self.connection)

    @cached_property
    def prompt_vectors(self) -> dict[str, NDArray[np.float32]]:
        """Return the embeddings of the initial prompts, by id of the run; empty if none were imported."""
        return read_prompt_vectors(self.connection, self.summary.embedding_model, self.dimensions)

    @cached_property
    def tree(self) -> SpanningTree:
        """Return the spanning tree over the assignments; see `require_tree`."""
        from panic_tda.storage.read.trees import require_tree

        self._progress.phase("read the tree")
        return require_tree(self.connection, self.summary.id, self.summary.record, self.n_assigned)

    @cached_property
    def graph(self) -> SpanningTree:
        """Return the tree with the neighbour lists over the assignments; see `require_graph`."""
        from panic_tda.storage.read.neighbour_graphs import require_graph

        self._progress.phase("read the neighbour lists")
        return require_graph(self.connection, self.summary.id, self.summary.record, self.n_assigned)

    def find_graph(self) -> SpanningTree | None:
        """Return the tree with the neighbour lists, or None if there are none."""
        from panic_tda.errors import NoTree

        try:
            return self.graph
        except NoTree:
            return None

    def tree_at(self, min_samples: int) -> SpanningTree:
        """Return the spanning tree at another `min_samples`, which must not exceed `keep_neighbours`.

        Raises
        ------
        NoTree
            Neither a tree nor neighbour lists are stored for it; see `require_tree` and `require_graph`.
        """
        from panic_tda.clustering.neighbour_graph import lower_min_samples

        record = self.summary.record
        if min_samples == record.min_samples:
            return self.tree
        graph = self.graph
        self._progress.phase(f"build the tree at min_samples {min_samples}")
        return lower_min_samples(graph, min_samples, record.distance_floor)

    @cached_property
    def dimensions(self) -> int:
        """Return the dimensions of the vectors of the embedding model; 0 if there are no vectors."""
        return stored_width(self.connection, self.summary.embedding_model) // FLOAT_BYTES

    @cached_property
    def invocations(self) -> BytesArray:
        """Return the invocation of each assignment, (n,) S32; see `read_invocations`."""
        locators = self._read_assignments(with_locators=True).locators
        assert locators is not None
        self._progress.phase("read invocations")
        return read_invocations(self.connection, self.summary.embedding_model, locators)

    def read_medoid_texts(self, labels: Iterable[int]) -> dict[int, str | None]:
        """Read the texts of the medoids of these clusters, by label; None for an image."""
        return read_medoid_texts(self.connection, self.summary.id, labels)

    def read_texts(self, *functions: Callable[[RunTexts], None], steps: RunSteps | None = None) -> None:
        """Pass the texts of each run of `steps` to all of these functions; one run is in memory at a time."""
        run_ids = (self.steps if steps is None else steps).run_ids
        self._progress.phase("read texts", total=len(run_ids))
        for run in stream_texts(self.connection, run_ids):
            for function in functions:
                function(run)
            self._progress.advance(1)

    def read_vectors(self, rows: IntArray) -> Float32Array:
        """Read the vectors of these rows of the assignments, (n, d) float32; see `require_vectors`."""
        self._progress.phase("read vectors", total=len(rows))
        ids, model = self.assignments.ids[rows], self.summary.embedding_model
        return require_vectors(self.connection, ids, model=model, progress=self._progress)

    def load_matrix(self, *, memory_limit: int | None = None) -> EmbeddingMatrix:
        """Load the vectors of all assignments; see `load_assigned`."""
        from panic_tda.storage.read.loading import load_assigned

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
        The database does not exist, is not a panic_tda database, or has an older schema.
    """
    database = database if isinstance(database, Database) else open_current(database)
    with database.reading() as connection:
        yield StoredClustering(connection, summary, progress)


def find_stored(
    target: Database | str | Path, reference: str, *, model: str | None = None
) -> tuple[Database, ClusteringSummary]:
    """Open a database and find the clustering that a reference names; see `find_clustering`."""
    database = open_current(target)
    with database.session() as session:
        return database, find_clustering(session, reference, model=model)
