"""Count the work of the phases of the engine by closed formulas, for estimates of its time."""

from __future__ import annotations

from panic_tda.clustering.tiled import axes, device, host, neighbours, verify

PASSES = {
    "neighbours": (neighbours.NEAR_WORK, neighbours.DECLINE),
    "verify": (verify.NEAR_WORK, 0.0),
}
"""Cost factors of the first pairs of each tile, and how much the factor of the others falls, of each pass
over all pairs of tiles; see `layout.estimate_work`."""


def count(phase: str, n_rows: int, n_features: int, *, on_device: bool = False) -> float:
    """Return the work of a phase in some unit: for a pass, pairs of tiles that are rejected by their bound.

    Other phases count rows. What grows faster in them, the choice of panels in `joining`, is a thousandth of
    the pairs of the passes.
    """
    if phase not in PASSES:
        return float(n_rows)
    tile_rows: int = device.TILE_ROWS if on_device else host.TILE_ROWS
    n_tiles = max(1.0, n_rows / tile_rows)
    n_pairs = n_tiles * (n_tiles + 1) / 2
    near_costs, decline = PASSES[phase]
    if not axes.bound_saves_time(axes.DEFAULT_N_AXES, n_features):
        return n_pairs
    # Of few tiles, not even all near pairs exist; the first of them cost most.
    work = 0.0
    for cost in near_costs:
        n_near = min(n_pairs, n_tiles)
        work, n_pairs = work + cost * n_near, n_pairs - n_near
    return work + (1 - decline / 2) * n_pairs
