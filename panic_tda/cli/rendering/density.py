"""What is said of where a clustering is dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panic_tda.cli.rendering.common import percent
from panic_tda.cli.text import Column, on_one_line, paragraph, table
from panic_tda.clustering.cuts import Cut
from panic_tda.insight.density import LEAST_DIP_ROWS, Density, Dip, Histogram, Share
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import install_extra, pluralize

_LINES = 20
_BAR, _BESIDE_BAR = 36, 38
"""Columns of the longest bar, and of what stands beside it."""
_SIGNIFICANT = 0.05
_TEXT_WIDTH = 100


def density_json(source: ClusteringSummary, found: Density) -> dict[str, Any]:
    """Return the object that `show-density --json` prints."""
    said = asdict(found)
    for name in ("by_min_cluster_size", "by_epsilon"):
        said[name] = [_cut(cut, found.n_rows) for cut in getattr(found, name)]
    return {"clustering": str(source.id), "embedding_model": source.embedding_model} | said


def density_text(source: ClusteringSummary, found: Density, width: int) -> str:
    """Return the histogram, the dip test, and the outliers by everything that they may depend on."""
    record = source.record
    head = (
        f"Clustering {source.id} of {on_one_line(source.embedding_model)}: {found.n_rows} "
        f"{pluralize(found.n_rows, 'embedding')}, "
        f"{percent(found.n_outliers, found.n_rows)} outliers; core distance: chord to neighbour "
        f"number {record.min_samples}, the embedding itself counted"
    )
    parts = [
        paragraph(head, min(width, _TEXT_WIDTH)),
        _histogram_text(found.histogram, max(1, min(_BAR, width - _BESIDE_BAR))),
        paragraph(_dip_text(found.dip, found.n_distinct), min(width, _TEXT_WIDTH)),
        "outliers by min_cluster_size\n" + _cuts_text("size", found.by_min_cluster_size, found.n_rows, width),
        "outliers by epsilon\n" + _cuts_text("epsilon", found.by_epsilon, found.n_rows, width),
    ]
    for title, shares in (
        ("outliers by length of text, in characters", found.by_text_length),
        ("outliers by the model that wrote the text", found.by_writer),
        ("outliers by output step", found.by_step),
    ):
        if shares:
            parts.append(f"{title}\n{_shares_text(shares, width)}")
    return "\n\n".join(parts)


def _histogram_text(found: Histogram, longest: int) -> str:
    """Draw twenty bars of clustered rows and outliers, the longest of so many columns."""
    per_line = len(found.all) // _LINES
    lines = []
    sums = [
        (sum(found.all[first : first + per_line]), sum(found.outliers[first : first + per_line]))
        for first in range(0, len(found.all), per_line)
    ]
    largest = max(1, *(count for count, _ in sums))
    for number, (count, outliers) in enumerate(sums):
        low, high = found.edges[number * per_line], found.edges[(number + 1) * per_line]
        length = round(longest * count / largest)
        sparse = round(longest * outliers / largest)
        bar = "█" * (length - sparse) + "░" * sparse
        share = percent(outliers, count) if count else ""
        lines.append(f"{low:6.3f} to {high:6.3f}  {bar:<{longest}} {count:>9} {share:>8}".rstrip())
    return "\n".join(
        [f"{'core distance':<18}{'█ clustered  ░ outliers':<{longest}} {'rows':>9} {'outliers':>8}", *lines]
    )


def _dip_text(found: Dip | None, n_distinct: int) -> str:
    if n_distinct < LEAST_DIP_ROWS:
        embeddings = pluralize(n_distinct, "distinct embedding is", "distinct embeddings are")
        return f"({n_distinct} {embeddings} too few for a dip test)"
    if found is None:
        return f"(Hartigan's dip test needs the package diptest: {install_extra('density')})"
    several = found.p_value < _SIGNIFICANT
    said = (
        "more than one mode: dense regions stand apart from a sparse one"
        if several
        else "one mode: no gap divides dense from sparse, and where outliers begin is a matter of settings"
    )
    return (
        f"Hartigan's dip test on {found.n_rows} distinct embeddings: dip {found.statistic:.4f}, "
        f"p {found.p_value:.3f}; {said}."
    )


def _cuts_text(name: str, cuts: Sequence[Cut], n_rows: int, width: int) -> str:
    columns = (Column(name, right=True), Column("clusters", right=True), Column("outliers", right=True))
    rows = [
        (
            str(cut.parameters.min_cluster_size)
            if name == "size"
            else f"{cut.parameters.cluster_selection_epsilon:g}",
            str(cut.n_clusters),
            percent(cut.n_outliers, n_rows),
        )
        for cut in cuts
    ]
    return table(columns, rows, width)


def _shares_text(shares: Sequence[Share], width: int) -> str:
    columns = (Column("", elastic=True), Column("rows", right=True), Column("outliers", right=True))
    rows = [
        (
            f"{share.first:g} to {share.last:g}" if share.name is None else share.name,
            str(share.n_rows),
            f"{100 * share.outlier_share:.1f} %",
        )
        for share in shares
    ]
    return table(columns, rows, width)


def _cut(cut: Cut, n_rows: int) -> dict[str, Any]:
    return {
        "min_cluster_size": cut.parameters.min_cluster_size,
        "epsilon": cut.parameters.cluster_selection_epsilon,
        "n_clusters": cut.n_clusters,
        "n_outliers": cut.n_outliers,
        "outlier_share": cut.n_outliers / n_rows,
    }
