"""Finished clusterings that could not be saved, kept as files until they can be.

A file is Arrow IPC: one row an embedding (`id`, `label`, `probability`, and the columns of its tree where it
has one, see `trees`), the rest as JSON in its metadata.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from panic_tda.disk import require_regular_file, sync_folder
from panic_tda.errors import OUTLIER, BadInput, DatabaseError, MissingPath
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage import trees
from panic_tda.storage.database import Database
from panic_tda.types import FinishedClustering

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, IntArray

_METADATA_KEY = b"panic_tda_clustering"
_ID_BYTES = 32
_COLUMNS = ["id", "label", "probability"]
_TREE_COLUMN = "core_distance"
_NAME_CHARACTERS = 40


def keep(database: Database, finished: FinishedClustering) -> Path:
    """Write `finished` beside the database, or into the temporary folder where that fails, and return where.

    Values that JSON does not know are kept as text.

    Raises
    ------
    OSError
        Neither place takes it.
    """
    beside, temporary = (folder / f"{stem}{finished.id.hex}.arrow" for folder, stem in _places(database))
    try:
        return _write(beside, finished)
    except OSError:
        # A full disk is what often made the saving fail.
        return _write(temporary, finished)


def find(database: Database) -> list[Path]:
    """Return the files that wait beside the database or in the temporary folder."""
    return [
        path.absolute()
        for folder, stem in _places(database)
        for path in sorted(folder.glob(f"{glob.escape(stem)}*.arrow"))
    ]


def read(path: Path) -> FinishedClustering:
    """Read a file that `keep` wrote.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is something else, or incomplete.
    """
    require_regular_file(path)
    try:
        with pa.OSFile(str(path)) as source:
            table = ipc.open_file(source).read_all()
            # What is damaged inside would be read beyond its end.
            table.validate(full=True)
        return _finished(table.combine_chunks(), json.loads(table.schema.metadata[_METADATA_KEY]))
    except FileNotFoundError as error:
        raise MissingPath(f"no file at {path}; without a name, save-pending takes those that wait") from error
    except (
        DatabaseError,
        pa.ArrowException,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise BadInput(f"{path} is no complete clustering kept by panic_tda: {error}") from error


def _finished(table: pa.Table, said: dict[str, Any]) -> FinishedClustering:
    columns = [table.column(name) for name in _COLUMNS]
    if columns[0].type != pa.binary(_ID_BYTES) or any(column.null_count for column in columns):
        raise ValueError("its ids are none, or a value is missing")
    found = FinishedClustering(
        id=UUID(said["id"]),
        embedding_model=said["embedding_model"],
        started_at=datetime.fromisoformat(said["started_at"]),
        completed_at=datetime.fromisoformat(said["completed_at"]),
        record=ClusteringRecord.from_json(said["parameters"]),
        ids=np.array(table.column("id").to_pylist(), dtype="S32"),
        labels=table.column("label").to_numpy(),
        probabilities=table.column("probability").to_numpy(),
        medoids={int(label): row for label, row in said["medoids"].items()},
        persistence={int(label): value for label, value in said["persistence"].items()},
        # Files of earlier versions have neither.
        medoid_copies={int(label): count for label, count in said.get("medoid_copies", {}).items()},
        tree=trees.as_tree(table if _TREE_COLUMN in table.column_names else None),
    )
    clusters = set(found.labels.tolist()) - {OUTLIER}
    if not clusters == set(found.medoids) == set(found.persistence):
        raise ValueError("a cluster has no medoid or no persistence")
    if not all(0 <= row < len(found.ids) for row in found.medoids.values()):
        raise ValueError("a medoid is none of its embeddings")
    return found


def without(finished: FinishedClustering, present: BoolArray, medoids: dict[int, int]) -> FinishedClustering:
    """Leave out the rows that are not `present`.

    A cluster that lost its medoid gets the one in `medoids`, by label, as a row before leaving out. A cluster
    that lost all its members is left out too; labels stay as they were. The tree, which joins all rows, and
    the counts of copies do not hold any more, and go.
    """
    if present.all():
        return finished
    row_now: IntArray = np.cumsum(present) - 1
    labels = finished.labels[present]
    left = set(np.unique(labels).tolist())
    chosen = finished.medoids | medoids
    record = replace(
        finished.record,
        n_embeddings=int(present.sum()),
        n_vanished=int((~present).sum()),
        n_clusters=len(left - {OUTLIER}),
        n_outliers=int((labels == OUTLIER).sum()),
        largest_cluster_size=int(np.bincount(labels[labels != OUTLIER], minlength=1).max()),
    )
    return FinishedClustering(
        id=finished.id,
        embedding_model=finished.embedding_model,
        started_at=finished.started_at,
        completed_at=finished.completed_at,
        record=record,
        ids=finished.ids[present],
        labels=labels,
        probabilities=finished.probabilities[present],
        medoids={label: int(row_now[row]) for label, row in chosen.items() if label in left},
        persistence={label: value for label, value in finished.persistence.items() if label in left},
    )


def _write(path: Path, finished: FinishedClustering) -> Path:
    said = {
        "id": str(finished.id),
        "embedding_model": finished.embedding_model,
        "started_at": finished.started_at.isoformat(),
        "completed_at": finished.completed_at.isoformat(),
        "parameters": finished.record.to_json(),
        # NumPy's numbers are no keys in JSON.
        "medoids": {int(label): int(row) for label, row in finished.medoids.items()},
        "persistence": {int(label): float(value) for label, value in finished.persistence.items()},
        "medoid_copies": {int(label): int(count) for label, count in finished.medoid_copies.items()},
    }
    ids = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(_ID_BYTES), len(finished.ids), [None, pa.py_buffer(np.ascontiguousarray(finished.ids))]
    )
    table = pa.table([ids, finished.labels, finished.probabilities], names=_COLUMNS)
    metadata = {_METADATA_KEY: json.dumps(said, default=_plain).encode()}
    if finished.tree is not None:
        kept = trees.as_table(finished.tree)
        metadata |= kept.schema.metadata
        for name in kept.column_names:
            table = table.append_column(name, kept.column(name))
    table = table.replace_schema_metadata(metadata)
    path = path.absolute()
    unfinished = path.with_suffix(".part")
    try:
        with unfinished.open("wb") as sink:
            with ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            sink.flush()
            # On the disk before it has its name: a machine that stops leaves a whole file or none.
            os.fsync(sink.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _places(database: Database) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """Folder and beginning of the names: beside the database, and in the temporary folder."""
    name = database.path.name if database.path else str(database.url.database)
    folder = database.path.parent if database.path else Path()
    # The temporary folder is everybody's, and most databases have the same name. A long one would not fit
    # into a file's with all that is added, and what does not fit beside the database must fit here.
    owner = hashlib.sha256(str(database).encode()).hexdigest()[:12]
    temporary = f"{name[:_NAME_CHARACTERS]}.{owner}.pending-"
    return (folder, f"{name}.pending-"), (Path(tempfile.gettempdir()), temporary)


def _plain(value: Any) -> Any:
    """Make of a value what JSON has: NumPy's numbers and arrays as numbers and lists, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
