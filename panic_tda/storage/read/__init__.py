"""Read embeddings and stored clusterings from a database, as arrays, batches and records.

Embeddings
    `census` counts the embeddings of each model. `loading` reads all vectors of a model, `vectors_by_id` the
    vectors of a list of ids, `row_samples` a sample of whole runs.
Stored clusterings
    `summaries` and `results` find clusterings. `clusterings` reads one clustering, part by part, with
    `assignments` (the cluster of each embedding), `medoids`, `trees` (the spanning tree) and `trajectories`
    (the assignments run by run). `exports` streams every row with its texts (`row_streams` has what all
    exports share). `completions` reads the names for shell completion.
"""
