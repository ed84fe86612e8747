"""Render the outcomes of assigning new embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from panic_tda.cli.rendering.common import percent
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.insight.assigning import AssignmentOutcome
from panic_tda.wording import on_one_line

_COLUMNS = (
    Column("model", elastic=True),
    Column("status"),
    Column("new", right=True),
    Column("outliers", right=True),
    Column("left out", right=True, rank=2),
    Column("predicted in all", right=True, rank=1),
    Column("time", right=True, rank=3),
    Column("clustering"),
)


def assignments_text(outcomes: Sequence[AssignmentOutcome], width: int) -> str:
    """Return one line per clustering, and below them the reason of each failure."""
    rows = [
        (
            outcome.embedding_model,
            outcome.status,
            str(outcome.n_new),
            percent(outcome.n_outliers, outcome.n_new),
            str(outcome.n_invalid),
            str(outcome.n_predicted),
            f"{outcome.seconds:.1f} s",
            str(outcome.clustering),
        )
        for outcome in outcomes
    ]
    reasons = [
        paragraph(on_one_line(f"{outcome.embedding_model}: {outcome.reason}"), width)
        for outcome in outcomes
        if outcome.reason
    ]
    return "\n\n".join([table(_COLUMNS, rows, width), *reasons])
