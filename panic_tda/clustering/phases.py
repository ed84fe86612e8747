"""Names of the phases of a fit whose time grows with the number of rows, not of pairs of rows.

`recipe` and the engines report them. The estimate of a fit's time treats them differently from all others.
"""

from __future__ import annotations

NORMALISE = "normalise, find duplicates"
CORE_DISTANCES = "core distances"
HIERARCHY = "hierarchy"
MEDOIDS = "medoids"

LINEAR = frozenset({NORMALISE, CORE_DISTANCES, HIERARCHY, MEDOIDS})
