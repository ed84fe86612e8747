"""Everything that is read from a database, as arrays, batches and records.

Embeddings
    `census` counts the embeddings of each model; `loading` reads all vectors of a model, `vectors_by_id`
    those of given ids, `row_samples` a sample in whole runs.
Stored clusterings
    `summaries` and `results` find them. `clusterings` reads one of them, part by part: its parts come from
    `assignments` (the cluster of each embedding), `medoids`, `trees` (the spanning tree) and `trajectories`
    (the assignments run by run). `exports` streams every row with its texts; `glance` reads the names that a
    shell completes.
"""
