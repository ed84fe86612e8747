"""The record of a fit: its parameters, counts and seconds, and the versions of the libraries that it used."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from panic_tda.clustering.backends.base import Backend
from panic_tda.clustering.cuts import count_rows
from panic_tda.clustering.duplicates import DistinctRows
from panic_tda.clustering.hierarchy import FlatClusters
from panic_tda.records import ClusteringRecord, EffectiveParameters
from panic_tda.types import SpanningTree

_VERSIONED = ("panic_tda", "numpy", "numba", "scikit-learn")
_VERSIONED_IF_LOADED = ("cupy", "cuml")


def build_record(
    effective: EffectiveParameters,
    backend: Backend,
    distinct: DistinctRows,
    flat: FlatClusters,
    *,
    tree: SpanningTree | None,
    about: Mapping[str, Any],
) -> ClusteringRecord:
    """Build the record of a fit; `about` has the fields that the fit does not know, and its seconds."""
    checked = None if tree is None else tree.improving_edges
    return ClusteringRecord(
        **asdict(effective),
        backend=backend.name,
        exact=backend.exact,
        n_embeddings=len(distinct.inverse),
        n_unique=len(distinct.first),
        **count_clusters(effective, flat),
        versions=collect_versions(),
        lighter_edge_share=None if checked is None else checked.share,
        lighter_edge_sample=None if checked is None else checked.sample,
        **about,
    )


def add_seconds(about: Mapping[str, Any] | None, *, compile: float, **seconds: float) -> dict[str, Any]:
    """Add the seconds of the stages of a fit to those of earlier stages; 0 for `compile` is left out."""
    about = about or {}
    compiling = {"compile": compile} if compile else {}
    return {**about, "seconds": about.get("seconds", {}) | compiling | seconds}


def count_clusters(effective: EffectiveParameters, flat: FlatClusters) -> dict[str, Any]:
    """Return the fields of `ClusteringRecord` that count clusters and rows."""
    cut = count_rows(effective, flat)
    return {
        "n_clusters": cut.n_clusters,
        "n_outliers": cut.n_outliers,
        "root_selected": cut.root_selected,
        "largest_cluster_size": cut.largest,
    }


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are used, by name."""
    versions = {"python": platform.python_version()} | _read_installed_versions()
    # The name of their distribution depends on the CUDA version; if they are not loaded, they were not used.
    for name in _VERSIONED_IF_LOADED:
        if name in sys.modules:
            versions[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return versions


@cache
def _read_installed_versions() -> dict[str, str]:
    """Return the versions of installed packages; cached, because each is read from a long file."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
