"""Dumps: folders of Parquet files in which the generation pipeline's newer generation exports experiments.

A dump has one file per table: `runs`, `invocations`, `embeddings` and optionally `experiments`. Other files
and columns are ignored. Ids are UUIDs with dashes. Lists (`network`, `networks`, `prompts`,
`embedding_models`, `seeds`) are JSON strings or lists. Times are ISO 8601; a time with an offset is converted
to UTC, a time without one is not changed. Images have no bytes. Invocations without a seed have that of their
run. The newer generation has no seeds but numbers the runs of one network and prompt: without a column
`seed`, `run_number` is stored as the seed, or else `UNKNOWN_SEED`.

The pipeline's own SQLite database has the same tables, and is read by the same code (`pipeline_databases`).

A dump may contain each run's prompt as an output before the first one, with an id that begins with `prompt-`
and sequence number −1. They are read like other rows, and skipped when rows are added to the database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import MissingPath
from panic_tda.files.arrow_files import ArrowFile, open_arrow_file, translate_read_errors
from panic_tda.files.columns import (
    BATCH_ROWS,
    INTEGERS,
    STRINGS,
    VECTORS,
    Kind,
    Rows,
    check_columns,
    is_list_of,
    is_string,
    read_rows,
    require_batch_rows,
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
from panic_tda.types import Float32Array

TABLES = ("experiments", "runs", "invocations", "embeddings")
"""The tables, each after those that its rows refer to."""
OPTIONAL_TABLE = "experiments"
_MOST_RUNS = 100_000
"""Largest number of runs of one network and prompt; a larger number counts as damage."""
_SHOWN = 80
"""Number of characters of an invalid value in a message."""

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
    """A dump in a folder, or a database of the pipeline, which has the same tables.

    Parameters
    ----------
    source : Path
        A folder, or an SQLite file.
    batch_rows : int
        Number of rows to read at a time, at most `MAX_BATCH_ROWS`.

    Raises
    ------
    InvalidParameter
        `batch_rows` is outside its range.
    MissingPath
        The folder lacks a file.
    BadInput
        A file has another format, columns are missing or have a wrong type, or the database has other tables.
    """

    def __init__(self, source: Path, batch_rows: int = BATCH_ROWS) -> None:
        self._batch_rows = require_batch_rows(batch_rows)
        self._files = _open_folder(source) if source.is_dir() else open_pipeline_database(source)
        self.n_files = len(self._files) if source.is_dir() else 1
        """Number of files that are read."""
        self._columns = {
            table: check_columns(file, _REQUIRED[table], _OPTIONAL[table])
            for table, file in self._files.items()
        }

    @property
    def n_rows(self) -> int | None:
        """Return the number of rows of all files, or None if it is unknown before reading them."""
        counts = [file.n_rows for file in self._files.values()]
        return None if None in counts else sum(count or 0 for count in counts)

    def experiments(self) -> Iterator[list[DumpedExperiment]]:
        """Read the experiments; yield nothing if there is no file of experiments.

        Raises
        ------
        BadInput
            A row lacks a value or has an invalid one; the message names it. The same holds for the other
            methods.
        """
        for rows in self._read_rows("experiments"):
            with translate_read_errors(rows.path):
                experiments = _build_experiments(_Table(rows))
            yield experiments

    def runs(self) -> Iterator[list[DumpedRun]]:
        """Read the runs."""
        for rows in self._read_rows("runs"):
            with translate_read_errors(rows.path):
                runs = _build_runs(_Table(rows))
            yield runs

    def invocations(self) -> Iterator[DumpedInvocations]:
        """Read the invocations, some thousand at a time."""
        for rows in self._read_rows("invocations"):
            with translate_read_errors(rows.path):
                invocations = _build_invocations(_Table(rows))
            yield invocations

    def inputs(self) -> Iterator[tuple[list[str], list[str | None]]]:
        """Read the ids of the invocations again, with the ids of their input invocations."""
        for rows in self._read_rows("invocations", ("id", "input_invocation_id")):
            with translate_read_errors(rows.path):
                table = _Table(rows)
                ids, input_ids = table.ids("id", or_prompts=True), table.inputs()
            yield ids, input_ids

    def embeddings(self, *, skip_invalid: bool = False) -> Iterator[DumpedEmbeddings]:
        """Read the embeddings, some thousand of one model at a time; for `skip_invalid` see imports."""
        widths: dict[str, int] | None = {} if skip_invalid else None
        for rows in self._read_rows("embeddings"):
            with translate_read_errors(rows.path):
                batches = list(_divide_embeddings(rows, widths))
            yield from batches

    def _read_rows(self, table: str, columns: tuple[str, ...] = ()) -> Iterator[Rows]:
        if table not in self._files:
            return
        wanted = [name for name in self._columns[table] if not columns or name in columns]
        yield from read_rows(self._files[table], wanted, batch_rows=self._batch_rows)


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
    """Rows of a dump, whose columns are returned as lists; a missing column has only missing values."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __contains__(self, name: str) -> bool:
        return name in self.rows.batch.schema.names

    def known_ids(self, name: str, *, or_prompts: bool = False) -> list[str | None]:
        """Return ids as 32 lower-case hexadecimal digits, and ids of prompts unchanged."""
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
            self.rows.refuse(row, f"{name} must be {allowed}; got {_shorten(column[row].as_py())}")
        ids: list[str | None] = pc.if_else(is_prompt, column, plain).to_pylist()
        return ids

    def ids(self, name: str, *, or_prompts: bool = False) -> list[str]:
        """Return ids, and refuse missing ones."""
        ids = self.known_ids(name, or_prompts=or_prompts)
        if None in ids:
            self._refuse_missing(name, ids.index(None))
        return [identity for identity in ids if identity is not None]

    def inputs(self) -> list[str | None]:
        """Return the ids of the input invocations."""
        return self.known_ids("input_invocation_id", or_prompts=True)

    def integers(self, name: str) -> list[int | None]:
        """Return integers, of which some may be missing."""
        if name not in self:
            return [None] * len(self.rows)
        integers: list[int | None] = self.rows.cast(name, pa.int64()).to_pylist()
        return integers

    def times(self, name: str) -> list[datetime | None]:
        """Return times in UTC without an offset, of which some may be missing."""
        if name not in self:
            return [None] * len(self.rows)
        column = self.rows.batch.column(name)
        convert: Callable[[Any], datetime] = _parse_time
        if pa.types.is_timestamp(column.type):
            # Nanoseconds are truncated; times in larger units either fit or are refused.
            column = column.cast(pa.timestamp("us"), safe=column.type.unit != "ns").cast(pa.int64())
            convert = _convert_microseconds
        times: list[datetime | None] = []
        for row, value in enumerate(column.to_pylist()):
            try:
                times.append(None if value is None else convert(value))
            except (ValueError, OverflowError):
                self.rows.refuse(row, f"{name} must be a time in ISO 8601; got {_shorten(value)}")
        return times

    def lists(self, name: str, allowed: str, is_valid: Callable[[Any], bool]) -> list[Any]:
        """Return lists, which may be written as JSON, and refuse missing ones."""
        lists = []
        for row, value in enumerate(self.rows.batch.column(name).to_pylist()):
            if value is None:
                self._refuse_missing(name, row)
            try:
                lists.append(json.loads(value) if isinstance(value, str) else value)
            except (ValueError, RecursionError):
                lists.append(None)
            if not is_valid(lists[row]):
                self.rows.refuse(row, f"{name} must be {allowed}, or JSON of one; got {_shorten(value)}")
        return lists

    def _refuse_missing(self, name: str, row: int) -> NoReturn:
        self.rows.refuse(row, f"{name} is missing (null)")


def _build_experiments(table: _Table) -> list[DumpedExperiment]:
    # Without seeds, the runs of each network and prompt are numbered from 0.
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


def _build_runs(table: _Table) -> list[DumpedRun]:
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


def _build_invocations(table: _Table) -> DumpedInvocations:
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


def _divide_embeddings(rows: Rows, widths: dict[str, int] | None) -> Iterator[DumpedEmbeddings]:
    """Divide embeddings by their model, and by whether they have a vector.

    Parameters
    ----------
    rows : Rows
        Rows of the table `embeddings`.
    widths : dict of str to int or None
        Dimensions of each model's earlier vectors; new models are added. None refuses invalid vectors.
    """
    for model, of_model in rows.models():
        is_missing = rows.batch.column("vector").is_null().to_numpy(zero_copy_only=False)[of_model]
        if not is_missing.all():
            yield from _read_vectors(model, rows.take(of_model[~is_missing]), widths)
        if is_missing.any():
            yield _build_embeddings(model, rows.take(of_model[is_missing]))


def _read_vectors(model: str, rows: Rows, widths: dict[str, int] | None) -> Iterator[DumpedEmbeddings]:
    if widths is None:
        yield _build_embeddings(model, rows, read_all_vectors(rows))
        return
    usable = read_usable_vectors(rows, widths.get(model, 0))
    if len(usable.places):
        widths[model] = usable.vectors.shape[1]
        yield _build_embeddings(model, rows.take(usable.places), usable.vectors)
    if usable.invalid:
        others = np.setdiff1d(np.arange(len(rows)), usable.places)
        yield replace(_build_embeddings(model, rows.take(others)), are_invalid=True)


def _build_embeddings(model: str, rows: Rows, vectors: Float32Array | None = None) -> DumpedEmbeddings:
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


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _convert_microseconds(since_1970: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=since_1970)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    # JSON can contain unpaired surrogates, which no database accepts.
    return not any(0xD800 <= ord(character) < 0xE000 for character in value)


def _is_list_of(is_member: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_member, value))


def _are_names(value: Any) -> bool:
    return _is_list_of(_is_text)(value) and bool(value)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
