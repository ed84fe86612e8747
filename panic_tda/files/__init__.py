"""Files that people bring or take along: Parquet, Arrow, CSV, NDJSON and NumPy's arrays.

In flow files; `formats` tells their format by their first bytes, and `arrow_files`, `text_tables` and
`numpy_files` read columns by batches, whose types `casting` makes plain; `tables` opens any of them.
`columns` checks columns, `column_choice` says which of them hold texts and vectors, `usable_vectors` leaves
invalid vectors out, `embedding_files` turns them into batches of texts and vectors, `naming` finds the runs
of files that do not name theirs, `pipeline_dumps` reads folders that the generation pipeline has written
(`pipeline_databases` its SQLite files, as if they were such folders), and `importing` puts all of it into a
database, through `storage.additions` and `storage.dumps`. Out flow files: `exporting` writes the rows that
`storage.exports` and `insight.step_rows` stream. Another format to read is another file here; one to write is
a function in `exporting`.

Words: a *batch* is some thousand rows of one embedding model; a *run* is known by its name, seed, network
and prompt, and in a *dump* by its id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.lazy import handed_on

if TYPE_CHECKING:
    from panic_tda.files.column_choice import Columns as Columns
    from panic_tda.files.exporting import export_clustering as export_clustering
    from panic_tda.files.importing import import_embeddings as import_embeddings
    from panic_tda.files.importing import sample_files as sample_files

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "Columns": "column_choice",
        "export_clustering": "exporting",
        "import_embeddings": "importing",
        "sample_files": "importing",
    },
)
