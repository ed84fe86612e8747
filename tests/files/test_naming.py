"""Test how runs of files without a column `run` are identified as the files grow."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda.errors import BadInput
from panic_tda.files import importing
from panic_tda.files.importing import import_embeddings
from panic_tda.storage.database import Database
from tests.snapshots import rows, snapshot

TEXTS = [f"text {row % 150}" for row in range(300)]
NAMES = itertools.count()


def write(folder: Path, texts: list[str], **more: Any) -> Path:
    """Write a file without runs; equal texts have equal vectors."""
    vectors = [np.random.default_rng(list(text.encode())).standard_normal(4).tolist() for text in texts]
    path = folder / f"{next(NAMES)}.parquet"
    pq.write_table(
        pa.table({"text": texts, "vector": pa.array(vectors, pa.list_(pa.float32())), **more}), path
    )
    return path


def count(database: Database) -> tuple[int, ...]:
    """Runs, invocations and embeddings."""
    return tuple(
        rows(database, f"SELECT count(*) FROM {table}")[0][0] for table in ("run", "invocation", "embedding")
    )


def former_name(texts: list[str], numbers: list[int] | None = None) -> str:
    """Return the run name of earlier versions: a hash of all rows of the file."""
    encoded = [text.encode() for text in texts]
    parts = (
        np.array([len(text) for text in encoded], dtype="<i8").tobytes(),
        b"".join(encoded),
        np.array(numbers or range(len(texts)), dtype="<i8").tobytes(),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def import_as_before(path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import a file as earlier versions did, under the former name of its run."""
    table = pq.read_table(path)
    numbers = table["sequence_number"].to_pylist() if "sequence_number" in table.column_names else None
    name = former_name(table["text"].to_pylist(), numbers)
    with monkeypatch.context() as patch:
        patch.setattr(importing, "derive_run_name", lambda *_, **__: name)
        import_embeddings([path], database, model="A")


def test_the_former_name_of_a_run_has_not_changed() -> None:
    # Written down from the code that made it.
    assert former_name(["a", "bc", ""]) == "824e3690efcaf7b1cd727c70f316877d6a212acb16f5ebedb2833f3e43ae212a"


def test_a_grown_file_adds_its_new_rows_only(tmp_path: Path, database: Database) -> None:
    import_embeddings([write(tmp_path, TEXTS[:200])], database, model="A")
    grown = write(tmp_path, TEXTS)
    summary = import_embeddings([grown], database, model="A")
    assert (summary.n_new_embeddings, summary.n_new_invocations, summary.n_new_runs) == (100, 100, 0)
    assert count(database) == (1, 300, 300)
    assert rows(database, "SELECT sequence_number, output_text FROM invocation ORDER BY 1") == [
        *enumerate(TEXTS)
    ]
    assert rows(database, "SELECT max_length FROM run") == [(300,)]
    assert import_embeddings([grown], database, model="A").n_present == 300


@pytest.mark.parametrize("lengths", [(100, 300, 200, 300), (200, 100, 100, 300), (300, 100, 300, 200)])
def test_models_of_one_run_share_invocations_at_any_progress(
    tmp_path: Path, database: Database, lengths: tuple[int, ...]
) -> None:
    for length, model in zip(lengths, "ABAB", strict=True):
        import_embeddings([write(tmp_path, TEXTS[:length])], database, model=model)
    assert count(database) == (1, 300, max(lengths[::2]) + max(lengths[1::2]))


def test_a_run_is_recognised_by_its_former_name(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_as_before(write(tmp_path, TEXTS[:200]), database, monkeypatch)
    assert database.path is not None
    before = snapshot(database.path)
    assert import_embeddings([write(tmp_path, TEXTS[:200])], database, model="A").n_present == 200
    assert snapshot(database.path) == before
    import_embeddings([write(tmp_path, TEXTS)], database, model="A")
    import_embeddings([write(tmp_path, TEXTS)], database, model="B")
    assert count(database) == (1, 300, 600)


def test_a_file_imported_twice_adds_nothing(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in (200, 300):
        import_as_before(write(tmp_path, TEXTS[:length]), database, monkeypatch)
    assert count(database) == (2, 500, 500)
    for length in (300, 200):
        import_embeddings([write(tmp_path, TEXTS[:length])], database, model="A")
    assert count(database) == (2, 500, 500)
    import_embeddings([write(tmp_path, [*TEXTS, "one more"])], database, model="A")
    assert count(database) == (2, 501, 501)


def test_sequence_numbers_of_the_former_name_are_the_files_own(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [2 * row + 1 for row in range(300)]
    import_as_before(write(tmp_path, TEXTS[:200], sequence_number=numbers[:200]), database, monkeypatch)
    import_embeddings([write(tmp_path, TEXTS, sequence_number=numbers)], database, model="A")
    assert count(database) == (1, 300, 300)


def test_files_that_begin_alike_are_different_runs(tmp_path: Path, database: Database) -> None:
    files = [["same", "also", f"other {number}", *TEXTS] for number in range(5)]
    for model in "AB":
        for texts in files:
            import_embeddings([write(tmp_path, texts[:50])], database, model=model)
    assert count(database) == (5, 250, 500)
    for texts in files[::-1]:
        import_embeddings([write(tmp_path, texts[:60])], database, model="A")
    assert count(database) == (5, 300, 550)


def test_one_text_that_differs_makes_another_run(tmp_path: Path, database: Database) -> None:
    import_embeddings([write(tmp_path, TEXTS)], database, model="A")
    corrected = [*TEXTS[:250], "corrected", *TEXTS[251:]]
    import_embeddings([write(tmp_path, corrected)], database, model="A")
    assert count(database) == (2, 600, 600)
    assert import_embeddings([write(tmp_path, corrected)], database, model="A").n_present == 300


def test_another_order_is_another_run_unless_rows_are_numbered(tmp_path: Path, database: Database) -> None:
    order = np.random.default_rng(0).permutation(300).tolist()
    mixed = [TEXTS[row] for row in order]
    import_embeddings([write(tmp_path, TEXTS, sequence_number=list(range(300)))], database, model="A")
    import_embeddings([write(tmp_path, mixed, sequence_number=order)], database, model="A")
    assert count(database) == (1, 300, 300)
    import_embeddings([write(tmp_path, mixed)], database, model="A")
    assert count(database) == (2, 600, 600)


def test_models_of_several_files_share_invocations(tmp_path: Path, database: Database) -> None:
    beginning_alike = [*TEXTS[:2], "something else"]
    import_embeddings([write(tmp_path, beginning_alike)], database, model="A")
    import_embeddings([write(tmp_path, TEXTS[:200])], database, model="A")
    both = write(tmp_path, [*TEXTS, *TEXTS], embedding_model=["A"] * 300 + ["B"] * 300)
    import_embeddings([both], database)
    assert count(database) == (2, 303, 603)
    grown = [*TEXTS, "one more"]
    import_embeddings([write(tmp_path, grown * 2, embedding_model=["A"] * 301 + ["B"] * 301)], database)
    assert count(database) == (2, 304, 605)


def test_seeds_of_one_file_are_runs_of_their_own(tmp_path: Path, database: Database) -> None:
    seeds = [row % 3 for row in range(300)]
    for length in (200, 300):
        import_embeddings([write(tmp_path, TEXTS[:length], seed=seeds[:length])], database, model="A")
    assert count(database) == (3, 300, 300)
    # Runs of further seeds come behind, whatever they begin with.
    more = [f"further {number}" for number in range(60)]
    grown = write(tmp_path, [*TEXTS, *more], seed=[*seeds, *range(10, 70)])
    assert import_embeddings([grown], database, model="A").n_present == 300
    assert count(database) == (63, 360, 360)
    # Other seeds are other runs, whatever the texts.
    import_embeddings([write(tmp_path, TEXTS)], database, model="A")
    assert count(database) == (64, 660, 660)


def test_a_seed_added_in_front_changes_nothing(tmp_path: Path, database: Database) -> None:
    numbers = list(range(300))
    import_embeddings(
        [write(tmp_path, [*TEXTS[:2], "something else"], seed=[1] * 3)], database, model="A", batch_rows=7
    )
    import_embeddings(
        [write(tmp_path, TEXTS, sequence_number=numbers, seed=[1] * 300)], database, model="A", batch_rows=7
    )
    late = list(range(400, 410))
    texts, seeds = ["last"] * 10 + TEXTS + ["last"] * 10, [2] * 10 + [1] * 300 + [3] * 10
    path = write(tmp_path, texts, sequence_number=[*late, *numbers, *late], seed=seeds)
    assert import_embeddings([path], database, model="A", batch_rows=7).n_present == 300
    assert count(database) == (4, 323, 323)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [range(5), range(3, 9), (0, 4, 19)])
@pytest.mark.parametrize("in_columns", [{}, {"seed": 7}, {"initial_prompt": "p"}])
def test_numbered_rows_may_be_added_anywhere(
    tmp_path: Path, database: Database, missing: Any, in_columns: dict[str, Any]
) -> None:
    there = [row for row in range(20) if row not in missing]
    # Another run has the same first text, so that the name of this one is not that of its first row alone.
    texts_of_other_run = [TEXTS[there[0]], "something else"]
    more = {name: [value] * 2 for name, value in in_columns.items()}
    import_embeddings(
        [write(tmp_path, texts_of_other_run, sequence_number=there[:2], **more)], database, model="A"
    )
    for model in "AB":
        for rows_now in (there, range(20), there):
            more = {name: [value] * len(rows_now) for name, value in in_columns.items()}
            texts, numbers = [TEXTS[row] for row in rows_now], list(rows_now)
            import_embeddings(
                [write(tmp_path, texts, sequence_number=numbers, **more)], database, model=model
            )
    assert count(database) == (2, 22, 42)


def test_a_row_in_front_is_another_run_where_texts_disagree(tmp_path: Path, database: Database) -> None:
    import_embeddings([write(tmp_path, TEXTS[5:20], sequence_number=list(range(5, 20)))], database, model="A")
    corrected = [*TEXTS[:10], "corrected", *TEXTS[11:20]]
    import_embeddings([write(tmp_path, corrected, sequence_number=list(range(20)))], database, model="A")
    assert count(database) == (2, 35, 35)


@pytest.mark.parametrize("place", [0, 7])
def test_without_numbers_a_row_between_others_makes_another_run(
    tmp_path: Path, database: Database, place: int
) -> None:
    import_embeddings([write(tmp_path, TEXTS[:20])], database, model="A")
    longer = [*TEXTS[:place], "put in", *TEXTS[place:20]]
    import_embeddings([write(tmp_path, longer)], database, model="A")
    assert count(database) == (2, 41, 41)
    import_embeddings([write(tmp_path, TEXTS[:20], run=["named"] * 20)], database, model="A")
    with pytest.raises(BadInput, match=rf"row {place} .*another text is stored .* another sequence number"):
        import_embeddings([write(tmp_path, longer, run=["named"] * 21)], database, model="A")


def test_both_models_of_a_file_can_grow_anywhere(tmp_path: Path, database: Database) -> None:
    def both(first: list[int], second: list[int], order: str) -> Path:
        rows_of = {"A": iter(first), "B": iter(second)}
        texts = [TEXTS[next(rows_of[model])] for model in order]
        return write(tmp_path, texts, embedding_model=list(order))

    four, six = list(range(4)), list(range(6))
    import_embeddings([both(four, four, "AAAABBBB")], database)
    assert count(database) == (1, 4, 8)
    import_embeddings([both(six, four, "AAAAAABBBB")], database)
    assert count(database) == (1, 6, 10)
    import_embeddings([both(six, six, "AAAABBBBAABB")], database)
    import_embeddings([both(six, six, "ABABABABABAB")], database)
    assert count(database) == (1, 6, 12)


@pytest.mark.parametrize("numbered", [False, True])
def test_named_runs_can_grow_in_the_middle_of_their_file(
    tmp_path: Path, database: Database, numbered: bool
) -> None:
    for length in (5, 8):
        for model in "AB":
            names = ["first"] * length + ["second"] * length
            numbers = {"sequence_number": [*range(length)] * 2} if numbered else {}
            path = write(tmp_path, TEXTS[: 2 * length : 2] + TEXTS[1 : 2 * length : 2], run=names, **numbers)
            import_embeddings([path], database, model=model)
    assert count(database) == (2, 16, 32)


def test_named_runs_stay_separate(tmp_path: Path, database: Database) -> None:
    import_embeddings([write(tmp_path, TEXTS, run=["named"] * 300)], database, model="A")
    import_embeddings([write(tmp_path, TEXTS)], database, model="A")
    assert count(database) == (2, 600, 600)


def test_files_of_one_call_share_runs(tmp_path: Path, database: Database) -> None:
    files = [write(tmp_path, TEXTS[:length]) for length in (100, 300, 200)]
    import_embeddings(files, database, model="A")
    assert count(database) == (1, 300, 300)
    assert rows(database, "SELECT max_length FROM run") == [(300,)]
    ((networks,),) = rows(database, "SELECT networks FROM experimentconfig")
    assert json.loads(networks) == [["imported"]]


def test_a_contradiction_within_one_file_is_refused(tmp_path: Path, database: Database) -> None:
    path = write(tmp_path, ["a", "b"], sequence_number=[0, 0])
    with pytest.raises(BadInput, match=r"row 1 .*another text"):
        import_embeddings([path], database, model="A")
    assert count(database) == (0, 0, 0)
