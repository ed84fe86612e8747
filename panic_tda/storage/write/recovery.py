"""Save the clusterings in pending files, which were written because saving failed (see `pending`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.clustering.checkpoint import remove_states_of_input
from panic_tda.clustering.recipe import find_medoid
from panic_tda.errors import BadInput, BadVectors, DatabaseError, PanicTdaError, unexpected
from panic_tda.paths import expand_home
from panic_tda.records import COSINE
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.read.vectors_by_id import are_stored, read_vectors
from panic_tda.storage.schema.tables import Embedding
from panic_tda.storage.write import pending, saving
from panic_tda.types import BoolArray, FinishedClustering
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedPending:
    """A clustering of a pending file that was saved in the database."""

    id: UUID
    embedding_model: str
    n_vanished: int


def save_pending(database: Database | str | Path, files: Sequence[Path] = ()) -> list[SavedPending]:
    """Save the clusterings in pending files, and remove the files and their checkpoints.

    Checkpoints of the same embeddings with other parameters stay.
    Embeddings that were deleted since are left out with a warning in the log. A cluster that lost its medoid
    gets the exact medoid of its remaining members.

    Parameters
    ----------
    database : Database, str or Path
        The database of the clusterings.
    files : sequence of Path
        Files to save; empty means all files that `find_pending` finds.

    Raises
    ------
    MissingPath, BadInput, BadVectors, DatabaseError
        A file is missing or damaged, belongs to another database, or cannot be saved. It stays, and the other
        files are saved nevertheless.
    """
    database = open_current(database)
    saved: list[SavedPending] = []
    failures: list[PanicTdaError] = []
    for path in files or pending.find_pending(database):
        try:
            saved.append(_save_file(database, expand_home(path)))
        except PanicTdaError as error:
            failures.append(error)
            continue
        except Exception as error:
            # An error of one file must not keep the others from being saved.
            _log.debug("saving %s failed unexpectedly", path, exc_info=True)
            failures.append(DatabaseError(f"{path}: {unexpected(error)}"))
            continue
        _log.info("saved clustering %s of %s", saved[-1].id, saved[-1].embedding_model)
    if failures:
        others = pluralize(len(saved), "other clustering was", "other clusterings were")
        also = f" ({len(saved)} {others} saved)" if saved else ""
        raise type(failures[0])("; ".join(map(str, failures)) + also) from failures[0]
    return saved


def _save_file(database: Database, path: Path) -> SavedPending:
    finished = pending.read_pending_for(database, path)
    present, medoids = _find_present(database, finished, path)
    while True:
        if not present.all():
            _warn_of_missing(database, finished, path, int((~present).sum()))
        try:
            _save(database, pending.drop_rows(finished, present, medoids))
            break
        except DatabaseError:
            # Nothing was locked during the lookup: an embedding may have been deleted since, and the foreign
            # key refuses its assignment.
            before = present
            present, medoids = _find_present(database, finished, path)
            if np.array_equal(before, present):
                raise
    _remove_file(database, finished, path)
    return SavedPending(finished.id, finished.embedding_model, int((~present).sum()))


def _save(database: Database, remaining: FinishedClustering) -> None:
    with database.writing() as connection:
        # It is saved already if a process was killed between the commit and the removal of the file.
        if not saving.is_saved(connection, remaining.id):
            saving.save_clustering(connection, remaining)


def _remove_file(database: Database, finished: FinishedClustering, path: Path) -> None:
    """Remove the file, and the checkpoints of its computation."""
    record = finished.record
    try:
        path.unlink()
        # Recutting a tree saves no checkpoints: those of its input belong to another computation.
        if record.input_sha256 is not None and record.recut_of is None:
            # Parameters on which the states depend, see `TiledBackend`; min_samples is that of the tree.
            parameters = {
                "backend": record.backend,
                "min_samples": record.keep_neighbours or record.min_samples,
                "distance_floor": record.distance_floor,
            }
            remove_states_of_input(database.work_root, record.input_sha256, parameters)
    except OSError as error:  # the result is saved, so remaining files are only worth a warning
        _log.warning("%s is saved, but not everything of it could be removed: %s", finished.id, error)


def _find_present(
    database: Database, finished: FinishedClustering, path: Path
) -> tuple[BoolArray, dict[int, int]]:
    """Return which rows are still stored, and the new medoids of clusters that lost their medoid."""
    with database.reading() as connection:
        present = are_stored(connection, finished.ids)
        if len(present) and not present.any():
            raise BadInput(
                f"none of the {len(finished.ids)} "
                f"{pluralize(len(finished.ids), 'embedding')} in {path} are in {database}; "
                "name the database it belongs to with --db, or delete the file"
            )
        labels_without_medoid = [label for label, row in finished.medoids.items() if not present[row]]
        new_medoids = {
            label: _find_new_medoid(connection, finished, present, label) for label in labels_without_medoid
        }
    return present, {label: row for label, row in new_medoids.items() if row is not None}


def _warn_of_missing(database: Database, finished: FinishedClustering, path: Path, n_missing: int) -> None:
    query = sa.select(sa.func.count()).where(Embedding.embedding_model == finished.embedding_model)
    with database.reading() as connection:
        n_now = connection.execute(query).scalar_one()
    _log.warning(
        "%s: %d of its %d embeddings are not in the database and are left out; %s has %d embeddings "
        "now and had %s when it was clustered",
        path,
        n_missing,
        len(finished.ids),
        finished.embedding_model,
        n_now,
        finished.record.n_total,
    )


def _find_new_medoid(
    connection: Connection, finished: FinishedClustering, present: BoolArray, label: int
) -> int | None:
    rows = np.flatnonzero(present & (finished.labels == label))
    if not len(rows):
        return None
    dimensions = stored_width(connection, finished.embedding_model) // FLOAT_BYTES
    vectors = read_vectors(connection, finished.ids[rows], dimensions=dimensions)
    if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
        raise BadVectors(
            f"clustering {finished.id} of {finished.embedding_model}: cluster {label} lost its medoid, and "
            "no new one can be found, as vectors of its members are missing, of another length, not finite "
            "or zero; restore them, or delete the file and cluster again"
        )
    return int(rows[find_medoid(vectors, finished.probabilities[rows], finished.record.metric or COSINE)])
