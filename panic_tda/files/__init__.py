"""Import of files into a database, and export of results into files.

Reading
    `formats` recognises a format by its first bytes. `arrow_files`, `text_tables` and `numpy_files` read
    columns in batches, `texts_files` reads texts, `casting` converts types, and `tables` opens any of these
    files. `columns` checks columns, `column_choice` selects those of texts and vectors, and `usable_vectors`
    excludes invalid vectors. `embedding_files` returns batches of texts and vectors, and `naming` derives the
    name of a run if the file has none. `pipeline_dumps` reads folders written by the generation pipeline, and
    `pipeline_databases` reads its SQLite files in the same form. `importing` writes everything to a database.
Writing
    `exporting` writes the rows that `storage.read.exports` and `insight.step_rows` stream, and `replacing`
    replaces a file only when the new one is complete.

To read another format, add a file here. To write another one, add a function to `exporting`.

Terms: a *batch* is some thousand rows of one embedding model. A *run* is identified by its name, seed,
network and prompt, and in a *dump* by its id.
"""
