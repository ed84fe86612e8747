"""Folders of Parquet files in which the generation pipeline's newer generation hands on its experiments.

One file a table: `runs`, `invocations` and `embeddings`, and `experiments` where it is there; other files and
further columns are left alone. Ids are UUIDs, written with dashes. Lists (`network`, `networks`, `prompts`,
`embedding_models`, `seeds`) are JSON strings, or lists. Times are ISO 8601: one that names its offset becomes
UTC, one that names none stays as it is written. Images are without their bytes. What has no seed of its own
has that of its run. The newer generation has no seeds and numbers the runs of one network and prompt: where
there is no column `seed`, `run_number` is stored as the seed, else `UNKNOWN_SEED`.

The pipeline's own SQLite database has the same tables, and is read by the same code (`pipeline_databases`).

A dump may hold each run's prompt as an output before the first one: ids that begin with `prompt-`, sequence
number −1. They are handed on as they are, and left out where rows are added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import MissingPath
from panic_tda.files.arrow_files import ArrowFile, open_arrow_file, readable
from panic_tda.files.columns import (
    INTEGERS,
    STRINGS,
    VECTORS,
    Kind,
    Rows,
    check_columns,
    is_list_of,
    is_string,
    read_rows,
)
from panic_tda.files.embedding_files import UNKNOWN_SEED
from panic_tda.files.pipeline_databases import open_pipeline_database
from panic_tda.files.usable_vectors import read_all_vectors, read_usable_vectors
from panic_tda.storage.write.batches import (
    PROMPT,
    DumpedEmbeddings,
    DumpedExperiment,
    DumpedInvocations,
    DumpedRun,
)

if TYPE_CHECKING:
    from panic_tda.types import Float32Array

BATCH_ROWS = 8192
TABLES = ("experiments", "runs", "invocations", "embeddings")
"""In the order in which rows refer to each other."""
OPTIONAL_TABLE = "experiments"
_MOST_RUNS = 100_000
"""So many runs of one network and prompt are listed in an experiment; a greater number is damage."""
_SHOWN = 80
"""So many characters of a value that cannot be right are shown."""

_LISTS: Kind = ("JSON strings or lists", lambda kind: is_string(kind) or is_list_of(kind, lambda _: True))
_TIMES: Kind = ("ISO 8601 strings or timestamps", lambda kind: is_string(kind) or pa.types.is_timestamp(kind))
_BOTH_TIMES = {"started_at": _TIMES, "completed_at": _TIMES}
_REQUIRED: dict[str, dict[str, Kind]] = {
    "experiments": {
        "id": STRINGS,
        "networks": _LISTS,
        "prompts": _LISTS,
        "embedding_models": _LISTS,
        "max_length": INTEGERS,
    },
    "runs": {"id": STRINGS, "network": _LISTS, "max_length": INTEGERS, "initial_prompt": STRINGS},
    "invocations": {
        "id": STRINGS,
        "run_id": STRINGS,
        "sequence_number": INTEGERS,
        "type": STRINGS,
        "model": STRINGS,
        "output_text": STRINGS,
    },
    "embeddings": {"id": STRINGS, "invocation_id": STRINGS, "embedding_model": STRINGS, "vector": VECTORS},
}
_OPTIONAL: dict[str, dict[str, Kind]] = {
    "experiments": {"seeds": _LISTS, "num_runs": INTEGERS, **_BOTH_TIMES},
    "runs": {"experiment_id": STRINGS, "seed": INTEGERS, "run_number": INTEGERS},
    "invocations": {"input_invocation_id": STRINGS, "seed": INTEGERS, **_BOTH_TIMES},
    "embeddings": _BOTH_TIMES,
}


class PipelineDump:
    """One dump, in the files of a folder; or a database of the pipeline, which has the same tables.

    Parameters
    ----------
    source : Path
        A folder, or an SQLite file.

    Raises
    ------
    MissingPath
        The folder lacks a file.
    BadInput
        A file is of another format, columns are missing or of a wrong type, or the database has other tables.
    """

    def __init__(self, source: Path) -> None:
        self._files = _open_folder(source) if source.is_dir() else open_pipeline_database(source)
        self.n_files = len(self._files) if source.is_dir() else 1
        """Files that are read."""
        self._columns = {
            table: check_columns(file, _REQUIRED[table], _OPTIONAL[table])
            for table, file in self._files.items()
        }

    @property
    def n_rows(self) -> int | None:
        """Rows of all files; None where only reading them all would tell."""
        counts = [file.n_rows for file in self._files.values()]
        return None if None in counts else sum(count or 0 for count in counts)

    def experiments(self) -> Iterator[list[DumpedExperiment]]:
        """Read the experiments; nothing where there is no file of them.

        Raises
        ------
        BadInput
            A row lacks a value or holds an impossible one; the message names it. So do all that follow.
        """
        for rows in self._rows("experiments"):
            with readable(rows.path):
                made = _experiments(_Table(rows))
            yield made

    def runs(self) -> Iterator[list[DumpedRun]]:
        """Read the runs."""
        for rows in self._rows("runs"):
            with readable(rows.path):
                made = _runs(_Table(rows))
            yield made

    def invocations(self) -> Iterator[DumpedInvocations]:
        """Read the invocations, some thousand at a time."""
        for rows in self._rows("invocations"):
            with readable(rows.path):
                made = _invocations(_Table(rows))
            yield made

    def inputs(self) -> Iterator[tuple[list[str], list[str | None]]]:
        """Read the ids of the invocations once more, and of those that they were made from."""
        for rows in self._rows("invocations", ("id", "input_invocation_id")):
            with readable(rows.path):
                table = _Table(rows)
                made = table.ids("id", or_prompts=True), table.inputs()
            yield made

    def embeddings(self, *, skip_invalid: bool = False) -> Iterator[DumpedEmbeddings]:
        """Read the embeddings, some thousand of one model at a time; `skip_invalid` as for imports."""
        widths: dict[str, int] | None = {} if skip_invalid else None
        for rows in self._rows("embeddings"):
            with readable(rows.path):
                made = list(_embeddings(rows, widths))
            yield from made

    def _rows(self, table: str, columns: tuple[str, ...] = ()) -> Iterator[Rows]:
        if table not in self._files:
            return
        wanted = [name for name in self._columns[table] if not columns or name in columns]
        yield from read_rows(self._files[table], wanted, batch_rows=BATCH_ROWS)


def _open_folder(folder: Path) -> dict[str, ArrowFile]:
    paths = {table: folder / f"{table}.parquet" for table in TABLES}
    missing = [path.name for table, path in paths.items() if table != OPTIONAL_TABLE and not path.exists()]
    if missing:
        raise MissingPath(
            f"{folder} is a folder without {' and '.join(missing)}; name the files in it, or the folder "
            f"of a dump of the generation pipeline: {', '.join(path.name for path in paths.values())} "
            f"({paths[OPTIONAL_TABLE].name} may be missing)"
        )
    return {table: open_arrow_file(path) for table, path in paths.items() if path.exists()}


class _Table:
    """Rows of a dump as lists of plain values, a missing column being one of missing values."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __contains__(self, name: str) -> bool:
        return name in self.rows.batch.schema.names

    def known_ids(self, name: str, *, or_prompts: bool = False) -> list[str | None]:
        """Return ids as 32 lower-case hexadecimal digits, and those of prompts as they are."""
        if name not in self:
            return [None] * len(self.rows)
        column = self.rows.cast(name, pa.large_string())
        plain = pc.ascii_lower(pc.replace_substring(column, "-", ""))
        is_prompt = pc.and_(pc.starts_with(column, PROMPT), or_prompts)
        is_wrong = pc.invert(pc.or_(pc.match_substring_regex(plain, "^[0-9a-f]{32}$"), is_prompt))
        row = pc.index(is_wrong, True).as_py()
        if row >= 0:
            allowed = "32 hexadecimal digits, with or without dashes"
            allowed += f", or begin with {PROMPT}" if or_prompts else ""
            self.rows.refuse(row, f"{name} must be {allowed}; got {_shown(column[row].as_py())}")
        ids: list[str | None] = pc.if_else(is_prompt, column, plain).to_pylist()
        return ids

    def ids(self, name: str, *, or_prompts: bool = False) -> list[str]:
        """Return ids of which none is missing."""
        found = self.known_ids(name, or_prompts=or_prompts)
        if None in found:
            self._refuse_missing(name, found.index(None))
        return [identity for identity in found if identity is not None]

    def inputs(self) -> list[str | None]:
        """Return the ids of what invocations were made from."""
        return self.known_ids("input_invocation_id", or_prompts=True)

    def integers(self, name: str) -> list[int | None]:
        """Return integers, of which some may be missing."""
        if name not in self:
            return [None] * len(self.rows)
        integers: list[int | None] = self.rows.cast(name, pa.int64()).to_pylist()
        return integers

    def times(self, name: str) -> list[datetime | None]:
        """Return times without their offsets, of which some may be missing."""
        if name not in self:
            return [None] * len(self.rows)
        column = self.rows.batch.column(name)
        convert: Callable[[Any], datetime] = _from_text
        if pa.types.is_timestamp(column.type):
            # Nanoseconds are cut off; what counts in larger units fits, or is refused.
            column = column.cast(pa.timestamp("us"), safe=column.type.unit != "ns").cast(pa.int64())
            convert = _from_microseconds
        made: list[datetime | None] = []
        for row, value in enumerate(column.to_pylist()):
            try:
                made.append(None if value is None else convert(value))
            except (ValueError, OverflowError):
                self.rows.refuse(row, f"{name} must be a time in ISO 8601; got {_shown(value)}")
        return made

    def lists(self, name: str, what: str, is_right: Callable[[Any], bool]) -> list[Any]:
        """Return lists, which may be written as JSON; none is missing."""
        made = []
        for row, value in enumerate(self.rows.batch.column(name).to_pylist()):
            if value is None:
                self._refuse_missing(name, row)
            try:
                made.append(json.loads(value) if isinstance(value, str) else value)
            except (ValueError, RecursionError):
                made.append(None)
            if not is_right(made[row]):
                self.rows.refuse(row, f"{name} must be {what}, or JSON of one; got {_shown(value)}")
        return made

    def _refuse_missing(self, name: str, row: int) -> NoReturn:
        self.rows.refuse(row, f"{name} is missing (null)")


def _experiments(table: _Table) -> list[DumpedExperiment]:
    # Where runs have numbers in place of seeds, they go from 0 for each network and prompt.
    seeds = [
        list(range(count)) if count and 0 < count <= _MOST_RUNS else [UNKNOWN_SEED]
        for count in table.integers("num_runs")
    ]
    if "seeds" in table:
        seeds = table.lists("seeds", "a list of integers", _is_list_of(lambda seed: type(seed) is int))
    columns = (
        table.ids("id"),
        table.lists("networks", "a list of lists of names", _is_list_of(_are_names)),
        seeds,
        table.lists("prompts", "a list of texts", _is_list_of(_is_text)),
        table.lists("embedding_models", "a list of names", _is_list_of(_is_text)),
        table.rows.integers("max_length", least=1).tolist(),
        table.times("started_at"),
        table.times("completed_at"),
    )
    return [DumpedExperiment(*values) for values in zip(*columns, strict=True)]


def _runs(table: _Table) -> list[DumpedRun]:
    seeds = table.integers("seed" if "seed" in table else "run_number")
    columns = (
        table.ids("id"),
        table.lists("network", "a list of names", _are_names),
        [UNKNOWN_SEED if seed is None else seed for seed in seeds],
        table.rows.integers("max_length", least=1).tolist(),
        table.rows.texts("initial_prompt"),
        table.known_ids("experiment_id"),
    )
    return [DumpedRun(*values) for values in zip(*columns, strict=True)]


def _invocations(table: _Table) -> DumpedInvocations:
    rows = table.rows
    ids, models = table.ids("id", or_prompts=True), rows.known_texts("model")
    numbers = rows.integers("sequence_number", least=-1)
    for row, model in enumerate(models):
        if model is None and numbers[row] >= 0 and not ids[row].startswith(PROMPT):
            rows.refuse(row, "model is missing (null)")
    return DumpedInvocations(
        ids=ids,
        run_ids=table.ids("run_id"),
        input_ids=table.inputs(),
        sequence_numbers=numbers.tolist(),
        types=rows.output_types("type"),
        models=models,
        seeds=table.integers("seed"),
        texts=rows.known_texts("output_text"),
        started_at=table.times("started_at"),
        completed_at=table.times("completed_at"),
    )


def _embeddings(rows: Rows, widths: dict[str, int] | None) -> Iterator[DumpedEmbeddings]:
    """Divide embeddings by their model, and by whether they have a vector.

    Parameters
    ----------
    rows : Rows
        Of the table.
    widths : dict of str to int or None
        Dimensions of each model's vectors so far, which this adds to. None refuses vectors that are invalid.
    """
    for model, of_model in rows.models():
        is_missing = rows.batch.column("vector").is_null().to_numpy(zero_copy_only=False)[of_model]
        if not is_missing.all():
            yield from _with_vectors(model, rows.take(of_model[~is_missing]), widths)
        if is_missing.any():
            yield _embeddings_of(model, rows.take(of_model[is_missing]))


def _with_vectors(model: str, rows: Rows, widths: dict[str, int] | None) -> Iterator[DumpedEmbeddings]:
    if widths is None:
        yield _embeddings_of(model, rows, read_all_vectors(rows))
        return
    usable = read_usable_vectors(rows, widths.get(model, 0))
    if len(usable.places):
        widths[model] = usable.vectors.shape[1]
        yield _embeddings_of(model, rows.take(usable.places), usable.vectors)
    if usable.invalid:
        others = np.setdiff1d(np.arange(len(rows)), usable.places)
        yield replace(_embeddings_of(model, rows.take(others)), are_invalid=True)


def _embeddings_of(model: str, rows: Rows, vectors: Float32Array | None = None) -> DumpedEmbeddings:
    table = _Table(rows)
    return DumpedEmbeddings(
        path=rows.path,
        first_row=int(rows.numbers[0]),
        model=model,
        ids=table.ids("id", or_prompts=True),
        invocation_ids=table.ids("invocation_id", or_prompts=True),
        started_at=table.times("started_at"),
        completed_at=table.times("completed_at"),
        vectors=vectors,
    )


def _from_text(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _from_microseconds(since_1970: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=since_1970)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    # JSON can name halves of characters, which no database takes.
    return not any(0xD800 <= ord(character) < 0xE000 for character in value)


def _is_list_of(is_member: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_member, value))


def _are_names(value: Any) -> bool:
    return _is_list_of(_is_text)(value) and bool(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
