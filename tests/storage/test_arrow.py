"""A stored clustering as one Arrow table."""

from __future__ import annotations

import numpy as np
import pytest

import panic_tda
from panic_tda.errors import MissingPath, UnknownClustering
from tests.conftest import MakeFile
from tests.exported import COLUMNS, clustered, expected_rows
from tests.field_files import FieldSpec

SPEC = FieldSpec(text_models=("Nomic", "Other"))


def test_a_table_has_the_rows_of_the_clustering(upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    first, second = (clustered(file.database, model, 1) for model in ("Nomic", "Other"))
    table = panic_tda.read_clustering(file.path, "latest", model="Other")
    assert tuple(table.column_names) == COLUMNS
    assert table.drop_columns(["core_distance"]).to_pylist() == expected_rows(file.target, second.id)
    by_id = panic_tda.read_clustering(str(file.path), str(first.id)[:13], with_vectors=True)
    assert by_id.num_rows == first.record.n_embeddings
    assert np.stack(by_id["vector"].to_numpy()).shape[0] == by_id.num_rows
    assert str(first.id).encode() in by_id.schema.metadata[b"panic_tda"]


def test_rows_that_cannot_be_read_are_an_error(upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    with pytest.raises(UnknownClustering, match="no clustering is stored"):
        panic_tda.read_clustering(file.database)
    for model in ("Nomic", "Other"):
        clustered(file.database, model, 1)
    with pytest.raises(UnknownClustering, match="Nomic"):
        panic_tda.read_clustering(file.database)
    with pytest.raises(MissingPath):
        panic_tda.read_clustering(file.path.with_name("none.sqlite"))
