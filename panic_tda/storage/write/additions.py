"""Add the rows of an import, with ids by hash, so that importing the same rows twice adds nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.cells import read_rows
from panic_tda.storage.read.census import NAMED_IDS
from panic_tda.storage.schema.tables import Embedding, ExperimentConfig, Invocation, InvocationType, Run
from panic_tda.storage.write.batches import EmbeddingBatch, RunKey, TextBatch
from panic_tda.storage.write.drift import Drift
from panic_tda.storage.write.import_summary import ImportSummary, LeftOut
from panic_tda.storage.write.insertion import insert_new_rows
from panic_tda.storage.write.row_additions import RowAdditions, as_blobs
from panic_tda.storage.write.times import TIMES

_experiment = ExperimentConfig.__table__
_run = Run.__table__
_invocation = Invocation.__table__
_embedding = Embedding.__table__

# The id and the value that is compared come first. Times are written explicitly, because some databases have
# the current time as their default, and the time of these rows is unknown.
_INVOCATION_COLUMNS = ("id", "output_text", "model", "type", "seed", "run_id", "sequence_number", *TIMES)
_EMBEDDING_COLUMNS = ("id", "vector", "invocation_id", "embedding_model", *TIMES)

_log = logging.getLogger(__name__)


@dataclass
class _KnownRun:
    id: str
    stored_length: int
    length: int
    experiment: UUID | None


@dataclass
class _ExperimentChange:
    """Values to add to an experiment after the last batch; lists without repetition, in order."""

    networks: dict[tuple[str, ...], None] = field(default_factory=dict)
    seeds: dict[int, None] = field(default_factory=dict)
    prompts: dict[str, None] = field(default_factory=dict)
    models: dict[str, None] = field(default_factory=dict)
    length: int = 1


class Additions(RowAdditions):
    """The additions of one import: batches are written inside one transaction, and their rows counted."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._runs: dict[RunKey, _KnownRun] = {}
        self._changes: dict[UUID, _ExperimentChange] = {}
        self._new_experiment: UUID | None = None
        self._n_invalid = 0
        self._first_invalid: list[str] = []
        self._drift: dict[str, Drift] = {}

    def add(self, batch: EmbeddingBatch) -> None:
        """Write one batch."""
        if len(batch.places) and (problem := self._describe_other_width(batch.model, batch.vectors.shape[1])):
            batch.refuse(0, problem)
        self._n_invalid += len(batch.invalid)
        for row, problem in batch.invalid[: NAMED_IDS - len(self._first_invalid)]:
            self._first_invalid.append(f"{batch.path}, row {row} (counted from 0): {problem}")
        self._find_runs(batch)
        runs = [self._runs[key] for key in batch.runs]
        invocations = self._add_invocations(batch, [run.id for run in runs])
        self._add_embeddings(batch, invocations)
        self._record_changes(batch, runs)
        self._n_rows += len(batch.rows)

    def find_stored_runs(self, keys: Iterable[RunKey]) -> list[RunKey]:
        """Return those keys whose run is in the database already, in the order of `keys`."""
        by_id = {UUID(run_id(key)): key for key in keys}
        stored_ids = {identity for (identity,) in self._select(sa.select(_run.c.id), _run.c.id, list(by_id))}
        return [key for identity, key in by_id.items() if identity in stored_ids]

    def find_runs_with_text(self, key: RunKey, number: int, text: str) -> set[str]:
        """Return the ids of runs with this seed, prompt, and text at this sequence number, of any network."""
        query = sa.select(_run.c.id).where(
            _run.c.seed == key.seed, _run.c.initial_prompt == key.initial_prompt
        )
        runs = {
            _make_invocation_id(run.hex, number): run.hex for (run,) in read_rows(self._connection, query)
        }
        stored = self._read_outputs(list(runs))
        return {runs[invocation] for invocation, (_, stored_text, _) in stored.items() if stored_text == text}

    def read_first_texts(self, keys: Iterable[RunKey]) -> dict[str, tuple[int, str]]:
        """Return the first sequence number and text, by run id, of all runs with these seeds and prompts."""
        origins = list({(key.seed, key.initial_prompt) for key in keys})
        first = (
            sa.select(_invocation.c.sequence_number, _invocation.c.output_text)
            .where(
                _invocation.c.type == InvocationType.TEXT,
                _invocation.c.output_text.is_not(None),
            )
            .order_by(_invocation.c.sequence_number)
            .limit(1)
        )
        texts: dict[str, tuple[int, str]] = {}
        origin = sa.tuple_(_run.c.seed, _run.c.initial_prompt)
        for (run,) in self._select(sa.select(_run.c.id), origin, origins):
            for number, text in read_rows(self._connection, first.where(_invocation.c.run_id == run)):
                texts[run.hex] = number, text
        return texts

    def count_stored_texts(self, batches: Iterable[TextBatch]) -> int | None:
        """Count the texts that are in the database already; return None if a stored text differs."""
        n_stored = 0
        for batch in batches:
            ids = _make_invocation_ids(batch, [run_id(key) for key in batch.runs])
            stored = self._read_outputs(ids)
            n_stored += sum(identity in stored for identity in ids)
            if any(
                identity in stored and _explain_difference(stored[identity], text, kind)
                for identity, text, kind in zip(ids, batch.texts, batch.types, strict=True)
            ):
                return None
        return n_stored

    def update_runs_and_experiments(self) -> None:
        """Update the lengths of runs and the lists of experiments; call it after the last batch."""
        longer = [
            {"of_run": UUID(run.id), "length": run.length}
            for run in self._runs.values()
            if run.length > run.stored_length
        ]
        if longer:
            update = sa.update(Run).where(_run.c.id == sa.bindparam("of_run"))
            self._connection.execute(update.values(max_length=sa.bindparam("length")), longer)
        for identity, change in self._changes.items():
            self._update_experiment(identity, change)

    def summarize(self, n_files: int) -> ImportSummary:
        """Return the summary of the import, and log vectors that were left out or differ from stored ones."""
        self._log_warnings()
        return self._build_summary(
            n_files,
            experiment_id=self._new_experiment,
            left_out=LeftOut(invalid_vectors=self._n_invalid),
            n_differing=sum(drift.count for drift in self._drift.values()),
        )

    def _log_warnings(self) -> None:
        """Log the vectors that were left out, and those that differ from stored ones."""
        if self._n_invalid:
            first = "; ".join(self._first_invalid)
            _log.warning(
                "%d embeddings with an invalid vector were left out; the first: %s", self._n_invalid, first
            )
        for model, drift in self._drift.items():
            _log.warning("%s: %s", model, drift.describe())

    def _find_runs(self, batch: EmbeddingBatch) -> None:
        """Look up the runs of a batch that are not known yet, and add those that are not in the database."""
        unknown_runs = {run_id(key): key for key in batch.runs if key not in self._runs}
        if not unknown_runs:
            return
        query = sa.select(_run.c.id, _run.c.max_length, _run.c.experiment_id)
        ids = [UUID(identity) for identity in unknown_runs]
        for identity, length, experiment in self._select(query, _run.c.id, ids):
            self._runs[unknown_runs.pop(identity.hex)] = _KnownRun(identity.hex, length, length, experiment)
        if unknown_runs:
            self._add_runs(unknown_runs, batch.model)

    def _add_runs(self, runs: dict[str, RunKey], model: str) -> None:
        experiment = self._require_experiment(next(iter(runs.items())), model)
        rows = [
            {
                "id": UUID(identity),
                "network": list(key.network),
                "seed": key.seed,
                "max_length": 1,
                "initial_prompt": key.initial_prompt,
                "experiment_id": experiment,
            }
            for identity, key in runs.items()
        ]
        self._connection.execute(sa.insert(Run), rows)
        self._n_runs += len(rows)
        for identity, key in runs.items():
            self._runs[key] = _KnownRun(identity, 1, 1, experiment)

    def _require_experiment(self, first_run: tuple[str, RunKey], model: str) -> UUID:
        """Return the experiment of new runs, and add it if needed; its id is a hash of the first run's id."""
        if self._new_experiment is None:
            identity, key = first_run
            self._new_experiment = UUID(_make_id("experiment", identity))
            known = sa.select(_experiment.c.id).where(_experiment.c.id == self._new_experiment)
            if self._connection.execute(known).first() is None:
                values = {
                    "networks": [list(key.network)],
                    "seeds": [key.seed],
                    "prompts": [key.initial_prompt],
                    "embedding_models": [model],
                    "max_length": 1,
                }
                values |= self._times.unknown("experimentconfig")
                self._connection.execute(
                    sa.insert(ExperimentConfig).values(id=self._new_experiment, **values)
                )
        return self._new_experiment

    def _add_invocations(self, batch: EmbeddingBatch, run_ids: list[str]) -> list[str]:
        codes, numbers = batch.run_codes.tolist(), batch.sequence_numbers.tolist()
        ids = _make_invocation_ids(batch, run_ids)
        times = self._times.stored("invocation")
        networks = [key.network for key in batch.runs]
        models = [
            networks[code][number % len(networks[code])] for code, number in zip(codes, numbers, strict=True)
        ]
        rows = [
            (identity, text, model, kind, batch.runs[code].seed, run_ids[code], number, *times)
            for identity, text, kind, model, code, number in zip(
                ids, batch.texts, batch.types, models, codes, numbers, strict=True
            )
        ]
        n_new = insert_new_rows(self._connection, "invocation", _INVOCATION_COLUMNS, rows)
        if n_new < len(rows):
            self._compare_outputs(batch, rows)
        self._n_invocations += n_new
        return ids

    def _add_embeddings(self, batch: EmbeddingBatch, invocations: list[str]) -> None:
        if not len(batch.places):
            return
        name, model = batch.model, json.dumps(batch.model)
        blobs = as_blobs(batch.vectors)
        times = self._times.stored("embedding")
        rows = [
            (_hash_text(f'["embedding", "{invocation}", {model}]'), vector, invocation, name, *times)
            for invocation, vector in zip((invocations[index] for index in batch.places), blobs, strict=True)
        ]
        n_new = insert_new_rows(self._connection, "embedding", _EMBEDDING_COLUMNS, rows)
        if n_new < len(rows):
            self._compare_vectors(batch, rows)
        self._n_embeddings += n_new

    def _compare_outputs(self, batch: EmbeddingBatch, rows: list[tuple[Any, ...]]) -> None:
        """Check that the stored outputs with the ids of these rows equal the outputs of the rows."""
        stored = self._read_outputs([row[0] for row in rows])
        for index, (row, kind) in enumerate(zip(rows, batch.types, strict=True)):
            difference = _explain_difference(stored[row[0]], row[1], kind)
            if difference:
                batch.refuse(
                    index,
                    f"model {batch.model}: {difference}; give this one another sequence number, or its run "
                    "another name",
                )

    def _compare_vectors(self, batch: EmbeddingBatch, rows: list[tuple[Any, ...]]) -> None:
        """Count the vectors that differ from the stored ones with the same ids; stored vectors stay.

        Not all models are deterministic: the same text may get a slightly different vector. If neither a text
        nor the name of the run identifies the output, the row is refused.
        """
        stored = self._read_by_id(_embedding, ("id", "vector"), [row[0] for row in rows])
        for index, (identity, vector, *_) in zip(batch.places.tolist(), rows, strict=True):
            _, stored_vector = stored[identity]
            if stored_vector == vector:
                continue
            if batch.texts[index] is None and not batch.names_runs:
                batch.refuse(
                    index,
                    f"model {batch.model}: another vector is stored for this step, and no text tells whether "
                    "it is of the same output; name the runs in a column run",
                )
            self._drift.setdefault(batch.model, Drift()).add(stored_vector, vector)

    def _read_outputs(self, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the ids, stored texts and types of invocations, by id."""
        return self._read_by_id(_invocation, ("id", "output_text", "type"), ids)

    def _record_changes(self, batch: EmbeddingBatch, runs: list[_KnownRun]) -> None:
        """Record the new length of each run, and the values to add to its experiment."""
        longest = np.zeros(len(runs), dtype=np.int64)
        np.maximum.at(longest, batch.run_codes, batch.sequence_numbers + 1)
        for key, run, length in zip(batch.runs, runs, longest.tolist(), strict=True):
            run.length = max(run.length, length)
            if run.experiment is None or not length:
                continue
            change = self._changes.setdefault(run.experiment, _ExperimentChange())
            change.networks[key.network] = None
            change.seeds[key.seed] = None
            change.prompts[key.initial_prompt] = None
            if len(batch.places):
                change.models[batch.model] = None
            change.length = max(change.length, run.length)

    def _update_experiment(self, identity: UUID, change: _ExperimentChange) -> None:
        has_id = _experiment.c.id == identity
        names = ("networks", "seeds", "prompts", "embedding_models", "max_length")
        query = sa.select(*(_experiment.c[name] for name in names)).where(has_id)
        rows = read_rows(self._connection, query)
        if not rows:
            return
        before = dict(zip(names, rows[0], strict=True))
        after = {
            "networks": merge_lists(before["networks"], (list(network) for network in change.networks)),
            "seeds": merge_lists(before["seeds"], change.seeds),
            "prompts": merge_lists(before["prompts"], change.prompts),
            "embedding_models": merge_lists(before["embedding_models"], change.models),
            "max_length": max(before["max_length"], change.length),
        }
        if any(before[name] != value for name, value in after.items()):
            self._connection.execute(sa.update(ExperimentConfig).where(has_id).values(**after))


def run_id(key: RunKey) -> str:
    """Return the id of the run with this key."""
    return _make_id("run", key.name, key.seed, key.network, key.initial_prompt)


def _explain_difference(stored: tuple[Any, ...], text: str | None, kind: str) -> str | None:
    """Describe how an output differs from the stored one; None if it does not differ.

    An output without a text does not differ from a stored text.
    """
    _, stored_text, stored_kind = stored
    if kind != stored_kind:
        return f"an output of type {stored_kind.lower()} is stored for this step, not {kind.lower()}"
    if text is None or text == stored_text:
        return None
    return f"{'an output without a' if stored_text is None else 'another'} text is stored for this step"


def _make_invocation_id(run: str, number: int) -> str:
    return _hash_text(f'["invocation", "{run}", {number}]')


def _make_invocation_ids(batch: TextBatch, run_ids: list[str]) -> list[str]:
    codes, numbers = batch.run_codes.tolist(), batch.sequence_numbers.tolist()
    return [_make_invocation_id(run_ids[code], number) for code, number in zip(codes, numbers, strict=True)]


def _make_id(*parts: Any) -> str:
    # JSON separates the parts unambiguously; with a separator, two different keys could be equal.
    return _hash_text(json.dumps(parts))


def _hash_text(text: str) -> str:
    """Return an id of 32 hexadecimal characters: the first half of the SHA-256."""
    return sha256(text.encode()).hexdigest()[:32]


def merge_lists(stored: Sequence[Any], more: Iterable[Any]) -> list[Any]:
    """Return a list of JSON values, extended by those of `more` that are not in it."""
    known = set(map(json.dumps, stored))
    return [*stored, *(value for value in more if json.dumps(value) not in known)]
