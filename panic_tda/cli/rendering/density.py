"""Render the density of a clustering: core distances and shares of outliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from panic_tda.cli.rendering.common import percent
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.clustering.cuts import Cut
from panic_tda.insight.density import LEAST_DIP_ROWS, Density, Histogram, Share
from panic_tda.records import ClusteringRecord, EffectiveParameters
from panic_tda.storage.read.neighbour_graphs import explain_missing
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import install_extra, on_one_line, pluralize

_LINES = 20
_BAR, _BESIDE_BAR = 36, 38
"""Columns of the longest bar, and of the text beside it."""
_TEXT_WIDTH = 100
_SETTINGS: dict[str, tuple[str, Callable[[EffectiveParameters], float]]] = {
    "min_samples": ("samples", lambda setting: setting.min_samples),
    "min_cluster_size": ("size", lambda setting: setting.min_cluster_size),
    "epsilon": ("epsilon", lambda setting: setting.cluster_selection_epsilon),
}
"""Heading of the column of each setting, and its value."""


def density_text(source: ClusteringSummary, density: Density, width: int) -> str:
    """Return the histogram, the dip test, and the outliers by settings, text, writer and step."""
    record = source.record
    head = (
        f"Clustering {source.id} of {on_one_line(source.embedding_model)}: {density.n_rows} "
        f"{pluralize(density.n_rows, 'embedding')}, "
        f"{percent(density.n_outliers, density.n_rows)} outliers; core distance: chord to neighbour "
        f"number {record.min_samples}, including the embedding itself"
    )
    parts = [
        paragraph(head, min(width, _TEXT_WIDTH)),
        _draw_histogram(density.histogram, max(1, min(_BAR, width - _BESIDE_BAR))),
        paragraph(_describe_dip_test(density), min(width, _TEXT_WIDTH)),
        _describe_min_samples(record, density, width),
        _format_cuts("min_cluster_size", density.by_min_cluster_size, density.n_rows, width),
        _format_cuts("epsilon", density.by_epsilon, density.n_rows, width),
    ]
    for title, shares in (
        ("outliers by length of text, in characters", density.by_text_length),
        ("outliers by the model that wrote the text", density.by_writer),
        ("outliers by output step", density.by_step),
    ):
        if shares:
            parts.append(f"{title}\n{_format_shares(shares, width)}")
    return "\n\n".join(parts)


def _draw_histogram(histogram: Histogram, longest: int) -> str:
    """Return twenty bars of clustered rows and outliers; `longest` is the width of the longest bar."""
    per_line = len(histogram.all) // _LINES
    lines = []
    sums = [
        (sum(histogram.all[first : first + per_line]), sum(histogram.outliers[first : first + per_line]))
        for first in range(0, len(histogram.all), per_line)
    ]
    largest = max(1, *(count for count, _ in sums))
    for number, (count, outliers) in enumerate(sums):
        low, high = histogram.edges[number * per_line], histogram.edges[(number + 1) * per_line]
        length = round(longest * count / largest)
        sparse = round(longest * outliers / largest)
        bar = "█" * (length - sparse) + "░" * sparse
        share = percent(outliers, count) if count else ""
        lines.append(f"{low:6.3f} to {high:6.3f}  {bar:<{longest}} {count:>9} {share:>8}".rstrip())
    return "\n".join(
        [f"{'core distance':<18}{'█ clustered  ░ outliers':<{longest}} {'rows':>9} {'outliers':>8}", *lines]
    )


def _describe_dip_test(density: Density) -> str:
    dip = density.dip
    if density.n_rows < LEAST_DIP_ROWS:
        embeddings = pluralize(density.n_rows, "embedding is", "embeddings are")
        return f"({density.n_rows} {embeddings} too few for a dip test)"
    if dip is None:
        return f"(Hartigan's dip test needs the package diptest: {install_extra('density')})"
    return (
        f"Hartigan's dip test of these core distances ({dip.n_rows} "
        f"{pluralize(dip.n_rows, 'embedding')}, {density.n_distinct} distinct): dip {dip.statistic:.4f}, "
        f"p {'< 0.001' if dip.p_value < 0.001 else f'{dip.p_value:.3f}'}."
    )


def _describe_min_samples(record: ClusteringRecord, density: Density, width: int) -> str:
    if density.by_min_samples:
        return _format_cuts("min_samples", density.by_min_samples, density.n_rows, width)
    missing = f"(No outliers by min_samples: there are no neighbour lists; {explain_missing(record)})"
    return paragraph(missing, min(width, _TEXT_WIDTH))


def _format_cuts(name: str, cuts: Sequence[Cut], n_rows: int, width: int) -> str:
    title, read = _SETTINGS[name]
    columns = (Column(title, right=True), Column("clusters", right=True), Column("outliers", right=True))
    rows = [
        (f"{read(cut.parameters):g}", str(cut.n_clusters), percent(cut.n_outliers, n_rows)) for cut in cuts
    ]
    return f"outliers by {name}\n{table(columns, rows, width)}"


def _format_shares(shares: Sequence[Share], width: int) -> str:
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
