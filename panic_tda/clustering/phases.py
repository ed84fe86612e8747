"""Names of the phases of a fit whose time grows with the number of rows, not of pairs of rows.

They are reported by `recipe` and the engines, and told apart from all others by whoever predicts times.
"""

from __future__ import annotations

NORMALISE = "normalise, find duplicates"
CORE_DISTANCES = "core distances"
HIERARCHY = "hierarchy"
MEDOIDS = "medoids"

LINEAR = frozenset({NORMALISE, CORE_DISTANCES, HIERARCHY, MEDOIDS})
