"""Names of the phases of a fit that its estimate needs, by how their time grows.

`recipe` and the engines report them.
"""

from __future__ import annotations

NORMALISE = "normalise, find duplicates"
CORE_DISTANCES = "core distances"
HIERARCHY = "hierarchy"
MEDOIDS = "medoids"

FOREST = "forest"
JOINING = "join components"
NEIGHBOURS = "neighbours"
VERIFY = "verify"

LINEAR = frozenset({NORMALISE, CORE_DISTANCES, FOREST, JOINING, HIERARCHY, MEDOIDS})
"""Their time grows with the number of rows, not of pairs of rows."""
PASSES = frozenset({NEIGHBOURS, VERIFY})
"""The passes of the tiled engine over all pairs of rows, which several workers can share."""
