"""Compute recuts, sweeps, comparisons, trajectories and densities from stored clusterings.

One file a question: `recut` (other clusters from the same tree), `sweep` (many settings side by side),
`comparison` (what became of each cluster in another clustering), `density` (are the outliers real?), over
`agreement` (how far labels agree); `layout` (where do embeddings lie on a map?); `trajectories` (what do runs
do?) and `step_rows` (the steps themselves, for a file), over `milestones` (a state for every step), `dwell`
(how long visits last), `memoryless` (do they remember?) and `recurrence` (repeats of the texts); `run_groups`
sums runs up, over `intervals` (by resampling runs) and `differences` (of networks); `markov`, `divergence`,
`stability`, `merges`, `outlier_scores` and `origins` (over `keywords`) each answer one more. In flow results
that `storage` reads (labels, probabilities, trees, the steps of runs); out flow plain data for `cli` and
`report`. Nothing here knows a terminal, and every query is a function of `storage`.
"""
