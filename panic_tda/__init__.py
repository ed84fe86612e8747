"""Exact density clustering of millions of embedding vectors kept in a database.

Packages, from the top layer to the bottom:

- `estimator`: HDBSCAN as an estimator of scikit-learn.
- `commands`: the commands, which `main` collects; `cli`: their options and output.
- `report` and `insight`: the HTML page and figures, and analyses of stored clusterings.
- `clustering_manager`: clusters all embedding models of a database.
- `files`: import and export of files.
- `storage`: the databases, with every SQL statement.
- `clustering`: from a matrix to clusters.
- `arrays`: matrices of NumPy or CuPy.
- `devices`: the machine and its CUDA devices.
- `types`, `parameters`, `progress` and `errors`: used by all of them.

The docstring of each package describes its modules. Names are loaded when they are first used (PEP 562), so
that `import panic_tda` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.lazy import lazy_exports

if TYPE_CHECKING:
    from panic_tda.clustering.recipe import hdbscan as hdbscan
    from panic_tda.clustering_manager import cluster_all_data as cluster_all_data
    from panic_tda.errors import PanicTdaError as PanicTdaError
    from panic_tda.estimator import HDBSCAN as HDBSCAN
    from panic_tda.parameters import ClusteringParameters as ClusteringParameters
    from panic_tda.storage.database import Database as Database
    from panic_tda.storage.database import open_database as open_database
    from panic_tda.storage.read.arrow import read_clustering as read_clustering
    from panic_tda.storage.read.results import get_cluster_details as get_cluster_details
    from panic_tda.storage.read.results import get_medoid_invocation as get_medoid_invocation
    from panic_tda.storage.read.results import list_clusterings as list_clusterings
    from panic_tda.storage.write.saving import delete_clusterings as delete_clusterings
    from panic_tda.types import OUTLIER as OUTLIER
    from panic_tda.types import Clustering as Clustering

# Type checkers would accept any name of a module with `__getattr__`.
if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "Clustering": "types",
            "ClusteringParameters": "parameters",
            "Database": "storage.database",
            "HDBSCAN": "estimator",
            "OUTLIER": "types",
            "PanicTdaError": "errors",
            "cluster_all_data": "clustering_manager",
            "delete_clusterings": "storage.write.saving",
            "get_cluster_details": "storage.read.results",
            "get_medoid_invocation": "storage.read.results",
            "hdbscan": "clustering.recipe",
            "list_clusterings": "storage.read.results",
            "open_database": "storage.database",
            "read_clustering": "storage.read.arrow",
        },
    )
