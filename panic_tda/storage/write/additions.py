"""Rows that an import adds: ids by hash, so that adding the same rows twice adds nothing."""

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

from panic_tda.storage.bulk import insert_new_rows
from panic_tda.storage.read.census import NAMED_IDS, stored_width
from panic_tda.storage.schema.tables import Embedding, ExperimentConfig, Invocation, InvocationType, Run
from panic_tda.storage.write.batches import EmbeddingBatch, RunKey, TextBatch
from panic_tda.storage.write.drift import Drift
from panic_tda.storage.write.import_summary import ImportSummary, LeftOut
from panic_tda.storage.write.times import TIMES, UnknownTimes
from panic_tda.wording import pluralize

_experiment = ExperimentConfig.__table__
_run = Run.__table__
_invocation = Invocation.__table__
_embedding = Embedding.__table__

# The id and the value that is compared come first. The times are given because some files in the field
# would put the present there: when these rows were made is not known.
_INVOCATION_COLUMNS = ("id", "output_text", "model", "type", "seed", "run_id", "sequence_number", *TIMES)
_EMBEDDING_COLUMNS = ("id", "vector", "invocation_id", "embedding_model", *TIMES)
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_STORED_OUTPUTS = sa.text("SELECT id, output_text, type FROM invocation WHERE id IN :ids").bindparams(_IDS)
_STORED_VECTORS = sa.text("SELECT id, vector FROM embedding WHERE id IN :ids").bindparams(_IDS)

_log = logging.getLogger(__name__)


@dataclass
class _KnownRun:
    id: str
    stored_length: int
    length: int
    experiment: UUID | None


@dataclass
class _ExperimentChange:
    """What an experiment has to hold at the end; lists without repetition, in order."""

    networks: dict[tuple[str, ...], None] = field(default_factory=dict)
    seeds: dict[int, None] = field(default_factory=dict)
    prompts: dict[str, None] = field(default_factory=dict)
    models: dict[str, None] = field(default_factory=dict)
    length: int = 1


class Additions:
    """Writes batches inside one transaction, and remembers what the end has to know.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`: all of it is added, or nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runs: dict[RunKey, _KnownRun] = {}
        self._changes: dict[UUID, _ExperimentChange] = {}
        self._new_experiment: UUID | None = None
        self._widths: dict[str, int] = {}
        self._times = UnknownTimes(connection)
        self._n_rows = self._n_runs = self._n_invocations = self._n_embeddings = 0
        self._n_invalid = 0
        self._first_invalid: list[str] = []
        self._drift: dict[str, Drift] = {}

    def add(self, batch: EmbeddingBatch) -> None:
        """Write one batch."""
        if len(batch.places):
            self._require_width(batch)
        self._n_invalid += len(batch.invalid)
        for row, problem in batch.invalid[: NAMED_IDS - len(self._first_invalid)]:
            self._first_invalid.append(f"{batch.path}, row {row} (counted from 0): {problem}")
        self._find_runs(batch)
        runs = [self._runs[key] for key in batch.runs]
        invocations = self._add_invocations(batch, [run.id for run in runs])
        self._add_embeddings(batch, invocations)
        self._note(batch, runs)
        self._n_rows += len(batch.rows)

    def stored_runs(self, keys: Iterable[RunKey]) -> list[RunKey]:
        """Return those of a few keys under which a run is in the database already, in their order."""
        by_id = {UUID(run_id(key)): key for key in keys}
        query = sa.select(_run.c.id).where(_run.c.id.in_(list(by_id)))
        found = set(self._connection.execute(query).scalars())
        return [key for identity, key in by_id.items() if identity in found]

    def runs_that_say(self, key: RunKey, number: int, text: str) -> set[str]:
        """Return the ids of the runs with this text at this place, whatever their names and networks."""
        query = sa.select(_run.c.id).where(
            _run.c.seed == key.seed, _run.c.initial_prompt == key.initial_prompt
        )
        runs = {_invocation_id(run.hex, number): run.hex for run in self._connection.execute(query).scalars()}
        stored = self._stored(_STORED_OUTPUTS, list(runs))
        return {runs[invocation] for invocation, (stored_text, _) in stored.items() if stored_text == text}

    def first_texts(self, keys: Iterable[RunKey]) -> dict[str, tuple[int, str]]:
        """Return the first sequence number and text of each run with the seed and prompt of one of these."""
        origins = list({(key.seed, key.initial_prompt) for key in keys})
        first = (
            sa.select(_invocation.c.sequence_number, _invocation.c.output_text)
            .where(
                _invocation.c.run_id == sa.bindparam("run"),
                _invocation.c.type == InvocationType.TEXT,
                _invocation.c.output_text.is_not(None),
            )
            .order_by(_invocation.c.sequence_number)
            .limit(1)
        )
        found: dict[str, tuple[int, str]] = {}
        for some in chunks(origins):
            these = sa.tuple_(_run.c.seed, _run.c.initial_prompt).in_(some)
            for run in self._connection.execute(sa.select(_run.c.id).where(these)).scalars():
                for number, text in self._connection.execute(first, {"run": run}):
                    found[run.hex] = number, text
        return found

    def count_stored_texts(self, batches: Iterable[TextBatch]) -> int | None:
        """Count the texts that are in the database already; None where one is another there."""
        n_stored = 0
        for batch in batches:
            ids = _invocation_ids(batch, [run_id(key) for key in batch.runs])
            stored = self._stored(_STORED_OUTPUTS, ids)
            n_stored += sum(identity in stored for identity in ids)
            if any(
                identity in stored and _explain_difference(stored[identity], text, kind)
                for identity, text, kind in zip(ids, batch.texts, batch.types, strict=True)
            ):
                return None
        return n_stored

    def finish(self, n_files: int) -> ImportSummary:
        """Bring the lengths of runs and the lists of experiments up to date."""
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
        self._warn()
        return ImportSummary(
            n_files=n_files,
            n_rows=self._n_rows,
            n_new_embeddings=self._n_embeddings,
            n_new_invocations=self._n_invocations,
            n_new_runs=self._n_runs,
            models=tuple(sorted(self._widths)),
            experiment_id=self._new_experiment,
            left_out=LeftOut(invalid_vectors=self._n_invalid),
            n_differing=sum(drift.count for drift in self._drift.values()),
        )

    def _warn(self) -> None:
        """Say in the log which vectors were left out, and which differ from the stored ones."""
        if self._n_invalid:
            first = "; ".join(self._first_invalid)
            _log.warning(
                "%d embeddings with an invalid vector were left out; the first: %s", self._n_invalid, first
            )
        for model, drift in self._drift.items():
            _log.warning("%s: %s", model, drift.describe())

    def _require_width(self, batch: EmbeddingBatch) -> None:
        """Check that a model's vectors have the length of those before them, here and in the database."""
        model, width = batch.model, batch.vectors.shape[1]
        if model not in self._widths:
            self._widths[model] = stored_width(self._connection, model) // 4 or width
        if width != self._widths[model]:
            batch.refuse(
                0,
                f"the vector has {width} {pluralize(width, 'dimension')}, "
                f"those of {model} before it have {self._widths[model]}",
            )

    def _find_runs(self, batch: EmbeddingBatch) -> None:
        """Look up the batch's runs that were not seen before, and add those that are not in the database."""
        unseen = {run_id(key): key for key in batch.runs if key not in self._runs}
        if not unseen:
            return
        query = sa.select(_run.c.id, _run.c.max_length, _run.c.experiment_id)
        for chunk in chunks(list(unseen)):
            ids = [UUID(identity) for identity in chunk]
            for identity, length, experiment in self._connection.execute(query.where(_run.c.id.in_(ids))):
                self._runs[unseen.pop(identity.hex)] = _KnownRun(identity.hex, length, length, experiment)
        if unseen:
            self._add_runs(unseen, batch.model)

    def _add_runs(self, runs: dict[str, RunKey], model: str) -> None:
        experiment = self._experiment(next(iter(runs.items())), model)
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

    def _experiment(self, first_run: tuple[str, RunKey], model: str) -> UUID:
        """Return the experiment of this call's new runs; its id derives from the first of them."""
        if self._new_experiment is None:
            identity, key = first_run
            self._new_experiment = UUID(_identity("experiment", identity))
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
        ids = _invocation_ids(batch, run_ids)
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
        vectors = np.ascontiguousarray(batch.vectors, dtype="<f4")
        blobs = vectors.view(f"V{4 * vectors.shape[1]}")[:, 0].tolist()
        times = self._times.stored("embedding")
        rows = [
            (_hash(f'["embedding", "{invocation}", {model}]'), vector, invocation, name, *times)
            for invocation, vector in zip((invocations[place] for place in batch.places), blobs, strict=True)
        ]
        n_new = insert_new_rows(self._connection, "embedding", _EMBEDDING_COLUMNS, rows)
        if n_new < len(rows):
            self._compare_vectors(batch, rows)
        self._n_embeddings += n_new

    def _compare_outputs(self, batch: EmbeddingBatch, rows: list[tuple[Any, ...]]) -> None:
        """Check that the outputs that are stored under the ids of these rows are those of the rows."""
        stored = self._stored(_STORED_OUTPUTS, [row[0] for row in rows])
        for index, (row, kind) in enumerate(zip(rows, batch.types, strict=True)):
            difference = _explain_difference(stored[row[0]], row[1], kind)
            if difference:
                batch.refuse(
                    index,
                    f"model {batch.model}: {difference}; give this one another sequence number, or its run "
                    "another name",
                )

    def _compare_vectors(self, batch: EmbeddingBatch, rows: list[tuple[Any, ...]]) -> None:
        """Count the vectors that differ from those that are stored under the ids of these rows, which stay.

        Models are not all deterministic: the same text embedded again has a vector beside the first one.
        Where neither a text nor the name of the run tells what was embedded, the row is refused.
        """
        stored = self._stored(_STORED_VECTORS, [row[0] for row in rows])
        for place, (identity, vector, *_) in zip(batch.places.tolist(), rows, strict=True):
            (stored_vector,) = stored[identity]
            if stored_vector == vector:
                continue
            if batch.texts[place] is None and not batch.names_runs:
                batch.refuse(
                    place,
                    f"model {batch.model}: another vector is stored at this place, and no text tells whether "
                    "it is of the same output; name the runs in a column run",
                )
            self._drift.setdefault(batch.model, Drift()).add(stored_vector, vector)

    def _stored(self, query: sa.TextClause, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the other columns of a query by the id, which is its first one."""
        values: dict[str, tuple[Any, ...]] = {}
        for chunk in chunks(ids):
            rows = self._connection.execute(query, {"ids": chunk})
            values.update((identity, tuple(others)) for identity, *others in rows)
        return values

    def _note(self, batch: EmbeddingBatch, runs: list[_KnownRun]) -> None:
        """Remember how long each run is now, and what its experiment has to list."""
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
        this = _experiment.c.id == identity
        before = self._connection.execute(sa.select(_experiment).where(this)).mappings().one_or_none()
        if before is None:
            return
        after = {
            "networks": united(before["networks"], (list(network) for network in change.networks)),
            "seeds": united(before["seeds"], change.seeds),
            "prompts": united(before["prompts"], change.prompts),
            "embedding_models": united(before["embedding_models"], change.models),
            "max_length": max(before["max_length"], change.length),
        }
        if any(before[name] != value for name, value in after.items()):
            self._connection.execute(sa.update(ExperimentConfig).where(this).values(**after))


def run_id(key: RunKey) -> str:
    """Return the id of the run with this key."""
    return _identity("run", key.name, key.seed, key.network, key.initial_prompt)


def _explain_difference(stored: tuple[Any, ...], text: str | None, kind: str) -> str | None:
    """Say how an output differs from the one stored at its place; None where it may be the same.

    An output without a text says nothing of the text that is stored.
    """
    stored_text, stored_kind = stored
    if kind != stored_kind:
        return f"an output of type {stored_kind.lower()} is stored at this place, not {kind.lower()}"
    if text is None or text == stored_text:
        return None
    return f"{'an output without a' if stored_text is None else 'another'} text is stored at this place"


def _invocation_id(run: str, number: int) -> str:
    return _hash(f'["invocation", "{run}", {number}]')


def _invocation_ids(batch: TextBatch, run_ids: list[str]) -> list[str]:
    codes, numbers = batch.run_codes.tolist(), batch.sequence_numbers.tolist()
    return [_invocation_id(run_ids[code], number) for code, number in zip(codes, numbers, strict=True)]


def _identity(*parts: Any) -> str:
    # JSON says where each part ends; joined by a mark, two different keys could read the same.
    return _hash(json.dumps(parts))


def _hash(text: str) -> str:
    """Return an id of 32 hexadecimal characters: the first half of the SHA-256."""
    return sha256(text.encode()).hexdigest()[:32]


def united(stored: list[Any], more: Iterable[Any]) -> list[Any]:
    """Return a list of JSON values with those others that are not in it, without repetition."""
    known = {json.dumps(value): value for value in stored}
    for value in more:
        known.setdefault(json.dumps(value), value)
    return list(known.values())


def chunks(ids: Sequence[Any], size: int = 8192) -> Iterable[Sequence[Any]]:
    """Divide what a statement asks for, so that it takes all of it."""
    return (ids[start : start + size] for start in range(0, len(ids), size))
