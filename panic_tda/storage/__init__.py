"""Read and write databases: all SQL statements of the package are here.

A database is an SQLite file or a PostgreSQL URL, written by the generation pipeline or created by
`open_database(..., create=True)`. Arrays and records come out of it (`read`), and finished clusterings and
imported rows go into it (`write`), each in one transaction.

`doctor`       find what is wrong in a database, and repair what can be repaired
`write`        save clusterings, import rows, copy databases
`read`         load vectors, and read stored clusterings
`schema`       the tables, their migrations, and the downsampling rule
`database`     open a database; transactions and versions
`connections`  connect to an SQLite file, and retry while another process holds a lock
`postgres`     connect to a server, and limit how long it is waited for
`bulk`         read many rows at the speed of the driver
`cells`        read stored values, and name those that cannot be read (`columns` converts them)
`arrow`        convert numbers between NumPy and Arrow without pandas
`pgvector`     read vectors from columns of that PostgreSQL extension
`urls`         parse the path or URL of a database
`reasons`      translate errors of a database

Terms: an *embedding* is a stored vector. It belongs to an *invocation* (one output of a model), which
belongs to a *run*. A *census* counts the embeddings of a model before they are loaded. An *orphan* is an
embedding whose invocation is missing. A *result key* is the short number by which clusters and assignments
refer to their clustering.
"""
