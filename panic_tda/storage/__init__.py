"""Database ⇄ arrays: every SQL statement of the package lives here.

In flows a database: an SQLite file or a PostgreSQL URL, written by the generation pipeline or made by
`open_database(..., create=True)`. Out flow arrays (`loading`: ids and a float32 matrix) and what was stored
before (`results`). Back in flow finished clusterings, saved whole or not at all; what cannot be saved waits
as a file (`pending`) until it can be (`recovery`).

From the bottom up: `schemas` (the tables), `pgvector` (the same vectors in another column), `reasons` (what
a database's own errors mean to a person), `columns` and `cells` (stored values are read, and those that
cannot be read named), `connections` (connections to SQLite files, and retries while another process holds a
lock), `drift` (vectors that come again and differ), `postgres` (connections to servers, and limits of
waits) and `sampling` (the downsampling rule, as SQL); `database` (opening, transactions, versions: what
differs between SQLite and PostgreSQL), `bulk` (many rows at the driver's own speed), `times`, `batches`
(what an import brings) and `import_summary` (what it did); `migrations` and `upgrade` (bringing a field
file to our tables); `census` (what there is of each model, before anything is loaded); `pipeline_tables`
(databases to import); `assignments` (which cluster each embedding belongs to), `summaries` (the rows of
stored clusterings) and `trees`; `loading`, `picking` (the vectors of some embeddings) and `excerpts`
(pieces of a model, to plan by), `results` and `medoids`, `trajectories` (assignments run by run, and the
texts of runs), `additions` (rows that an import adds, ids by hash), `dumps` (rows that bring their ids) and
`pending`; `saving`; `exports` (a clustering with all that stands behind it, row by row); `recovery`;
`doctor`, which says what is wrong in a database and mends what can be; `copied_tables` and `copying` (one
database into another, of either kind); and `glance`, for a shell that completes a name.

Words: an *embedding* is a stored vector; it belongs to an *invocation* (one output of a model), which
belongs to a *run*. A *census* counts a model's embeddings before they are loaded; an *orphan* is an
embedding whose invocation is missing. A *result key* is the short number by which clusters and assignments
name their clustering.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.lazy import handed_on

if TYPE_CHECKING:
    from panic_tda.storage.census import take_census as take_census
    from panic_tda.storage.database import Database as Database
    from panic_tda.storage.database import open_current as open_current
    from panic_tda.storage.database import open_database as open_database
    from panic_tda.storage.loading import load_embeddings as load_embeddings

__getattr__, __dir__, __all__ = handed_on(
    __name__,
    {
        "Database": "database",
        "load_embeddings": "loading",
        "open_current": "database",
        "open_database": "database",
        "take_census": "census",
    },
)
