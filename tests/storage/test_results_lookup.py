"""Test the lookup of stored clusterings, its errors, and the details of clusters."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import pytest

from panic_tda.errors import InvalidParameter, UnknownClustering, UnknownModel
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import (
    find_clustering,
    find_clusterings,
    get_cluster_details,
    get_medoid_invocation,
    list_clusterings,
)
from panic_tda.storage.write.saving import save_clustering
from panic_tda.types import FinishedClustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import opened


def save(database: Database, finished: FinishedClustering) -> FinishedClustering:
    with database.writing() as connection:
        save_clustering(connection, finished)
    return finished


@pytest.fixture
def two_models(upgraded: MakeFile) -> tuple[UpgradedFile, FinishedClustering, FinishedClustering]:
    file = upgraded()
    models = ("Nomic", "STSBMpnet")
    first, second = (save(file.database, make_finished(ids_of(file, model), model=model)) for model in models)
    return file, first, second


def test_a_model_without_clusterings_lists_none_and_an_unknown_model_is_an_error(
    upgraded: MakeFile,
) -> None:
    file = upgraded()
    nomic = save(file.database, make_finished(ids_of(file)))
    with file.database.session() as session:
        assert [clustering.id for clustering in list_clusterings(session, model="Nomic")] == [nomic.id]
        assert list_clusterings(session, model="STSBMpnet") == []
        names = ", ".join(sorted(file.facts.models))
        message = f"no embeddings of model Nobody; the database has: {names}"
        with pytest.raises(UnknownModel, match=f"^{re.escape(message)}$"):
            list_clusterings(session, model="Nobody")


def test_an_empty_database_lists_nothing_and_says_how_to_make_one(upgraded: MakeFile) -> None:
    with upgraded().database.session() as session:
        assert list_clusterings(session) == find_clusterings(session) == []
        message = "no clustering is stored; make one with panic-tda cluster-embeddings"
        with pytest.raises(UnknownClustering, match=f"^{message}$"):
            find_clustering(session)


def test_a_clustering_is_named_with_its_time(upgraded: MakeFile) -> None:
    file = upgraded()
    save(file.database, make_finished(ids_of(file)))
    with opened(file.path) as connection:
        connection.execute("UPDATE clusteringresult SET created_at = '2025-07-15 12:00:00'")
    with file.database.session() as session:
        assert find_clustering(session).created_at == datetime(2025, 7, 15, 12)


def test_one_clustering_is_found_by_its_id_its_beginning_or_its_model(
    two_models: tuple[UpgradedFile, FinishedClustering, FinishedClustering],
) -> None:
    file, first, second = two_models
    with file.database.session() as session:
        for summary in (first, second):
            assert find_clustering(session, str(summary.id)).id == summary.id
            assert find_clustering(session, summary.id.hex, model=summary.embedding_model).id == summary.id
            assert find_clustering(session, model=summary.embedding_model).id == summary.id


def test_latest_of_several_models_is_refused_with_their_names(
    two_models: tuple[UpgradedFile, FinishedClustering, FinishedClustering],
) -> None:
    file, *_ = two_models
    message = (
        "latest is the latest clustering of one model, and there are clusterings of Nomic, STSBMpnet; "
        "choose one with --model, or give an id that list-clusterings shows"
    )
    with file.database.session() as session, pytest.raises(UnknownClustering, match=f"^{message}$"):
        find_clustering(session)


def test_a_clustering_of_another_model_is_refused_with_both(
    two_models: tuple[UpgradedFile, FinishedClustering, FinishedClustering],
) -> None:
    file, first, _ = two_models
    message = f"clustering {first.id} is of model Nomic, not of STSBMpnet"
    with file.database.session() as session, pytest.raises(UnknownClustering, match=f"^{message}$"):
        find_clustering(session, str(first.id), model="STSBMpnet")


def test_a_beginning_of_none_or_several_is_refused_with_what_to_do(upgraded: MakeFile) -> None:
    file = upgraded()
    for identity in ("1" * 32, "1" * 31 + "2"):
        save(file.database, replace(make_finished(ids_of(file)), id=UUID(identity)))
    for count, beginning in (("2", "11"), ("none", "f")):
        message = (
            f"{count} of 2 stored clusterings begin with '{beginning}'; give an id that list-clusterings "
            "shows, or enough of its beginning to be unique"
        )
        with file.database.session() as session, pytest.raises(UnknownClustering, match=f"^{message}$"):
            find_clustering(session, beginning)


@pytest.mark.parametrize("wrong", ["", "latest", "1" * 31, "g" * 32])
def test_an_invalid_id_is_refused(upgraded: MakeFile, wrong: str) -> None:
    message = f"clustering_result_id must have 32 hexadecimal digits, with or without dashes; got '{wrong}'"
    with upgraded().database.session() as session:
        for ask in (
            lambda: get_cluster_details(wrong, session),
            lambda: get_medoid_invocation(0, wrong, session),
        ):
            with pytest.raises(InvalidParameter, match=f"^{message}$"):
                ask()


def test_the_number_of_copies_is_read_as_stored(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    counted = {label: 100 + label for label in finished.medoids}
    save(file.database, replace(finished, medoid_copies=counted))
    with file.database.session() as session:
        details = get_cluster_details(finished.id, session)
    assert {detail.label: detail.medoid_copies for detail in details} == counted


def test_copies_of_clusterings_that_did_not_count_are_counted_in_each_alone(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=6, duplicates=0.5))
    by_id = {embedding.id: embedding.invocation for embedding in file.facts.of("Nomic")}
    both = [save(file.database, make_finished(ids_of(file), seed=seed)) for seed in (1, 2)]
    for finished in both:
        texts = [getattr(by_id[identity.decode()], "text", None) for identity in finished.ids]
        expected = {
            label: sum(
                text == texts[medoid] for text, of in zip(texts, finished.labels, strict=True) if of == label
            )
            for label, medoid in finished.medoids.items()
        }
        assert max(expected.values()) > 1
        with file.database.session() as session:
            details = get_cluster_details(finished.id, session)
        assert {detail.label: detail.medoid_copies for detail in details} == expected


def test_a_text_made_of_a_text_has_no_image(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=0, both_parities_runs=3))
    finished = save(file.database, make_finished(ids_of(file)))
    by_id = {embedding.id: embedding.invocation for embedding in file.facts.of("Nomic")}
    made_of = {by_id[finished.ids[row].decode()] for row in finished.medoids.values()}
    assert any(invocation is not None and invocation.input_id for invocation in made_of)
    with file.database.session() as session:
        details = get_cluster_details(finished.id, session)
    assert {detail.medoid_image_invocation_id for detail in details} == {None}


def test_clusters_are_ordered_by_label(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = save(file.database, make_finished(ids_of(file)))
    with file.database.session() as session:
        session.connection().exec_driver_sql("PRAGMA reverse_unordered_selects = ON")
        for limit in (None, 2):
            details = get_cluster_details(finished.id, session, limit=limit)
            assert [detail.label for detail in details] == sorted(finished.medoids)[:limit]
