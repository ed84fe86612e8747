"""Finished clusterings that could not be saved, kept as files until they can be.

A file is Arrow IPC: one row an embedding (`id`, `label`, `probability`, and the columns of its tree where it
has one, see `trees`), the rest as JSON in its metadata. Behind it stand a mark and a BLAKE2b digest over all
before them. Only files of our own user are read, and each names the database that it belongs to; files of
earlier versions have neither digest nor name.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import secrets
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pyarrow import ipc

from panic_tda.disk import PRIVATE_FILE, UNFOLLOWED, open_own_file, sync_folder
from panic_tda.errors import OUTLIER, BadInput, DatabaseError, MissingPath
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage.database import Database
from panic_tda.storage.read import trees
from panic_tda.types import FinishedClustering

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, IntArray

_METADATA_KEY = b"panic_tda_clustering"
_ID_BYTES = 32
_COLUMNS = ["id", "label", "probability"]
_TREE_COLUMN = "core_distance"
_NAME_CHARACTERS = 40
_MARK, _DIGEST_BYTES = b"panic-tda result", 32
_MAY_ASK = "has_function_privilege('pg_control_system()', 'execute')"
# As text: in JSON a number is exact up to 2**53.
_SERVER = "system_identifier::text FROM pg_control_system()"
_NAMES = (
    "SELECT current_database()::text, "
    "(SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('clusteringresult'))"
)
"""The database on a PostgreSQL server, and the schema in which our tables are found."""
_END_OF_ARROW = b"ARROW1"
"""With which files of earlier versions end."""

_log = logging.getLogger(__name__)


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
        identity = identify(database)
    except DatabaseError:  # its server is gone, which is often why the saving failed
        identity = None
    try:
        return _write(beside, finished, identity)
    except OSError:
        # A full disk is what often made the saving fail.
        return _write(temporary, finished, identity)


def identify(database: Database) -> dict[str, Any]:
    """Return what tells a database from all others; a server is asked once.

    Raises
    ------
    DatabaseError
        The server does not answer.
    """
    if database.identity is None:
        if database.path is not None:
            database.identity = {"sqlite": str(database.path)}
        else:
            with database.reading() as connection:
                # Some servers keep their number to themselves.
                told = connection.execute(sa.text(f"SELECT {_MAY_ASK}")).scalar()
                server = connection.execute(sa.text(f"SELECT {_SERVER}")).scalar() if told else None
                database.identity = {"postgresql": [server, *connection.execute(sa.text(_NAMES)).one()]}
    return database.identity


def find(database: Database) -> list[Path]:
    """Return the files that wait beside the database or in the temporary folder, and are ours to save.

    Files of other users and of other databases are left out, of which the log warns.
    """
    paths = [
        path.absolute()
        for folder, stem in _places(database)
        for path in sorted(folder.glob(f"{glob.escape(stem)}*.arrow"))
    ]
    return [path for path in paths if _is_ours(database, path)]


def read(path: Path) -> FinishedClustering:
    """Read a file that `keep` wrote.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is something else, incomplete or another user's.
    """
    return _read(path)[0]


def read_for(database: Database, path: Path) -> FinishedClustering:
    """Read a file that `keep` wrote for this database; raises as `read`.

    Raises
    ------
    BadInput
        It belongs to another database.
    """
    finished, identity = _read(path)
    if not _is_of(database, identity):
        raise BadInput(
            f"{path} belongs to the database {_shown(identity)}, not to {database}; name that one with --db"
        )
    return finished


def _is_ours(database: Database, path: Path) -> bool:
    try:
        if hasattr(os, "geteuid") and path.lstat().st_uid != os.geteuid():
            _log.warning("%s belongs to another user, and is left alone", path)
            return False
        with open_own_file(path) as file, ipc.open_file(_without_digest(file.read())) as reader:
            metadata = json.loads(reader.schema.metadata[_METADATA_KEY])
        identity = metadata.get("database")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError):
        # Whoever reads it says what is wrong with it.
        return True
    if _is_of(database, identity) and (identity is not None or database.path is not None):
        return True
    _log.warning(
        "%s belongs to %s, and is left alone",
        path,
        "no database that it names: give its name to save it" if identity is None else _shown(identity),
    )
    return False


def _is_of(database: Database, identity: Any) -> bool:
    """Tell whether a file with this identity is of the database; one without may be, by its user's word."""
    if identity is None or identity == identify(database):
        return True
    recorded = identity.get("sqlite") if isinstance(identity, dict) else None
    if database.path is None or not isinstance(recorded, str):
        return False
    # One that is no longer where it was has been moved; its embeddings tell the rest.
    return not os.path.exists(recorded) or os.path.samefile(recorded, database.path)


def _shown(identity: Any) -> str:
    names = next(iter(identity.values()), identity) if isinstance(identity, dict) else identity
    return "/".join(map(str, names)) if isinstance(names, list) else str(names)


def _without_digest(content: bytes) -> pa.Buffer:
    """Return the Arrow file in a kept file, once its digest has been checked."""
    view, end = memoryview(content), len(content) - len(_MARK) - _DIGEST_BYTES
    if end > 0 and view[end:-_DIGEST_BYTES] == _MARK:
        digest = hashlib.blake2b(view[:-_DIGEST_BYTES], digest_size=_DIGEST_BYTES)
        if view[-_DIGEST_BYTES:] != digest.digest():
            raise ValueError("it is damaged: its digest does not match")
        return pa.py_buffer(view[:end])
    if not content.endswith(_END_OF_ARROW):
        raise ValueError("it is cut off, or something else")
    return pa.py_buffer(content)


def _read(path: Path) -> tuple[FinishedClustering, Any]:
    """Read a file, and what it says of its database."""
    try:
        with open_own_file(path) as file:
            content = file.read()
        with ipc.open_file(_without_digest(content)) as reader:
            table = reader.read_all()
        # What is damaged inside would be read beyond its end.
        table.validate(full=True)
        metadata = json.loads(table.schema.metadata[_METADATA_KEY])
        return _finished(table.combine_chunks(), metadata), metadata.get("database")
    except FileNotFoundError as error:
        raise MissingPath(f"no file at {path}; without a name, save-pending takes those that wait") from error
    except PermissionError as error:
        raise BadInput(
            f"{path} is not taken: {error.strerror}; copy it, if you trust it, and save the copy"
        ) from error
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


def _write(path: Path, finished: FinishedClustering, identity: dict[str, Any] | None) -> Path:
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
        "database": identity,
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
    content = pa.BufferOutputStream()
    with ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    path = path.absolute()
    partial = path.with_name(f".panic-tda-{secrets.token_hex(8)}.part")
    # A name that nobody can foresee: in the temporary folder others could have put a link there.
    number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | UNFOLLOWED, PRIVATE_FILE)
    try:
        with os.fdopen(number, "wb") as file:
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            for piece in (content.getvalue(), _MARK):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            # On the disk before it has its name: a machine that stops leaves a whole file or none.
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
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
