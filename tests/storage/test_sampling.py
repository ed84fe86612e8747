"""Test that downsampling keeps the outputs of the sampling rule, in every kind of file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.loading import load_embeddings
from panic_tda.storage.schema.sampling import output_indices, sample
from panic_tda.storage.schema.tables import Embedding
from tests.conftest import MakeFile
from tests.field_files import EVERYTHING, FieldSpec, StoredInvocation

pytestmark = pytest.mark.both_engines

FACTORS = (1, 2, 3, 4, 5, 7, 10, 19, 20, 21, 1000)
HOLES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 19), (3, 10), (3, 11))
SPECS = {
    "alternating": FieldSpec(vision_models=("NomicVision",)),
    "odd length": FieldSpec(length=7, vision_models=("NomicVision",)),
    "holes": FieldSpec(holes=HOLES, vision_models=("NomicVision",)),
    "text-only runs": FieldSpec(runs=0, text_only_runs=3, holes=HOLES),
    "both parities": FieldSpec(runs=0, both_parities_runs=3, holes=HOLES),
    "both parities but for one": FieldSpec(
        runs=0, both_parities_runs=1, length=6, holes=((0, 0), (0, 2), (0, 4))
    ),
    "one step": FieldSpec(length=2, vision_models=("NomicVision",)),
    "orphans": FieldSpec(orphan_embeddings=7, orphan_invocations=5),
    "layout 3": FieldSpec(layout=3, migrated=True),
    "ids of digits": FieldSpec(digit_ids=True),
    "everything": replace(EVERYTHING, orphan_invocations=20),
}
HAVE_ALL_KINDS = ("both parities but for one", "everything")
"""Together these have every kind of run: the server is asked about no others."""
EACH_SPEC = [
    pytest.param(
        spec, id=name, marks=() if name in HAVE_ALL_KINDS else pytest.mark.sqlite_only("as in `everything`")
    )
    for name, spec in SPECS.items()
]


def chosen_ids(database: Database, model: str, factor: int) -> list[str]:
    rule = sample(factor)
    query = (
        sa.select(Embedding.id)
        .select_from(rule.source)
        .where(Embedding.embedding_model == model, rule.chosen)
        .order_by(Embedding.id)
    )
    with database.reading() as connection:
        return [identity.hex for identity in connection.execute(query).scalars()]


@pytest.mark.parametrize("spec", EACH_SPEC)
def test_the_rule_holds_in_every_kind_of_file(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    for model in facts.models:
        for factor in FACTORS:
            expected = [embedding.id for embedding in facts.sample(model, factor)]
            assert chosen_ids(database, model, factor) == expected, (model, factor)


@pytest.mark.parametrize("spec", EACH_SPEC)
def test_sampled_and_other_rows_are_all_rows(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    for factor in (1, 3):
        rule = sample(factor)
        query = sa.select(Embedding.id).select_from(rule.source)
        with database.reading() as connection:
            left_out = {identity.hex for identity in connection.scalars(query.where(~rule.chosen))}
            orphaned = {identity.hex for identity in connection.scalars(query.where(rule.orphaned))}
        sampled = {e.id for model in facts.models for e in facts.sample(model, factor)}
        assert left_out == {e.id for e in facts.embeddings} - sampled
        assert orphaned == {e.id for e in facts.embeddings if e.invocation is None}


@pytest.mark.parametrize("spec", EACH_SPEC)
def test_the_output_index_is_the_same_in_sql_and_python(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    expected = {e.id: facts.output_index(e.invocation) if e.invocation else None for e in facts.embeddings}
    for factor, indices in ((2, expected), (1, dict.fromkeys(expected))):
        rule = sample(factor)
        query = sa.select(Embedding.id, rule.output_index).select_from(rule.source)
        with database.reading() as connection:
            index_by_id = {identity.hex: index for identity, index in connection.execute(query)}
        assert index_by_id == indices
        assert {type(index) for index in index_by_id.values()} <= {int, type(None)}
    of_run: dict[tuple[str, str], list[StoredInvocation]] = {}
    for invocation in facts.invocations:
        of_run.setdefault((invocation.run_id, invocation.type), []).append(invocation)
    for run in of_run.values():
        numbers = np.array([invocation.sequence_number for invocation in run])
        assert output_indices(numbers).tolist() == [facts.output_index(invocation) for invocation in run]


@pytest.mark.parametrize("spec", EACH_SPEC)
def test_the_census_counts_the_same(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    for factor in FACTORS:
        census = take_census(database, factor)
        assert list(census) == facts.models
        for model in facts.models:
            assert census[model].n_total == facts.count(model)
            assert census[model].n_orphans == facts.count(model) - len(facts.sample(model))
            assert census[model].n_sampled == len(facts.sample(model, factor)), (model, factor)


def test_no_even_factor_samples_zero_texts(upgraded: MakeFile) -> None:
    # Texts sit at odd sequence numbers: `sequence_number % 2 = 0` finds none of them.
    database, facts = upgraded(FieldSpec())
    assert {e.invocation.sequence_number % 2 for e in facts.of("Nomic") if e.invocation} == {1}
    for factor in (2, 4, 10):
        assert len(chosen_ids(database, "Nomic", factor)) == 4 * -(-10 // factor)


def test_models_of_one_output_type_sample_the_same_invocations(upgraded: MakeFile) -> None:
    spec = FieldSpec(holes=HOLES, vision_models=("NomicVision", "JinaClipVision"), both_parities_runs=1)
    database, facts = upgraded(spec)
    by_id = {e.id: e.invocation.id for e in facts.embeddings if e.invocation}
    for factor in FACTORS:
        for first, second in (spec.text_models, spec.vision_models):
            ones, others = (chosen_ids(database, model, factor) for model in (first, second))
            assert {by_id[identity] for identity in ones} == {
                by_id[other_identity] for other_identity in others
            }


def test_a_hole_does_not_shift_the_index(upgraded: MakeFile) -> None:
    _, whole_file = upgraded(FieldSpec(runs=1, length=40), "whole.sqlite")
    database, facts = upgraded(FieldSpec(runs=1, length=40, holes=((0, 3), (0, 21))), "holes.sqlite")
    sequence_numbers = [e.invocation.sequence_number for e in whole_file.sample("Nomic", 5) if e.invocation]
    assert sequence_numbers == [1, 11, 21, 31]
    numbers = {e.id: e.invocation.sequence_number for e in facts.embeddings if e.invocation}
    assert [numbers[embedding_id] for embedding_id in chosen_ids(database, "Nomic", 5)] == [1, 11, 31]


def test_a_larger_multiple_samples_a_subset(upgraded: MakeFile) -> None:
    database, _ = upgraded(EVERYTHING)
    for factor in (1, 2, 3, 5):
        for multiple in (2, 3, 4):
            coarse = set(chosen_ids(database, "Nomic", factor * multiple))
            assert coarse <= set(chosen_ids(database, "Nomic", factor))


def test_the_largest_factor_takes_first_outputs_only(upgraded: MakeFile) -> None:
    database, facts = upgraded(FieldSpec())
    assert chosen_ids(database, "Nomic", 2**63 - 1) == [e.id for e in facts.sample("Nomic", 2**63 - 1)]


def test_a_file_without_runs_samples_nothing(tmp_path: Path) -> None:
    assert take_census(open_database(tmp_path / "new.sqlite", create=True), 10) == {}


@pytest.mark.parametrize(
    ("factor", "n_texts", "n_dummies"), [(1, 985, 25), (2, 493, 13), (3, 333, 9), (10, 99, 3), (1000, 12, 1)]
)
def test_the_real_field_file_has_the_known_sample_sizes(
    real_file: Database, factor: int, n_texts: int, n_dummies: int
) -> None:
    census = take_census(real_file, factor)
    models = set(census) - {"Dummy"}
    assert len(models) == 3
    assert {census[model].n_sampled for model in models} == {n_texts}
    assert census["Dummy"].n_sampled == n_dummies
    for name, census_of_model in census.items():
        matrix = load_embeddings(real_file, census_of_model, downsample=factor)
        assert len(matrix.ids) == census_of_model.n_sampled, name
