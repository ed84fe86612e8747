"""Saving the clusterings that were kept as files because the database would not take them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.recipe import medoid_of
from panic_tda.errors import BadInput, PanicTdaError
from panic_tda.storage import pending, saving
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.loading import are_stored, read_vectors
from panic_tda.types import FinishedClustering, SavedPending

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from panic_tda.types import BoolArray

_log = logging.getLogger(__name__)


def save_pending(database: Database | str | Path, files: Sequence[Path] = ()) -> list[SavedPending]:
    """Save the clusterings that were kept as files, and remove the files.

    Embeddings that have gone since are left out; a cluster that lost its medoid gets the exact medoid of
    the members that are left.

    Parameters
    ----------
    database : Database, str or Path
        The database they belong to.
    files : sequence of Path
        Files to save; none means those beside the database.

    Raises
    ------
    MissingPath, BadInput, DatabaseError
        A file is missing or damaged, belongs to another database, or cannot be saved now either; it stays,
        and the others are saved all the same.
    """
    database = open_current(database)
    saved: list[SavedPending] = []
    failures: list[PanicTdaError] = []
    for path in files or pending.find(database):
        try:
            saved.append(_save_kept(database, Path(path)))
        except PanicTdaError as error:
            failures.append(error)
            continue
        _log.info("saved clustering %s of %s", saved[-1].id, saved[-1].embedding_model)
    if failures:
        also = f" ({len(saved)} other clusterings were saved)" if saved else ""
        raise type(failures[0])("; ".join(map(str, failures)) + also) from failures[0]
    return saved


def _save_kept(database: Database, path: Path) -> SavedPending:
    kept = pending.read(path)
    with database.writing() as connection:
        remaining = _still_there(connection, kept)
        if not len(remaining.ids):
            raise BadInput(
                f"none of the {len(kept.ids)} embeddings in {path} are in {database}; "
                "name the database it belongs to with --db, or delete the file"
            )
        if not saving.is_saved(connection, kept.id):
            saving.save_clustering(connection, remaining)
    path.unlink()
    return SavedPending(kept.id, kept.embedding_model, len(kept.ids) - len(remaining.ids))


def _still_there(connection: Connection, kept: FinishedClustering) -> FinishedClustering:
    present = are_stored(connection, kept.ids)
    if present.all():
        return kept
    lost = [label for label, row in kept.medoids.items() if not present[row]]
    found = {label: _medoid_of_rest(connection, kept, present, label) for label in lost}
    return pending.without(kept, present, {label: row for label, row in found.items() if row is not None})


def _medoid_of_rest(
    connection: Connection, kept: FinishedClustering, present: BoolArray, label: int
) -> int | None:
    rows = np.flatnonzero(present & (kept.labels == label))
    if not len(rows):
        return None
    return int(rows[medoid_of(read_vectors(connection, kept.ids[rows]), kept.probabilities[rows])])
