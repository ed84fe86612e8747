"""The downsampling rule, as SQL.

Factor N keeps an invocation when its output index is 0 modulo N. The output index counts a run's outputs
of one type: where text and image alternate, the sequence numbers of one type all share a parity, and the
index is `sequence_number // 2`; where both parities occur it is the sequence number itself. A hole in a run
does not shift the index (unless a run with both parities has lost all outputs of one), and no factor can
starve a text model only because texts sit at odd numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement, FromClause, Select

from panic_tda.storage.schema.tables import Embedding, Invocation

if TYPE_CHECKING:
    from panic_tda.types import IntArray

_embedding = Embedding.__table__
_invocation = Invocation.__table__


class Sample(NamedTuple):
    """Embeddings with their invocations, and the conditions that hold for the sampled and the orphaned.

    `source` is an outer join: an embedding whose invocation is missing stays in it, and is never sampled.
    `output_index` is the output index, NULL where no sampling needs it.
    """

    source: FromClause
    chosen: ColumnElement[bool]
    orphaned: ColumnElement[bool]
    output_index: ColumnElement[Any]

    def chosen_at(self, factor: int) -> ColumnElement[bool]:
        """Return the condition for another factor; this sample's own must be above 1."""
        return holds(_is_multiple(self.output_index, factor))


def sample(downsample: int) -> Sample:
    """Return the join and the condition for one sampling factor.

    Notes
    -----
    All that a factor above 1 asks of an invocation stands in one index, but for an equality SQLite would
    take the one on the bare id, and read the rows: see `in_one_index`.

    A condition that no row without an invocation meets would let SQLite turn the join around, and go
    through all embeddings of a model for each invocation. It does not see through a CASE.
    """
    orphaned = _invocation.c.id.is_(None)
    if downsample == 1:
        joined = _embedding.outerjoin(_invocation, _embedding.c.invocation_id == _invocation.c.id)
        return Sample(joined, holds(~orphaned), orphaned, sa.cast(sa.null(), sa.Integer))
    stride = strides().cte("stride")
    joined = _embedding.outerjoin(_invocation, in_one_index()).outerjoin(
        stride, sa.and_(stride.c.run_id == _invocation.c.run_id, stride.c.type == _invocation.c.type)
    )
    index = _invocation.c.sequence_number // stride.c.stride
    return Sample(joined, holds(_is_multiple(index, downsample)), orphaned, index)


def strides() -> Select[Any]:
    """Return the query for what sequence numbers are divided by, for each run and type of output."""
    parity = _invocation.c.sequence_number % 2
    stride = sa.case((sa.func.min(parity) == sa.func.max(parity), 2), else_=1).label("stride")
    return sa.select(_invocation.c.run_id, _invocation.c.type, stride).group_by(
        _invocation.c.run_id, _invocation.c.type
    )


def output_indices(sequence_numbers: IntArray) -> IntArray:
    """Return the output indices of a run's outputs of one type, where all of them are at hand.

    Parameters
    ----------
    sequence_numbers : (m,) int64
        Of all its outputs of that type.

    Returns
    -------
    (m,) int64
        What `strides` divides them to.

    >>> output_indices(np.array([1, 5, 7])), output_indices(np.array([1, 4, 7]))
    (array([0, 2, 3]), array([1, 4, 7]))
    """
    return sequence_numbers // (2 if len(np.unique(sequence_numbers % 2)) == 1 else 1)


def in_one_index() -> ColumnElement[bool]:
    """Join embeddings to their invocations by a range of one id.

    Type, run and sequence number then come from the covering index on them, and no invocation's row is read.
    """
    return _invocation.c.id.between(_embedding.c.invocation_id, _embedding.c.invocation_id)


def holds(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Wrap a condition on an invocation so that SQLite keeps the order of the join; see `sample`."""
    return sa.case((condition, 1), else_=0) == 1


def _is_multiple(index: ColumnElement[int], factor: int) -> ColumnElement[bool]:
    # PostgreSQL would take a factor for one of 32 bits, as sequence numbers are.
    return index % sa.literal(factor, sa.BigInteger) == 0
