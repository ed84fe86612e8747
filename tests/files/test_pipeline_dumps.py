"""Test that every form of a dump is read the same, or refused by file and row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from panic_tda.errors import BadInput, MissingPath, WrongUsage
from panic_tda.files.importing import import_embeddings, require_files
from panic_tda.files.pipeline_dumps import PipelineDump
from panic_tda.storage.database import Database, open_database
from tests.command_line import invoke, read_json, succeed
from tests.dump_files import (
    DumpSpec,
    Table,
    contents,
    count,
    dump_tables,
    import_tables,
    plain,
    rows_where,
    write_dump,
)
from tests.files.test_damaged_files import patched
from tests.files.test_importing import columns as plain_columns
from tests.files.test_importing import write as write_plain
from tests.snapshots import rows, run_python

SPEC = DumpSpec()


# --------------------------------------------------------------------------- what a dump may look like


def test_every_type_of_a_column_is_read_the_same(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    import_tables(tmp_path / "dump", tables, database)
    expected = contents(database)
    for number, change in enumerate((_plain_strings, _encoded, _views, _typed)):
        other_database = open_database(tmp_path / f"{number}.sqlite", create=True)
        import_tables(
            tmp_path / str(number), {n: change(n, t) for n, t in dump_tables().items()}, other_database
        )
        assert contents(other_database) == expected, change


def _as(table: Table, kind: pa.DataType, *without: str) -> Table:
    typed_table: Table = {}
    for name, values in table.items():
        is_text = any(isinstance(value, str) for value in values) and name not in without
        typed_table[name] = pa.array(values, kind) if is_text else values  # type: ignore[assignment]
    return typed_table


def _plain_strings(_name: str, table: Table) -> Table:
    typed_table = _as(table, pa.string())
    if "vector" in table:
        typed_table["vector"] = pa.array(table["vector"], pa.list_(pa.float64()))
    return typed_table


def _encoded(_name: str, table: Table) -> Table:
    typed_table = _as(table, pa.large_string())
    for name, column in typed_table.items():
        if isinstance(column, pa.Array):
            typed_table[name] = column.dictionary_encode()
    if "vector" in table:
        typed_table["vector"] = pa.array(table["vector"], pa.list_(pa.float32(), SPEC.dimensions))
    return typed_table


def _views(_name: str, table: Table) -> Table:
    return _as(table, pa.string_view())


def _typed(_name: str, table: Table) -> Table:
    """Return a table with lists, timestamps, ids without dashes and small integers."""
    typed_table = dict(table)
    for name, values in table.items():
        if name in ("network", "networks", "prompts", "embedding_models"):
            typed_table[name] = pa.array([json.loads(value) for value in values])
        elif name in ("sequence_number", "max_length"):
            typed_table[name] = pa.array(values, pa.int16())
        elif name in ("started_at", "completed_at"):
            parsed = [value and value.removesuffix("Z") for value in values]
            typed_table[name] = (
                pa.array(parsed, pa.string()).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
            )
        elif name == "type":
            typed_table[name] = [value.upper() for value in values]
        elif name == "id" or name.endswith("_id"):
            typed_table[name] = [
                v if v is None or v.startswith("prompt-") else plain(v).upper() for v in values
            ]
    return typed_table


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("2026-02-12T03:04:05.123456Z", "2026-02-12 03:04:05.123456"),
        ("2026-02-12T03:04:05Z", "2026-02-12 03:04:05.000000"),
        ("2026-02-12T13:04:05.5+10:00", "2026-02-12 03:04:05.500000"),
        ("2026-02-11T22:04:05-0500", "2026-02-12 03:04:05.000000"),
        # Nobody knows the zone: as it is written, like all times that the pipeline itself stored.
        ("2026-02-12T03:04:05.123456", "2026-02-12 03:04:05.123456"),
        ("2026-02-12 03:04:05", "2026-02-12 03:04:05.000000"),
        (None, None),
    ],
)
def test_times_are_stored_without_their_offset(
    tmp_path: Path, database: Database, written: str | None, stored: str | None
) -> None:
    tables = dump_tables()
    for name in ("experiments", "invocations", "embeddings"):
        tables[name]["started_at"] = [written] * len(tables[name]["id"])
    import_tables(tmp_path / "dump", tables, database)
    for table in ("experimentconfig", "invocation", "embedding"):
        assert rows(database, f"SELECT DISTINCT started_at FROM {table}") == [(stored,)]


def test_nanoseconds_are_cut_off(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    nanoseconds = 1_770_865_445_123_456_789
    for name in ("experiments", "invocations", "embeddings"):
        times = pa.array([nanoseconds] * len(tables[name]["id"]), pa.timestamp("ns", "Europe/Berlin"))
        tables[name]["started_at"] = times  # type: ignore[assignment]
    import_tables(tmp_path / "dump", tables, database)
    assert rows(database, "SELECT DISTINCT started_at FROM embedding") == [("2026-02-12 03:04:05.123456",)]


def test_optional_columns_may_be_missing(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    for table in tables.values():
        for name in ("started_at", "completed_at", "experiment_id", "input_invocation_id"):
            table.pop(name, None)
    import_tables(tmp_path / "dump", tables, database)
    assert count(database) == (1, 3, 60, 90)
    assert rows(database, "SELECT DISTINCT started_at, input_invocation_id FROM invocation") == [(None, None)]
    assert rows(database, "SELECT DISTINCT experiment_id FROM run") == [(None,)]
    # What they say becomes known where the rows stay what they are; times of invocations are not filled in.
    import_tables(tmp_path / "dump", dump_tables(), database)
    assert rows(database, "SELECT count(*) FROM invocation WHERE input_invocation_id IS NULL") == [(3,)]
    assert rows(database, "SELECT count(*) FROM run WHERE experiment_id IS NULL") == [(0,)]
    assert rows(database, "SELECT count(*) FROM experimentconfig WHERE completed_at IS NULL") == [(0,)]


def test_without_seeds_runs_are_numbered(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    tables["runs"]["initial_prompt"] = ["a pear"] * 3
    import_tables(tmp_path / "dump", tables, database)
    assert rows(database, "SELECT seeds FROM experimentconfig") == [("[0, 1, 2]",)]
    assert rows(database, "SELECT seed FROM run ORDER BY seed") == [(0,), (1,), (2,)]
    assert rows(
        database, "SELECT DISTINCT i.seed = r.seed FROM invocation i JOIN run r ON r.id = run_id"
    ) == [(1,)]
    arguments = ["--db", str(database.path), "--json"]
    print_quietly("cluster-embeddings", "Nomic", "--backend", "sklearn", *arguments)
    target = tmp_path / "rows.parquet"
    print_quietly("export-clustering", "latest", str(target), *arguments)
    exported = pa.parquet.read_table(target)
    assert len(set(zip(*(exported[name].to_pylist() for name in ("run_id", "seed")), strict=True))) == 3
    assert set(exported["seed"].to_pylist()) == {0, 1, 2}


@pytest.mark.parametrize("number", [-3, 0, 10**12, None])
def test_an_impossible_number_of_runs_lists_no_seeds(
    tmp_path: Path, database: Database, number: int | None
) -> None:
    tables = dump_tables()
    tables["experiments"]["num_runs"] = [number]
    import_tables(tmp_path / "dump", tables, database)
    assert rows(database, "SELECT seeds FROM experimentconfig") == [("[-1]",)]


def print_quietly(*words: str) -> str:
    return succeed("-q", *words).stdout


def test_seeds_are_those_of_the_row_or_of_its_run(tmp_path: Path, database: Database) -> None:
    tables = dump_tables()
    tables["experiments"]["seeds"] = ["[5, 5, 6]"]
    tables["runs"]["seed"] = [5, None, 6]
    steps = tables["invocations"]
    steps["seed"] = [2**40 + row if kind == "image" else None for row, kind in enumerate(steps["type"])]
    import_tables(tmp_path / "dump", tables, database)
    assert rows(database, "SELECT seeds FROM experimentconfig") == [("[5, 5, 6]",)]
    assert rows(database, "SELECT seed FROM run ORDER BY initial_prompt") == [(5,), (-1,), (6,)]
    of_texts = (
        "SELECT DISTINCT i.seed, r.seed FROM invocation i JOIN run r ON r.id = run_id WHERE type = 'TEXT'"
    )
    assert sorted(rows(database, of_texts)) == [(-1, -1), (5, 5), (6, 6)]
    assert rows(database, "SELECT min(seed) > 1099511627776 FROM invocation WHERE type = 'IMAGE'") == [(1,)]
    before = contents(database)
    import_embeddings([tmp_path / "dump"], database)
    assert contents(database) == before


def test_an_empty_dump_adds_nothing(tmp_path: Path, database: Database) -> None:
    tables = {name: rows_where(table, lambda _: False) for name, table in dump_tables().items()}
    summary = import_tables(tmp_path / "dump", tables, database)
    assert (summary.n_rows, str(summary)) == (0, "read 0 rows from 4 files: nothing to add")
    assert count(database) == (0, 0, 0, 0)


def test_a_dump_and_a_file_can_be_imported_in_one_call(tmp_path: Path, database: Database) -> None:
    file = write_plain(tmp_path / "a.parquet", plain_columns())
    folder = write_dump(tmp_path / "dump", dump_tables())
    summary = import_embeddings([folder, file], database)
    assert (summary.n_files, summary.n_new_embeddings, summary.n_new_runs) == (5, 96, 5)
    assert summary.models == ("Model", "Nomic", "NomicVision", "Qwen3Embed")
    assert summary.experiment_id is not None
    assert count(database) == (2, 5, 66, 96)


def test_the_command_imports_folders(tmp_path: Path) -> None:
    folder, path = write_dump(tmp_path / "dump", dump_tables()), tmp_path / "new.sqlite"
    words = ["import-embeddings", str(folder), "--db", str(path)]
    result = succeed(*words)
    assert result.stdout == (
        "Read 96 rows from 4 files: added 90 embeddings (Nomic, NomicVision, Qwen3Embed), 60 invocations and "
        "3 runs; stored 6 embeddings of initial prompts; left out 3 prompts.\n"
    )
    summary = read_json(*words)
    assert (summary["n_rows"], summary["n_present"], summary["n_new_embeddings"]) == (96, 96, 0)
    assert summary["left_out"] == {
        "prompts": 3,
        "prompt_embeddings": 0,
        "orphaned_invocations": 0,
        "orphaned_embeddings": 0,
        "repeated_invocations": 0,
        "repeated_embeddings": 0,
        "embeddings_without_vector": 0,
        "invalid_vectors": 0,
    }
    assert (summary["n_differing"], summary["n_unlinked"], summary["experiment_id"]) == (0, 0, None)
    (folder / "runs.parquet").unlink()
    other_path = tmp_path / "other.sqlite"
    refused = invoke(*words[:-1], other_path)
    assert (refused.exit_code, other_path.exists()) == (2, False)
    assert "dump is a folder without runs.parquet" in refused.stderr


# --------------------------------------------------------------------------- what is refused

BAD_VALUES: dict[str, tuple[str, str, int, Any, str]] = {
    "no id": ("invocations", "id", 4, "not-an-id", r"row 4 .*id must be 32 .* prompt-; got 'not-an-id'"),
    "a long id": ("embeddings", "id", 5, "0" * 33, r"row 5 .*id must be 32 hexadecimal digits"),
    "null id": ("embeddings", "id", 8, None, r"row 8 .*id is missing"),
    "a prompt as a run": ("runs", "id", 2, "prompt-1", r"row 2 .*id must be 32 .*dashes; got 'prompt-1'"),
    "null run": ("invocations", "run_id", 3, None, r"row 3 .*run_id is missing"),
    "null step": ("invocations", "sequence_number", 3, None, r"row 3 .*sequence_number is missing"),
    "step": ("invocations", "sequence_number", 3, -2, r"row 3 .*sequence_number must be at least -1.*got -2"),
    "type": ("invocations", "type", 9, "sound", r"row 9 .*type must be text or image; got 'sound'"),
    "null type": ("invocations", "type", 9, None, r"row 9 .*type is missing"),
    "null model": ("invocations", "model", 9, None, r"row 9 .*model is missing"),
    "NUL in a text": ("invocations", "output_text", 2, "a\0", r"row 2 .*output_text holds the character NUL"),
    "NUL in a model": ("invocations", "model", 2, "a\0", r"row 2 .*model holds the character NUL"),
    "a time": (
        "invocations",
        "started_at",
        6,
        "yesterday",
        r"row 6 .*started_at must be a time.*'yesterday'",
    ),
    "a time too early": (
        "embeddings",
        "completed_at",
        1,
        "0001-01-01T00:00:00+01:00",
        r"row 1 .*completed_at must be a time in ISO 8601",
    ),
    "network": ("runs", "network", 1, '{"a": 1}', r"row 1 .*network must be a list of names, or JSON.*'{"),
    "no JSON": ("runs", "network", 1, "['a']", r"row 1 .*network must be a list of names"),
    "deep JSON": ("runs", "network", 1, "[" * 100_000, r"row 1 .*network must be a list.*'\[{79}…;"),
    "empty network": ("runs", "network", 0, "[]", r"row 0 .*network must be a list of names"),
    "NUL in a network": ("runs", "network", 0, '["\\u0000"]', r"row 0 .*network must be a list of names"),
    "half a character": ("runs", "network", 0, '["\\ud800"]', r"row 0 .*network must be a list of names"),
    "null network": ("runs", "network", 0, None, r"row 0 .*network is missing"),
    "null prompt": ("runs", "initial_prompt", 0, None, r"row 0 .*initial_prompt is missing"),
    "length": ("runs", "max_length", 0, 0, r"row 0 .*max_length must be at least 1, .*; got 0"),
    "networks": ("experiments", "networks", 0, '["a"]', r"row 0 .*networks must be a list of lists of names"),
    "prompts": ("experiments", "prompts", 0, "[1]", r"row 0 .*prompts must be a list of texts"),
    "null vector value": ("embeddings", "vector", 7, [None] * 8, r"row 7 .*vector has a missing value"),
    "NaN": ("embeddings", "vector", 7, [np.nan] * 8, r"row 7 .*vector is not finite in float32"),
    "zero": ("embeddings", "vector", 7, [0.0] * 8, r"row 7 .*vector is zero"),
    "ragged": ("embeddings", "vector", 7, [1.0] * 9, r"row 7 .*vector has 9 dimensions, those before it"),
    "model name": ("embeddings", "embedding_model", 7, "a\x1b", r"row 7 .*embedding_model holds a control"),
}


@pytest.mark.parametrize(("table", "column", "row", "value", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_bad_values_are_named_and_nothing_is_imported(
    tmp_path: Path, database: Database, table: str, column: str, row: int, value: Any, message: str
) -> None:
    tables = dump_tables(replace(SPEC, text_models=("Nomic",), vision_models=()))
    tables[table][column][row] = value
    with pytest.raises(BadInput, match=message) as caught:
        import_tables(tmp_path / "dump", tables, database)
    assert str(caught.value).startswith(f"{tmp_path / 'dump' / table}.parquet, row {row} (counted from 0): ")
    assert count(database) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("runs", "network", None, r"has no column network; needed are id, network, max_length, initial_pr"),
        ("embeddings", "vector", [1.0] * 96, r"column vector must hold lists .*; got double"),
        ("embeddings", "id", list(range(96)), r"column id must hold strings; got int64"),
        ("invocations", "started_at", [1.5] * 63, r"column started_at must hold ISO 8601 strings or timest"),
        ("experiments", "prompts", [3], r"column prompts must hold JSON strings or lists; got int64"),
    ],
)
def test_columns_are_checked_before_a_database_is_made(
    tmp_path: Path, table: str, column: str, values: list[Any] | None, message: str
) -> None:
    tables = dump_tables()
    del tables[table][column]
    if values is not None:
        tables[table][column] = pa.array(values)  # type: ignore[assignment]
    folder = write_dump(tmp_path / "dump", tables)
    with pytest.raises(BadInput, match=rf"{table}\.parquet.*{message}"):
        require_files([folder])


def test_a_second_dimension_of_a_model_is_refused(tmp_path: Path, database: Database) -> None:
    import_tables(tmp_path / "dump", dump_tables(), database)
    before = contents(database)
    other_tables = dump_tables(DumpSpec(dimensions=5, seed=1, prompts=False))
    message = r"embeddings\.parquet, row \d+ .*the vector has 5 dimensions, those of \w+ before it have 8"
    with pytest.raises(BadInput, match=message):
        import_tables(tmp_path / "other", other_tables, database)
    assert contents(database) == before


def test_folders_that_are_not_a_dump_are_refused(tmp_path: Path, database: Database) -> None:
    folder = write_dump(tmp_path / "dump", dump_tables())
    with pytest.raises(
        WrongUsage, match=r"is a folder that names its models, but model A was requested.*leave out --model"
    ):
        import_embeddings([folder], database, model="A")
    (folder / "invocations.parquet").unlink()
    (folder / "runs.parquet").unlink()
    message = r"dump is a folder without runs\.parquet and invocations\.parquet; name the files in it, or .*"
    with pytest.raises(MissingPath, match=message + r"\(experiments\.parquet may be missing\)"):
        import_embeddings([folder], database)
    assert count(database) == (0, 0, 0, 0)


# --------------------------------------------------------------------------- damage

READ_PATCHED = """
import sys
from pathlib import Path
import numpy as np
from tests.files.test_pipeline_dumps import read_patched
read_patched(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[2]) + 80))
"""


def read_patched(folder: Path, seeds: range) -> None:
    """Read dumps with some bytes of one file patched, and print how many could be read and how many not."""
    files = {path: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
    counts = {True: 0, False: 0}
    for seed in seeds:
        path = list(files)[seed % len(files)]
        path.write_bytes(patched(files[path], np.random.default_rng(seed)))
        try:
            (dump,) = require_files([folder])
            assert isinstance(dump, PipelineDump)
            for read in (dump.experiments, dump.runs, dump.invocations, dump.inputs, dump.embeddings):
                repr(list(read()))
            counts[True] += 1
        except BadInput:
            counts[False] += 1
        path.write_bytes(files[path])
    print(counts[True], counts[False])  # noqa: T201


def test_patched_bytes_never_crash_the_process(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", dump_tables(replace(SPEC, length=8)), row_group_size=20)
    process = run_python(READ_PATCHED, folder, 0)
    assert process.returncode == 0, process.stderr
    read, refused = map(int, process.stdout.split())
    assert read + refused == 80
    assert min(read, refused) > 5
