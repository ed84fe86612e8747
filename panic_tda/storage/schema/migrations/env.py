"""Run the migrations on the connection, and in the transaction, of `database.migrate`."""

from __future__ import annotations

from alembic import context

from panic_tda.storage.database import VERSION_TABLE

# The pipeline's own table `alembic_version` may be in the same database, so this one has another name.
context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # also in SQLite, where the transaction is begun explicitly
)
with context.begin_transaction():
    context.run_migrations()
