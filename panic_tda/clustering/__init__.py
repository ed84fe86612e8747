"""Arrays → clusters: exact HDBSCAN on cosine geometry; knows no database and no terminal.

In flows an (n, d) float32 matrix in host or device memory, with `ClusteringParameters`. Out flows a
`Clustering`: labels, probabilities, persistence, the medoid of every cluster, and a record of every value
that was used.

`recipe` is the whole way in one page: normalise, find duplicates, build the spanning tree, extract
clusters, number them, find medoids. Its stages are `duplicates`, a backend, `hierarchy` and `medoids`.
`placement` chooses the backend, and whether it works on the processor or on a CUDA device. `backends` holds
the contract of a backend and those that lean on other libraries, `tiled` our own exact engine (its page has
the passes, `tiled.proof` the proof), `trees` what all of them know of spanning trees, `checkpoint` the
state that outlives a kill; `compiled` and `warm_up` are about what numba compiles, and when; `phases` names
the phases of a fit whose time grows with the number of rows.

Words: the *core distance* of a row is the distance to its `min_samples`-th row, itself counted; the *mutual
reachability distance* of two rows is the largest of their distance and their core distances; distances are
*chords* between unit vectors, and those below the *distance floor* count as it; a *height* is such a
distance on the spanning tree (λ = 1/height); *distinct rows* are what is left when copies count as
*weight*; the *medoid* of a cluster is the member that is nearest to all others in sum; the *persistence* of
a cluster, the share of its life that a member spends in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.lazy import lazy_exports

if TYPE_CHECKING:
    from panic_tda.clustering.placement import choose_placement as choose_placement
    from panic_tda.clustering.recipe import cluster_rows as cluster_rows
    from panic_tda.clustering.recipe import hdbscan as hdbscan

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "cluster_rows": "recipe",
        "hdbscan": "recipe",
        "place": "placement",
    },
)
