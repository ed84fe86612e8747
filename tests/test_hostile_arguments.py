"""Test that a command answers or fails in words for any command line, and that nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.upgrade import upgrade
from tests.field_files import FieldSpec, write_field_file
from tests.hostile import command_line, require_harmless

pytestmark = pytest.mark.xdist_group("hostile arguments")


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small database with clusterings."""
    path = tmp_path_factory.mktemp("hostile") / "field.sqlite"
    write_field_file(path, FieldSpec())
    upgrade(open_database(path))
    cluster_all_data(path, parameters=ClusteringParameters(min_cluster_size=2))
    return path


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide packages that take seconds to import."""
    for name in ("umap", "datamapplot"):
        monkeypatch.setitem(sys.modules, name, None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data(), st.integers(0, 5))
def test_a_hostile_command_line_changes_nothing_and_prints_no_control_character(
    clustered: Path, tmp_path: Path, data: st.DataObject, n_words: int
) -> None:
    words = command_line(lambda several: data.draw(st.sampled_from(several)), n_words)
    require_harmless(clustered, tmp_path / "run", words)


NO_TEXT = "\udcff\udc9b31m"
"""As bytes that are no UTF-8 come from the command line."""


@pytest.mark.parametrize(
    "words",
    [
        ["import-embeddings", NO_TEXT],
        ["list-clusterings", "--db", NO_TEXT],
        ["list-clusterings", "--model", NO_TEXT],
        ["show-clustering", NO_TEXT],
        ["copy-database", NO_TEXT, NO_TEXT],
        ["list-clusterings", "--log-file", NO_TEXT],
        ["export-clustering", "latest", NO_TEXT + ".parquet", "--model", "Nomic"],
        ["report-clustering", "-o", NO_TEXT + ".html", "--model", "Nomic"],
    ],
    ids=lambda words: words[0],
)
def test_bytes_that_are_not_utf8_are_accepted_in_file_names_only(
    clustered: Path, tmp_path: Path, words: list[str]
) -> None:
    # With a file of that name, and without one.
    for there in (True, False):
        require_harmless(clustered, tmp_path / "run", words, also=NO_TEXT if there else None)
