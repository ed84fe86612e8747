"""Test exports to every format and back: complete files or none, no spreadsheet formulas."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import CannotWrite, DatabaseError, MissingPath, WrongUsage
from panic_tda.files import exporting
from panic_tda.files.exporting import FORMATS, export_clustering, write_rows
from panic_tda.files.importing import import_embeddings, sample_files
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read import exports
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.results import ClusteringSummary, list_clusterings
from panic_tda.storage.read.row_streams import RowStream
from panic_tda.storage.schema.upgrade import upgrade
from tests.conftest import MakeFile
from tests.exported import COLUMNS, clustered, expected_rows, stored_vectors
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import opened, run_python

ODD = (
    "",
    " ",
    "two\nlines",
    "a\r\nb",
    'say "so", he said',
    "a;b\tc",
    "nothing\0more",
    "🎈 風船 \u2028 \x85 \ufeff é",
    "'quoted'",
    "'",
)
RUN_BY_SPREADSHEETS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "\t",
    "\rx",
    "＝1+1",
    "'=1+1",
    "''@x",
)
HARMLESS = ("1 = 1", "a-b", "x@y", "'tis", "…=", "½")
SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64()), ("share", pa.float64())])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Return a clustered field file of every kind of row, which no test changes."""
    facts = write_field_file(tmp_path_factory.mktemp("database") / "field.sqlite", EVERYTHING)
    database = open_database(facts.path)
    upgrade(database)
    clustered(database)
    with opened(facts.path) as connection:
        ids = connection.execute(
            "SELECT invocation_id FROM embedding JOIN embeddingcluster ON embedding_id = id "
            "WHERE embedding_model = 'Nomic' ORDER BY id"
        ).fetchall()
        for (identity,), text in zip(ids, (*ODD, *RUN_BY_SPREADSHEETS, *HARMLESS), strict=False):
            connection.execute("UPDATE invocation SET output_text = ? WHERE id = ?", (text, identity))
        assert len(ids) > 40
    return database


def clustering(database: Database) -> ClusteringSummary:
    with database.session() as session:
        return list_clusterings(session)[0]


@pytest.fixture(scope="module")
def expected(database: Database) -> list[dict[str, Any]]:
    assert database.path is not None
    return expected_rows(database.path, clustering(database).id)


def stream(*batches: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> RowStream:
    record_batches = [pa.RecordBatch.from_pylist(batch, schema=schema) for batch in batches]
    return RowStream(schema, sum(map(len, batches)), iter(record_batches))


def texts(*values: str | None) -> RowStream:
    return stream([{"text": value, "number": -1, "share": -0.5} for value in values])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_lines(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    data = path.read_text(encoding="utf-8")
    assert data.endswith("\n") or not data
    # Whatever a program takes for the end of a line.
    return [json.loads(line, parse_constant=refuse) for line in data.splitlines()]


ARROW: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pq.read_table,
    ".arrow": pyarrow.feather.read_table,
    ".feather": pyarrow.feather.read_table,
    ".ipc": lambda path: pa.ipc.open_file(path.read_bytes()).read_all(),
}


@pytest.mark.parametrize("suffix", ARROW)
def test_parquet_and_arrow_contain_the_stored_rows(
    database: Database, expected: list[dict[str, Any]], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    written = export_clustering(database, clustering(database), path)
    assert (written.file, written.rows, written.bytes) == (path, len(expected), path.stat().st_size)
    table = ARROW[suffix](path)
    assert tuple(table.column_names) == COLUMNS
    assert table.drop_columns(["core_distance"]).to_pylist() == expected
    metadata = json.loads(table.schema.metadata[b"panic_tda"])
    assert metadata["clustering"] == str(clustering(database).id)


@pytest.mark.parametrize("suffix", [".ndjson", ".jsonl"])
def test_json_lines_contain_the_stored_rows(
    database: Database, expected: list[dict[str, Any]], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"rows{suffix.upper()}"
    assert export_clustering(database, clustering(database), path).rows == len(expected)
    lines = read_lines(path)
    assert [tuple(row) for row in lines] == [COLUMNS] * len(expected)
    assert all(row.pop("core_distance") > 0 for row in lines)
    assert lines == expected


def test_csv_contains_the_stored_rows(
    database: Database, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    assert export_clustering(database, clustering(database), path).rows == len(expected)
    rows = read_csv(path)
    assert [tuple(row) for row in rows] == [COLUMNS] * len(expected)
    runs = re.compile(exporting.FORMULA)
    for row, wanted in zip(rows, expected, strict=True):
        assert float(row.pop("core_distance")) > 0
        for name, value in wanted.items():
            written_value = row[name]
            if value is None:
                assert written_value == ""
            elif isinstance(value, bool):
                assert written_value == str(value).lower()
            elif isinstance(value, str):
                assert (written_value[1:] if runs.match(written_value) else written_value) == value
            else:
                assert float(written_value) == value


def test_formulas_are_escaped_in_csv_and_other_texts_are_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, texts(*RUN_BY_SPREADSHEETS))
    written_texts = [row["text"] for row in read_csv(path)]
    assert written_texts == [f"'{text}" for text in RUN_BY_SPREADSHEETS]
    assert {(row["number"], row["share"]) for row in read_csv(path)} == {("-1", "-0.5")}
    write_rows(path, texts(*HARMLESS, *ODD), force=True)
    assert [row["text"] for row in read_csv(path)] == [*HARMLESS, *ODD]


def test_csv_distinguishes_missing_and_empty_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, texts("", None))
    assert path.read_text() == '"text","number","share"\n"",-1,-0.5\n,-1,-0.5\n'


@pytest.mark.parametrize("suffix", [".ndjson", ".parquet", ".arrow"])
def test_vectors_are_those_stored(database: Database, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    export_clustering(database, clustering(database), path, with_vectors=True)
    if suffix == ".ndjson":
        rows = read_lines(path)
        # A number of JSON is a double, in which every float32 has a place.
        vectors = np.array([row["vector"] for row in rows])
        assert vectors.astype("<f4").astype(float).tolist() == vectors.tolist()
    else:
        table = ARROW[suffix](path)
        assert table.schema.field("vector").type == pa.list_(pa.float32(), 8)
        rows = table.to_pylist()
        vectors = np.array([row["vector"] for row in rows])
    assert database.path is not None
    np.testing.assert_array_equal(vectors.astype("<f4"), stored_vectors(database.path, rows))


def test_json_has_null_in_place_of_nan(tmp_path: Path) -> None:
    vector = pa.list_(pa.float32(), 2)
    schema = SCHEMA.append(pa.field("vector", vector))
    odd = [np.nan, np.inf, -np.inf, 0.5, None]
    rows = [{"text": None, "number": None, "share": value, "vector": [value, 1.0]} for value in odd]
    rows.append({"text": "", "number": 0, "share": 0.0, "vector": None})
    path = tmp_path / "rows.ndjson"
    write_rows(path, stream(rows[:2], rows[2:], schema=schema))
    lines = read_lines(path)
    assert [row["share"] for row in lines] == [None, None, None, 0.5, None, 0.0]
    assert [row["vector"] for row in lines] == [[None, 1]] * 3 + [[0.5, 1], [None, 1], None]
    # Not all of an array may be in a batch.
    (batch,) = stream(rows, schema=schema).batches
    path.unlink()
    write_rows(path, RowStream(schema, 2, iter([batch.slice(3, 1), batch.slice(5, 1)])))
    assert [row["vector"] for row in read_lines(path)] == [[0.5, 1], None]


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_export_of_no_rows_writes_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    assert write_rows(path, stream()).rows == 0
    if suffix in ARROW:
        assert ARROW[suffix](path).schema.names == SCHEMA.names
    else:
        assert path.read_text() == ('"text","number","share"\n' if suffix == ".csv" else "")


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.parquet.gz", ".parquet", "rows.csv "])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUsage, match=r"must end in \.parquet, .*\.csv, .*; got .*rows|got .*\.parquet"):
        write_rows(tmp_path / name, stream())
    assert list(tmp_path.iterdir()) == []


def test_a_format_without_lists_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"a \.csv file has no vectors; name one that ends in \.parquet"):
        export_clustering(database, clustering(database), tmp_path / "rows.csv", with_vectors=True)
    assert list(tmp_path.iterdir()) == []


def test_existing_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no folder .*none for the file rows\.csv"):
        write_rows(tmp_path / "none" / "rows.csv", stream())
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name, reason in (("folder.csv", "is a folder"), ("pipe.csv", "exists and is not a regular file")):
        with pytest.raises(WrongUsage, match=reason):
            write_rows(tmp_path / name, stream(), force=True)
    path = tmp_path / "rows.csv"
    path.write_text("before")
    with pytest.raises(WrongUsage, match="exists; replace it with --force"):
        write_rows(path, stream())
    assert path.read_text() == "before"
    write_rows(path, stream(), force=True)
    assert path.read_text() == '"text","number","share"\n'


def test_a_file_created_during_the_export_stays(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    def batches() -> Iterator[pa.RecordBatch]:
        path.write_text("somebody else's")
        yield from texts("mine").batches

    with pytest.raises(WrongUsage, match="exists; replace it with --force"):
        write_rows(path, RowStream(SCHEMA, 1, batches()))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"rows.csv": "somebody else's"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "real"
    path = tmp_path / "rows.csv"
    path.symlink_to(target)
    write_rows(path, texts("a"))
    assert path.is_symlink()
    assert read_csv(target)[0]["text"] == "a"
    write_rows(path, texts("b"), force=True)
    assert read_csv(target)[0]["text"] == "b"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["real"]


def test_permissions_are_those_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_rows(tmp_path / "rows.csv", stream())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "rows.csv").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [DatabaseError("gone"), KeyboardInterrupt(), SystemExit(143), OSError("x")])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".ndjson"])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_failed_export_leaves_the_existing_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    error: BaseException,
    before: bytes | None,
) -> None:
    monkeypatch.setattr(exporting, "GROUP_ROWS", 1)
    path = tmp_path / f"rows{suffix}"
    if before is not None:
        path.write_bytes(before)
    partial: list[str] = []

    def batches() -> Iterator[pa.RecordBatch]:
        yield from texts("a").batches
        yield from texts("b").batches
        partial.extend(file.name for file in tmp_path.iterdir() if file != path)
        raise error

    with pytest.raises(CannotWrite if isinstance(error, OSError) else type(error)):
        write_rows(path, RowStream(SCHEMA, 3, batches()), force=True)
    assert len(partial) == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from panic_tda.files import exporting
from panic_tda.storage.read.row_streams import RowStream
import pyarrow as pa

exporting.GROUP_ROWS = 1000
batch = pa.record_batch({"text": [str(n) for n in range(1000)]})

def batches():
    for number in range(10):
        yield batch
    print("half", flush=True)
    time.sleep(60)

exporting.write_rows(Path(sys.argv[1]), RowStream(batch.schema, 20_000, batches()), force=True)
"""


@pytest.mark.parametrize("before", [None, "before"])
def test_a_killed_export_leaves_the_existing_file(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "rows.csv"
    if before is not None:
        path.write_text(before)
    command = [sys.executable, "-c", WRITE_SLOWLY, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == before
    (partial,) = (file for file in tmp_path.iterdir() if file != path)
    assert partial.suffix == ".part"
    assert partial.stat().st_size > 1000


FULL_DISK = """
import resource, sys
from pathlib import Path
from panic_tda.errors import CannotWrite
from panic_tda.files import exporting
from panic_tda.storage.read.row_streams import RowStream
import pyarrow as pa

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
batch = pa.record_batch({"number": [n * n for n in range(10_000)]})
for path in sys.argv[1:]:
    try:
        exporting.write_rows(Path(path), RowStream(batch.schema, 10_000, iter([batch] * 20)))
    except CannotWrite as error:
        print(error)
"""


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, unmeasured: None) -> None:
    paths = [tmp_path / f"rows{suffix}" for suffix in (".parquet", ".arrow", ".csv", ".ndjson")]
    process = run_python(FULL_DISK, *paths)
    assert (process.returncode, process.stderr) == (0, "")
    message = (
        r" cannot be written: File too large \(\d+ MiB of it were written, .* are free\); raise the limit .*"
    )
    for path, line in zip(paths, process.stdout.splitlines(), strict=True):
        assert re.fullmatch(re.escape(str(path)) + message, line)
    assert list(tmp_path.iterdir()) == []


def test_groups_are_bounded_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"text": "x" * 100, "number": n, "share": 0.0} for n in range(100)]
    write_rows(path, stream(*[rows] * 30))
    metadata = pq.read_metadata(path)
    assert (metadata.num_rows, metadata.num_row_groups) == (3000, 1)
    monkeypatch.setattr(exporting, "GROUP_ROWS", 1000)
    write_rows(path, stream(*[rows] * 25), force=True)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1000, 1000, 500]
    monkeypatch.setattr(exporting, "GROUP_BYTES", 30_000)
    write_rows(path, stream(*[rows] * 5), force=True)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [200, 200, 100]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".ndjson"])
def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(exporting, "GROUP_BYTES", 1 << 20)
    before, most = pa.total_allocated_bytes(), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal most
        for number in range(200):
            most = max(most, pa.total_allocated_bytes() - before)
            yield from texts(*[f"{number:05d} {row:05d} {'text ' * 200}" for row in range(100)]).batches

    # 20 MB of texts.
    rows = RowStream(SCHEMA, 20_000, batches())
    assert write_rows(tmp_path / f"rows{suffix}", rows).rows == 20_000
    assert 1 << 20 < most < 8 << 20


# --------------------------------------------------------------------------- what others make of it


@pytest.fixture(scope="module")
def parquet(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "rows.parquet"
    export_clustering(database, clustering(database), path, with_vectors=True)
    return path


def counted(expected: list[dict[str, Any]]) -> dict[str | None, int]:
    networks = [row["network"] for row in expected]
    return {network: networks.count(network) for network in networks}


def test_duckdb_reads_parquet(parquet: Path, expected: list[dict[str, Any]]) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install duckdb")
    rows = f"FROM '{parquet}'"
    counts = duckdb.sql(f"SELECT network, count(*) {rows} GROUP BY ALL").fetchall()
    assert dict(counts) == counted(expected)
    assert duckdb.sql(f"SELECT * EXCLUDE (core_distance, vector) {rows}").fetchall() == [
        tuple(row.values()) for row in expected
    ]
    ((similarity,),) = duckdb.sql(
        f"SELECT min(array_cosine_similarity(vector::FLOAT[8], vector::FLOAT[8])) {rows}"
    ).fetchall()
    assert similarity == pytest.approx(1)


def test_duckdb_reads_csv_and_json(
    database: Database, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install duckdb")
    for suffix in (".csv", ".ndjson"):
        path = tmp_path / f"rows{suffix}"
        export_clustering(database, clustering(database), path)
        counts = duckdb.sql(f"SELECT label, count(*) FROM '{path}' GROUP BY ALL").fetchall()
        labels = [row["label"] for row in expected]
        assert dict(counts) == {label: labels.count(label) for label in labels}


def test_polars_reads_parquet(parquet: Path, expected: list[dict[str, Any]]) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
    frame = polars.read_parquet(parquet)
    assert frame.drop("core_distance", "vector").to_dicts() == expected
    assert frame.schema["vector"] == polars.Array(polars.Float32, 8)
    assert dict(frame.group_by("network").len().iter_rows()) == counted(expected)


def test_pandas_reads_parquet(parquet: Path, expected: list[dict[str, Any]]) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    frame = pandas.read_parquet(parquet)
    assert frame["text"].tolist() == [row["text"] for row in expected]
    assert frame["label"].tolist() == [row["label"] for row in expected]
    assert frame["vector"][0].dtype == np.float32
    sizes = frame.groupby("network", dropna=False).size()
    assert {None if pandas.isna(name) else name: n for name, n in sizes.items()} == counted(expected)


def read_by(program: str, path: Path) -> list[tuple[float | None, float | None]]:
    """Read the columns x and y with another program."""
    if program == "duckdb":
        duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install duckdb")
        return list(duckdb.sql(f"SELECT x, y FROM '{path}'").fetchall())
    if program == "polars":
        polars = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
        read = polars.read_csv if path.suffix == ".csv" else polars.read_parquet
        return list(read(path).select("x", "y").iter_rows())
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    frame = (pandas.read_csv if path.suffix == ".csv" else pandas.read_parquet)(path)[["x", "y"]]
    return list(frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None))


@pytest.mark.parametrize("program", ["duckdb", "polars", "pandas"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_coordinates_outside_the_map_are_missing(
    database: Database,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    suffix: str,
) -> None:
    monkeypatch.setattr(exports, "BATCH_ROWS", 7)
    places = [(None, None) if row % 3 else (row / 7, -row) for row in range(len(expected))]
    columns = [pa.array(column, pa.float32()) for column in zip(*places, strict=True)]
    extra_columns = pa.record_batch(columns, names=["x", "y"])
    path = tmp_path / f"rows{suffix}"
    export_clustering(database, clustering(database), path, extra_columns=extra_columns)
    for coordinates, planted in zip(read_by(program, path), places, strict=True):
        assert coordinates == (planted if None in planted else pytest.approx(planted, rel=1e-6))


def test_a_map_of_other_rows_is_refused(database: Database, tmp_path: Path) -> None:
    extra_columns = pa.record_batch([pa.array([0.5])], names=["x"])
    with pytest.raises(DatabaseError, match="assignments, and had 1 when its map was computed"):
        export_clustering(database, clustering(database), tmp_path / "rows.csv", extra_columns=extra_columns)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("embedding_atlas") is None,
    reason="embedding-atlas is not installed: pip install embedding-atlas (6 GB)",
)
def test_embedding_atlas_reads_parquet(parquet: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    page = tmp_path / "page.zip"
    command = [sys.executable, "-m", "embedding_atlas.cli", str(parquet), "--text", "text"]
    subprocess.run(
        [*command, "--disable-projection", "--export-application", str(page)], check=True, timeout=300
    )
    with zipfile.ZipFile(page) as files:
        table = pq.read_table(io.BytesIO(files.read("data/dataset.parquet")))
    assert table.select(expected[0]).to_pylist() == expected


STORED = """
    SELECT run.id, run.network, run.seed, run.initial_prompt, sequence_number, type, model, output_text,
        embedding_model, vector
    FROM embedding JOIN invocation ON invocation.id = invocation_id JOIN run ON run.id = run_id
"""


def stored_rows(database: Database, models: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the stored rows of some models without ids, with their runs numbered."""
    assert database.path is not None
    with opened(database.path) as connection:
        rows = [row for row in connection.execute(STORED).fetchall() if row[8] in models]
    # Runs have other ids in a copy: they are told apart by their prompts, networks and seeds here.
    assert len({row[0] for row in rows}) == len({row[1:4] for row in rows})
    return sorted(((json.dumps(json.loads(row[1])), *row[2:]) for row in rows), key=repr)


def copy_by_files(database: Database, models: tuple[str, ...], folder: Path, suffix: str) -> Database:
    """Export a clustering of each model, and import all files into a new database."""
    folder.mkdir()
    files = []
    for model in models:
        files.append(folder / f"{model}{suffix}")
        export_clustering(database, clustered(database, model), files[-1], with_vectors=True)
    copy = open_database(folder / "copy.sqlite", create=True)
    summary = import_embeddings(files, copy)
    assert summary.models == tuple(sorted(models))
    assert import_embeddings(files, copy).n_new_embeddings == 0
    return copy


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_an_export_can_be_imported(upgraded: MakeFile, tmp_path: Path, suffix: str) -> None:
    """Import an export and find its runs, steps, prompts, texts, types and vectors, of images too."""
    models = ("Nomic", "NomicVision")
    file = upgraded(FieldSpec(runs=5, text_models=("Nomic",), vision_models=("NomicVision",), duplicates=0.3))
    with opened(file.path) as connection:
        # An output without a text, and a text that is empty.
        texts = connection.execute("SELECT id FROM invocation WHERE type = 'TEXT' ORDER BY id").fetchall()
        connection.execute("UPDATE invocation SET output_text = NULL WHERE id = ?", texts[3])
        connection.execute("UPDATE invocation SET output_text = '' WHERE id = ?", texts[4])
    copy = copy_by_files(file.database, models, tmp_path / "files", suffix)
    rows = stored_rows(copy, models)
    assert rows == stored_rows(file.database, models)
    kinds = {(row[4], row[6] is None, row[7]) for row in rows}
    assert kinds == {
        *(("TEXT", False, "Nomic"), ("TEXT", True, "Nomic"), ("IMAGE", True, "NomicVision")),
    }


def test_exports_of_the_sample_and_of_a_real_file_can_be_imported(tmp_path: Path) -> None:
    sample = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings(sample_files(), sample)
    databases = {"sample": (sample, ("LSA", "MiniLM"))}
    if os.environ.get("PANIC_TDA_FIELD_DB"):
        # Without the permissions: the file may be read-only.
        shutil.copyfile(os.environ["PANIC_TDA_FIELD_DB"], tmp_path / "field.sqlite")
        field = open_database(tmp_path / "field.sqlite")
        upgrade(field)
        databases["field"] = field, tuple(sorted(set(take_census(field)) - {"Dummy"}))
    for name, (database, models) in databases.items():
        copy = copy_by_files(database, models, tmp_path / name, ".parquet")
        assert stored_rows(copy, models) == stored_rows(database, models), name
