"""Import embeddings into a database: from files, or from a dump or database of the generation pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from panic_tda.errors import WrongUsage
from panic_tda.files.column_choice import Columns
from panic_tda.files.columns import BATCH_ROWS
from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.files.naming import derive_run_name
from panic_tda.files.pipeline_dumps import PipelineDump
from panic_tda.outputs import is_database
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.write.additions import Additions
from panic_tda.storage.write.dumps import DumpAdditions
from panic_tda.storage.write.import_summary import ImportSummary


def sample_files() -> list[Path]:
    """Return the sample files of the package: 48 runs of captions, embedded with two models."""
    folder = resources.files("panic_tda") / "sample"
    return [Path(str(folder / name)) for name in ("captions_lsa.parquet", "captions_minilm.parquet")]


def import_embeddings(
    files: Iterable[str | Path],
    database: Database,
    *,
    model: str | None = None,
    columns: Columns | None = None,
    texts: str | Path | None = None,
    skip_invalid: bool = False,
    batch_rows: int = BATCH_ROWS,
    progress: Progress | None = None,
) -> ImportSummary:
    """Import embeddings from files, or from dumps and databases of the pipeline, in one transaction.

    Parameters
    ----------
    files : iterable of str or Path
        Files of embeddings, SQLite databases of the pipeline, and folders, each of which is a dump.
    database : Database
        A database with tables of the current version; `open_database(path, create=True)` creates one.
    model : str, optional
        The embedding model of files without a column for it; not allowed with a dump, which names its models.
    columns : Columns, optional
        Column names of all files; not allowed with a dump.
    texts : str or Path, optional
        The texts of one `.npy` or `.npz` file: UTF-8, one per line, or a JSON list if its name ends in
        `.json`.
    skip_invalid : bool
        Skip embeddings with an invalid vector (missing, of another length than most, zero or not finite), and
        count and log them. The text keeps its sequence number in its run.
    batch_rows : int
        Number of rows to read at a time, from 1 to 32,768. Fewer take less memory, and more time.
    progress : Progress, optional
        Receives the number of imported rows.

    Returns
    -------
    ImportSummary
        The numbers of added and skipped rows.

    Raises
    ------
    BadInput
        A file lacks a column, or a row cannot be imported: its vector is missing, ragged, zero or not finite
        (without `skip_invalid`), the name of its model is empty or contains a control character, a text or a
        name contains NUL, or its text differs from the stored one with the same key. Nothing is imported.
    WrongUsage
        There is no file, the embedding model is missing or differs between file and caller, or a file lacks a
        named column.
    MissingPath
        A file does not exist, or a folder contains no dump.
    InvalidParameter
        `batch_rows` is outside its range.

    Notes
    -----
    Dumps and databases of the pipeline (see `pipeline_dumps`, `pipeline_databases`):

    - Imported rows keep their ids, so that medoids refer to the same invocations as in the pipeline.
    - Rows that are stored already are not changed. Rows that differ from stored ones, that refer to missing
      rows or that would be duplicates are skipped, counted and logged.

    Files of embeddings are Parquet, Arrow IPC (Feather), Arrow streams, CSV, NDJSON, and NumPy's `.npy` and
    `.npz`:

    - Required columns are `text`, `vector` (lists of numbers, stored as float32) and `embedding_model`;
      `model` replaces the last one. In CSV a vector is a cell such as `[0.1, 0.2]`. The arrays of an `.npz`
      archive are its columns; a single array is the column `vector`.
    - Optional columns are `run` (or `run_id`, the name in exports), `sequence_number`, `initial_prompt`,
      `network` (lists of names, or JSON of them), `seed` and `output_type`.
    - Ids are hashes of run, seed, network, prompt, sequence number and model. Importing a file again adds
      nothing, and a file that has grown adds its new rows.
    - A file without a column of runs is one run, which is identified by its texts and their sequence numbers
      (see `naming`). The same texts in the file of another model belong to the same invocations.
    - Without `sequence_number`, texts are numbered in the order of the file, for each run and model.
    - Rows without a text are accepted if `output_type` says `text` or `image`, or if `columns` excludes all
      texts. Their `output_text` is NULL, they are identified by run and sequence number, and they do not
      change a stored text. A file without texts and runs is identified by its first vector.
    - A stored vector is not changed. If the same text comes again with another vector, it is counted.
    - The new runs form one experiment. The times of new rows are NULL, because files have none, or
      1970-01-01 00:00 in a database of the pipeline whose columns do not accept NULL.
    """
    progress = progress or Silent()
    sources = require_files(files, model=model, columns=columns, texts=texts, batch_rows=batch_rows)
    database.require_current()
    counts = [source.n_rows for source in sources]
    progress.phase("import", None if None in counts else float(sum(count or 0 for count in counts)))
    with database.writing() as connection:
        additions, n_files, dumped = Additions(connection), 0, []
        for source in sources:
            if isinstance(source, PipelineDump):
                dumped.append(
                    _add_dump(source, DumpAdditions(connection), progress, skip_invalid=skip_invalid)
                )
                continue
            n_files += 1
            name = "" if source.names_runs else derive_run_name(source, additions, skip_invalid=skip_invalid)
            for batch in source.batches(name, skip_invalid=skip_invalid):
                additions.add(batch)
                progress.advance(len(batch.rows))
        additions.update_runs_and_experiments()
        return sum(dumped, start=additions.summarize(n_files))


def _add_dump(
    dump: PipelineDump, additions: DumpAdditions, progress: Progress, *, skip_invalid: bool
) -> ImportSummary:
    """Add the rows of a dump, table by table, so that rows are added before those that refer to them."""
    for experiments in dump.experiments():
        additions.add_experiments(experiments)
        progress.advance(len(experiments))
    for runs in dump.runs():
        additions.add_runs(runs)
        progress.advance(len(runs))
    for invocations in dump.invocations():
        additions.add_invocations(invocations)
        progress.advance(len(invocations.ids))
    if additions.lacks_inputs:
        for ids, input_ids in dump.inputs():
            additions.add_inputs(ids, input_ids)
    for embeddings in dump.embeddings(skip_invalid=skip_invalid):
        additions.add_embeddings(embeddings)
        progress.advance(len(embeddings.ids))
    return additions.summarize(dump.n_files)


def require_files(
    files: Iterable[str | Path],
    *,
    model: str | None = None,
    columns: Columns | None = None,
    texts: str | Path | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[EmbeddingFile | PipelineDump]:
    """Open all files and check their columns, before a database is created for them.

    Raises
    ------
    BadInput, WrongUsage, MissingPath, InvalidParameter
        As for `import_embeddings`.
    """
    texts = None if texts is None else expand_home(texts)
    sources = [_open(expand_home(file), model, columns, texts, batch_rows) for file in files]
    if not sources:
        raise WrongUsage("no file to import; name files of embeddings, or the folder of a dump")
    if texts is not None and len(sources) > 1:
        raise WrongUsage(f"{texts} has the texts of one array; import {len(sources)} files one at a time")
    return sources


def _open(
    path: Path, model: str | None, columns: Columns | None, texts: Path | None, batch_rows: int
) -> EmbeddingFile | PipelineDump:
    # A database of the pipeline is read like a dump; `open_table` refuses other formats with advice.
    is_pipeline = is_database(path)
    if not is_pipeline and not path.is_dir():
        return EmbeddingFile(path, model, columns=columns, texts=texts, batch_rows=batch_rows)
    kind = "database" if is_pipeline else "folder"
    if texts is not None or columns not in (None, Columns()):
        raise WrongUsage(
            f"{path} is a {kind} of the pipeline, whose columns have fixed names; name no columns and no "
            "texts for it"
        )
    if model is not None:
        raise WrongUsage(
            f"{path} is a {kind} that names its models, but model {model} was requested; leave out --model, "
            "or import it on its own"
        )
    return PipelineDump(path, batch_rows)
