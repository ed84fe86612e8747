"""Everything that is written to a database. Each function commits all of its rows or none.

Clusterings
    `saving` saves and deletes them, `pending` writes what could not be saved to a file, `recovery` saves
    these files later.
Imports
    `batches` is the input (`pipeline_tables` reads it from a database of the pipeline). `additions` adds rows
    under ids made from their content, and `dumps` rows that bring their ids. `drift` compares vectors that
    come again, `times` has the time of an import, and `import_summary` is the result.
Copies
    `copying` copies a database into a new one, table by table (`copied_tables`).
"""
