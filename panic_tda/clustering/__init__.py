"""Exact HDBSCAN of a matrix of vectors by cosine distance, without a database or a terminal.

The input is an (n, d) float32 matrix in host or device memory, and `ClusteringParameters`. The output is a
`Clustering`: labels, probabilities, persistence, the medoid of every cluster, and a record of every value
that was used.

Modules:

- `recipe`: the stages of a fit in order (normalise, find duplicates, build the spanning tree, extract
  clusters, number them, find medoids).
- `duplicates`, `hierarchy` (with `condensed`) and `medoids`: the stages that are the same for all backends.
- `backends`: the contract of a backend, and the backends that use other libraries.
- `tiled`: our own exact engine; its docstring describes the passes, `tiled.proof` contains the proof.
- `placement`: chooses the backend, and whether it works on the processor or on a CUDA device.
- `recording`: the record of a fit.
- `trees`: operations on spanning trees that several modules need.
- `geometry`: prepares rows for a metric.
- `prediction`: assigns new rows to the clusters of a fit.
- `cuts` and `advice`: clusters of other settings from the same tree.
- `checkpoint` and `state_files`: the state from which a killed fit resumes.
- `compiled` and `warm_up`: the code that numba compiles, and when it is compiled.
- `phases`: names of the phases of a fit whose time grows with the number of rows.

Terms:

- The *core distance* of a row is the distance to its `min_samples`-th nearest row; the row itself is the
  first.
- The *mutual reachability distance* of two rows is the largest of their distance and their core distances.
- Distances are *chord* lengths between unit vectors. The *distance floor* replaces smaller ones.
- A *height* is a mutual reachability distance in the spanning tree (λ = 1/height).
- *Distinct rows* are rows without their copies; the number of copies is the *weight* of a distinct row.
- The *medoid* of a cluster is the member with the smallest sum of distances to all members.
- The *persistence* of a cluster is the mean share of the cluster's life that a member spends in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.lazy import lazy_exports

if TYPE_CHECKING:
    from panic_tda.clustering.recipe import hdbscan as hdbscan

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"hdbscan": "recipe"})
