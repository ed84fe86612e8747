"""What the database holds of each embedding model: counts and lengths, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import BadVectors
from panic_tda.parameters import validate_downsample
from panic_tda.storage.database import Database
from panic_tda.storage.sampling import sample
from panic_tda.storage.schemas import Embedding

FLOAT_BYTES = 4
NAMED_IDS = 5
"""So many ids of bad vectors a message names."""

_embedding = Embedding.__table__


@dataclass(frozen=True)
class ModelCensus:
    """What the database holds of one embedding model.

    Attributes
    ----------
    model : str
        Name of the embedding model.
    n_total : int
        All its embeddings.
    n_orphans : int
        Those whose invocation is missing: they belong to no run and can never be sampled.
    longest : int
        Outputs of the longest run; known (not 0) only where a sampling factor above 1 was asked for.
    sampled : dict of int or None to int
        Number of sampled embeddings by the length of their vector in bytes; None counts missing vectors.
    """

    model: str
    n_total: int
    n_orphans: int
    longest: int = 0
    sampled: dict[int | None, int] = field(default_factory=dict)

    @property
    def n_sampled(self) -> int:
        """Embeddings that the downsampling rule chose."""
        return sum(self.sampled.values())

    @property
    def width(self) -> int:
        """Bytes of a vector: the commonest legal length among the sampled ones, 0 where there is none."""
        legal = {
            size: count for size, count in self.sampled.items() if size and size % FLOAT_BYTES == 0 and count
        }
        return max(legal, key=lambda size: (legal[size], size), default=0)

    @property
    def n_usable(self) -> int:
        """Sampled embeddings with a vector of that length."""
        return self.sampled.get(self.width, 0) if self.width else 0


def take_census(database: Database, downsample: int = 1) -> dict[str, ModelCensus]:
    """Count and measure the embeddings of every model in one query.

    Parameters
    ----------
    database : Database
        A database of the generation pipeline.
    downsample : int
        Sampling factor; 1 keeps every row.

    Returns
    -------
    dict of str to ModelCensus
        By model name, in alphabetical order.
    """
    with database.reading() as connection:
        return count(connection, validate_downsample(downsample))


def count(connection: Connection, downsample: int, model: str | None = None) -> dict[str, ModelCensus]:
    """Do what `take_census` does, inside a transaction, for all models or one."""
    chosen = sample(downsample)
    size = sa.func.length(_embedding.c.vector)
    query = (
        sa.select(
            _embedding.c.embedding_model,
            size,
            sa.func.count(),
            sa.func.sum(sa.case((chosen.orphaned, 1), else_=0)),
            sa.func.sum(sa.case((chosen.chosen, 1), else_=0)),
            sa.func.coalesce(sa.func.max(chosen.output_index), -1) + 1,
        )
        .select_from(chosen.source)
        .group_by(_embedding.c.embedding_model, size)
        .order_by(_embedding.c.embedding_model)
    )
    if model is not None:
        query = query.where(_embedding.c.embedding_model == model)
    found: dict[str, ModelCensus] = {}
    for name, length, n_rows, n_orphans, n_sampled, longest in connection.execute(query):
        before = found.get(name, ModelCensus(name, 0, 0))
        found[name] = ModelCensus(
            model=name,
            n_total=before.n_total + n_rows,
            n_orphans=before.n_orphans + n_orphans,
            longest=max(before.longest, longest),
            sampled=before.sampled | ({length: n_sampled} if n_sampled else {}),
        )
    return found


def require_valid(database: Database, census: ModelCensus, downsample: int = 1) -> None:
    """Check that every sampled vector of a model is present and of one length.

    Raises
    ------
    BadVectors
        With the model, how many vectors are bad in which way, and the first ids.
    """
    bad = census.n_sampled - census.n_usable
    if not bad:
        return
    chosen = sample(downsample)
    wrong = sa.or_(_embedding.c.vector.is_(None), sa.func.length(_embedding.c.vector) != census.width)
    query = (
        sa.select(_embedding.c.id)
        .select_from(chosen.source)
        .where(_embedding.c.embedding_model == census.model, chosen.chosen, wrong)
        .order_by(_embedding.c.id)
        .limit(NAMED_IDS)
    )
    with database.reading() as connection:
        first = [str(found) for found in connection.execute(query).scalars()]
    raise BadVectors(_explain_lengths(census, bad, first))


def stored_models(connection: Connection) -> list[str]:
    """Return the names of all embedding models in alphabetical order."""
    query = sa.select(_embedding.c.embedding_model).distinct().order_by(_embedding.c.embedding_model)
    return list(connection.execute(query).scalars())


def _explain_lengths(census: ModelCensus, bad: int, first: list[str]) -> str:
    missing = census.sampled.get(None, 0)
    lengths = ", ".join(
        f"{count} of {size} bytes"
        for size, count in census.sampled.items()
        if size is not None and (size != census.width or not size)
    )
    expected = f"{census.width // FLOAT_BYTES or 'some'} float32 values expected"
    kinds = "; ".join(part for part in (f"{missing} missing" if missing else "", lengths, expected) if part)
    return (
        f"{bad} of {census.n_sampled} vectors of model {census.model} are invalid ({kinds}); "
        f"first embedding ids: {', '.join(first)}; "
        "repair them, or leave them out with --skip-invalid"
    )
