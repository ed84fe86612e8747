"""Test imports: runs, invocations and embeddings are added once, and errors name rows."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from panic_tda.errors import BadInput, DatabaseError, InvalidParameter, MissingPath, NeedsUpgrade, WrongUsage
from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.files.importing import import_embeddings, require_files, sample_files
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.schema.tables import Invocation
from panic_tda.storage.schema.upgrade import upgrade
from panic_tda.storage.write.times import UNKNOWN_TIME
from tests.dump_files import STORED_TABLES, count
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import KILL_AFTER, rows, run_python, snapshot

RNG = np.random.default_rng(0)


def columns(n_rows: int = 6, width: int = 4, **changed: Any) -> dict[str, Any]:
    """Return columns of two runs of captions from a network of two models."""
    half = -(-n_rows // 2)
    column_by_name: dict[str, Any] = {
        "run": ["first"] * half + ["second"] * (n_rows - half),
        "sequence_number": [2 * (row % half) + 1 for row in range(n_rows)],
        "text": [f"text {row}" for row in range(n_rows)],
        "vector": vectors(n_rows, width),
        "embedding_model": ["Model"] * n_rows,
        "network": [["SDXLTurbo", "BLIP2"]] * n_rows,
        "initial_prompt": ["a pear"] * n_rows,
        "seed": [42] * n_rows,
    }
    column_by_name |= changed
    return {name: column for name, column in column_by_name.items() if column is not None}


def vectors(n_rows: int, width: int = 4, kind: Any = np.float32) -> pa.Array:
    values = RNG.standard_normal((n_rows, width)).astype(kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)


def ragged(*rows: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([None if row is None else list(row) for row in rows], pa.list_(kind or pa.float32()))


def write(path: Path, column_by_name: dict[str, Any]) -> Path:
    pq.write_table(pa.table(column_by_name), path)
    return path


def expected_id(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16].hex()


# --------------------------------------------------------------------------- what is stored


def test_a_file_becomes_runs_invocations_and_embeddings(tmp_path: Path, database: Database) -> None:
    data = columns()
    summary = import_embeddings([write(tmp_path / "a.parquet", data)], database)

    assert (summary.n_rows, summary.n_new_embeddings, summary.n_new_invocations) == (6, 6, 6)
    assert (summary.n_new_runs, summary.models, summary.n_present) == (2, ("Model",), 0)
    run = expected_id("run", "first", 42, ["SDXLTurbo", "BLIP2"], "a pear")
    invocation = expected_id("invocation", run, 3)
    embedding = expected_id("embedding", invocation, "Model")
    assert summary.experiment_id is not None
    stored = rows(database, f"SELECT * FROM run WHERE id = '{run}'")
    assert stored == [(run, '["SDXLTurbo", "BLIP2"]', 42, 6, "a pear", summary.experiment_id.hex)]
    stored = rows(database, f"SELECT * FROM invocation WHERE id = '{invocation}'")
    assert stored == [(invocation, None, None, "BLIP2", "TEXT", 42, run, 3, None, "text 1", None)]
    stored = rows(database, f"SELECT * FROM embedding WHERE id = '{embedding}'")
    vector = np.array(data["vector"][1].as_py(), dtype="<f4").tobytes()
    assert stored == [(embedding, None, None, invocation, "Model", vector)]
    ((identity, networks, seeds, prompts, models, length, *times),) = rows(
        database, "SELECT * FROM experimentconfig"
    )
    assert identity == summary.experiment_id.hex
    assert json.loads(networks) == [["SDXLTurbo", "BLIP2"]]
    assert (seeds, prompts, models, length, times) == ("[42]", '["a pear"]', '["Model"]', 6, [None, None])


def test_the_model_of_an_invocation_follows_its_position_in_the_network(
    tmp_path: Path, database: Database
) -> None:
    networks = [["A", "B", "C"]] * 3 + [None] * 3
    data = columns(network=networks, sequence_number=[0, 4, 8] * 2)
    import_embeddings([write(tmp_path / "a.parquet", data)], database)
    stored = rows(database, "SELECT model FROM invocation ORDER BY output_text")
    assert [model for (model,) in stored] == ["A", "B", "C", "imported", "imported", "imported"]


def test_the_sample_imports(database: Database) -> None:
    summary = import_embeddings(sample_files(), database)
    assert count(database) == (1, 48, 2400, 4800)
    assert summary.models == ("LSA", "MiniLM")
    assert "added 4,800 embeddings (LSA, MiniLM), 2,400 invocations and 48 runs" in str(summary)
    assert set(rows(database, "SELECT embedding_model, length(vector) FROM embedding")) == {
        ("LSA", 4 * 64),
        ("MiniLM", 4 * 384),
    }
    assert rows(database, "SELECT DISTINCT max_length FROM run") == [(100,)]


def test_texts_are_stored_unchanged(tmp_path: Path, database: Database) -> None:
    texts = ["", "  ", "two\nlines", "=1+1", "風船 🎈", "x" * 3000]
    import_embeddings([write(tmp_path / "a.parquet", columns(text=texts))], database)
    assert {text for (text,) in rows(database, "SELECT output_text FROM invocation")} == set(texts)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["fixed", "list", "large"])
def test_every_layout_of_vectors_is_stored_as_float32(
    tmp_path: Path, database: Database, kind: Any, layout: str
) -> None:
    column = vectors(6, 5, kind)
    value = column.type.value_type
    wanted = {"fixed": column.type, "list": pa.list_(value), "large": pa.large_list(value)}[layout]
    path = tmp_path / "a.feather"  # Parquet has no float16 in all versions
    pyarrow.feather.write_feather(pa.table(columns(vector=column.cast(wanted))), path)
    import_embeddings([path], database)
    stored = rows(
        database,
        "SELECT vector FROM embedding e JOIN invocation i ON i.id = invocation_id ORDER BY output_text",
    )
    expected = np.array(column.to_pylist(), dtype=kind).astype(np.float32)
    np.testing.assert_array_equal(np.stack([np.frombuffer(v, "<f4") for (v,) in stored]), expected)


def write_feather(table: pa.Table, path: Path) -> None:
    pyarrow.feather.write_feather(table, path, compression="lz4", chunksize=4)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("writer", [write_feather, write_stream])
def test_formats_are_recognised_by_content_and_give_the_same_database(
    tmp_path: Path, database: Database, writer: Callable[[pa.Table, Path], None]
) -> None:
    data = columns(9)
    import_embeddings([write(tmp_path / "a.parquet", data)], database)
    before = count(database)
    writer(pa.table(data | {"unknown": [None] * 9}), tmp_path / "b.dat")
    assert import_embeddings([tmp_path / "b.dat"], database).n_present == 9
    assert count(database) == before


@pytest.mark.parametrize("batch_rows", [1, 3, 4096])
def test_the_batch_size_does_not_matter(tmp_path: Path, database: Database, batch_rows: int) -> None:
    # Two models in one file, and neither runs nor sequence numbers: everything depends on the order.
    texts = [f"text {row % 5}" for row in range(10)]
    models = ["A"] * 5 + ["B"] * 5
    data = {"text": texts, "embedding_model": models, "vector": vectors(10)}
    path = write(tmp_path / "a.parquet", data)
    import_embeddings([path], database)
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    import_embeddings([path], other_database, batch_rows=batch_rows)
    assert database.path is not None
    assert other_database.path is not None
    assert snapshot(other_database.path) == snapshot(database.path)
    assert count(database) == (1, 1, 5, 10)


# --------------------------------------------------------------------------- keys


def test_importing_again_adds_nothing_and_says_so(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", columns())
    import_embeddings([path], database)
    assert database.path is not None
    before = snapshot(database.path)
    again = import_embeddings([path, path], database)
    assert (again.n_rows, again.n_present, again.n_new_runs, again.experiment_id) == (12, 12, 0, None)
    assert "nothing to add" in str(again)
    assert snapshot(database.path) == before


def test_a_file_that_has_grown_adds_its_new_rows(tmp_path: Path, database: Database) -> None:
    data = columns(8)
    first = import_embeddings([write(tmp_path / "a.parquet", columns(8) | data)], database)
    longer = {name: pa.concat_arrays([_array(column), _array(column)[:2]]) for name, column in data.items()}
    longer["sequence_number"] = pa.array([*data["sequence_number"], 9, 11])
    longer["text"] = pa.array([*data["text"], "later", "latest"])
    second = import_embeddings([write(tmp_path / "b.parquet", longer)], database)
    assert (second.n_new_embeddings, second.n_new_invocations, second.n_new_runs) == (2, 2, 0)
    assert second.experiment_id is None
    assert first.experiment_id is not None
    assert sorted(rows(database, "SELECT max_length FROM run")) == [(8,), (12,)]
    assert rows(database, "SELECT id, max_length FROM experimentconfig") == [(first.experiment_id.hex, 12)]


def _array(column: Any) -> pa.Array:
    return column if isinstance(column, pa.Array) else pa.array(column)


def test_two_models_of_the_same_texts_share_invocations(tmp_path: Path, database: Database) -> None:
    first = import_embeddings([write(tmp_path / "a.parquet", columns())], database)
    data = columns(embedding_model=["Other"] * 6, vector=vectors(6, 9))
    second = import_embeddings([write(tmp_path / "b.parquet", data)], database)
    assert count(database) == (1, 2, 6, 12)
    assert (second.n_new_invocations, second.n_new_embeddings) == (0, 6)
    assert first.experiment_id is not None
    assert rows(database, "SELECT embedding_models FROM experimentconfig") == [('["Model", "Other"]',)]


def test_without_runs_the_content_identifies_the_run(tmp_path: Path, database: Database) -> None:
    texts = [f"text {row}" for row in range(5)]
    for model in ("A", "B"):
        path = write(tmp_path / f"{model}.parquet", {"text": texts, "vector": vectors(5)})
        import_embeddings([path], database, model=model)
    assert count(database) == (1, 1, 5, 10)
    assert rows(database, "SELECT sequence_number, output_text FROM invocation ORDER BY 1") == [
        *enumerate(texts)
    ]
    assert rows(database, "SELECT network, seed, initial_prompt, max_length FROM run") == [
        ('["imported"]', -1, "", 5)
    ]
    # Another order of the texts is another run, and so is another cut between them.
    for name, other_texts in (("c", texts[::-1]), ("d", ["text 0text 1", "", *texts[2:]])):
        path = write(tmp_path / f"{name}.parquet", {"text": other_texts, "vector": vectors(5)})
        import_embeddings([path], database, model="A")
    assert count(database) == (3, 3, 15, 20)


def test_without_sequence_numbers_rows_are_numbered_per_run(tmp_path: Path, database: Database) -> None:
    data = columns(run=["x", "y", "x", "y", "x", "x"], sequence_number=None)
    import_embeddings([write(tmp_path / "a.parquet", data)], database)
    stored = rows(database, "SELECT output_text, sequence_number FROM invocation ORDER BY output_text")
    assert [number for _, number in stored] == [0, 0, 1, 1, 2, 3]


def test_every_part_of_the_key_makes_another_run(tmp_path: Path, database: Database) -> None:
    networks = [["A", "B"], ["AB"], ["A", "B"], ["A", "B"], ["A", "B"], ["A"]]
    data = columns(
        run=["r", "r", "r", "r", "s", "r"],
        network=networks,
        seed=[1, 1, 2, 1, 1, 1],
        initial_prompt=["p", "p", "p", "q", "p", "p"],
        sequence_number=[0] * 6,
    )
    summary = import_embeddings([write(tmp_path / "a.parquet", data)], database)
    assert summary.n_new_runs == 6
    stored = rows(
        database, "SELECT network FROM run r JOIN invocation i ON run_id = r.id ORDER BY output_text"
    )
    assert [json.loads(network) for (network,) in stored] == networks


def test_files_of_one_call_make_one_experiment(tmp_path: Path, database: Database) -> None:
    paths = [
        write(tmp_path / f"{name}.parquet", columns(run=[name] * 6, sequence_number=list(range(6))))
        for name in "abc"
    ]
    import_embeddings(paths[:2], database)
    assert count(database)[:2] == (1, 2)
    import_embeddings(paths, database)
    assert count(database)[:2] == (2, 3)


def test_integer_runs_and_dictionary_columns(tmp_path: Path, database: Database) -> None:
    plain = columns(run=["7"] * 3 + ["8"] * 3)
    import_embeddings([write(tmp_path / "a.parquet", plain)], database)
    encoded = plain | {
        name: pa.array(plain[name]).dictionary_encode()
        for name in ("text", "embedding_model", "initial_prompt")
    }
    encoded["run"] = [7] * 3 + [8] * 3
    encoded["seed"] = pa.array(plain["seed"], pa.int8())
    encoded["network"] = pa.array(plain["network"], pa.list_(pa.string(), 2))
    pyarrow.feather.write_feather(pa.table(encoded), tmp_path / "b.feather")
    assert import_embeddings([tmp_path / "b.feather"], database).n_present == 6


def test_exported_columns_of_runs_and_networks_are_recognised(tmp_path: Path, database: Database) -> None:
    networks = [["A", "B"], ["風", 'a "b"'], [], None, ["A", "B"], ["A"]]
    plain = columns(run=["r", "s", "t", "u", "r", "v"], network=networks)
    import_embeddings([write(tmp_path / "a.parquet", plain)], database)
    texts = [None if network is None else json.dumps(network) for network in networks]
    texts[4] = '["A","B"]'
    called = {name: column for name, column in plain.items() if name != "run"} | {"run_id": plain["run"]}
    for name, data in {"b": called | {"network": texts}, "c": plain | {"run_id": ["other"] * 6}}.items():
        summary = import_embeddings([write(tmp_path / f"{name}.parquet", data)], database)
        assert (summary.n_present, summary.n_new_runs) == (6, 0)
    stored = rows(
        database, "SELECT network FROM run r JOIN invocation i ON run_id = r.id ORDER BY output_text"
    )
    assert [json.loads(network) for (network,) in stored] == [network or ["imported"] for network in networks]


def test_string_views_are_split_by_model(tmp_path: Path, database: Database) -> None:
    data = columns(embedding_model=["A", "B"] * 3)
    names = ("text", "embedding_model", "initial_prompt", "run")
    views = {name: pa.array(data[name], pa.string_view()) for name in names}
    pyarrow.feather.write_feather(pa.table(data | views), tmp_path / "a.feather", compression="lz4")
    assert import_embeddings([tmp_path / "a.feather"], database).models == ("A", "B")
    assert import_embeddings([write(tmp_path / "b.parquet", data)], database).n_present == 6


def test_missing_values_of_optional_columns_count_as_unknown(tmp_path: Path, database: Database) -> None:
    absent = columns(seed=None, network=None, initial_prompt=None)
    import_embeddings([write(tmp_path / "a.parquet", absent)], database)
    networks = pa.nulls(6, pa.list_(pa.string()))
    missing = absent | {"seed": pa.nulls(6), "network": networks, "initial_prompt": [None] * 5 + [""]}
    assert import_embeddings([write(tmp_path / "b.parquet", missing)], database).n_present == 6


def test_a_file_without_rows_adds_nothing(tmp_path: Path, database: Database) -> None:
    empty = pa.table(columns()).slice(0, 0)
    pq.write_table(empty, tmp_path / "a.parquet")
    summary = import_embeddings([tmp_path / "a.parquet"], database)
    assert str(summary) == "read 0 rows from 1 file: nothing to add"
    pq.write_table(empty.drop("run"), tmp_path / "b.parquet")
    assert import_embeddings([tmp_path / "b.parquet"], database).n_rows == 0
    assert count(database) == (0, 0, 0, 0)


def test_an_upgraded_field_file_takes_imports(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", EVERYTHING)
    database = open_database(facts.path)
    upgrade(database)
    before = {name: table for name, table in snapshot(facts.path).items() if name not in STORED_TABLES}
    summary = import_embeddings([write(tmp_path / "a.parquet", columns())], database)
    assert (summary.n_new_runs, summary.n_new_embeddings) == (2, 6)
    after = snapshot(facts.path)
    assert before.items() <= after.items()
    assert times_of_imported(database) == {(None, None)}


def times_of_imported(database: Database) -> set[tuple[Any, ...]]:
    return {
        pair
        for source in (
            "embedding WHERE embedding_model = 'Model'",
            "invocation WHERE output_text LIKE 'text %'",
            """experimentconfig WHERE embedding_models = '["Model"]'""",
        )
        for pair in rows(database, f"SELECT started_at, completed_at FROM {source}")
    }


@pytest.mark.parametrize("migrated", [False, True])
@pytest.mark.parametrize("layout", [0, 1, 2, 3])
def test_an_unknown_time_sorts_before_all_others(tmp_path: Path, layout: Any, migrated: bool) -> None:
    spec = FieldSpec(layout=layout, migrated=migrated, times_required=True)
    database = open_database(write_field_file(tmp_path / "field.sqlite", spec).path)
    upgrade(database)
    import_embeddings([write(tmp_path / "a.parquet", columns())], database)
    unknown = "1970-01-01 00:00:00.000000"
    # Experiments take NULL in every layout.
    assert times_of_imported(database) == {(unknown, unknown), (None, None)}
    assert import_embeddings([tmp_path / "a.parquet"], database).n_present == 6
    with database.session() as session:
        invocation = session.scalars(sa.select(Invocation).where(Invocation.output_text == "text 0")).one()
        assert invocation.started_at == UNKNOWN_TIME


# --------------------------------------------------------------------------- what is refused


BAD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "null vector": ({"vector": ragged(*[[1.0, 2]] * 4, None, [1, 2])}, r"row 4 .*vector is missing"),
    "null value": ({"vector": ragged(*[[1.0, 2]] * 2, [None, 1], *[[1, 2]] * 3)}, r"row 2 .*missing value"),
    "ragged": ({"vector": ragged(*[[1.0, 2]] * 3, [1, 2, 3], [1, 2], [1])}, r"row 3 .*3 dimensions.*have 2"),
    "empty vector": ({"vector": ragged(*[[]] * 6)}, r"row 0 .*vector is empty"),
    "NaN": ({"vector": ragged(*[[1.0, 2]] * 5, [np.nan, 1])}, r"row 5 .*not finite"),
    "infinite": ({"vector": ragged([1.0, 2], [1, -np.inf], *[[1, 2]] * 4)}, r"row 1 .*not finite"),
    "too large": (
        {"vector": ragged([1.0, 1e39], *[[1, 2]] * 5, kind=pa.float64())},
        r"row 0 .*not finite in float32",
    ),
    "zero": ({"vector": ragged(*[[1.0, 2]] * 3, [0, -0.0], [1, 2], [0, 0])}, r"row 3 .*zero"),
    "null text": ({"text": ["a", "b", None, "c", "d", "e"]}, r"row 2 .*text is missing"),
    "null run": ({"run": [None, *"bcdef"]}, r"row 0 .*run is missing"),
    "null model": ({"embedding_model": [*"aaaaa", None]}, r"row 5 .*embedding_model is missing"),
    "empty model": ({"embedding_model": [*"aaaa", "", "a"]}, r"row 4 .*embedding_model is empty"),
    "blank model": (
        {"embedding_model": [*"aa", " \u3000", *"aaa"]},
        r"row 2 .*embedding_model is empty; got",
    ),
    "model that steers a terminal": (
        {"embedding_model": [*"aaa", "a\x1b[31m", "a", "a"]},
        r"row 3 .*embedding_model holds a control character; got 'a\\x1b\[31m'",
    ),
    "NUL in a model": ({"embedding_model": [*"aaaaa", "a\0b"]}, r"row 5 .*control character; got 'a\\x00b'"),
    "NUL in a text": ({"text": ["a", "b", "c", "d", "e\0", "\0"]}, r"row 4 .*text holds the character NUL"),
    "NUL in a prompt": ({"initial_prompt": [*"pp", "p\0", *"ppp"]}, r"row 2 .*initial_prompt holds .* NUL"),
    "NUL in a network": (
        {"network": [["A", "B"], None, [], ["A", "\0"], ["A"], ["A"]]},
        r"row 3 .*network holds the character NUL",
    ),
    "network of no JSON": (
        {"network": ['["A"]', "A → B", "[]", None, "[]", "[]"]},
        r"row 1 .*network must be JSON of a list of names; got 'A → B'",
    ),
    "network of numbers": (
        {"network": ["[]", "[]", "[1]", *["[]"] * 3]},
        r"row 2 .*list of names; got '\[1\]'",
    ),
    "network of another thing": ({"network": ['"AB"', *["[]"] * 5]}, r"row 0 .*list of names"),
    "NUL in a network of JSON": ({"network": [*["[]"] * 5, '["\\u0000"]']}, r"row 5 .*list of names"),
    "half of a character": ({"network": [*["[]"] * 4, '["\\ud800"]', "[]"]}, r"row 4 .*list of names"),
    "null sequence number": (
        {"sequence_number": [1, 2, 3, 4, None, 6]},
        r"row 4 .*sequence_number is missing",
    ),
    "negative sequence number": (
        {"sequence_number": [1, 2, 3, 4, 5, -6]},
        r"row 5 .*at least 0, and below 2⁶³ − 1; got -6",
    ),
    "sequence number beyond all": (
        {"sequence_number": [1, 2, 2**63 - 1, 4, 5, 6]},
        r"row 2 .*below 2⁶³ − 1; got 9223372036854775807",
    ),
    "sequence number of 64 bits": (
        {"sequence_number": pa.array([1, 2, 3, 2**63, 2**64 - 1, 6], pa.uint64())},
        r"row 3 .*sequence_number cannot be read: Integer value 9223372036854775808 not in range",
    ),
    "unnamed network": (
        {"network": [["A", "B"], ["A"], [], ["A", None], ["A"], ["A"]]},
        r"row 3 .*model without a name",
    ),
    "no text": (
        {"text": None},
        r"has no column text; it has run, seq.*\. Name a column of texts with --text-column, or import w",
    ),
    "no vector": ({"vector": None}, r"has no column vector"),
    "text of numbers": ({"text": list(range(6))}, r"column text must hold strings; got int64"),
    "vector of strings": (
        {"vector": pa.array([["1", "2"]] * 6)},
        r"column vector must hold lists or tensors of one dimension of numbers; got list<.*string>",
    ),
    "vector of numbers": ({"vector": [1.0] * 6}, r"column vector must hold lists .*; got double"),
    "sequence of fractions": (
        {"sequence_number": [1.0, 3.0, 5.0, 1.5, 3.0, 5.0]},
        r"row 3 .*sequence_number must be a whole number of 64 bits at most; got 1\.5",
    ),
    "sequence of strings": (
        {"sequence_number": ["1"] * 6},
        r"column sequence_number must hold integers; got string",
    ),
    "seed too large": (
        {"seed": pa.array([2**64 - 1] * 6, pa.uint64())},
        r"row 0 .*seed cannot be read.*not in range",
    ),
}


@pytest.mark.parametrize(("changed", "message"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_bad_rows_are_named_and_nothing_is_imported(
    tmp_path: Path, database: Database, changed: dict[str, Any], message: str
) -> None:
    good = write(tmp_path / "good.parquet", columns(run=["good"] * 6, sequence_number=list(range(6))))
    bad = write(tmp_path / "bad.parquet", columns(**changed))
    with pytest.raises(BadInput, match=message) as caught:
        import_embeddings([good, bad], database)
    assert str(bad) in str(caught.value)
    assert count(database) == (0, 0, 0, 0)


@pytest.mark.parametrize("batch_rows", [0, 32_769])
def test_batches_of_other_sizes_are_refused(tmp_path: Path, database: Database, batch_rows: int) -> None:
    path = write(tmp_path / "a.parquet", columns(3, embedding_model=["A"] * 3))
    with pytest.raises(InvalidParameter, match=f"batch_rows must be from 1 to 32,768; got {batch_rows}"):
        import_embeddings([path], database, batch_rows=batch_rows)
    with pytest.raises(InvalidParameter):
        EmbeddingFile(path, batch_rows=batch_rows)


def test_row_numbers_count_over_batches(tmp_path: Path, database: Database) -> None:
    models = ["A", "B"] * 5
    bad = ragged(*[[1.0, 2]] * 9, [0, 0])
    path = write(tmp_path / "a.parquet", columns(10, embedding_model=models, vector=bad))
    with pytest.raises(BadInput, match=r"row 9 \(counted from 0\): the vector is zero"):
        import_embeddings([path], database, batch_rows=4)


def test_another_text_under_the_same_key_is_an_error(tmp_path: Path, database: Database) -> None:
    data = columns()
    import_embeddings([write(tmp_path / "a.parquet", data)], database)
    assert database.path is not None
    before = snapshot(database.path)
    data["text"] = [*data["text"][:4], "another", data["text"][5]]
    with pytest.raises(BadInput, match=r"b\.parquet, row 4 .*run second, sequence number 3.*another text"):
        import_embeddings([write(tmp_path / "b.parquet", data)], database)
    assert snapshot(database.path) == before


def test_other_vectors_under_the_same_keys_change_nothing(tmp_path: Path, database: Database) -> None:
    data = columns()
    import_embeddings([write(tmp_path / "a.parquet", data)], database)
    assert database.path is not None
    before = snapshot(database.path)
    data["vector"] = pa.concat_arrays([data["vector"][:2], vectors(4)])
    summary = import_embeddings([write(tmp_path / "b.parquet", data)], database)
    assert (summary.n_present, summary.n_differing, summary.n_new_embeddings) == (6, 4, 0)
    assert snapshot(database.path) == before


def test_the_same_key_twice_in_one_file(tmp_path: Path, database: Database) -> None:
    same = {"text": ["a", "a"], "run": ["r", "r"], "sequence_number": [0, 0]}
    vector = ragged([1.0, 2], [1, 2])
    path = write(tmp_path / "a.parquet", same | {"vector": vector})
    summary = import_embeddings([path], database, model="M")
    assert (summary.n_new_embeddings, summary.n_present) == (1, 1)
    path = write(tmp_path / "b.parquet", same | {"run": ["s", "s"], "vector": ragged([1.0, 2], [1, 3])})
    summary = import_embeddings([path], database, model="M")
    assert (summary.n_new_embeddings, summary.n_present, summary.n_differing) == (1, 1, 1)


def test_a_second_dimension_of_a_model_is_refused(tmp_path: Path, database: Database) -> None:
    first = write(tmp_path / "a.parquet", columns(width=4))
    other_path = write(
        tmp_path / "b.parquet", columns(width=5, run=["third"] * 6, sequence_number=[*range(6)])
    )
    message = r"b\.parquet, row 0 .*the vector has 5 dimensions, those of Model before it have 4"
    with pytest.raises(BadInput, match=message):
        import_embeddings([first, other_path], database)
    assert count(database) == (0, 0, 0, 0)
    import_embeddings([first], database)
    with pytest.raises(BadInput, match=message):
        import_embeddings([other_path], database)


def test_the_model_is_given_by_column_or_option_but_not_both(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", columns())
    with pytest.raises(WrongUsage, match="column embedding_model says Model, but model Other was requested"):
        import_embeddings([path], database, model="Other")
    assert count(database) == (0, 0, 0, 0)
    assert import_embeddings([path], database, model="Model").n_new_embeddings == 6
    path = write(tmp_path / "b.parquet", columns(embedding_model=None))
    for name, problem in (("", "is empty"), (" \t", "is empty"), ("a\0b", "holds a control character")):
        with pytest.raises(WrongUsage, match=f"the model's name {problem}; got {re.escape(repr(name))}"):
            import_embeddings([path], database, model=name)
    with pytest.raises(WrongUsage, match=r"has no column embedding_model.*--model"):
        import_embeddings([path], database)


def test_files_of_no_supported_format_are_refused(tmp_path: Path, database: Database) -> None:
    with pytest.raises(MissingPath, match=r"no file .*nowhere\.parquet"):
        import_embeddings([tmp_path / "nowhere.parquet"], database)
    with pytest.raises(MissingPath, match="is a folder"):
        import_embeddings([tmp_path], database)
    with pytest.raises(WrongUsage, match="no file to import"):
        import_embeddings([], database)
    for content in (b"PAR1 and then nothing", b"ARROW1 and then nothing"):
        (tmp_path / "odd").write_bytes(content)
        with pytest.raises(BadInput, match="odd cannot be read as Parquet or Arrow"):
            import_embeddings([tmp_path / "odd"], database)


def test_a_damaged_file_imports_nothing(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path / "a.parquet", columns(4000, width=64))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 3000] = bytes(3000)
    path.write_bytes(content)
    with pytest.raises(BadInput):
        import_embeddings([path], database)
    assert count(database) == (0, 0, 0, 0)


def test_files_are_checked_before_a_database_is_made(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", columns(vector=None))
    with pytest.raises(BadInput, match="no column vector"):
        require_files([path])


def test_a_database_that_needs_an_upgrade_is_refused(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    before = facts.path.read_bytes()
    with pytest.raises(NeedsUpgrade):
        import_embeddings(sample_files(), open_database(facts.path))
    assert facts.path.read_bytes() == before


# --------------------------------------------------------------------------- all or nothing

IMPORT = """
import sys
from panic_tda.storage.database import open_database
from panic_tda.files.importing import import_embeddings
import_embeddings(sys.argv[2:], open_database(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "times"),
    [("INSERT INTO embedding", 1), ("UPDATE run", 1)],
)
def test_a_killed_import_leaves_the_database_unchanged(
    tmp_path: Path, database: Database, statement: str, times: int
) -> None:
    import_embeddings([write(tmp_path / "a.parquet", columns())], database)
    assert database.path is not None
    before = snapshot(database.path)
    code = f"{KILL_AFTER}\nkill_after({statement!r}, {times})\n{IMPORT}"
    killed = run_python(code, database.path, *sample_files()[:1])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert snapshot(database.path) == before
    assert import_embeddings(sample_files()[:1], database).n_new_embeddings == 2400


def test_a_full_disk_leaves_the_database_unchanged(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panic_tda.storage import connections

    import_embeddings([write(tmp_path / "a.parquet", columns())], database)
    assert database.path is not None
    before = snapshot(database.path)
    connect = connections.connect

    def small(*arguments: Any) -> sqlite3.Connection:
        connection = connect(*arguments)
        connection.execute("PRAGMA max_page_count = 200")
        return connection

    monkeypatch.setattr(connections, "connect", small)
    with pytest.raises(DatabaseError, match="full"):
        import_embeddings(sample_files(), database)
    assert snapshot(database.path) == before
