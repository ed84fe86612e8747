"""Compute recuts, sweeps, comparisons, trajectories and densities from stored clusterings.

Input: labels, probabilities, trees and steps of runs, read by `storage`. Output: frozen dataclasses with
`to_dict`, for `cli` and `report`. Nothing here prints, and every query is a function of `storage`.

Settings
    `recut` cuts other clusters from a stored tree, `sweep` compares many settings, `comparison` compares two
    clusterings (`agreement` has the indices), `merges` lists where clusters join, `stability` refits samples
    of runs.
Rows
    `density` examines outliers (with `text_notes`), `outlier_scores` grades them, `layout` places rows on a
    map (`umap_loops` keeps compiled code of umap-learn), `keywords` and `origins` describe clusters.
Runs
    `trajectories` studies runs, `step_rows` lists their steps. Below them: `milestones` (a state for each
    step), `branches`, `dwell`, `memoryless`, `recurrence`, `run_groups`, `intervals` and `differences`.
    `dynamics`, `markov` and `divergence` (with `relaxation`) describe how runs move.
Plans
    `planning` estimates time (`costs`) and memory (`memory`) before anything is clustered, as `plans`.
"""
