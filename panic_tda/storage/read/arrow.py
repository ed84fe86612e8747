"""Read a stored clustering as one Arrow table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.exports import open_rows
from panic_tda.storage.read.results import find_clustering


def read_clustering(
    database: Database | str | Path,
    reference: str = "latest",
    *,
    model: str | None = None,
    with_vectors: bool = False,
) -> pa.Table:
    """Read a stored clustering with texts, runs and medoids, one row per embedding.

    Parameters
    ----------
    database : Database, str or Path
        A database, or its path or URL.
    reference : str
        Id of the clustering, the beginning of an id, or "latest".
    model : str, optional
        Embedding model of the clustering; "latest" needs it if several models have clusterings.
    with_vectors : bool
        Whether to read the vectors too.

    Returns
    -------
    pyarrow.Table
        The columns of `panic-tda export-clustering`, by ascending embedding id. The metadata of the schema
        describes the clustering.

    Raises
    ------
    UnknownClustering, UnknownModel, DatabaseError
        There is no such clustering, or it cannot be read.
    """
    database = open_database(database)
    with database.session() as session:
        clustering = find_clustering(session, reference, model=model)
    with open_rows(database, clustering, with_vectors=with_vectors) as rows:
        return pa.Table.from_batches(list(rows.batches), schema=rows.schema)
