"""What is computed from stored clusterings: recuts, sweeps, comparisons, trajectories, density.

The door is here and the rooms are to come, one file a question. In flow results that `storage` reads (labels,
probabilities, trees, the steps of runs); out flow plain data for `cli` and `report`. Nothing here knows a
terminal, and every query is a function of `storage`.
"""
