"""The downsampling rule, as SQL.

Factor N keeps an invocation if its output index is 0 modulo N. The output index counts the outputs of one
type in a run. If texts and images alternate, the sequence numbers of one type are all even or all odd, and
the index is `sequence_number // 2`; otherwise it is the sequence number. A missing step does not shift the
index (unless all outputs of one parity are missing). So every factor keeps outputs of both types, although
all texts may have odd sequence numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement, FromClause, Select

from panic_tda.storage.schema.tables import Embedding, Invocation
from panic_tda.types import IntArray

_embedding = Embedding.__table__
_invocation = Invocation.__table__


class Sample(NamedTuple):
    """A join of embeddings and invocations, with the conditions for sampled and orphaned embeddings.

    `source` is an outer join: an embedding whose invocation is missing is in it, and is never sampled.
    `output_index` is the output index; it is NULL for factor 1, which does not need it.
    """

    source: FromClause
    chosen: ColumnElement[bool]
    orphaned: ColumnElement[bool]
    output_index: ColumnElement[Any]

    def chosen_at(self, factor: int) -> ColumnElement[bool]:
        """Return the condition for another factor; this sample's own factor must be above 1."""
        return keep_join_order(_is_multiple(self.output_index, factor))


def sample(downsample: int) -> Sample:
    """Return the join and the condition for one sampling factor.

    Notes
    -----
    One index has all columns of an invocation that a factor above 1 needs. For a join by equality, SQLite
    would use the index on ids instead and read the rows; see `join_invocations`.

    If a condition excludes all rows without an invocation, SQLite may swap the tables of the join, and scan
    all embeddings of a model for each invocation. A CASE hides the condition from its optimizer.
    """
    orphaned = _invocation.c.id.is_(None)
    if downsample == 1:
        joined = _embedding.outerjoin(_invocation, _embedding.c.invocation_id == _invocation.c.id)
        return Sample(joined, keep_join_order(~orphaned), orphaned, sa.cast(sa.null(), sa.Integer))
    stride = select_strides().cte("stride")
    joined = _embedding.outerjoin(_invocation, join_invocations()).outerjoin(
        stride, sa.and_(stride.c.run_id == _invocation.c.run_id, stride.c.type == _invocation.c.type)
    )
    index = _invocation.c.sequence_number // stride.c.stride
    return Sample(joined, keep_join_order(_is_multiple(index, downsample)), orphaned, index)


def select_strides() -> Select[Any]:
    """Return the query for the stride (the divisor of sequence numbers) of each run and output type."""
    parity = _invocation.c.sequence_number % 2
    stride = sa.case((sa.func.min(parity) == sa.func.max(parity), 2), else_=1).label("stride")
    return sa.select(_invocation.c.run_id, _invocation.c.type, stride).group_by(
        _invocation.c.run_id, _invocation.c.type
    )


def output_indices(sequence_numbers: IntArray) -> IntArray:
    """Return the output indices of all outputs of one type in a run.

    Parameters
    ----------
    sequence_numbers : (m,) int64
        Sequence numbers of all outputs of the type in the run.

    Returns
    -------
    (m,) int64
        The sequence numbers divided by the stride, as in `select_strides`.

    >>> output_indices(np.array([1, 5, 7])), output_indices(np.array([1, 4, 7]))
    (array([0, 2, 3]), array([1, 4, 7]))
    """
    return sequence_numbers // (2 if len(np.unique(sequence_numbers % 2)) == 1 else 1)


def join_invocations() -> ColumnElement[bool]:
    """Return the condition that joins embeddings to their invocations by a range of one id.

    With a range, SQLite reads type, run and sequence number from the covering index, and no invocation's row.
    """
    return _invocation.c.id.between(_embedding.c.invocation_id, _embedding.c.invocation_id)


def keep_join_order(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Wrap a condition on an invocation so that SQLite keeps the order of the join; see `sample`."""
    return sa.case((condition, 1), else_=0) == 1


def _is_multiple(index: ColumnElement[int], factor: int) -> ColumnElement[bool]:
    # PostgreSQL would convert the factor to 32 bits, the type of sequence numbers.
    return index % sa.literal(factor, sa.BigInteger) == 0
