"""Streams of rows for a file, and what all of them share: their description and the form of ids."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import format_utc

METADATA_KEY = "panic_tda"
"""Key in the schema's metadata under which the clustering is described."""


@dataclass(frozen=True)
class RowStream:
    """A stream of rows for an export.

    Attributes
    ----------
    schema : pyarrow.Schema
        Schema of every batch.
    n_rows : int
        Number of rows of all batches.
    batches : iterator of pyarrow.RecordBatch
        Batches of at most some thousand rows. Iterate once, while their source is open.
    source : Path or None
        The database file that is read.
    """

    schema: pa.Schema
    n_rows: int
    batches: Iterator[pa.RecordBatch]
    source: Path | None = None


def describe(clustering: ClusteringSummary, **extra: Any) -> dict[bytes, bytes]:
    """Return the schema metadata that describes a clustering, with extra entries."""
    description: dict[str, Any] = {
        "clustering": str(clustering.id),
        "embedding_model": clustering.embedding_model,
        "created_at": format_utc(clustering.created_at),
        "parameters": clustering.record.to_json(),
    }
    with suppress(importlib.metadata.PackageNotFoundError):
        description["version"] = importlib.metadata.version("panic_tda")
    return {METADATA_KEY.encode(): json.dumps(description | extra).encode()}


def with_dashes(ids: pa.Array) -> pa.Array:
    """Return ids of 32 hexadecimal digits in the usual form with dashes; other values stay unchanged."""
    groups = "".join(f"([0-9a-f]{{{length}}})" for length in (8, 4, 4, 4, 12))
    return pc.replace_substring_regex(ids, f"^{groups}$", r"\1-\2-\3-\4-\5")
