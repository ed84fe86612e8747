"""Rows that a dump of the generation pipeline adds, under the ids that they have.

What is in the database under an id stays as it is, whatever a dump says; what differs is counted. But a dump
grows: runs and experiments get longer, experiments list more, and what was not known becomes known (a time of
an experiment, the experiment of a run, the input of an invocation). Rows that would break the database are
left out and counted: those that belong to nothing, and second ones of what is there once.

Rows are looked up by their keys, some thousand at a time; no table is gone through.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.bulk import insert_new_rows, select_by_keys
from panic_tda.storage.read.census import NAMED_IDS, show_id, stored_width
from panic_tda.storage.schema.tables import ExperimentConfig, Run
from panic_tda.storage.write.additions import chunks
from panic_tda.storage.write.batches import (
    PROMPT,
    DumpedEmbeddings,
    DumpedExperiment,
    DumpedInvocations,
    DumpedRun,
    refuse_row,
)
from panic_tda.storage.write.import_summary import REASONS, ImportSummary, LeftOut
from panic_tda.storage.write.times import TIMES, UNKNOWN_TIME, UnknownTimes, as_stored
from panic_tda.wording import pluralize

_experiment = ExperimentConfig.__table__
_run = Run.__table__
_EXPERIMENT_LISTS = ("networks", "seeds", "prompts", "embedding_models")

_INVOCATION = ("id", "run_id", "sequence_number", "type", "model", "output_text", "input_invocation_id")
_EMBEDDING = ("id", "invocation_id", "embedding_model", "vector")

_DIFFERS, _UNLINKED = "differing", "unlinked"
_WARNINGS = {
    **{name: f"%d {reason} were left out" for name, reason in REASONS.items()},
    _DIFFERS: "%d rows differ from those under their ids, which stay as they are; to have the dump's, import "
    "it into another database",
    _UNLINKED: "%d invocations are stored without the one that they were made from, which is missing",
}

_NAME_INPUT = sa.text("UPDATE invocation SET input_invocation_id = :source WHERE id = :of")

_log = logging.getLogger(__name__)


class DumpAdditions:
    """Writes the rows of one dump inside one transaction: experiments, runs, invocations, embeddings.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`: all of it is added, or nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._times = UnknownTimes(connection)
        self._seeds: dict[str, int] = {}
        self._prompts: set[str] = set()
        self._widths: dict[str, int] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._examples: dict[str, list[str]] = defaultdict(list)
        self._n_rows = self._n_runs = self._n_invocations = self._n_embeddings = 0
        self.lacks_inputs = False
        """Whether invocations were stored without their inputs, which came after them: see `add_inputs`."""

    def add_experiments(self, experiments: Sequence[DumpedExperiment]) -> None:
        """Add experiments that are not there, and to those that are what they list now."""
        ids = [UUID(experiment.id) for experiment in experiments]
        found = self._select(sa.select(_experiment), _experiment.c.id, ids)
        stored = {row.id: dict(row._mapping) for row in found}
        for experiment in experiments:
            values = asdict(experiment) | {"id": UUID(experiment.id)}
            before = stored.get(values["id"])
            if before is None:
                unknown = self._times.unknown("experimentconfig")
                values |= {name: unknown[name] for name in TIMES if values[name] is None}
                self._connection.execute(sa.insert(ExperimentConfig).values(**values))
                stored[values["id"]] = values
            elif after := _grown(before, values):
                this = _experiment.c.id == values["id"]
                self._connection.execute(sa.update(ExperimentConfig).where(this).values(**after))
                before |= after

    def add_runs(self, runs: Sequence[DumpedRun]) -> None:
        """Add runs that are not there; those that are get longer."""
        ids = [UUID(run.id) for run in runs]
        stored = {row.id: dict(row._mapping) for row in self._select(sa.select(_run), _run.c.id, ids)}
        named = {UUID(run.experiment_id) for run in runs if run.experiment_id is not None}
        query = sa.select(_experiment.c.id)
        experiments = {row.id for row in self._select(query, _experiment.c.id, list(named))}
        new = []
        for run in runs:
            experiment = UUID(run.experiment_id) if run.experiment_id else None
            values = asdict(run) | {"id": UUID(run.id)}
            values["experiment_id"] = experiment if experiment in experiments else None
            before = stored.get(values["id"])
            if before is None:
                stored[values["id"]] = values
                new.append(values)
            else:
                self._compare(run.id, before, values)
                self._lengthen(before, values)
            self._seeds[run.id] = stored[values["id"]]["seed"]
        if new:
            self._connection.execute(sa.insert(Run), new)
            self._n_runs += len(new)

    def add_invocations(self, batch: DumpedInvocations) -> None:
        """Add invocations that are not there, each after the one that it was made from."""
        self._find_runs(batch.run_ids)
        stored = self._stored("invocation", _INVOCATION, batch.ids)
        steps = self._steps(batch, stored)
        known = self._invocations({source for source in batch.input_ids if source}) | stored.keys()
        unknown = self._times.stored("invocation")
        rows = []
        for index in np.argsort(batch.sequence_numbers, kind="stable").tolist():
            identity, run, number = batch.ids[index], batch.run_ids[index], batch.sequence_numbers[index]
            if number < 0 or identity.startswith(PROMPT):
                self._prompts.add(identity)
                self._note("prompts", identity)
                continue
            values = identity, run, number, batch.types[index], batch.models[index], batch.texts[index]
            source = self._input(batch.input_ids[index])
            if identity in stored:
                self._compare_invocation(stored[identity], (*values, source))
            elif run not in self._seeds:
                self._note("orphaned_invocations", identity)
            elif steps.setdefault((run, number), identity) != identity:
                self._note("repeated_invocations", identity)
            else:
                self.lacks_inputs |= source is not None and source not in known
                stored[identity] = (*values, source if source in known else None)
                known.add(identity)
                seed = self._seeds[run] if batch.seeds[index] is None else batch.seeds[index]
                times = _written((batch.started_at[index], batch.completed_at[index]), unknown)
                rows.append((*stored[identity], seed, *times))
        columns = (*_INVOCATION, "seed", *TIMES)
        self._n_invocations += insert_new_rows(self._connection, "invocation", columns, rows)

    def add_inputs(self, ids: Sequence[str], input_ids: Sequence[str | None]) -> None:
        """Name the inputs of invocations that were added before them; to be called when all are added."""
        pairs = zip(ids, map(self._input, input_ids), strict=True)
        wanted = {identity: source for identity, source in pairs if source is not None}
        stored = self._stored("invocation", ("id", "input_invocation_id"), wanted)
        without = [identity for identity, source in stored.values() if source is None]
        present = self._invocations({wanted[identity] for identity in without})
        for identity in without:
            if wanted[identity] not in present:
                self._note(_UNLINKED, identity)
        rows = [{"of": one, "source": wanted[one]} for one in without if wanted[one] in present]
        if rows:
            self._connection.execute(_NAME_INPUT, rows)

    def add_embeddings(self, batch: DumpedEmbeddings) -> None:
        """Add embeddings that are not there, of invocations that have none of this model."""
        self._n_rows += len(batch.ids)
        pairs = enumerate(zip(batch.ids, batch.invocation_ids, strict=True))
        places = [index for index, pair in pairs if not any(map(self._is_prompt, pair))]
        self._counts["prompt_embeddings"] += len(batch.ids) - len(places)
        if batch.vectors is None:
            reason = "invalid_vectors" if batch.are_invalid else "embeddings_without_vector"
            for index in places:
                self._note(reason, batch.ids[index])
            return
        self._require_width(batch, batch.vectors.shape[1])
        vectors = np.ascontiguousarray(batch.vectors, dtype="<f4")
        blobs = vectors.view(f"V{4 * vectors.shape[1]}")[:, 0].tolist()
        stored = self._stored("embedding", _EMBEDDING, batch.ids)
        wanted = {batch.invocation_ids[index] for index in places if batch.ids[index] not in stored}
        present = self._invocations(wanted)
        taken = self._embedded(batch.model, present)
        unknown = self._times.stored("embedding")
        rows = []
        for index in places:
            identity, invocation = batch.ids[index], batch.invocation_ids[index]
            values = (identity, invocation, batch.model, blobs[index])
            if identity in stored:
                if stored[identity] != values:
                    self._note(_DIFFERS, identity)
            elif invocation not in present:
                self._note("orphaned_embeddings", identity)
            elif taken.setdefault(invocation, identity) != identity:
                self._note("repeated_embeddings", identity)
            else:
                stored[identity] = values
                times = _written((batch.started_at[index], batch.completed_at[index]), unknown)
                rows.append((*values, *times))
        columns = (*_EMBEDDING, *TIMES)
        self._n_embeddings += insert_new_rows(self._connection, "embedding", columns, rows)

    def finish(self, n_files: int) -> ImportSummary:
        """Return what was added, and say in the log what one would not expect."""
        for name, examples in self._examples.items():
            if name != "prompts":
                first = ", ".join(map(show_id, examples))
                _log.warning(f"{_WARNINGS[name]}; the first: %s", self._counts[name], first)
        return ImportSummary(
            n_files=n_files,
            n_rows=self._n_rows,
            n_new_embeddings=self._n_embeddings,
            n_new_invocations=self._n_invocations,
            n_new_runs=self._n_runs,
            models=tuple(sorted(self._widths)),
            experiment_id=None,
            left_out=LeftOut(**{name: self._counts[name] for name in REASONS}),
            n_differing=self._counts[_DIFFERS],
            n_unlinked=self._counts[_UNLINKED],
        )

    def _compare(self, identity: str, stored: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Note a run that the dump tells otherwise."""
        if any(stored[name] != values[name] for name in ("network", "initial_prompt")):
            self._note(_DIFFERS, identity)

    def _compare_invocation(self, stored: tuple[Any, ...], values: tuple[Any, ...]) -> None:
        *before, known = stored
        *now, source = values
        self.lacks_inputs |= known is None and source is not None
        if before != now or (None not in (known, source) and known != source):
            self._note(_DIFFERS, values[0])

    def _lengthen(self, stored: dict[str, Any], values: Mapping[str, Any]) -> None:
        """Bring the length of a run up to date, and its experiment where it had none."""
        after = {
            "max_length": max(stored["max_length"], values["max_length"]),
            "experiment_id": stored["experiment_id"] or values["experiment_id"],
        }
        if any(stored[name] != value for name, value in after.items()):
            self._connection.execute(sa.update(Run).where(_run.c.id == stored["id"]).values(**after))
            stored |= after

    def _find_runs(self, ids: Iterable[str]) -> None:
        """Look up the seeds of runs that this dump does not have."""
        unseen = [UUID(identity) for identity in set(ids) - self._seeds.keys()]
        for identity, seed in self._select(sa.select(_run.c.id, _run.c.seed), _run.c.id, unseen):
            self._seeds[identity.hex] = seed

    def _steps(self, batch: DumpedInvocations, stored: Collection[str]) -> dict[tuple[str, int], str]:
        """Return the invocations that are at the places of new ones, by run and sequence number."""
        wanted = {
            (run, number): None
            for identity, run, number in zip(batch.ids, batch.run_ids, batch.sequence_numbers, strict=True)
            if identity not in stored
        }
        keys: dict[str, list[Any]] = {
            "run_id": [run for run, _ in wanted],
            "sequence_number": [number for _, number in wanted],
        }
        # In some files only the index that has the type between these two has both.
        kinds = "invocation.type IN ('TEXT', 'IMAGE')"
        found = select_by_keys(self._connection, "invocation", (*keys, "id"), keys, also=kinds)
        return {(run, number): identity for run, number, identity in found}

    def _embedded(self, model: str, invocations: Collection[str]) -> dict[str, str]:
        """Return the embeddings of a model that some invocations have, by their invocation."""
        # All models: asked for one, SQLite would go through all embeddings of it.
        columns = ("invocation_id", "embedding_model", "id")
        keys = {"invocation_id": list(invocations)}
        found = select_by_keys(self._connection, "embedding", columns, keys)
        return {invocation: identity for invocation, of, identity in found if of == model}

    def _invocations(self, ids: Iterable[str]) -> set[str]:
        """Return those of some ids that are ids of invocations."""
        return set(self._stored("invocation", ("id",), ids))

    def _stored(self, table: str, columns: Sequence[str], ids: Iterable[str]) -> dict[str, tuple[Any, ...]]:
        """Return rows of a table by their id, the first column."""
        found = select_by_keys(self._connection, table, columns, {"id": list(ids)})
        return {row[0]: tuple(row) for row in found}

    def _select(
        self, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Sequence[Any]
    ) -> Iterator[Any]:
        for some in chunks(values):
            yield from self._connection.execute(query.where(column.in_(some)))

    def _input(self, source: str | None) -> str | None:
        """Return what an invocation was made from; a prompt is no invocation."""
        return None if source is None or self._is_prompt(source) else source

    def _is_prompt(self, identity: str) -> bool:
        return identity.startswith(PROMPT) or identity in self._prompts

    def _require_width(self, batch: DumpedEmbeddings, width: int) -> None:
        """Check that a model's vectors have the length of those before them, here and in the database."""
        if batch.model not in self._widths:
            self._widths[batch.model] = stored_width(self._connection, batch.model) // 4 or width
        expected = self._widths[batch.model]
        if width != expected:
            dimensions = pluralize(width, "dimension")
            problem = f"the vector has {width} {dimensions}, those of {batch.model} before it have {expected}"
            refuse_row(batch.path, batch.first_row, problem)

    def _note(self, name: str, identity: str) -> None:
        self._counts[name] += 1
        if len(self._examples[name]) < NAMED_IDS:
            self._examples[name].append(identity)


def _grown(stored: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to be written so that an experiment also holds what a dump says of it."""
    after: dict[str, Any] = {"max_length": max(stored["max_length"], values["max_length"])}
    for name in _EXPERIMENT_LISTS:
        known = set(map(json.dumps, stored[name]))
        after[name] = [*stored[name], *(value for value in values[name] if json.dumps(value) not in known)]
    for name in TIMES:
        unknown = stored[name] in (None, UNKNOWN_TIME) and values[name] is not None
        after[name] = values[name] if unknown else stored[name]
    return {name: value for name, value in after.items() if value != stored[name]}


def _written(
    times: tuple[datetime | None, datetime | None], unknown: Sequence[str | None]
) -> tuple[str | None, ...]:
    """Return times as they are stored."""
    return tuple(
        other if time is None else as_stored(time) for time, other in zip(times, unknown, strict=True)
    )
