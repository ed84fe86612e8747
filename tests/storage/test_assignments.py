"""Assignments come back as they were saved, in the order of their ids."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda.errors import UnknownClustering, UnknownModel
from panic_tda.storage.assignments import read_assignments
from panic_tda.storage.results import find_clustering
from panic_tda.storage.saving import save_clustering
from panic_tda.storage.schemas import uuid7
from tests.conftest import MakeFile, ids_of, make_finished


def test_assignments_are_read_back_in_the_order_of_ids(upgraded: MakeFile) -> None:
    file = upgraded()
    first, second = (make_finished(ids_of(file), seed=seed) for seed in (0, 1))
    with file.database.writing() as connection:
        save_clustering(connection, first)
        save_clustering(connection, second)
    with file.database.reading() as connection:
        found = read_assignments(connection, second.id)
        nothing = read_assignments(connection, uuid7())
    assert found.ids.tolist() == second.ids.tolist() == sorted(second.ids.tolist())
    np.testing.assert_array_equal(found.labels, second.labels)
    np.testing.assert_array_equal(found.probabilities, second.probabilities)
    assert not np.array_equal(first.labels, second.labels)
    assert (len(nothing.ids), nothing.ids.dtype, nothing.labels.dtype) == (0, np.dtype("S32"), np.int64)


def test_latest_is_of_one_model(upgraded: MakeFile) -> None:
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
