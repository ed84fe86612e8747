"""Render the contents of a database for `info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from panic_tda.cli.rendering.clusterings import NO_CLUSTERINGS
from panic_tda.cli.rendering.common import percent
from panic_tda.cli.text import Column, paragraph, shorten, table
from panic_tda.storage.read.overview import DatabaseOverview, ModelOverview
from panic_tda.wording import format_bytes, on_one_line, pluralize, shorten_ids

_SHOWN = 12
"""Models and networks in the text; JSON has all."""
_INVALID = "invalid"
_MODEL_COLUMNS = (
    Column("model", elastic=True),
    Column("embeddings", right=True),
    Column("dimensions", right=True, rank=4),
    Column("vectors", right=True, rank=5),
    Column(_INVALID, right=True, rank=1),
    Column("clusterings", right=True),
    Column("latest"),
    Column("clusters", right=True, rank=2),
    Column("outliers", right=True, rank=3),
)
_NETWORK_COLUMNS = (Column("network", elastic=True), Column("runs", right=True))


def overview_json(overview: DatabaseOverview) -> dict[str, Any]:
    """Return the object that `info --json` prints."""
    return {
        "database": overview.database,
        "system": overview.system,
        "schema_version": overview.schema_version,
        "bytes": overview.n_bytes,
        "n_runs": overview.n_runs,
        "n_unreadable_runs": overview.n_unreadable_runs,
        "n_prompts": overview.n_prompts,
        "n_texts": overview.n_texts,
        "n_images": overview.n_images,
        "n_embeddings": sum(model.n_embeddings for model in overview.models),
        "n_clusterings": len(overview.clusterings),
        "n_unreadable_clusterings": len(overview.unreadable_clusterings),
        "networks": [{"network": list(network), "n_runs": n_runs} for network, n_runs in overview.networks],
        "models": [_model_json(model) for model in overview.models],
    }


def overview_text(overview: DatabaseOverview, width: int) -> str:
    """Return the contents of a database: counts, then its models, then its networks."""
    n_networks, n_runs, n_prompts = len(overview.networks), overview.n_runs, overview.n_prompts
    n_models, n_clusterings = len(overview.models), len(overview.clusterings)
    n_embeddings = sum(model.n_embeddings for model in overview.models)
    lines = [
        shorten(f"database     {on_one_line(overview.database)}", width),
        f"             {overview.system}, {format_bytes(overview.n_bytes)}, "
        f"tables of version {overview.schema_version}",
        f"runs         {n_runs:,} {pluralize(n_runs, 'run')} of {n_networks:,} "
        f"{pluralize(n_networks, 'network')} from {n_prompts:,} {pluralize(n_prompts, 'prompt')}; "
        f"{overview.n_texts:,} {pluralize(overview.n_texts, 'text')} and {overview.n_images:,} "
        f"{pluralize(overview.n_images, 'image')}",
        f"embeddings   {n_embeddings:,} of {n_models:,} {pluralize(n_models, 'model')}",
        f"clusterings  {n_clusterings:,}" if n_clusterings else f"clusterings  {NO_CLUSTERINGS}",
    ]
    n_unreadable = len(overview.unreadable_clusterings)
    if n_unreadable or overview.n_unreadable_runs:
        lines.append(
            f"damaged      {n_unreadable:,} {pluralize(n_unreadable, 'clustering')} and the networks of "
            f"{overview.n_unreadable_runs:,} {pluralize(overview.n_unreadable_runs, 'run')} cannot be read; "
            "panic-tda doctor shows why"
        )
    parts = ["\n".join(paragraph(line, width, indent=13) for line in lines)]
    network_rows = [(" → ".join(network), f"{n_runs:,}") for network, n_runs in overview.networks]
    parts += _table_parts(*_model_table(overview), width)
    parts += _table_parts(_NETWORK_COLUMNS, network_rows, width)
    return "\n\n".join(parts)


def _table_parts(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    if not rows:
        return []
    hidden = len(rows) - _SHOWN
    more = f"\n… and {hidden:,} more; --json has all" if hidden > 0 else ""
    return [table(columns, rows[:_SHOWN], width) + more]


def _model_table(overview: DatabaseOverview) -> tuple[list[Column], list[list[str]]]:
    """Return columns and rows of the models; the column of invalid vectors only if there are some."""
    unreadable = [clustering.reference for clustering in overview.unreadable_clusterings]
    names = shorten_ids([*(str(summary.id) for summary in overview.clusterings), *unreadable])
    has_invalid = any(model.n_invalid for model in overview.models)
    shown = [number for number, column in enumerate(_MODEL_COLUMNS) if has_invalid or column.name != _INVALID]
    rows = [_model_row(model, names) for model in overview.models]
    return [_MODEL_COLUMNS[number] for number in shown], [[row[number] for number in shown] for row in rows]


def _model_json(model: ModelOverview) -> dict[str, Any]:
    return {
        "embedding_model": model.embedding_model,
        "n_embeddings": model.n_embeddings,
        "dimensions": model.dimensions,
        "n_invalid": model.n_invalid,
        "vector_bytes": model.vector_bytes,
        "n_clusterings": model.n_clusterings,
        "latest_clustering": None if model.latest is None else str(model.latest.id),
        "n_clusters": None if model.latest is None else model.latest.record.n_clusters,
        "n_outliers": None if model.latest is None else model.latest.record.n_outliers,
    }


def _model_row(model: ModelOverview, names: Mapping[str, str]) -> tuple[str, ...]:
    latest = None if model.latest is None else model.latest.record
    return (
        model.embedding_model,
        f"{model.n_embeddings:,}",
        f"{model.dimensions:,}",
        format_bytes(model.vector_bytes),
        f"{model.n_invalid:,}",
        f"{model.n_clusterings:,}",
        "-" if model.latest is None else names[str(model.latest.id)],
        "-" if latest is None else f"{latest.n_clusters:,}",
        "-" if latest is None else percent(latest.n_outliers, latest.n_embeddings),
    )
