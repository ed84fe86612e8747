"""Test that assignments are read back as saved, in the order of their ids."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda.errors import UnknownClustering, UnknownModel
from panic_tda.storage.read.assignments import read_assignments, read_invocations
from panic_tda.storage.read.results import find_clustering
from panic_tda.storage.schema.tables import uuid7
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, ids_of, make_finished
from tests.field_files import FieldSpec

pytestmark = pytest.mark.both_engines


def test_assignments_are_read_back_in_the_order_of_ids(upgraded: MakeFile) -> None:
    file = upgraded()
    first, second = (make_finished(ids_of(file), seed=seed) for seed in (0, 1))
    with file.database.writing() as connection:
        save_clustering(connection, first)
        save_clustering(connection, second)
    with file.database.reading() as connection:
        assignments = read_assignments(connection, second.id)
        nothing = read_assignments(connection, uuid7())
    assert assignments.ids.tolist() == second.ids.tolist() == sorted(second.ids.tolist())
    np.testing.assert_array_equal(assignments.labels, second.labels)
    np.testing.assert_array_equal(assignments.probabilities, second.probabilities)
    assert not np.array_equal(first.labels, second.labels)
    assert (len(nothing.ids), nothing.ids.dtype, nothing.labels.dtype) == (0, np.dtype("S32"), np.int64)


@pytest.mark.parametrize("digit_ids", [False, True])
def test_invocations_are_read_with_their_assignments(upgraded: MakeFile, digit_ids: bool) -> None:
    file = upgraded(FieldSpec(digit_ids=digit_ids, unique="index"))
    of = {
        embedding.id: embedding.invocation.id
        for embedding in file.facts.embeddings
        if embedding.invocation is not None
    }
    finished = make_finished(ids_of(file)[::2])
    with file.database.writing() as connection:
        save_clustering(connection, finished)
    removed_id = finished.ids[3].decode()
    with file.opened() as raw:  # where nothing cascades
        raw.execute("DELETE FROM embedding WHERE id = ?", (removed_id,))
    with file.database.reading() as connection:
        invocation, nothing = (
            read_invocations(
                connection, "Nomic", read_assignments(connection, identity, with_locators=True).locators
            )
            for identity in (finished.id, uuid7())
        )
        of_no_model = read_invocations(connection, "Other", np.array([1, 2]))
    assert invocation.tolist() == [
        b"" if embedding_id.decode() == removed_id else of[embedding_id.decode()].encode()
        for embedding_id in finished.ids.tolist()
    ]
    assert (len(nothing), nothing.dtype) == (0, np.dtype("S32"))
    assert of_no_model.tolist() == [b"", b""]


def test_latest_needs_one_model(upgraded: MakeFile) -> None:
    file = upgraded()
    with (
        file.database.session() as session,
        pytest.raises(UnknownClustering, match="no clustering is stored"),
    ):
        find_clustering(session)
    clusterings = [make_finished(ids_of(file, model), model=model) for model in ("Nomic", "STSBMpnet")]
    with file.database.writing() as connection:
        for finished in clusterings:
            save_clustering(connection, finished)
    with file.database.session() as session:
        with pytest.raises(UnknownClustering, match=r"of Nomic, STSBMpnet.*--model"):
            find_clustering(session)
        for finished in clusterings:
            assert find_clustering(session, model=finished.embedding_model).id == finished.id
        with pytest.raises(UnknownModel):
            find_clustering(session, model="Other")
