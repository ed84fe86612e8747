"""Files of embeddings of any supported format, read as checked batches of arrays."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import WrongUsage
from panic_tda.files.arrow_files import translate_read_errors
from panic_tda.files.column_choice import Columns, require_text_and_vector
from panic_tda.files.columns import (
    BATCH_ROWS,
    CONTAINS_NUL,
    INTEGERS,
    STRINGS,
    VECTORS,
    Kind,
    Rows,
    check_columns,
    encode,
    find_first_null,
    find_model_name_problem,
    is_list_of,
    is_number,
    is_text,
    read_rows,
    require_batch_rows,
)
from panic_tda.files.tables import open_table
from panic_tda.files.texts_files import TextsFile
from panic_tda.files.usable_vectors import read_all_vectors, read_usable_vectors
from panic_tda.storage.write.batches import EmbeddingBatch, RunKey, TextBatch
from panic_tda.types import IntArray

REQUIRED: dict[str, Kind] = {"text": STRINGS, "vector": VECTORS}
RUNS: Kind = ("strings or integers", lambda kind: is_text(kind) or is_number(kind))
NETWORKS: Kind = (
    "lists of strings, or JSON of such lists",
    lambda kind: is_text(kind) or is_list_of(kind, lambda value: is_text(value) or pa.types.is_null(value)),
)
OPTIONAL: dict[str, Kind] = {
    "embedding_model": STRINGS,
    "run": RUNS,
    # The name of `run` in exported files; used if there is no column `run`.
    "run_id": RUNS,
    "sequence_number": INTEGERS,
    "initial_prompt": STRINGS,
    "network": NETWORKS,
    "seed": INTEGERS,
    # `text` or `image`, as in exports; only with this column may single rows have no text.
    "output_type": STRINGS,
}
UNKNOWN_SEED = -1
"""The seed of runs without one; the pipeline also stores it for runs without a seed."""
UNKNOWN_NETWORK = ("imported",)
"""The network of runs without one, and therefore the model of their invocations."""


class EmbeddingFile:
    """A file of Parquet, Arrow, CSV, NDJSON or NumPy arrays, with any file name extension.

    Parameters
    ----------
    path : Path
        The file.
    model : str, optional
        The embedding model, if there is no column `embedding_model`.
    columns : Columns, optional
        Names of columns that differ from the defaults, and whether the file has texts.
    texts : Path, optional
        A file with a text for each row of a NumPy array (see `texts_files`).
    batch_rows : int
        Number of rows to read at a time, at most `MAX_BATCH_ROWS`.

    Raises
    ------
    InvalidParameter
        `batch_rows` is outside its range.
    MissingPath
        There is no such file.
    BadInput
        It has another format, or columns are missing or have a wrong type.
    WrongUsage
        Neither the file nor `model` names the embedding model, `model` is not a valid name, or a column that
        `columns` names is missing.
    """

    def __init__(
        self,
        path: Path,
        model: str | None = None,
        *,
        columns: Columns | None = None,
        texts: Path | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self.path = path
        self._batch_rows = require_batch_rows(batch_rows)
        self._model = model
        columns = columns or Columns()
        if texts is not None and (columns.no_text or columns.text is not None):
            raise WrongUsage(f"the texts come from {texts}; name no text column, and do not leave texts out")
        names = columns.names([*REQUIRED, *OPTIONAL])
        self._file = open_table(path, names, None if texts is None else TextsFile(texts))
        columns.require(self._file)
        require_text_and_vector(self._file, columns, list(OPTIONAL))
        self.has_texts = not columns.no_text
        """Whether texts are read; single rows may have no text even then."""
        self._required = ["text", "vector"] if self.has_texts else ["vector"]
        required = {name: REQUIRED[name] for name in self._required}
        self._columns = set(check_columns(self._file, required, OPTIONAL)) - set(REQUIRED)
        self._run = "run" if "run" in self._columns else "run_id"
        self._columns -= {"run", "run_id"} - {self._run}
        problem = None if model is None else find_model_name_problem(model)
        if problem:
            raise WrongUsage(f"the model's name {problem}; got {model!r}")
        if model is None and "embedding_model" not in self._columns:
            raise WrongUsage(
                f"{path} has no column embedding_model, and no model was named; name it with --model"
            )

    @property
    def n_rows(self) -> int | None:
        """Return the number of rows of the file, or None if it is unknown before reading it."""
        return self._file.n_rows

    @property
    def names_runs(self) -> bool:
        """Return whether the file has a column that names the run of each row."""
        return self._run in self._columns

    @property
    def numbers_rows(self) -> bool:
        """Return whether the file has a column of sequence numbers."""
        return "sequence_number" in self._columns

    def batches(self, name: str = "", *, skip_invalid: bool = False) -> Generator[EmbeddingBatch, None, None]:
        """Read the file once, `batch_rows` rows at a time.

        Parameters
        ----------
        name : str
            Name of the run, if the file has no column of runs.
        skip_invalid : bool
            Skip invalid vectors, instead of refusing their rows.

        Raises
        ------
        BadInput
            A row lacks a value or has an invalid one; the message names it.
        """
        counters: dict[tuple[RunKey, str], int] = {}
        widths: dict[str, int] = {}
        for rows in self._read_rows([*self._required, *sorted(self._columns)]):
            for part in self._divide_rows(rows, name, counters):
                of_model = rows.take(part.rows - rows.numbers[0])
                if not skip_invalid:
                    places = np.arange(len(of_model))
                    vectors = read_all_vectors(of_model)
                    yield EmbeddingBatch(**vars(part), vectors=vectors, places=places, invalid=[])
                    continue
                usable = read_usable_vectors(of_model, widths.get(part.model, 0))
                if len(usable.places):
                    widths[part.model] = usable.vectors.shape[1]
                yield EmbeddingBatch(**vars(part), **vars(usable))

    def texts(self, name: str = "") -> Iterator[TextBatch]:
        """Read the same batches without their vectors, which are most of the file."""
        counters: dict[tuple[RunKey, str], int] = {}
        for rows in self._read_rows(["text", *sorted(self._columns)]):
            yield from self._divide_rows(rows, name, counters)

    def contents(self) -> Iterator[tuple[list[str | None], IntArray]]:
        """Read the texts in the order of the file, with their sequence numbers or else their row numbers."""
        for rows in self._read_rows(["text", *sorted(self._columns & {"sequence_number", "output_type"})]):
            numbers = self._read_sequence_numbers(rows)
            yield self._read_outputs(rows)[0], rows.numbers if numbers is None else numbers

    def _read_rows(self, columns: list[str]) -> Iterator[Rows]:
        return read_rows(self._file, columns, batch_rows=self._batch_rows)

    def _divide_rows(
        self, rows: Rows, name: str, counters: dict[tuple[RunKey, str], int]
    ) -> Iterator[TextBatch]:
        """Divide some rows by their embedding model."""
        with translate_read_errors(self.path, self._file.format):
            texts, types = self._read_outputs(rows)
            runs, codes = self._read_runs(rows, name)
            numbers = self._read_sequence_numbers(rows)
            models = list(self._group_by_model(rows))
        for model, of_model in models:
            of_rows = codes[of_model]
            yield TextBatch(
                path=self.path,
                rows=rows.numbers[of_model],
                model=model,
                runs=runs,
                run_codes=of_rows,
                sequence_numbers=(
                    _number_rows(runs, of_rows, model, counters) if numbers is None else numbers[of_model]
                ),
                texts=texts if len(of_model) == len(texts) else [texts[row] for row in of_model],
                types=types if len(of_model) == len(types) else [types[row] for row in of_model],
                names_runs=self.names_runs,
            )

    def _read_outputs(self, rows: Rows) -> tuple[list[str | None], list[str]]:
        """Return the text, which may be None, and the type of each output.

        Texts may be missing only if the caller excludes texts, or if the file has the column `output_type`.
        Otherwise a missing text is refused, and every output has the type text. An image has no text; in
        formats without missing values it has an empty one.
        """
        has_types = "output_type" in self._columns
        types = rows.output_types("output_type") if has_types else ["TEXT"] * len(rows)
        if not self.has_texts:
            return [None] * len(rows), types
        if not has_types:
            return [*rows.texts("text")], types
        texts = rows.known_texts("text")
        for row, kind in enumerate(types):
            if kind == "IMAGE":
                if texts[row]:
                    rows.refuse(row, "output_type is image, but the row has a text; images have no text")
                texts[row] = None
        return texts, types

    def _read_sequence_numbers(self, rows: Rows) -> IntArray | None:
        return rows.integers("sequence_number", least=0) if self.numbers_rows else None

    def _group_by_model(self, rows: Rows) -> Iterator[tuple[str, IntArray]]:
        if "embedding_model" not in self._columns:
            assert self._model is not None
            yield self._model, np.arange(len(rows))
            return
        for name, of_model in rows.models():
            if self._model not in (None, name):
                raise WrongUsage(
                    f"{self.path}, row {rows.numbers[of_model[0]]}: column embedding_model says {name}, but "
                    f"model {self._model} was requested; leave out --model, or the column"
                )
            yield name, of_model

    def _read_runs(self, rows: Rows, name: str) -> tuple[list[RunKey], IntArray]:
        """Return the distinct runs of a batch, and the index of each row's run."""
        prompts = self._encode_column(rows, "initial_prompt", pa.string(), "")
        rows.refuse_nul(pa.array(prompts[0], pa.string()).take(prompts[1]), "initial_prompt")
        parts: list[tuple[list[Any], IntArray]] = [
            encode(rows.complete(self._run, pa.string()))
            if self.names_runs
            else ([name], np.zeros(len(rows), dtype=np.int64)),
            self._encode_column(rows, "seed", pa.int64(), UNKNOWN_SEED),
            self._read_networks(rows),
            prompts,
        ]
        combined = np.zeros(len(rows), dtype=np.int64)
        for values, codes in parts:
            # At most MAX_BATCH_ROWS values each: the fourth power of that fits into 63 bits.
            combined = combined * max(1, len(values)) + codes
        _, firsts, codes = np.unique(combined, return_index=True, return_inverse=True)
        keys = [RunKey(*(values[of_rows[row]] for values, of_rows in parts)) for row in firsts]
        return keys, codes

    def _read_networks(self, rows: Rows) -> tuple[list[Any], IntArray]:
        if "network" not in self._columns:
            return [UNKNOWN_NETWORK], np.zeros(len(rows), dtype=np.int64)
        if is_text(rows.batch.schema.field("network").type):
            return self._parse_networks(rows)
        column = rows.cast("network", pa.list_(pa.string()))
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        models = column.flatten()
        if models.null_count:
            row = int(np.searchsorted(lengths.cumsum(), find_first_null(models), side="right"))
            rows.refuse(row, "network has a model without a name")
        wrong = pc.find_substring(models, "\0").to_numpy(zero_copy_only=False) >= 0
        if wrong.any():
            row = int(np.searchsorted(lengths.cumsum(), np.argmax(wrong), side="right"))
            rows.refuse(row, f"network {CONTAINS_NUL}")
        names, codes = encode(models)
        table = np.full((len(rows), max(1, lengths.max(initial=0))), -1)
        table[np.arange(table.shape[1]) < lengths[:, None]] = codes
        unique, of_rows = np.unique(table, axis=0, return_inverse=True)
        networks = [tuple(names[code] for code in row if code >= 0) or UNKNOWN_NETWORK for row in unique]
        return networks, of_rows.reshape(-1)

    def _parse_networks(self, rows: Rows) -> tuple[list[Any], IntArray]:
        texts, codes = self._encode_column(rows, "network", pa.string(), "[]")
        networks = []
        for code, text in enumerate(texts):
            try:
                network = json.loads(text)
                json.dumps(network, ensure_ascii=False).encode()  # fails for unpaired surrogates
            except (ValueError, RecursionError):
                network = None
            is_list = isinstance(network, list) and all(isinstance(name, str) for name in network)
            if not is_list or any("\0" in name for name in network):
                rows.refuse_first(codes == code, f"network must be JSON of a list of names; got {text!r}")
            networks.append(tuple(network) or UNKNOWN_NETWORK)
        return networks, codes

    def _encode_column(
        self, rows: Rows, name: str, kind: pa.DataType, default: Any
    ) -> tuple[list[Any], IntArray]:
        if name not in self._columns:
            return [default], np.zeros(len(rows), dtype=np.int64)
        return encode(rows.cast(name, kind).fill_null(default))


def _number_rows(
    runs: list[RunKey], codes: IntArray, model: str, counters: dict[tuple[RunKey, str], int]
) -> IntArray:
    """Number the rows of each run in the order of the file, starting at the counters, which are advanced."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.searchsorted(ordered, np.arange(len(runs)))
    numbers = np.empty_like(codes)
    before = np.array([counters.get((run, model), 0) for run in runs], dtype=np.int64)
    numbers[order] = np.arange(len(codes)) - starts[ordered] + before[ordered]
    for run, start, count in zip(runs, before, np.bincount(codes, minlength=len(runs)), strict=True):
        counters[run, model] = int(start + count)
    return numbers
