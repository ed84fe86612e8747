"""Everything that is read from a database, as arrays, batches and records.

Embeddings
    `census` counts the embeddings of each model; `loading` reads all vectors of a model, `picking` those of
    given ids, `excerpts` a sample in whole runs.
Stored clusterings
    `results` and `summaries` read the records, `assignments` the cluster of each embedding, `medoids` the
    rows behind the medoids, `trees` the spanning tree, `trajectories` the assignments run by run, `exports`
    every row with its texts, `glance` the names that a shell completes.
"""
