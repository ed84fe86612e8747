"""Add the rows of a dump of the generation pipeline, under the ids of the dump.

A stored row stays unchanged if the dump has another row with its id; such rows are counted. But a later dump
may extend an earlier one: runs and experiments get longer, the lists of experiments grow, and unknown values
become known (a time of an experiment, the experiment of a run, the input of an invocation). Rows that would
make the database inconsistent are left out and counted: orphans, and repeated steps and embeddings.

Rows are looked up by their keys, some thousand at a time; no table is scanned.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.bulk import read_by_keys
from panic_tda.storage.read.census import NAMED_IDS, show_id
from panic_tda.storage.schema.tables import PROMPT_EMBEDDING, Embedding, ExperimentConfig, Invocation, Run
from panic_tda.storage.write.additions import merge_lists
from panic_tda.storage.write.batches import (
    PROMPT,
    DumpedEmbeddings,
    DumpedExperiment,
    DumpedInvocations,
    DumpedRun,
    refuse_row,
)
from panic_tda.storage.write.import_summary import REASONS, ImportSummary, LeftOut
from panic_tda.storage.write.insertion import insert_new_rows
from panic_tda.storage.write.row_additions import RowAdditions, as_blobs
from panic_tda.storage.write.times import TIMES, UNKNOWN_TIME, as_stored

_experiment = ExperimentConfig.__table__
_run = Run.__table__
_invocation = Invocation.__table__
_embedding = Embedding.__table__
_EXPERIMENT_LISTS = ("networks", "seeds", "prompts", "embedding_models")

_INVOCATION = ("id", "run_id", "sequence_number", "type", "model", "output_text", "input_invocation_id")
_EMBEDDING = ("id", "invocation_id", "embedding_model", "vector")

_DIFFERS, _UNLINKED = "differing", "unlinked"
_WARNINGS = {
    **{name: f"%d {reason} were left out" for name, reason in REASONS.items()},
    _DIFFERS: "%d rows differ from those under their ids, which stay as they are; to have the dump's, import "
    "it into another database",
    _UNLINKED: "%d invocations are stored without their input invocation, which is missing",
}

_NAME_INPUT = sa.text("UPDATE invocation SET input_invocation_id = :source WHERE id = :of")

_log = logging.getLogger(__name__)


class DumpAdditions(RowAdditions):
    """The additions of one dump: experiments, runs, invocations and embeddings, inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._seeds: dict[str, int] = {}
        self._prompts: dict[str, str] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._examples: dict[str, list[str]] = defaultdict(list)
        self._n_prompt_embeddings = 0
        self.lacks_inputs = False
        """True if invocations were stored without inputs that come later in the dump; see `add_inputs`."""

    def add_experiments(self, experiments: Sequence[DumpedExperiment]) -> None:
        """Add new experiments, and extend the lists of stored ones."""
        ids = [UUID(experiment.id) for experiment in experiments]
        stored = self._read_rows(_experiment, ids)
        for experiment in experiments:
            values = asdict(experiment) | {"id": UUID(experiment.id)}
            before = stored.get(values["id"])
            if before is None:
                unknown = self._times.unknown("experimentconfig")
                values |= {name: unknown[name] for name in TIMES if values[name] is None}
                self._connection.execute(sa.insert(ExperimentConfig).values(**values))
                stored[values["id"]] = values
            elif after := _find_changes(before, values):
                has_id = _experiment.c.id == values["id"]
                self._connection.execute(sa.update(ExperimentConfig).where(has_id).values(**after))
                before |= after

    def add_runs(self, runs: Sequence[DumpedRun]) -> None:
        """Add new runs, and update the lengths of stored ones."""
        ids = [UUID(run.id) for run in runs]
        stored = self._read_rows(_run, ids)
        experiment_ids = {UUID(run.experiment_id) for run in runs if run.experiment_id is not None}
        query = sa.select(_experiment.c.id)
        experiments = {
            identity for (identity,) in self._select(query, _experiment.c.id, list(experiment_ids))
        }
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
                if any(before[name] != values[name] for name in ("network", "initial_prompt")):
                    self._count_example(_DIFFERS, run.id)
                self._update_run(before, values)
            self._seeds[run.id] = stored[values["id"]]["seed"]
        if new:
            self._connection.execute(sa.insert(Run), new)
            self._n_runs += len(new)

    def add_invocations(self, batch: DumpedInvocations) -> None:
        """Add new invocations, each after its input invocation."""
        self._find_runs(batch.run_ids)
        stored = self._read_by_id(_invocation, _INVOCATION, batch.ids)
        steps = self._read_steps(batch, stored)
        known = self._find_invocations({source for source in batch.input_ids if source}) | stored.keys()
        unknown = self._times.stored("invocation")
        rows = []
        for index in np.argsort(batch.sequence_numbers, kind="stable").tolist():
            identity, run, number = batch.ids[index], batch.run_ids[index], batch.sequence_numbers[index]
            if number < 0 or identity.startswith(PROMPT):
                self._prompts[identity] = run
                self._count_example("prompts", identity)
                continue
            values = identity, run, number, batch.types[index], batch.models[index], batch.texts[index]
            source = self._find_input(batch.input_ids[index])
            if identity in stored:
                self._compare_invocation(stored[identity], (*values, source))
            elif run not in self._seeds:
                self._count_example("orphaned_invocations", identity)
            elif steps.setdefault((run, number), identity) != identity:
                self._count_example("repeated_invocations", identity)
            else:
                self.lacks_inputs |= source is not None and source not in known
                stored[identity] = (*values, source if source in known else None)
                known.add(identity)
                seed = self._seeds[run] if batch.seeds[index] is None else batch.seeds[index]
                times = _format_times((batch.started_at[index], batch.completed_at[index]), unknown)
                rows.append((*stored[identity], seed, *times))
        columns = (*_INVOCATION, "seed", *TIMES)
        self._n_invocations += insert_new_rows(self._connection, "invocation", columns, rows)

    def add_inputs(self, ids: Sequence[str], input_ids: Sequence[str | None]) -> None:
        """Set the inputs of invocations that were added before their inputs; call it after the last batch."""
        pairs = zip(ids, map(self._find_input, input_ids), strict=True)
        wanted = {identity: source for identity, source in pairs if source is not None}
        stored = self._read_by_id(_invocation, ("id", "input_invocation_id"), wanted)
        without = [identity for identity, source in stored.values() if source is None]
        present = self._find_invocations({wanted[identity] for identity in without})
        for identity in without:
            if wanted[identity] not in present:
                self._count_example(_UNLINKED, identity)
        rows = [
            {"of": identity, "source": wanted[identity]}
            for identity in without
            if wanted[identity] in present
        ]
        if rows:
            self._connection.execute(_NAME_INPUT, rows)

    def add_embeddings(self, batch: DumpedEmbeddings) -> None:
        """Add new embeddings of invocations that have no embedding of this model."""
        self._n_rows += len(batch.ids)
        pairs = enumerate(zip(batch.ids, batch.invocation_ids, strict=True))
        places = [index for index, pair in pairs if not any(map(self._is_prompt, pair))]
        if batch.vectors is None:
            self._counts["prompt_embeddings"] += len(batch.ids) - len(places)
            reason = "invalid_vectors" if batch.are_invalid else "embeddings_without_vector"
            for index in places:
                self._count_example(reason, batch.ids[index])
            return
        if problem := self._describe_other_width(batch.model, batch.vectors.shape[1]):
            refuse_row(batch.path, batch.first_row, problem)
        blobs = as_blobs(batch.vectors)
        self._add_prompt_embeddings(batch, blobs, np.setdiff1d(np.arange(len(blobs)), places).tolist())
        stored = self._read_by_id(_embedding, _EMBEDDING, batch.ids)
        wanted = {batch.invocation_ids[index] for index in places if batch.ids[index] not in stored}
        present = self._find_invocations(wanted)
        embedded = self._read_embedded(batch.model, present)
        unknown = self._times.stored("embedding")
        rows = []
        for index in places:
            identity, invocation = batch.ids[index], batch.invocation_ids[index]
            values = (identity, invocation, batch.model, blobs[index])
            if identity in stored:
                if stored[identity] != values:
                    self._count_example(_DIFFERS, identity)
            elif invocation not in present:
                self._count_example("orphaned_embeddings", identity)
            elif embedded.setdefault(invocation, identity) != identity:
                self._count_example("repeated_embeddings", identity)
            else:
                stored[identity] = values
                times = _format_times((batch.started_at[index], batch.completed_at[index]), unknown)
                rows.append((*values, *times))
        columns = (*_EMBEDDING, *TIMES)
        self._n_embeddings += insert_new_rows(self._connection, "embedding", columns, rows)

    def _add_prompt_embeddings(self, batch: DumpedEmbeddings, blobs: list[bytes], places: list[int]) -> None:
        """Add the embeddings of initial prompts, by run; they are not clustered."""
        runs = [self._prompts.get(batch.invocation_ids[index], "") for index in places]
        rows = [
            (run, batch.model, blobs[index])
            for run, index in zip(runs, places, strict=True)
            if run in self._seeds
        ]
        self._counts["prompt_embeddings"] += len(places) - len(rows)
        if rows:
            PROMPT_EMBEDDING.create(self._connection, checkfirst=True)
            self._n_prompt_embeddings += insert_new_rows(
                self._connection,
                PROMPT_EMBEDDING.name,
                ("run_id", "embedding_model", "vector"),
                rows,
                key="run_id, embedding_model",
            )

    def summarize(self, n_files: int) -> ImportSummary:
        """Return the summary of the import, and log the rows that were left out or differ."""
        for name, examples in self._examples.items():
            if name != "prompts":
                first = ", ".join(map(show_id, examples))
                _log.warning(f"{_WARNINGS[name]}; the first: %s", self._counts[name], first)
        return self._build_summary(
            n_files,
            n_new_prompt_embeddings=self._n_prompt_embeddings,
            experiment_id=None,
            left_out=LeftOut(**{name: self._counts[name] for name in REASONS}),
            n_differing=self._counts[_DIFFERS],
            n_unlinked=self._counts[_UNLINKED],
        )

    def _compare_invocation(self, stored: tuple[Any, ...], values: tuple[Any, ...]) -> None:
        *before, stored_source = stored
        *now, source = values
        self.lacks_inputs |= stored_source is None and source is not None
        if before != now or (None not in (stored_source, source) and stored_source != source):
            self._count_example(_DIFFERS, values[0])

    def _update_run(self, stored: dict[str, Any], values: Mapping[str, Any]) -> None:
        """Update the length of a run, and its experiment if it had none."""
        after = {
            "max_length": max(stored["max_length"], values["max_length"]),
            "experiment_id": stored["experiment_id"] or values["experiment_id"],
        }
        if any(stored[name] != value for name, value in after.items()):
            self._connection.execute(sa.update(Run).where(_run.c.id == stored["id"]).values(**after))
            stored |= after

    def _find_runs(self, ids: Iterable[str]) -> None:
        """Read the seeds of runs that are not in this dump."""
        unknown_ids = [UUID(identity) for identity in set(ids) - self._seeds.keys()]
        for identity, seed in self._select(sa.select(_run.c.id, _run.c.seed), _run.c.id, unknown_ids):
            self._seeds[identity.hex] = seed

    def _read_steps(self, batch: DumpedInvocations, stored: Collection[str]) -> dict[tuple[str, int], str]:
        """Return the stored invocations at the steps of new ones, by run and sequence number."""
        wanted = {
            (run, number): None
            for identity, run, number in zip(batch.ids, batch.run_ids, batch.sequence_numbers, strict=True)
            if identity not in stored
        }
        keys: dict[str, list[Any]] = {
            "run_id": [run for run, _ in wanted],
            "sequence_number": [number for _, number in wanted],
        }
        # In some files the only index on both columns has the type between them.
        kinds = "invocation.type IN ('TEXT', 'IMAGE')"
        rows = read_by_keys(self._connection, _invocation, (*keys, "id"), keys, also=kinds)
        return {(run, number): identity for run, number, identity in rows}

    def _read_embedded(self, model: str, invocations: Collection[str]) -> dict[str, str]:
        """Return the stored embeddings of a model, by their invocation, for these invocations."""
        # All models: with a condition on the model, SQLite would scan all its embeddings.
        columns = ("invocation_id", "embedding_model", "id")
        keys = {"invocation_id": list(invocations)}
        rows = read_by_keys(self._connection, _embedding, columns, keys)
        return {
            invocation: identity for invocation, embedding_model, identity in rows if embedding_model == model
        }

    def _find_invocations(self, ids: Iterable[str]) -> set[str]:
        """Return those ids that are ids of stored invocations."""
        return set(self._read_by_id(_invocation, ("id",), ids))

    def _read_rows(self, table: Any, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Return all columns of the rows with these ids, by id."""
        rows = self._select(sa.select(table), table.c.id, ids)
        named = (dict(zip(table.c.keys(), row, strict=True)) for row in rows)
        return {values["id"]: values for values in named}

    def _find_input(self, source: str | None) -> str | None:
        """Return the input invocation, or None if the input is a prompt."""
        return None if source is None or self._is_prompt(source) else source

    def _is_prompt(self, identity: str) -> bool:
        return identity.startswith(PROMPT) or identity in self._prompts

    def _count_example(self, name: str, identity: str) -> None:
        self._counts[name] += 1
        if len(self._examples[name]) < NAMED_IDS:
            self._examples[name].append(identity)


def _find_changes(stored: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed columns of a stored experiment when the values of a dump are added."""
    after: dict[str, Any] = {"max_length": max(stored["max_length"], values["max_length"])}
    for name in _EXPERIMENT_LISTS:
        after[name] = merge_lists(stored[name], values[name])
    for name in TIMES:
        unknown = stored[name] in (None, UNKNOWN_TIME) and values[name] is not None
        after[name] = values[name] if unknown else stored[name]
    return {name: value for name, value in after.items() if value != stored[name]}


def _format_times(
    times: tuple[datetime | None, datetime | None], unknown: Sequence[str | None]
) -> tuple[str | None, ...]:
    """Return times as stored text; unknown times get the value of `unknown`."""
    return tuple(
        default if time is None else as_stored(time) for time, default in zip(times, unknown, strict=True)
    )
