"""Finished clusterings that could not be saved, kept as files until they can be.

A file is Arrow IPC: one row an embedding (`id`, `label`, `probability`), the rest as JSON in its metadata.
"""

from __future__ import annotations

import glob
import hashlib
import json
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from panic_tda.errors import OUTLIER, BadInput, DatabaseError, MissingPath
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage.database import Database
from panic_tda.types import FinishedClustering

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, IntArray

_METADATA_KEY = b"panic_tda_clustering"


def keep(database: Database, finished: FinishedClustering) -> Path:
    """Write `finished` beside the database, or into the temporary folder where that fails, and return where.

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
        path
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
    try:
        with pa.OSFile(str(path)) as source:
            table = ipc.open_file(source).read_all().combine_chunks()
        return _finished(table, json.loads(table.schema.metadata[_METADATA_KEY]))
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
    return FinishedClustering(
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
    )


def without(finished: FinishedClustering, present: BoolArray, medoids: dict[int, int]) -> FinishedClustering:
    """Leave out the rows that are not `present`.

    A cluster that lost its medoid gets the one in `medoids`, by label, as a row before leaving out. A cluster
    that lost all its members is left out too; labels stay as they were.
    """
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
        "medoids": finished.medoids,
        "persistence": finished.persistence,
    }
    ids = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), len(finished.ids), [None, pa.py_buffer(np.ascontiguousarray(finished.ids))]
    )
    table = pa.table({"id": ids, "label": finished.labels, "probability": finished.probabilities})
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(said).encode()})
    unfinished = path.with_suffix(".part")
    try:
        with pa.OSFile(str(unfinished), "wb") as sink, ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _places(database: Database) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """Folder and beginning of the names: beside the database, and in the temporary folder."""
    name = database.path.name if database.path else str(database.url.database)
    folder = database.path.parent if database.path else Path.cwd()
    # The temporary folder is everybody's, and most databases have the same name.
    owner = hashlib.sha256(str(database).encode()).hexdigest()[:12]
    return (folder, f"{name}.pending-"), (Path(tempfile.gettempdir()), f"{name}.{owner}.pending-")
