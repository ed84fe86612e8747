"""Count the embeddings of each model and the lengths of their vectors, before vectors are loaded."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import BadVectors, DatabaseError, NoEmbeddings, UnknownModel
from panic_tda.parameters import validate_downsample
from panic_tda.storage.cells import as_literal, find_damaged, read_distinct_values
from panic_tda.storage.database import Database
from panic_tda.storage.schema.sampling import join_invocations, sample
from panic_tda.storage.schema.tables import Embedding, Invocation, InvocationType
from panic_tda.wording import pluralize

FLOAT_BYTES = 4
NAMED_IDS = 5
"""Number of ids of invalid vectors that a message lists."""

_log = logging.getLogger(__name__)
_embedding = Embedding.__table__
_invocation = Invocation.__table__
_size = sa.func.length(_embedding.c.vector)
_MODEL_ROWS = sa.select(_embedding.c.embedding_model)


@dataclass(frozen=True)
class ModelCensus:
    """The number of embeddings of one model, and the lengths of their vectors.

    Attributes
    ----------
    model : str
        Name of the embedding model.
    n_total : int
        Number of all embeddings of the model.
    n_orphans : int
        Number of embeddings whose invocation is missing: they belong to no run and are never sampled.
    longest : int
        Number of outputs of the longest run; 0 (unknown) if the sampling factor is 1.
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
        """Return the number of embeddings that the downsampling rule chooses."""
        return sum(self.sampled.values())

    @property
    def width(self) -> int:
        """Return the vector length in bytes: the most frequent valid one in the sample, 0 if none."""
        return find_width(self.sampled)

    @property
    def n_usable(self) -> int:
        """Return the number of sampled embeddings with a vector of length `width`."""
        return self.sampled.get(self.width, 0) if self.width else 0


def take_census(database: Database, downsample: int = 1) -> dict[str, ModelCensus]:
    """Count the embeddings of every model and the lengths of their vectors, without reading a row.

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
        return count_models(connection, validate_downsample(downsample))


def take_censuses(database: Database, model: str, factors: Sequence[int]) -> dict[int, ModelCensus]:
    """Take the censuses of one model for several sampling factors, in one pass through the indexes.

    Returns
    -------
    dict of int to ModelCensus
        By factor.
    """
    factors = [validate_downsample(factor) for factor in factors]
    with database.reading() as connection:
        return dict(zip(factors, _count_model(connection, factors, model), strict=True))


def count_models(connection: Connection, downsample: int, model: str | None = None) -> dict[str, ModelCensus]:
    """Take the census of all models or of one, inside the transaction of `connection`."""
    names = list_models(connection) if model is None else [model]
    censuses = {name: _count_model(connection, [downsample], name)[0] for name in names}
    return {name: census for name, census in censuses.items() if census.n_total}


def choose_models(database: Database, requested: Sequence[str], present: Sequence[str]) -> list[str]:
    """Return the requested models without repetition, or all models if none is requested.

    Raises
    ------
    NoEmbeddings
        The database has no embeddings.
    UnknownModel
        The database has no embeddings of a requested model.
    """
    if not present:
        raise NoEmbeddings(
            f"{database} has no embeddings; import some with: {database.command('import-embeddings')} FILE"
        )
    unknown = sorted(set(requested) - set(present))
    if unknown:
        raise UnknownModel(
            f"no embeddings of model {', '.join(unknown)}; the database has: {', '.join(present)}"
        )
    return list(dict.fromkeys(requested)) or list(present)


def _count_model(connection: Connection, factors: Sequence[int], model: str) -> list[ModelCensus]:
    # One query per vector length: with GROUP BY, SQLite before 3.41 reads the vectors to measure them.
    this_model = _embedding.c.embedding_model == model
    sizes = list(read_distinct_values(connection, _size, this_model))
    missing = sa.select(_embedding.c.id).where(this_model, _size.is_(None)).limit(1)
    if connection.execute(missing).first() is not None:
        sizes = [None, *sizes]
    chosen = sample(max(factors))
    conditions = [chosen.chosen] if len(factors) == 1 else [chosen.chosen_at(factor) for factor in factors]
    counts = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sa.case((chosen.orphaned, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.max(chosen.output_index), -1) + 1,
        *(sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0) for condition in conditions),
    ).select_from(chosen.source)
    n_total = n_orphans = longest = 0
    sampled: list[dict[int | None, int]] = [{} for _ in factors]
    for size in sizes:
        has_size = sa.and_(this_model, _size.is_(None) if size is None else _size == size)
        n_rows, n_orphaned, n_outputs, *n_chosen = connection.execute(counts.where(has_size)).one()
        n_total, n_orphans, longest = n_total + n_rows, n_orphans + n_orphaned, max(longest, n_outputs)
        for by_size, number in zip(sampled, n_chosen, strict=True):
            by_size.update({size: number} if number else {})
    return [ModelCensus(model, n_total, n_orphans, longest, by_size) for by_size in sampled]


def stored_width(connection: Connection, model: str) -> int:
    """Return the vector length of a model in bytes: the most frequent valid length, 0 if there is none."""
    return find_width(count_lengths(connection, model))


def count_lengths(connection: Connection, model: str) -> dict[int | None, int]:
    """Return the number of a model's embeddings by the bytes of their vector; None counts missing vectors."""
    this_model = _embedding.c.embedding_model == model
    rows = sa.select(sa.func.count()).select_from(_embedding).where(this_model)
    lengths = list(read_distinct_values(connection, _size, this_model))
    counts: dict[int | None, int] = {
        length: connection.execute(rows.where(_size == length)).scalar_one() for length in lengths
    }
    n_missing = connection.execute(rows.where(_size.is_(None))).scalar_one()
    return counts | ({None: n_missing} if n_missing else {})


def find_width(counts: Mapping[int | None, int]) -> int:
    """Return the commonest length of whole float32 values; 0 if there is none."""
    valid = {
        length: count for length, count in counts.items() if length and length % FLOAT_BYTES == 0 and count
    }
    return max(valid, key=lambda length: (valid[length], length), default=0)


def count_mixed(database: Database, model: str) -> tuple[int, int]:
    """Count repeated embeddings and embeddings of images of a model, without reading a row.

    Returns
    -------
    n_repeated, n_images : int
        Number of embeddings beyond the first of an invocation (with vectors of one length), and of images.
    """
    this_model = _embedding.c.embedding_model == model
    # Two queries: SQLite counts the distinct values of an index without a temporary table only if the query
    # has no other column.
    rows = sa.select(sa.func.count()).select_from(_embedding)
    invocations = sa.select(sa.func.count(_embedding.c.invocation_id.distinct()))
    images = sa.select(sa.func.count()).select_from(_embedding.outerjoin(_invocation, join_invocations()))
    of_image = sa.case((_invocation.c.type == InvocationType.IMAGE, 1), else_=0) == 1
    with database.reading() as connection:
        n_repeated = 0
        for size in read_distinct_values(connection, _size, this_model):
            for sign, query in ((1, rows), (-1, invocations)):
                n_repeated += sign * connection.execute(query.where(this_model, _size == size)).scalar_one()
        n_images = connection.execute(images.where(this_model, of_image)).scalar_one()
    return n_repeated, n_images


def warn_of_mixed(database: Database, census: ModelCensus) -> None:
    """Log a warning if a model has repeated embeddings or embeddings of images; all are clustered."""
    n_repeated, n_images = count_mixed(database, census.model)
    of_all = f"of {census.n_total} {pluralize(census.n_total, 'embedding')} are of"
    if n_repeated:
        _log.warning(
            "%s: %d %s an invocation that has another embedding of this model; all are clustered",
            census.model,
            n_repeated,
            of_all,
        )
    if 0 < n_images < census.n_total - census.n_orphans:
        _log.warning(
            "%s: %d %s images, the others of texts; they are clustered together",
            census.model,
            n_images,
            of_all,
        )


def require_valid(database: Database, census: ModelCensus, downsample: int = 1) -> None:
    """Check that every sampled vector of a model is present and of one length.

    Raises
    ------
    BadVectors
        A vector is missing or of another length; the message has the counts and the first ids.
    """
    n_invalid = census.n_sampled - census.n_usable
    if not n_invalid:
        return
    with database.reading() as connection:
        # With ORDER BY, SQLite would scan all rows in the order of their ids.
        first = heapq.nsmallest(NAMED_IDS, find_ids_of_other_lengths(connection, census, downsample))
    raise BadVectors(_explain_lengths(census, n_invalid, first))


def find_ids_of_other_lengths(
    connection: Connection, census: ModelCensus, downsample: int = 1
) -> Iterator[str]:
    """Yield the ids of sampled embeddings without a vector of length `width`, in no order."""
    chosen = sample(downsample)
    query = (
        sa.select(sa.type_coerce(_embedding.c.id, sa.String))
        .select_from(chosen.source)
        .where(
            _embedding.c.embedding_model == census.model,
            chosen.chosen,
            sa.or_(_size.is_(None), _size < census.width, _size > census.width),
        )
    )
    return map(show_id, connection.execute(query).scalars())


def show_id(stored: object) -> str:
    """Return an id with dashes, as commands show it; an invalid id as it is stored."""
    try:
        return str(UUID(str(stored)))
    except ValueError:
        return repr(stored)


def list_models(connection: Connection) -> list[str]:
    """Return the names of all embedding models in alphabetical order.

    Raises
    ------
    DamagedValue
        A name is not text in UTF-8.
    """
    names = list(read_distinct_values(connection, _embedding.c.embedding_model))
    for name in names:
        if not isinstance(name, str):
            rows = _MODEL_ROWS.where(_embedding.c.embedding_model == as_literal(name))
            raise find_damaged(connection, rows.limit(1)) or DatabaseError(
                f"the name of a model is not text: {name!r:.80}"
            )
    return names


def _explain_lengths(census: ModelCensus, n_invalid: int, first: list[str]) -> str:
    missing = census.sampled.get(None, 0)
    lengths = ", ".join(
        f"{count} of {size} {pluralize(size, 'byte')}"
        for size, count in census.sampled.items()
        if size is not None and (size != census.width or not size)
    )
    expected = f"{census.width // FLOAT_BYTES or 'some'} float32 values expected"
    kinds = "; ".join(part for part in (f"{missing} missing" if missing else "", lengths, expected) if part)
    return (
        f"{n_invalid} of {census.n_sampled} {pluralize(census.n_sampled, 'vector')} of model "
        f"{census.model} are invalid ({kinds}); "
        f"first embedding ids: {', '.join(first)}; "
        "repair them, or leave them out with --skip-invalid"
    )
