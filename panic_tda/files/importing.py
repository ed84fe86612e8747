"""Embeddings from files into a database: ids by hash, so that importing twice adds nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import WrongUsage
from panic_tda.files.embedding_files import EmbeddingBatch, EmbeddingFile, RunKey
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database, insert_new_rows
from panic_tda.storage.schemas import Embedding, ExperimentConfig, Run
from panic_tda.types import ImportSummary

_experiment = ExperimentConfig.__table__
_run = Run.__table__
_embedding = Embedding.__table__

_TIMES = ("started_at", "completed_at")
# The id and the value that is compared come first. The times are given because some files in the field
# would put the present there: when these rows were made is not known.
_INVOCATION_COLUMNS = ("id", "output_text", "model", "type", "seed", "run_id", "sequence_number", *_TIMES)
_EMBEDDING_COLUMNS = ("id", "vector", "invocation_id", "embedding_model", *_TIMES)
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_STORED_TEXTS = sa.text("SELECT id, output_text FROM invocation WHERE id IN :ids").bindparams(_IDS)
_STORED_VECTORS = sa.text("SELECT id, vector FROM embedding WHERE id IN :ids").bindparams(_IDS)


def sample_files() -> list[Path]:
    """Return the files of the sample that ships with the package: 48 runs of captions in two models."""
    folder = resources.files("panic_tda") / "sample"
    return [Path(str(folder / name)) for name in ("captions_lsa.parquet", "captions_minilm.parquet")]


def import_embeddings(
    files: Iterable[str | Path],
    database: Database,
    *,
    model: str | None = None,
    progress: Progress | None = None,
) -> ImportSummary:
    """Import Parquet or Arrow files of embeddings in one transaction.

    Needed are columns `text` and `vector` (lists of float16, float32 or float64, stored as float32), and an
    embedding model: the column `embedding_model`, or `model`. Columns `run`, `sequence_number`,
    `initial_prompt`, `network` and `seed` say where a text comes from. Without `run`, a file is one run,
    known by its texts and their order, so that the same texts in another model's file meet the same
    invocations. Without `sequence_number` texts are numbered in the order of the file, per run and model.

    Ids are hashes of (run, seed, network, prompt, sequence number, model): importing again adds nothing, and
    a file that has grown adds what is new. The runs that are new form one experiment.

    Parameters
    ----------
    files : iterable of str or Path
        Parquet, Arrow IPC (Feather) or Arrow stream files.
    database : Database
        With tables of the current version; `open_database(path, create=True)` makes one.
    model : str, optional
        The embedding model of files that have no column for it.
    progress : Progress, optional
        Told the rows imported.

    Returns
    -------
    ImportSummary
        What was added.

    Raises
    ------
    BadInput
        A file lacks a column, or a row cannot be imported: its vector is missing, ragged, zero or not finite,
        or a text or a vector differs from the one in the database under the same key. Nothing is imported.
    WrongUsage
        No file, or an embedding model that is not named, or named differently by the file and the caller.
    """
    progress = progress or Silent()
    sources = require_files(files, model=model)
    database.require_current()
    counts = [source.n_rows for source in sources]
    progress.phase("import", None if None in counts else float(sum(count or 0 for count in counts)))
    with database.writing() as connection:
        importer = _Importer(connection)
        for source in sources:
            for batch in source.batches():
                importer.add(batch)
                progress.advance(len(batch.rows))
        return importer.finish(len(sources))


def require_files(files: Iterable[str | Path], *, model: str | None = None) -> list[EmbeddingFile]:
    """Open all files and check their columns; what is wrong is found before a database is made for them.

    Raises
    ------
    BadInput, WrongUsage
        As `import_embeddings`.
    """
    sources = [EmbeddingFile(Path(file), model) for file in files]
    if not sources:
        raise WrongUsage("no file to import; name Parquet or Arrow files")
    return sources


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


class _Importer:
    """Writes batches inside one transaction, and remembers what the end has to know."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runs: dict[RunKey, _KnownRun] = {}
        self._changes: dict[UUID, _ExperimentChange] = {}
        self._new_experiment: UUID | None = None
        self._widths: dict[str, int] = {}
        self._n_rows = self._n_runs = self._n_invocations = self._n_embeddings = 0

    def add(self, batch: EmbeddingBatch) -> None:
        """Write one batch."""
        self._require_width(batch)
        self._find_runs(batch)
        runs = [self._runs[key] for key in batch.runs]
        invocations = self._add_invocations(batch, [run.id for run in runs])
        self._add_embeddings(batch, invocations)
        self._note(batch, runs)
        self._n_rows += len(batch.rows)

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
        return ImportSummary(
            n_files=n_files,
            n_rows=self._n_rows,
            n_new_embeddings=self._n_embeddings,
            n_new_invocations=self._n_invocations,
            n_new_runs=self._n_runs,
            models=tuple(sorted(self._widths)),
            experiment_id=self._new_experiment,
        )

    def _require_width(self, batch: EmbeddingBatch) -> None:
        """Check that a model's vectors have the length of those before them, here and in the database."""
        model, width = batch.model, batch.vectors.shape[1]
        if model not in self._widths:
            query = sa.select(sa.func.length(_embedding.c.vector)).where(
                _embedding.c.embedding_model == model, _embedding.c.vector.is_not(None)
            )
            stored = self._connection.execute(query.limit(1)).scalar()
            self._widths[model] = width if stored is None else stored // 4
        if width != self._widths[model]:
            batch.refuse(
                0, f"the vector has {width} dimensions, those of {model} before it have {self._widths[model]}"
            )

    def _find_runs(self, batch: EmbeddingBatch) -> None:
        """Look up the batch's runs that were not seen before, and add those that are not in the database."""
        unseen = {
            _identity("run", key.name, key.seed, key.network, key.initial_prompt): key
            for key in batch.runs
            if key not in self._runs
        }
        if not unseen:
            return
        query = sa.select(_run.c.id, _run.c.max_length, _run.c.experiment_id)
        for chunk in _chunks(list(unseen)):
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
                self._connection.execute(
                    sa.insert(ExperimentConfig).values(id=self._new_experiment, **values)
                )
        return self._new_experiment

    def _add_invocations(self, batch: EmbeddingBatch, run_ids: list[str]) -> list[str]:
        codes, numbers = batch.run_codes.tolist(), batch.sequence_numbers.tolist()
        ids = [
            _hash(f'["invocation", "{run_ids[code]}", {number}]')
            for code, number in zip(codes, numbers, strict=True)
        ]
        networks = [key.network for key in batch.runs]
        models = [
            networks[code][number % len(networks[code])] for code, number in zip(codes, numbers, strict=True)
        ]
        rows = [
            (identity, text, model, "TEXT", batch.runs[code].seed, run_ids[code], number, None, None)
            for identity, text, model, code, number in zip(
                ids, batch.texts, models, codes, numbers, strict=True
            )
        ]
        n_new = insert_new_rows(self._connection, "invocation", _INVOCATION_COLUMNS, rows)
        if n_new < len(rows):
            self._compare(batch, rows, _STORED_TEXTS, "text")
        self._n_invocations += n_new
        return ids

    def _add_embeddings(self, batch: EmbeddingBatch, invocations: list[str]) -> None:
        name, model = batch.model, json.dumps(batch.model)
        vectors = np.ascontiguousarray(batch.vectors, dtype="<f4")
        blobs = vectors.view(f"V{4 * vectors.shape[1]}")[:, 0].tolist()
        rows = [
            (_hash(f'["embedding", "{invocation}", {model}]'), vector, invocation, name, None, None)
            for invocation, vector in zip(invocations, blobs, strict=True)
        ]
        n_new = insert_new_rows(self._connection, "embedding", _EMBEDDING_COLUMNS, rows)
        if n_new < len(rows):
            self._compare(batch, rows, _STORED_VECTORS, "vector")
        self._n_embeddings += n_new

    def _compare(
        self, batch: EmbeddingBatch, rows: list[tuple[Any, ...]], stored: sa.TextClause, what: str
    ) -> None:
        """Check that what is stored under the ids of these rows is what the rows say."""
        values: dict[str, Any] = {}
        for chunk in _chunks([row[0] for row in rows]):
            values.update((row[0], row[1]) for row in self._connection.execute(stored, {"ids": chunk}))
        for index, (identity, value, *_) in enumerate(rows):
            if values[identity] != value:
                batch.refuse(
                    index,
                    f"model {batch.model}: another {what} is stored under this key already; if it is another "
                    "text of the run, give it another sequence number",
                )

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
            change.models[batch.model] = None
            change.length = max(change.length, run.length)

    def _update_experiment(self, identity: UUID, change: _ExperimentChange) -> None:
        this = _experiment.c.id == identity
        before = self._connection.execute(sa.select(_experiment).where(this)).mappings().one_or_none()
        if before is None:
            return
        after = {
            "networks": _united(before["networks"], (list(network) for network in change.networks)),
            "seeds": _united(before["seeds"], change.seeds),
            "prompts": _united(before["prompts"], change.prompts),
            "embedding_models": _united(before["embedding_models"], change.models),
            "max_length": max(before["max_length"], change.length),
        }
        if any(before[name] != value for name, value in after.items()):
            self._connection.execute(sa.update(ExperimentConfig).where(this).values(**after))


def _identity(*parts: Any) -> str:
    # JSON says where each part ends; joined by a mark, two different keys could read the same.
    return _hash(json.dumps(parts))


def _hash(text: str) -> str:
    """Return an id of 32 hexadecimal characters: the first half of the SHA-256."""
    return sha256(text.encode()).hexdigest()[:32]


def _united(stored: list[Any], more: Iterable[Any]) -> list[Any]:
    known = {json.dumps(value): value for value in stored}
    for value in more:
        known.setdefault(json.dumps(value), value)
    return list(known.values())


def _chunks(ids: Sequence[str], size: int = 8192) -> Iterable[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
