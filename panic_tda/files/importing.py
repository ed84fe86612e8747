"""Embeddings from files into a database, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from panic_tda.errors import WrongUsage
from panic_tda.files.column_choice import Columns
from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.files.naming import name_of
from panic_tda.files.pipeline_databases import is_sqlite_file
from panic_tda.files.pipeline_dumps import PipelineDump
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.write.additions import Additions
from panic_tda.storage.write.dumps import DumpAdditions
from panic_tda.storage.write.import_summary import ImportSummary


def sample_files() -> list[Path]:
    """Return the files of the sample that ships with the package: 48 runs of captions in two models."""
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
    progress: Progress | None = None,
) -> ImportSummary:
    """Import files of embeddings, or dumps of the generation pipeline, in one transaction.

    A folder is a dump (see `pipeline_dumps`); an SQLite database of the pipeline's newer generation is
    read like one. The rows keep their ids, so that medoids lead back to the same invocations. What is in
    the database under an id stays as it is; what differs, what belongs to nothing and what would count
    twice is left out, counted, and told in the log.

    A file is Parquet, Arrow IPC (Feather), an Arrow stream, CSV, NDJSON, or NumPy's `.npy` or `.npz`. Needed
    are columns `text` and `vector` (lists of numbers, stored as float32), and an embedding model: the column
    `embedding_model`, or `model`. Columns `run` (else `run_id`, as exports call it), `sequence_number`,
    `initial_prompt`, `network` (lists of names, or JSON of them) and `seed` say where a text comes from.
    `columns` says which columns have other names, or that rows have no text. In CSV a vector is a cell such
    as `[0.1, 0.2]`. The arrays of an `.npz` archive are its columns; the one array of a file is `vector`.

    Without a run, a file is one, known by its texts and their sequence
    numbers (see `naming`): the same texts in another model's file meet the same invocations, and a file that
    has grown the run that it was. Without `sequence_number` texts are numbered in the order of the file, per
    run and model.

    Rows without a text are taken where the column `output_type` says what they are, `text` or `image`, or
    where `columns` leaves all texts out. Their `output_text` is NULL, they are known by run and sequence
    number, and they say nothing of a text that is stored there; a file that has no text and names no runs is
    known by its first vector. The same text with another vector than the stored one is counted, and what is
    stored stays.

    Ids are hashes of (run, seed, network, prompt, sequence number, model): importing again adds nothing, and
    a file that has grown adds what is new. The runs that are new form one experiment. When a text or a vector
    was made is not known: the times of new rows are NULL, or 1970-01-01 00:00 in a file of the generation
    pipeline whose columns do not take NULL.

    Parameters
    ----------
    files : iterable of str or Path
        Files of embeddings, SQLite databases of the pipeline, and folders.
    database : Database
        With tables of the current version; `open_database(path, create=True)` makes one.
    model : str, optional
        The embedding model of files that have no column for it; not with a dump, which names its models.
    columns : Columns, optional
        Of all files; not with a dump.
    texts : str or Path, optional
        The texts of one `.npy` or `.npz` file: UTF-8, one a line, or a JSON list where its name ends in
        `.json`.
    skip_invalid : bool
        Leave out embeddings whose vector cannot be used (missing, of another length than most, zero or not
        finite), count them, and say in the log which. The text keeps its place in its run.
    progress : Progress, optional
        Told the rows imported.

    Returns
    -------
    ImportSummary
        What was added.

    Raises
    ------
    BadInput
        A file lacks a column, or a row cannot be imported: its vector is missing, ragged, zero or not finite
        (without `skip_invalid`), the name of its model is empty or holds a control character, a text or a
        name holds NUL, or its text differs from the one in the database under the same key. Nothing is
        imported.
    WrongUsage
        No file, an embedding model that is not named, or named differently by the file and the caller, or a
        named column that a file lacks.
    MissingPath
        There is no such file, or a folder holds no dump.
    """
    progress = progress or Silent()
    sources = require_files(files, model=model, columns=columns, texts=texts)
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
            name = "" if source.names_runs else name_of(source, additions, skip_invalid=skip_invalid)
            for batch in source.batches(name, skip_invalid=skip_invalid):
                additions.add(batch)
                progress.advance(len(batch.rows))
        return sum(dumped, start=additions.finish(n_files))


def _add_dump(
    dump: PipelineDump, additions: DumpAdditions, progress: Progress, *, skip_invalid: bool
) -> ImportSummary:
    """Add the rows of a dump, those that others refer to first, whatever their order in its files."""
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
    return additions.finish(dump.n_files)


def require_files(
    files: Iterable[str | Path],
    *,
    model: str | None = None,
    columns: Columns | None = None,
    texts: str | Path | None = None,
) -> list[EmbeddingFile | PipelineDump]:
    """Open all files and check their columns; what is wrong is found before a database is made for them.

    Raises
    ------
    BadInput, WrongUsage
        As `import_embeddings`.
    """
    texts = None if texts is None else expand_home(texts)
    sources = [_opened(expand_home(file), model, columns, texts) for file in files]
    if not sources:
        raise WrongUsage("no file to import; name files of embeddings, or the folder of a dump")
    if texts is not None and len(sources) > 1:
        raise WrongUsage(f"{texts} has the texts of one array; import {len(sources)} files one at a time")
    return sources


def _opened(
    path: Path, model: str | None, columns: Columns | None, texts: Path | None
) -> EmbeddingFile | PipelineDump:
    # A database of the pipeline is a dump; only other formats are named by `open_table`.
    is_database = is_sqlite_file(path)
    if not is_database and not path.is_dir():
        return EmbeddingFile(path, model, columns=columns, texts=texts)
    what = "database" if is_database else "folder"
    if texts is not None or columns not in (None, Columns()):
        raise WrongUsage(
            f"{path} is a {what} of the pipeline, whose columns have fixed names; name no columns and no "
            "texts for it"
        )
    if model is not None:
        raise WrongUsage(
            f"{path} is a {what}, and names its models; model {model} was asked for: leave out --model, or "
            "import it on its own"
        )
    return PipelineDump(path)
