"""Writes dumps as the generation pipeline's newer generation does: a folder of Parquet files, one a table.

`dump_tables(DumpSpec(...))` gives each table as a dict of columns, lists of plain values, which a test may
change before `write_dump(folder, tables)` writes them. None of this uses the package; below stands what both
tests of dumps ask of a database into which one was imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import Database
from panic_tda.storage.write.import_summary import ImportSummary
from tests.snapshots import rows, snapshot

Table = dict[str, list[Any]]
Tables = dict[str, Table]

STARTED, COMPLETED = "2026-02-12T03:04:05.123456Z", "2026-02-12T03:04:07Z"
STORED_TABLES = ("experimentconfig", "run", "invocation", "embedding")
_STRING, _LIST = pa.large_string(), pa.large_list(pa.float32())
_INTEGERS = ("num_runs", "max_length", "run_number", "sequence_number", "seed")
TYPES = {"vector": _LIST, **dict.fromkeys(_INTEGERS, pa.int64())}
"""All other columns are strings."""


@dataclass(frozen=True)
class DumpSpec:
    """Contents of a dump to write.

    Attributes
    ----------
    runs, length : int
        Runs of one experiment in which images (even sequence numbers) and texts alternate, and their length.
    prompts : bool
        Whether each run's prompt stands before its first output, with its embeddings.
    text_models, vision_models : tuple of str
        Models that embed every text, and every image.
    dimensions : int
        Length of the vectors.
    seed : int
        Of the random numbers.
    """

    runs: int = 3
    length: int = 20
    prompts: bool = True
    text_models: tuple[str, ...] = ("Nomic", "Qwen3Embed")
    vision_models: tuple[str, ...] = ("NomicVision",)
    dimensions: int = 8
    seed: int = 0


PLAIN = DumpSpec()


def dump_tables(spec: DumpSpec = PLAIN) -> Tables:
    """Make the four tables of a dump; a longer spec appends rows to the same ones."""
    network = ["ZImageTurbo", "Moondream"]
    experiment = _id(spec, 0)
    runs = [_id(spec, 1, run) for run in range(spec.runs)]
    tables: Tables = {
        "experiments": {
            "id": [experiment],
            "networks": [json.dumps([network])],
            "num_runs": [spec.runs],
            "prompts": [json.dumps([f"prompt {run}" for run in range(spec.runs)])],
            "embedding_models": [json.dumps([*spec.text_models, *spec.vision_models])],
            "max_length": [spec.length],
            "started_at": [STARTED],
            "completed_at": [COMPLETED],
            "inserted_at": [STARTED],
        },
        "runs": {
            "id": runs,
            "experiment_id": [experiment] * spec.runs,
            "network": [json.dumps(network)] * spec.runs,
            "run_number": list(range(spec.runs)),
            "max_length": [spec.length] * spec.runs,
            "initial_prompt": [f"prompt {run}" for run in range(spec.runs)],
        },
        "invocations": {},
        "embeddings": {},
    }
    for run, identity in enumerate(runs):
        if spec.prompts:
            _add_prompt(tables, spec, run, identity)
        previous = None
        for number in range(spec.length):
            previous = _add_step(tables, spec, (run, number), previous)
    return tables


def write_dump(folder: Path, tables: Tables, **options: Any) -> Path:
    """Write the tables of a dump into a folder, replacing an older dump."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        columns = {
            column: pa.array(values, TYPES.get(column, _STRING)) if isinstance(values, list) else values
            for column, values in table.items()
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", compression="zstd", **options)
    return folder


def rows_where(table: Table, keep: Any) -> Table:
    """Return the rows of a table for which a function of the row is true."""
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    records = [row for row in rows if keep(row)]
    return {column: [row[column] for row in records] for column in table}


def mixed(table: Table, rng: np.random.Generator) -> Table:
    """Return a table with its rows and columns in any order."""
    order = rng.permutation(len(table["id"])).tolist()
    names = rng.permutation(list(table)).tolist()
    return {name: [table[name][row] for row in order] for name in names}


def plain(dashed: str) -> str:
    """Return an id as databases store it."""
    return dashed.replace("-", "")


def place(table: Table, **wanted: Any) -> int:
    """Return the index of the one row with these values."""
    (record,) = (
        row
        for row in range(len(table["id"]))
        if all(table[column][row] == value for column, value in wanted.items())
    )
    return record


def import_tables(folder: Path, tables: Tables, database: Database, **options: Any) -> ImportSummary:
    """Write a dump and import it."""
    return import_embeddings([write_dump(folder, tables)], database, **options)


def count(database: Database) -> tuple[int, ...]:
    """Count the experiments, runs, invocations and embeddings."""
    return tuple(rows(database, f"SELECT count(*) FROM {table}")[0][0] for table in STORED_TABLES)


def contents(database: Database) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    assert database.path is not None
    return {name: rows for name, (_, rows) in snapshot(database.path).items()}


def _id(spec: DumpSpec, *what: int) -> str:
    """Return an id that is time-ordered as the pipeline's are: by kind, run and step."""
    kind, *places = (*what, 0, 0, 0)
    random = np.random.default_rng([spec.seed, *what]).integers(0, 2**28)
    value = 0x019F3645 << 96 | kind << 84 | 7 << 76 | places[0] << 64 | 2 << 62 | places[1] << 36
    return str(UUID(int=value | places[2] << 28 | int(random)))


def _append(table: Table, **values: Any) -> None:
    for column, value in values.items():
        table.setdefault(column, []).append(value)


def _add_prompt(tables: Tables, spec: DumpSpec, run: int, identity: str) -> None:
    prompt = f"prompt-{identity}"
    _append(
        tables["invocations"],
        id=prompt,
        run_id=identity,
        input_invocation_id=None,
        sequence_number=-1,
        type="text",
        model=None,
        output_text=f"prompt {run}",
        started_at=None,
        completed_at=None,
    )
    for number, model in enumerate(spec.text_models):
        _append(
            tables["embeddings"],
            id=f"{prompt}-{model}",
            invocation_id=prompt,
            embedding_model=model,
            vector=_vector(spec, number, f"prompt {run}", 0),
            started_at=None,
            completed_at=None,
        )


def _add_step(tables: Tables, spec: DumpSpec, step: tuple[int, int], previous: str | None) -> str:
    run, number = step
    attractor = (run + number // 8) % 3
    is_text = bool(number % 2)
    identity, text = _id(spec, 2, *step), f"attractor {attractor}, variation {number % 5}"
    _append(
        tables["invocations"],
        id=identity,
        run_id=tables["runs"]["id"][run],
        input_invocation_id=previous,
        sequence_number=number,
        type="text" if is_text else "image",
        model="Moondream" if is_text else "ZImageTurbo",
        output_text=text if is_text else None,
        started_at=STARTED,
        completed_at=COMPLETED,
    )
    for place, model in enumerate(spec.text_models if is_text else spec.vision_models):
        _append(
            tables["embeddings"],
            id=_id(spec, 3, *step, place),
            invocation_id=identity,
            embedding_model=model,
            vector=_vector(spec, place + (0 if is_text else 50), text if is_text else identity, attractor),
            started_at=STARTED,
            completed_at=COMPLETED,
        )
    return identity


def _vector(spec: DumpSpec, model: int, content: str, attractor: int) -> list[float]:
    """Return a unit vector that depends on the model and the content alone."""
    centre = np.random.default_rng([spec.seed, model, attractor]).standard_normal(spec.dimensions)
    noise = np.random.default_rng([model, *content.encode()]).standard_normal(spec.dimensions)
    vector = centre / np.linalg.norm(centre) + 0.1 * noise / np.linalg.norm(noise)
    unit_vector: list[float] = (vector / np.linalg.norm(vector)).astype(np.float32).tolist()
    return unit_vector
