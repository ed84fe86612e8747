"""Write finished clusterings that could not be saved to files, and read these files.

A file is Arrow IPC, with one row per embedding (`id`, `label`, `probability`, and the columns of the tree and
of the neighbour lists if there are any, see `trees` and `neighbour_graphs`) and all other values as JSON in
its metadata. A mark and a BLAKE2b digest over all bytes before it follow. Only files of the current user are
read. Each file names its database; files of earlier versions have neither a digest nor the name of a
database.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pyarrow import ipc

from panic_tda.clustering.cuts import largest_cluster_size
from panic_tda.disk import PRIVATE_FILE, UNFOLLOWED, commit_file, name_partial, open_own_file
from panic_tda.errors import BadInput, DatabaseError, MissingPath
from panic_tda.records import COSINE, ClusteringRecord
from panic_tda.storage.database import Database
from panic_tda.storage.read import neighbour_graphs, trees
from panic_tda.storage.write import neighbour_graphs as neighbour_graphs_written
from panic_tda.storage.write.trees import as_table
from panic_tda.types import OUTLIER, BoolArray, FinishedClustering, IntArray, SpanningTree

_METADATA_KEY = b"panic_tda_clustering"
_ID_BYTES = 32
_COLUMNS = ["id", "label", "probability"]
_TREE_COLUMN = "core_distance"
_GRAPH_PREFIX = "neighbours_"
_NAME_CHARACTERS = 40
MARK, DIGEST_BYTES = b"panic-tda result", 32
_MAY_ASK = "has_function_privilege('pg_control_system()', 'execute')"
# As text, because in JSON only integers up to 2**53 are exact.
_SERVER = "system_identifier::text FROM pg_control_system()"
_NAMES = (
    "SELECT current_database()::text, "
    "(SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('clusteringresult'))"
)
"""The names of the PostgreSQL database and of the schema with the clustering tables."""
_END_OF_ARROW = b"ARROW1"
"""The last bytes of files of earlier versions."""

_log = logging.getLogger(__name__)


def write_pending(database: Database, finished: FinishedClustering) -> Path:
    """Write a finished clustering to a file next to the database, or in the temporary folder if that fails.

    Values that JSON does not support are stored as text.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        The file can be written in neither folder.
    """
    beside_database, temporary = (
        folder / f"{stem}{finished.id.hex}.arrow" for folder, stem in find_locations(database)
    )
    try:
        identity = identify_database(database)
    except DatabaseError:  # the server is not reachable, which is often why saving failed
        identity = None
    try:
        return _write_file(beside_database, finished, identity)
    except OSError:
        # Often the disk is full, which is why saving failed.
        return _write_file(temporary, finished, identity)


def identify_database(database: Database) -> dict[str, Any]:
    """Return values that identify a database; a server is asked only once.

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
                # Some servers do not allow users to read their identifier.
                is_allowed = connection.execute(sa.text(f"SELECT {_MAY_ASK}")).scalar()
                server = connection.execute(sa.text(f"SELECT {_SERVER}")).scalar() if is_allowed else None
                database.identity = {"postgresql": [server, *connection.execute(sa.text(_NAMES)).one()]}
    return database.identity


def find_pending(database: Database) -> list[Path]:
    """Return the files of this database and user, next to the database or in the temporary folder.

    Files of other users and of other databases are left out with a warning in the log.
    """
    paths = [
        path.absolute()
        for folder, stem in find_locations(database)
        for path in sorted(folder.glob(f"{glob.escape(stem)}*.arrow"))
    ]
    return [path for path in paths if _is_ours(database, path)]


def read_pending(path: Path) -> FinishedClustering:
    """Read a file that `write_pending` wrote.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is not such a file, is incomplete, or belongs to another user.
    """
    return _read_file(path)[0]


def read_pending_for(database: Database, path: Path) -> FinishedClustering:
    """Read a file that `write_pending` wrote for this database; see `read_pending` for its errors.

    Raises
    ------
    BadInput
        It belongs to another database.
    """
    finished, identity = _read_file(path)
    if not _belongs_to(database, identity):
        raise BadInput(
            f"{path} belongs to the database {_show_identity(identity)}, not to {database}; name that one "
            "with --db"
        )
    return finished


def _is_ours(database: Database, path: Path) -> bool:
    try:
        if hasattr(os, "geteuid") and path.lstat().st_uid != os.geteuid():
            _log.warning("%s belongs to another user and is not saved", path)
            return False
        with open_own_file(path) as file, ipc.open_file(_check_digest(file.read())) as reader:
            metadata = json.loads(reader.schema.metadata[_METADATA_KEY])
        identity = metadata.get("database")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError):
        # `read_pending` reports the error later.
        return True
    if _belongs_to(database, identity) and (identity is not None or database.path is not None):
        return True
    _log.warning(
        "%s belongs to %s and is not saved",
        path,
        "a database that it does not name (give the name of the file to save it)"
        if identity is None
        else _show_identity(identity),
    )
    return False


def _belongs_to(database: Database, identity: Any) -> bool:
    """Return whether a file with this identity belongs to the database; True for a file without identity."""
    if identity is None or identity == identify_database(database):
        return True
    recorded = identity.get("sqlite") if isinstance(identity, dict) else None
    if database.path is None or not isinstance(recorded, str):
        return False
    # If the recorded file does not exist, it was moved; the embeddings are checked when the file is saved.
    return not os.path.exists(recorded) or os.path.samefile(recorded, database.path)


def _show_identity(identity: Any) -> str:
    names = next(iter(identity.values()), identity) if isinstance(identity, dict) else identity
    return "/".join(map(str, names)) if isinstance(names, list) else str(names)


def _check_digest(content: bytes) -> pa.Buffer:
    """Check the digest of a file's content, and return the Arrow part of it."""
    view, end = memoryview(content), len(content) - len(MARK) - DIGEST_BYTES
    if end > 0 and view[end:-DIGEST_BYTES] == MARK:
        digest = hashlib.blake2b(view[:-DIGEST_BYTES], digest_size=DIGEST_BYTES)
        if view[-DIGEST_BYTES:] != digest.digest():
            raise ValueError("it is damaged: its digest does not match")
        return pa.py_buffer(view[:end])
    if not content.endswith(_END_OF_ARROW):
        raise ValueError("it is truncated, or not such a file")
    return pa.py_buffer(content)


def _read_file(path: Path) -> tuple[FinishedClustering, Any]:
    """Read a file, and return its clustering and the identity of its database."""
    try:
        with open_own_file(path) as file:
            content = file.read()
        with ipc.open_file(_check_digest(content)) as reader:
            table = reader.read_all()
        # Without validation, a damaged table could be read beyond its end.
        table.validate(full=True)
        metadata = json.loads(table.schema.metadata[_METADATA_KEY])
        return _build_clustering(table.combine_chunks(), metadata), metadata.get("database")
    except FileNotFoundError as error:
        raise MissingPath(
            f"no file at {path}; without a name, save-pending saves all pending results"
        ) from error
    except PermissionError as error:
        raise BadInput(
            f"{path} is not saved: {error.strerror}; copy it, if you trust it, and save the copy"
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
        raise BadInput(f"{path} is not a complete result file of panic_tda: {error}") from error


def _build_clustering(table: pa.Table, metadata: dict[str, Any]) -> FinishedClustering:
    columns = [table.column(name) for name in _COLUMNS]
    if columns[0].type != pa.binary(_ID_BYTES) or any(column.null_count for column in columns):
        raise ValueError("its ids are invalid, or a value is missing")
    record = ClusteringRecord.from_json(metadata["parameters"])
    has_chords = record.metric in (None, COSINE)
    finished = FinishedClustering(
        id=UUID(metadata["id"]),
        embedding_model=metadata["embedding_model"],
        started_at=datetime.fromisoformat(metadata["started_at"]),
        completed_at=datetime.fromisoformat(metadata["completed_at"]),
        record=record,
        ids=np.array(table.column("id").to_pylist(), dtype="S32"),
        labels=table.column("label").to_numpy(),
        probabilities=table.column("probability").to_numpy(),
        medoids={int(label): row for label, row in metadata["medoids"].items()},
        persistence={int(label): value for label, value in metadata["persistence"].items()},
        # Files of earlier versions have neither copies nor a tree.
        medoid_copies={int(label): count for label, count in metadata.get("medoid_copies", {}).items()},
        tree=trees.as_tree(table if _TREE_COLUMN in table.column_names else None, has_chords=has_chords),
        graph=_read_graph(table, has_chords=has_chords),
    )
    clusters = set(finished.labels.tolist()) - {OUTLIER}
    if not clusters == set(finished.medoids) == set(finished.persistence):
        raise ValueError("a cluster has no medoid or no persistence")
    if not all(0 <= row < len(finished.ids) for row in finished.medoids.values()):
        raise ValueError("a medoid is not one of its embeddings")
    return finished


def _read_graph(table: pa.Table, *, has_chords: bool) -> SpanningTree | None:
    names = [name for name in table.column_names if name.startswith(_GRAPH_PREFIX)]
    if not names:
        return None
    graph = table.select(names).rename_columns([name.removeprefix(_GRAPH_PREFIX) for name in names])
    return neighbour_graphs.as_graph(
        graph.replace_schema_metadata(table.schema.metadata), has_chords=has_chords
    )


def drop_rows(
    finished: FinishedClustering, present: BoolArray, medoids: dict[int, int]
) -> FinishedClustering:
    """Return a clustering without the rows that are not `present`.

    A cluster that lost its medoid gets the one in `medoids` (by label, as a row number before dropping). A
    cluster that lost all its members is dropped too; the other labels stay. The tree, the neighbour lists and
    the counts of copies are dropped, because they are valid for all rows only.
    """
    if present.all():
        return finished
    new_rows: IntArray = np.cumsum(present) - 1
    labels = finished.labels[present]
    remaining_labels = set(np.unique(labels).tolist())
    chosen = finished.medoids | medoids
    record = replace(
        finished.record,
        n_embeddings=int(present.sum()),
        n_vanished=int((~present).sum()),
        n_clusters=len(remaining_labels - {OUTLIER}),
        n_outliers=int((labels == OUTLIER).sum()),
        largest_cluster_size=largest_cluster_size(labels),
        keep_neighbours=None,
    )
    return replace(
        finished,
        record=record,
        ids=finished.ids[present],
        labels=labels,
        probabilities=finished.probabilities[present],
        medoids={label: int(new_rows[row]) for label, row in chosen.items() if label in remaining_labels},
        persistence={
            label: value for label, value in finished.persistence.items() if label in remaining_labels
        },
        medoid_copies={},
        tree=None,
        graph=None,
    )


def _write_file(path: Path, finished: FinishedClustering, identity: dict[str, Any] | None) -> Path:
    metadata_values = {
        "id": str(finished.id),
        "embedding_model": finished.embedding_model,
        "started_at": finished.started_at.isoformat(),
        "completed_at": finished.completed_at.isoformat(),
        "parameters": finished.record.to_json(),
        # NumPy's numbers cannot be keys in JSON.
        "medoids": {int(label): int(row) for label, row in finished.medoids.items()},
        "persistence": {int(label): float(value) for label, value in finished.persistence.items()},
        "medoid_copies": {int(label): int(count) for label, count in finished.medoid_copies.items()},
        "database": identity,
    }
    ids = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(_ID_BYTES), len(finished.ids), [None, pa.py_buffer(np.ascontiguousarray(finished.ids))]
    )
    table = pa.table([ids, finished.labels, finished.probabilities], names=_COLUMNS)
    metadata = {_METADATA_KEY: json.dumps(metadata_values, default=_convert_for_json).encode()}
    if finished.tree is not None:
        tree_table = as_table(finished.tree)
        metadata |= tree_table.schema.metadata
        for name in tree_table.column_names:
            table = table.append_column(name, tree_table.column(name))
    if finished.graph is not None:
        graph_table = neighbour_graphs_written.as_table(finished.graph)
        metadata |= graph_table.schema.metadata
        for name in graph_table.column_names:
            table = table.append_column(_GRAPH_PREFIX + name, graph_table.column(name))
    table = table.replace_schema_metadata(metadata)
    content = pa.BufferOutputStream()
    with ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    path = path.absolute()
    # An unpredictable name: in the temporary folder, another user could have created a link of a known name.
    partial = name_partial(path)
    number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | UNFOLLOWED, PRIVATE_FILE)
    try:
        with os.fdopen(number, "wb") as file:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for piece in (content.getvalue(), MARK):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            commit_file(file, partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def find_locations(database: Database) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """Return folder and name prefix of pending files next to the database and in the temporary folder."""
    name = database.path.name if database.path else str(database.url.database)
    folder = database.path.parent if database.path else Path()
    # Databases in different folders often have the same name, so a hash of the path is added. The name is
    # cut, because a file name that is too long next to the database must fit here.
    owner = hashlib.sha256(str(database).encode()).hexdigest()[:12]
    temporary = f"{name[:_NAME_CHARACTERS]}.{owner}.pending-"
    return (folder, f"{name}.pending-"), (Path(tempfile.gettempdir()), temporary)


def _convert_for_json(value: Any) -> Any:
    """Convert NumPy values to numbers and lists, and all other values to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
