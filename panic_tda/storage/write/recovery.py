"""Saving the clusterings that were kept as files because the database would not take them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from panic_tda.clustering.checkpoint import discard_states
from panic_tda.clustering.recipe import medoid_of
from panic_tda.errors import BadInput, BadVectors, DatabaseError, PanicTdaError, unexpected
from panic_tda.paths import expand_home
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.read.loading import are_stored
from panic_tda.storage.read.picking import read_vectors
from panic_tda.storage.schema.tables import Embedding
from panic_tda.storage.write import pending, saving
from panic_tda.types import FinishedClustering, SavedPending
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from panic_tda.types import BoolArray


_log = logging.getLogger(__name__)


def save_pending(database: Database | str | Path, files: Sequence[Path] = ()) -> list[SavedPending]:
    """Save the clusterings that were kept as files, and remove the files and the states they grew from.

    Embeddings that have gone since are left out, of which the log warns; a cluster that lost its medoid
    gets the exact medoid of the members that are left.

    Parameters
    ----------
    database : Database, str or Path
        The database they belong to.
    files : sequence of Path
        Files to save; none means those beside the database.

    Raises
    ------
    MissingPath, BadInput, BadVectors, DatabaseError
        A file is missing or damaged, belongs to another database, or cannot be saved now either; it stays,
        and the others are saved all the same.
    """
    database = open_current(database)
    saved: list[SavedPending] = []
    failures: list[PanicTdaError] = []
    for path in files or pending.find(database):
        try:
            saved.append(_save_kept(database, expand_home(path)))
        except PanicTdaError as error:
            failures.append(error)
            continue
        except Exception as error:
            # One file's trouble is not the others'.
            _log.debug("saving %s failed unexpectedly", path, exc_info=True)
            failures.append(DatabaseError(f"{path}: {unexpected(error)}"))
            continue
        _log.info("saved clustering %s of %s", saved[-1].id, saved[-1].embedding_model)
    if failures:
        others = pluralize(len(saved), "other clustering was", "other clusterings were")
        also = f" ({len(saved)} {others} saved)" if saved else ""
        raise type(failures[0])("; ".join(map(str, failures)) + also) from failures[0]
    return saved


def _save_kept(database: Database, path: Path) -> SavedPending:
    kept = pending.read_for(database, path)
    present, medoids = _look_up(database, kept, path)
    while True:
        if not present.all():
            _warn_of_missing(database, kept, path, int((~present).sum()))
        try:
            _save(database, pending.without(kept, present, medoids))
            break
        except DatabaseError:
            # Nothing was locked while it was looked up: an embedding may have gone since, which its foreign
            # key does not let pass.
            before = present
            present, medoids = _look_up(database, kept, path)
            if np.array_equal(before, present):
                raise
    _tidy(database, kept, path)
    return SavedPending(kept.id, kept.embedding_model, int((~present).sum()))


def _save(database: Database, remaining: FinishedClustering) -> None:
    with database.writing() as connection:
        # Killed between the commit and the removal of its file, it is there already.
        if not saving.is_saved(connection, remaining.id):
            saving.save_clustering(connection, remaining)


def _tidy(database: Database, kept: FinishedClustering, path: Path) -> None:
    """Remove the file, and the states from which the computation would have gone on."""
    try:
        path.unlink()
        if kept.record.input_sha256 is not None:
            discard_states(database.work_root, kept.record.input_sha256)
    except OSError as error:  # the result is saved: what is left over is no failure
        _log.warning("%s is saved, but not everything of it could be removed: %s", kept.id, error)


def _look_up(database: Database, kept: FinishedClustering, path: Path) -> tuple[BoolArray, dict[int, int]]:
    """Tell which rows are still there, and find new medoids for clusters that lost theirs."""
    with database.reading() as connection:
        present = are_stored(connection, kept.ids)
        if len(present) and not present.any():
            raise BadInput(
                f"none of the {len(kept.ids)} "
                f"{pluralize(len(kept.ids), 'embedding')} in {path} are in {database}; "
                "name the database it belongs to with --db, or delete the file"
            )
        lost = [label for label, row in kept.medoids.items() if not present[row]]
        found = {label: _medoid_of_rest(connection, kept, present, label) for label in lost}
    return present, {label: row for label, row in found.items() if row is not None}


def _warn_of_missing(database: Database, kept: FinishedClustering, path: Path, n_missing: int) -> None:
    query = sa.select(sa.func.count()).where(Embedding.embedding_model == kept.embedding_model)
    with database.reading() as connection:
        n_now = connection.execute(query).scalar_one()
    _log.warning(
        "%s: %d of its %d embeddings are not in the database and are left out; of %s there are %d now, and "
        "there were %s when it was clustered",
        path,
        n_missing,
        len(kept.ids),
        kept.embedding_model,
        n_now,
        kept.record.n_total,
    )


def _medoid_of_rest(
    connection: Connection, kept: FinishedClustering, present: BoolArray, label: int
) -> int | None:
    rows = np.flatnonzero(present & (kept.labels == label))
    if not len(rows):
        return None
    dimensions = stored_width(connection, kept.embedding_model) // FLOAT_BYTES
    vectors = read_vectors(connection, kept.ids[rows], dimensions=dimensions)
    if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
        raise BadVectors(
            f"clustering {kept.id} of {kept.embedding_model}: cluster {label} lost its medoid, and none can "
            "be found anew, as vectors of its members are missing, of another length, not finite or zero; "
            "restore them, or delete the file and cluster again"
        )
    return int(rows[medoid_of(vectors, kept.probabilities[rows])])
