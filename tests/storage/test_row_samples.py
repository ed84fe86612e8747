"""Test that a row sample consists of complete runs or long pieces, chosen by the sampling rule."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from panic_tda.storage.read.census import take_census, take_censuses
from panic_tda.storage.read.row_samples import FEWEST_RUNS, RowSample, read_row_sample
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import EVERYTHING, FieldSpec, StoredEmbedding
from tests.storage.test_sampling import EACH_SPEC, FACTORS

pytestmark = pytest.mark.both_engines

MANY_RUNS = FieldSpec(runs=40, length=60, duplicates=0.0, dummy_rows=12)
"""40 runs of 30 texts, no two alike; of the model Dummy, the texts of the first run only."""


def row_sample(file: UpgradedFile, model: str, factor: int, n_rows: int) -> RowSample:
    census = take_census(file.database, factor)[model]
    return read_row_sample(file.database, census, downsample=factor, n_rows=n_rows)


def good(file: UpgradedFile, model: str, factor: int) -> list[StoredEmbedding]:
    """Return the sampled embeddings that have a valid vector and a run."""
    return [
        embedding
        for embedding in file.facts.sample(model, factor)
        if embedding.kind == "good" and embedding.invocation.run_id in file.facts.runs
    ]


def as_bytes(vectors: np.ndarray) -> list[bytes]:
    return [vector.tobytes() for vector in vectors]


@pytest.mark.parametrize("spec", [*EACH_SPEC, pytest.param(EVERYTHING, id="all")])
def test_a_row_sample_of_all_rows_is_all_valid_ones(upgraded: MakeFile, spec: FieldSpec) -> None:
    file = upgraded(spec)
    for factor in (1, 7):
        censuses = take_census(file.database, factor)
        for model in file.facts.models:
            rows = good(file, model, factor)
            row_sample = read_row_sample(file.database, censuses[model], downsample=factor, n_rows=10_000)
            assert sorted(as_bytes(row_sample.vectors)) == sorted(row.vector.tobytes() for row in rows)
            assert row_sample.n_runs == len({row.invocation.run_id for row in rows})


@pytest.mark.parametrize("factor", [1, 3])
def test_a_row_sample_is_pieces_of_many_runs(upgraded: MakeFile, factor: int) -> None:
    file = upgraded(MANY_RUNS)
    for n_rows in (1, 15, 100, 200, 399):
        require_pieces_of_many_runs(file, factor, n_rows)


def require_pieces_of_many_runs(file: UpgradedFile, factor: int, n_rows: int) -> None:
    sample = row_sample(file, "Nomic", factor, n_rows)
    assert n_rows / 2 <= len(sample.vectors) <= n_rows
    assert sample.n_runs >= min(FEWEST_RUNS, n_rows)
    known = {row.vector.tobytes(): row.invocation for row in good(file, "Nomic", factor)}
    pieces = defaultdict(list)
    for vector in as_bytes(sample.vectors):
        pieces[known[vector].run_id].append(known[vector].sequence_number)
    longest, longest_run = max(1, n_rows // FEWEST_RUNS), -(-30 // factor)
    for numbers in pieces.values():
        # Texts are at odd numbers: neighbours on the output index are two apart.
        assert set(np.diff(numbers)) <= {2 * factor}
        assert len(numbers) <= longest
    assert sum(len(numbers) < min(longest, longest_run) for numbers in pieces.values()) <= 1
    # The beginnings of runs are not like the rest of them.
    if len(pieces) > 1 and longest < longest_run:
        assert len({numbers[0] for numbers in pieces.values()}) > 2
    # Runs stand one after the other.
    runs = [known[vector].run_id for vector in as_bytes(sample.vectors)]
    assert sum(run != other_run for run, other_run in pairwise(runs)) == sample.n_runs - 1


def test_a_row_sample_is_the_same_every_time_and_for_other_factors_another(upgraded: MakeFile) -> None:
    file = upgraded(MANY_RUNS)
    first, second, third = (as_bytes(row_sample(file, "Nomic", factor, 100).vectors) for factor in (1, 1, 2))
    assert first == second != third


def test_a_model_that_embeds_few_runs_is_found(upgraded: MakeFile) -> None:
    file = upgraded(MANY_RUNS)
    sample = row_sample(file, "Dummy", 1, 6)
    assert (len(sample.vectors), sample.n_runs) == (6, 1)


def test_a_row_sample_of_no_rows_is_empty(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",), nan_vectors=40, runs=4, length=20))
    sample = row_sample(file, "Nomic", 1, 100)
    assert (sample.vectors.shape, sample.n_runs) == ((0, 8), 0)


@pytest.mark.slow
@pytest.mark.parametrize("spec", EACH_SPEC)
def test_counting_several_factors_at_once_counts_each(upgraded: MakeFile, spec: FieldSpec) -> None:
    database, facts = upgraded(spec)
    separately = {factor: take_census(database, factor) for factor in FACTORS}
    for model in facts.models:
        together = take_censuses(database, model, FACTORS)
        assert list(together) == list(FACTORS)
        for factor, census in together.items():
            alone = separately[factor][model]
            assert (census.n_total, census.n_orphans) == (alone.n_total, alone.n_orphans)
            assert census.sampled == alone.sampled
            if factor > 1:
                assert census.longest == alone.longest
