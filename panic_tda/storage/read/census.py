"""What the database holds of each embedding model: counts and lengths, before anything is loaded."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from panic_tda.errors import BadVectors, DatabaseError, NoEmbeddings, UnknownModel
from panic_tda.parameters import validate_downsample
from panic_tda.storage.cells import as_literal, find_damaged, stored_values
from panic_tda.storage.database import Database
from panic_tda.storage.schema.sampling import in_one_index, sample
from panic_tda.storage.schema.tables import Embedding, Invocation, InvocationType
from panic_tda.wording import pluralize

FLOAT_BYTES = 4
NAMED_IDS = 5
"""So many ids of bad vectors a message names."""

_log = logging.getLogger(__name__)
_embedding = Embedding.__table__
_invocation = Invocation.__table__
_size = sa.func.length(_embedding.c.vector)
_MODEL_ROWS = sa.select(_embedding.c.embedding_model)


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
    """Count and measure the embeddings of every model, without reading a row.

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


def take_censuses(database: Database, model: str, factors: Sequence[int]) -> dict[int, ModelCensus]:
    """Do what `take_census` does for one model and several sampling factors, in one walk through the indexes.

    Returns
    -------
    dict of int to ModelCensus
        By factor.
    """
    factors = [validate_downsample(factor) for factor in factors]
    with database.reading() as connection:
        return dict(zip(factors, _count_model(connection, factors, model), strict=True))


def count(connection: Connection, downsample: int, model: str | None = None) -> dict[str, ModelCensus]:
    """Do what `take_census` does, inside a transaction, for all models or one."""
    names = stored_models(connection) if model is None else [model]
    found = {name: _count_model(connection, [downsample], name)[0] for name in names}
    return {name: census for name, census in found.items() if census.n_total}


def choose_models(database: Database, asked: Sequence[str], present: Sequence[str]) -> list[str]:
    """Return the models that were asked for, each once; all that are present where none was.

    Raises
    ------
    NoEmbeddings
        None is present.
    UnknownModel
        One that was asked for is not.
    """
    if not present:
        raise NoEmbeddings(
            f"{database} has no embeddings; import some with: {database.command('import-embeddings')} FILE"
        )
    unknown = sorted(set(asked) - set(present))
    if unknown:
        raise UnknownModel(
            f"no embeddings of model {', '.join(unknown)}; the database has: {', '.join(present)}"
        )
    return list(dict.fromkeys(asked)) or list(present)


def _count_model(connection: Connection, factors: Sequence[int], model: str) -> list[ModelCensus]:
    # One query a length of vector: grouped by it, every SQLite before 3.41 reads the vectors to measure them.
    this_model = _embedding.c.embedding_model == model
    sizes = _successive(connection, _size, this_model)
    missing = sa.select(_embedding.c.id).where(this_model, _size.is_(None)).limit(1)
    if connection.execute(missing).first() is not None:
        sizes = [None, *sizes]
    chosen = sample(max(factors))
    conditions = [chosen.chosen] if len(factors) == 1 else [chosen.chosen_at(factor) for factor in factors]
    counts = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sa.case((chosen.orphaned, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.max(chosen.output_index), -1) + 1,
        *(sa.func.coalesce(sa.func.sum(sa.case((one, 1), else_=0)), 0) for one in conditions),
    ).select_from(chosen.source)
    n_total = n_orphans = longest = 0
    sampled: list[dict[int | None, int]] = [{} for _ in factors]
    for size in sizes:
        these = sa.and_(this_model, _size.is_(None) if size is None else _size == size)
        n_rows, n_without, n_outputs, *n_chosen = connection.execute(counts.where(these)).one()
        n_total, n_orphans, longest = n_total + n_rows, n_orphans + n_without, max(longest, n_outputs)
        for by_size, number in zip(sampled, n_chosen, strict=True):
            by_size.update({size: number} if number else {})
    return [ModelCensus(model, n_total, n_orphans, longest, by_size) for by_size in sampled]


def stored_width(connection: Connection, model: str) -> int:
    """Return the bytes of a model's vectors: the commonest legal length, 0 where there is none."""
    this_model = _embedding.c.embedding_model == model
    rows = sa.select(sa.func.count()).select_from(_embedding).where(this_model)
    sizes = _successive(connection, _size, this_model)
    counted = {size: connection.execute(rows.where(_size == size)).scalar_one() for size in sizes}
    return ModelCensus(model, 0, 0, sampled=counted).width


def count_mixed(database: Database, model: str) -> tuple[int, int]:
    """Count the embeddings that one would not expect beside the others of a model, without reading a row.

    Returns
    -------
    n_repeated, n_images : int
        Embeddings beyond the first of an invocation (with vectors of one length), and those of images.
    """
    this_model = _embedding.c.embedding_model == model
    # Two queries: SQLite counts the distinct values of an index without a list of them only where nothing
    # else is asked for.
    rows = sa.select(sa.func.count()).select_from(_embedding)
    invocations = sa.select(sa.func.count(_embedding.c.invocation_id.distinct()))
    images = sa.select(sa.func.count()).select_from(_embedding.outerjoin(_invocation, in_one_index()))
    of_image = sa.case((_invocation.c.type == InvocationType.IMAGE, 1), else_=0) == 1
    with database.reading() as connection:
        n_repeated = 0
        for size in _successive(connection, _size, this_model):
            for sign, query in ((1, rows), (-1, invocations)):
                n_repeated += sign * connection.execute(query.where(this_model, _size == size)).scalar_one()
        n_images = connection.execute(images.where(this_model, of_image)).scalar_one()
    return n_repeated, n_images


def warn_of_mixed(database: Database, census: ModelCensus) -> None:
    """Say in the log what one would not expect among a model's embeddings; they are clustered as they are."""
    n_repeated, n_images = count_mixed(database, census.model)
    of_all = f"of {census.n_total} {pluralize(census.n_total, 'embedding')} are of"
    if n_repeated:
        _log.warning(
            "%s: %d %s an invocation that has one of this model already; each counts",
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
        With the model, how many vectors are bad in which way, and the first ids.
    """
    bad = census.n_sampled - census.n_usable
    if not bad:
        return
    with database.reading() as connection:
        # Asked for in order, SQLite would go through all rows in the order of their ids.
        first = heapq.nsmallest(NAMED_IDS, ids_of_other_lengths(connection, census, downsample))
    raise BadVectors(_explain_lengths(census, bad, first))


def ids_of_other_lengths(connection: Connection, census: ModelCensus, downsample: int = 1) -> Iterator[str]:
    """Yield, in no order, the ids of the sampled embeddings without a vector of the common length."""
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
    """Return an id as the commands show it; what is none, as it is stored."""
    try:
        return str(UUID(str(stored)))
    except ValueError:
        return repr(stored)


def stored_models(connection: Connection) -> list[str]:
    """Return the names of all embedding models in alphabetical order.

    Raises
    ------
    DamagedValue
        A name is not text in UTF-8.
    """
    return _successive(connection, _embedding.c.embedding_model, rows=_MODEL_ROWS)


def _successive(
    connection: Connection,
    column: ColumnElement[Any],
    *conditions: ColumnElement[bool],
    rows: sa.Select[Any] | None = None,
) -> list[Any]:
    """Return the distinct values of what an index is sorted by, ascending: one look into it for each.

    Of a text that cannot be read, the first of `rows` that has it is named.
    """
    smallest = sa.select(sa.func.min(column)).where(*conditions)
    found = []
    value = next(stored_values(connection, smallest))
    while value is not None:
        found.append(value)
        if rows is not None and not isinstance(value, str):
            raise find_damaged(connection, rows.where(column == as_literal(value)).limit(1)) or DatabaseError(
                f"a name of a model is not text: {value!r:.80}"
            )
        value = next(stored_values(connection, smallest.where(column > as_literal(value))))
    return found


def _explain_lengths(census: ModelCensus, bad: int, first: list[str]) -> str:
    missing = census.sampled.get(None, 0)
    lengths = ", ".join(
        f"{count} of {size} {pluralize(size, 'byte')}"
        for size, count in census.sampled.items()
        if size is not None and (size != census.width or not size)
    )
    expected = f"{census.width // FLOAT_BYTES or 'some'} float32 values expected"
    kinds = "; ".join(part for part in (f"{missing} missing" if missing else "", lengths, expected) if part)
    return (
        f"{bad} of {census.n_sampled} {pluralize(census.n_sampled, 'vector')} of model "
        f"{census.model} are invalid ({kinds}); "
        f"first embedding ids: {', '.join(first)}; "
        "repair them, or leave them out with --skip-invalid"
    )
