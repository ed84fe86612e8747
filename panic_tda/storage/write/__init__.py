"""Write clusterings, imports and copies to a database; each function commits all of its rows or none.

Clusterings
    `saving` saves and deletes clusterings, `trees` writes their spanning trees, `pending` writes results that
    could not be saved to files, and `recovery` saves these files later.
Imports
    `batches` defines the input (`pipeline_tables` reads it from a database of the pipeline). `additions` adds
    rows with ids made from their content, `dumps` adds rows that have ids, and `row_additions` has what both
    need. `drift` counts vectors that differ from stored ones, `times` converts times, and `import_summary` is
    the result.
Copies
    `copying` copies a database into a new one, table by table (`copied_tables`). `insertion` inserts rows at
    the speed of the driver, for all of these.
"""
