"""Writes small databases as the generation pipeline left them in the field, in every layout known.

One dataclass says what the file shall hold, one function writes it with plain `sqlite3`, and what it
returns says which rows went in, so that tests count on nothing but this file:

    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=2, null_vectors=3))
    facts.count("Nomic"), facts.sample("Nomic", downsample=10)

Nothing of the package is used here: these are the files as others wrote them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

OLD_TABLES = ("clusteringresult", "cluster", "embeddingcluster")
ODD_TEXTS = ("", "   ", "two\nlines", "<b>markup</b> & [red]", "a balloon 🎈", "風船", "=1+1", "word " * 250)
BAD_KINDS = ("null", "short", "nan", "infinite", "zero")


@dataclass(frozen=True)
class FieldSpec:
    """Contents of a field file to write.

    Attributes
    ----------
    layout : {0, 1, 2, 3}
        Layout of the old clustering tables: 0 has none; 1 keeps clusters as JSON in `clusteringresult`;
        2 has a table `cluster` and columns declared `UUID`, in which ids of digits became floats; 3 has
        `medoid_embedding_id` in `embeddingcluster`.
    runs, length : int
        Runs in which images (even sequence numbers) and texts (odd ones) alternate, and their length.
    text_only_runs : int
        Further runs whose images were not stored: all sequence numbers are odd.
    both_parities_runs : int
        Further runs with a text at every sequence number.
    holes : tuple of (run, sequence number)
        Steps that failed: neither they nor their embeddings are in the file.
    dimensions : int
        Length of the vectors.
    text_models, vision_models : tuple of str
        Models that embed every text, and every image.
    dummy_rows : int
        Embeddings of the model `Dummy`, not of unit length, for the first texts.
    null_vectors, short_vectors, nan_vectors, infinite_vectors, zero_vectors : int
        Embeddings of the first text model that are spoiled in this way.
    orphan_embeddings : int
        Embeddings of the first text model whose invocation is missing.
    orphan_invocations : int
        Invocations, embedded as all others, whose run is missing.
    duplicates : float
        Share of texts that repeat an earlier text word for word, and so its vector.
    migrated : bool
        Columns in another order, `DEFAULT (datetime('now'))`, timestamps without fraction, a unique
        (run_id, sequence_number).
    times_required : bool
        No time of an invocation or an embedding may be NULL.
    unique : {"none", "constraint", "index"}
        How (invocation_id, embedding_model) is kept unique.
    alembic_version : str or None
        Revision in the old pipeline's own `alembic_version`; None leaves that table out.
    wal : bool
        Whether the file is in write-ahead mode.
    unknown_table : bool
        Add a table that neither program knows.
    digit_ids : bool
        Every id consists of digits with none or one `e`, which looks like a number.
    image_bytes : int
        Size of an image.
    clusterings : int
        Old clusterings of the first text model (layouts 1 to 3).
    seed : int
        Of the random numbers.
    """

    layout: Literal[0, 1, 2, 3] = 1
    runs: int = 4
    length: int = 20
    text_only_runs: int = 0
    both_parities_runs: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    dimensions: int = 8
    text_models: tuple[str, ...] = ("Nomic", "STSBMpnet")
    vision_models: tuple[str, ...] = ()
    dummy_rows: int = 0
    null_vectors: int = 0
    short_vectors: int = 0
    nan_vectors: int = 0
    infinite_vectors: int = 0
    zero_vectors: int = 0
    orphan_embeddings: int = 0
    orphan_invocations: int = 0
    duplicates: float = 0.15
    migrated: bool = False
    times_required: bool = False
    unique: Literal["none", "constraint", "index"] = "none"
    alembic_version: str | None = None
    wal: bool = False
    unknown_table: bool = False
    digit_ids: bool = False
    image_bytes: int = 64
    clusterings: int = 2
    seed: int = 0


EVERYTHING = FieldSpec(
    layout=2,
    text_only_runs=2,
    both_parities_runs=2,
    holes=((0, 2), (0, 3), (1, 7), (4, 1), (6, 0)),
    vision_models=("NomicVision",),
    dummy_rows=5,
    null_vectors=2,
    short_vectors=1,
    nan_vectors=2,
    infinite_vectors=1,
    zero_vectors=1,
    orphan_embeddings=3,
    orphan_invocations=2,
    migrated=True,
    unique="index",
    alembic_version="3f2a9c1d0b7e",
    wal=True,
    unknown_table=True,
)
"""A file with everything that was ever seen in the field at once."""


@dataclass(frozen=True)
class StoredInvocation:
    """One row of `invocation`; the content number stands for what its vector derives from."""

    id: str
    run_id: str
    sequence_number: int
    type: Literal["TEXT", "IMAGE"]
    model: str
    text: str | None
    attractor: int
    content: int
    input_id: str | None


@dataclass(frozen=True)
class StoredEmbedding:
    """One row of `embedding`.

    `kind` is "good" or one of `BAD_KINDS`. `invocation` is None for an orphan.
    """

    id: str
    model: str
    invocation: StoredInvocation | None
    vector: np.ndarray | None
    kind: str = "good"


@dataclass(frozen=True)
class FieldFacts:
    """Contents of a field file that was written."""

    path: Path
    spec: FieldSpec
    experiment_id: str
    runs: list[str]
    invocations: list[StoredInvocation]
    embeddings: list[StoredEmbedding]
    old_rows: dict[str, int] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Names of all embedding models, sorted."""
        return sorted({embedding.model for embedding in self.embeddings})

    def of(self, model: str) -> list[StoredEmbedding]:
        """All embeddings of one model by ascending id, bad ones and orphans too."""
        return sorted((e for e in self.embeddings if e.model == model), key=lambda e: e.id)

    def count(self, model: str) -> int:
        """Count the embeddings of a model, bad ones and orphans included."""
        return len(self.of(model))

    def bad(self, model: str, kind: str | None = None) -> list[str]:
        """Ids of this model's spoiled vectors, of one kind or of all."""
        kinds = BAD_KINDS if kind is None else (kind,)
        return [e.id for e in self.of(model) if e.kind in kinds]

    def sample(self, model: str, downsample: int = 1) -> list[StoredEmbedding]:
        """Return the embeddings that the downsampling rule keeps, by id: no orphans, but bad vectors."""
        return [
            embedding
            for embedding in self.of(model)
            if embedding.invocation and self.output_index(embedding.invocation) % downsample == 0
        ]

    def output_index(self, invocation: StoredInvocation) -> int:
        """Return its number among its run's outputs of its type, as the downsampling rule counts them."""
        both_parities = len(self._parities[invocation.run_id, invocation.type]) == 2
        return invocation.sequence_number // (1 if both_parities else 2)

    @cached_property
    def _parities(self) -> dict[tuple[str, str], set[int]]:
        numbers: dict[tuple[str, str], set[int]] = {}
        for invocation in self.invocations:
            key = invocation.run_id, invocation.type
            numbers.setdefault(key, set()).add(invocation.sequence_number % 2)
        return numbers


def write_field_file(path: Path, spec: FieldSpec = FieldSpec()) -> FieldFacts:
    """Write a database of the generation pipeline to `path`, and return what is in it."""
    facts = _invent(path, spec)
    connection = sqlite3.connect(path)
    try:
        if spec.wal:
            connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            _create_tables(connection, spec)
            _insert_pipeline_rows(connection, facts)
            _insert_other_rows(connection, facts)
            facts.old_rows.update(_write_old_clusterings(connection, facts))
    finally:
        connection.close()
    return facts


# --------------------------------------------------------------------------- what the rows say


def _invent(path: Path, spec: FieldSpec) -> FieldFacts:
    rng = np.random.default_rng(spec.seed)
    ids = _ids(spec, rng)
    experiment = next(ids)
    n_runs = spec.runs + spec.text_only_runs + spec.both_parities_runs
    runs = [next(ids) for _ in range(n_runs)]
    invocations = list(_steps(spec, runs, ids, rng))
    lost_run = next(ids)
    for number in range(spec.orphan_invocations):
        content = 10**6 + number
        text = f"a text without a run, number {number}"
        step = StoredInvocation(next(ids), lost_run, 2 * number + 1, "TEXT", "BLIP2", text, 0, content, None)
        invocations.append(step)
    embeddings = list(_embeddings(spec, invocations, ids, rng))
    return FieldFacts(path, spec, experiment, runs, invocations, embeddings)


def _ids(spec: FieldSpec, rng: np.random.Generator) -> Iterator[str]:
    # Time-ordered, in the older layout: 36 bits of seconds, then a fraction.
    start, number = 0x067FFC18C, 0
    while True:
        number += 1
        if spec.digit_ids:
            yield f"06888680{number:024d}" if number % 2 else f"06888680501e{number:020d}"
        else:
            tail = "".join(f"{part:08x}" for part in rng.integers(0, 2**32, 3))[:19]
            yield f"{start + number // 4096:09x}{number % 4096:03x}7{tail}"


def _steps(
    spec: FieldSpec, runs: list[str], ids: Iterator[str], rng: np.random.Generator
) -> Iterator[StoredInvocation]:
    known: list[list[tuple[str, int]]] = [[], [], []]
    content = 0
    for number, run in enumerate(runs):
        text_only = spec.runs <= number < spec.runs + spec.text_only_runs
        both = number >= spec.runs + spec.text_only_runs
        attractor = number % 3
        previous = None
        for sequence in range(spec.length):
            kind: Literal["TEXT", "IMAGE"] = "TEXT" if both or sequence % 2 else "IMAGE"
            identity, text, drawn, content = next(ids), None, content, content + 1
            if kind == "TEXT":
                text, drawn = _text(known[attractor], attractor, drawn, spec, rng)
            if (number, sequence) not in spec.holes and not (text_only and kind == "IMAGE"):
                model = "SDXLTurbo" if kind == "IMAGE" else "BLIP2"
                yield StoredInvocation(identity, run, sequence, kind, model, text, attractor, drawn, previous)
            previous = identity


def _text(
    known: list[tuple[str, int]], attractor: int, content: int, spec: FieldSpec, rng: np.random.Generator
) -> tuple[str, int]:
    if known and rng.random() < spec.duplicates:
        return known[rng.integers(len(known))]
    odd = attractor == 0 and len(known) < len(ODD_TEXTS)
    text = ODD_TEXTS[len(known)] if odd else f"attractor {attractor}, variation {content}"
    known.append((text, content))
    return text, content


def _embeddings(
    spec: FieldSpec, invocations: list[StoredInvocation], ids: Iterator[str], rng: np.random.Generator
) -> Iterator[StoredEmbedding]:
    texts = [invocation for invocation in invocations if invocation.type == "TEXT"]
    images = [invocation for invocation in invocations if invocation.type == "IMAGE"]
    for number, model in enumerate(spec.text_models):
        kinds = _spoiled(spec, len(texts), rng) if number == 0 else {}
        for row, invocation in enumerate(texts):
            kind = kinds.get(row, "good")
            vector = _spoil(_vector(spec, number, invocation), kind)
            yield StoredEmbedding(next(ids), model, invocation, vector, kind)
    for number, model in enumerate(spec.vision_models):
        for invocation in images:
            yield StoredEmbedding(next(ids), model, invocation, _vector(spec, 100 + number, invocation))
    for invocation in texts[: spec.dummy_rows]:
        yield StoredEmbedding(next(ids), "Dummy", invocation, 3 * _vector(spec, 200, invocation))
    for _ in range(spec.orphan_embeddings):
        vector = rng.standard_normal(spec.dimensions).astype("<f4")
        yield StoredEmbedding(next(ids), spec.text_models[0], None, vector)


def _vector(spec: FieldSpec, model: int, invocation: StoredInvocation) -> np.ndarray:
    """Return a unit vector that depends on the model and the content alone."""
    centre = np.random.default_rng([spec.seed, model, invocation.attractor]).standard_normal(spec.dimensions)
    noise = np.random.default_rng([spec.seed, model, 7, invocation.content]).standard_normal(spec.dimensions)
    vector = centre / np.linalg.norm(centre) + 0.1 * noise / np.linalg.norm(noise)
    return (vector / np.linalg.norm(vector)).astype("<f4")


def _spoiled(spec: FieldSpec, n_rows: int, rng: np.random.Generator) -> dict[int, str]:
    kinds = [kind for kind in BAD_KINDS for _ in range(getattr(spec, f"{kind}_vectors"))]
    rows = rng.choice(n_rows, size=len(kinds), replace=False)
    return dict(zip(rows.tolist(), kinds, strict=True))


def _spoil(vector: np.ndarray, kind: str) -> np.ndarray | None:
    if kind == "null":
        return None
    if kind == "short":
        return vector[:-1]
    if kind in ("nan", "infinite"):
        vector[len(vector) // 2] = np.nan if kind == "nan" else np.inf
    return np.zeros_like(vector) if kind == "zero" else vector


# --------------------------------------------------------------------------- how the rows are stored


_TABLES = {
    "experimentconfig": """
        id CHAR(32) NOT NULL; networks JSON NOT NULL; seeds JSON NOT NULL; prompts JSON NOT NULL;
        embedding_models JSON NOT NULL; max_length INTEGER NOT NULL;
        started_at DATETIME{now}; completed_at DATETIME{now}""",
    "run": """
        id CHAR(32) NOT NULL; network JSON NOT NULL; seed INTEGER NOT NULL; max_length INTEGER NOT NULL;
        initial_prompt VARCHAR NOT NULL; experiment_id CHAR(32) REFERENCES experimentconfig (id)""",
    "invocation": """
        id CHAR(32) NOT NULL; started_at DATETIME{now}; completed_at DATETIME{now}; model VARCHAR NOT NULL;
        type VARCHAR(5) NOT NULL; seed INTEGER NOT NULL; run_id CHAR(32) NOT NULL REFERENCES run (id);
        sequence_number INTEGER NOT NULL; input_invocation_id CHAR(32) REFERENCES invocation (id);
        output_text VARCHAR; output_image_data BLOB""",
    "persistencediagram": """
        id CHAR(32) NOT NULL; started_at DATETIME{now}; completed_at DATETIME{now}; diagram_data BLOB;
        run_id CHAR(32) NOT NULL REFERENCES run (id); embedding_model VARCHAR NOT NULL""",
    "embedding": """
        id CHAR(32) NOT NULL; started_at DATETIME{now}; completed_at DATETIME{now};
        invocation_id CHAR(32) NOT NULL REFERENCES invocation (id); embedding_model VARCHAR NOT NULL;
        vector BLOB""",
}


def _create_tables(connection: sqlite3.Connection, spec: FieldSpec) -> None:
    uniques = {}
    if spec.migrated:
        uniques["invocation"] = ", UNIQUE (run_id, sequence_number)"
    if spec.unique == "constraint":
        uniques["embedding"] = ", UNIQUE (invocation_id, embedding_model)"
    for name, text in _TABLES.items():
        now = " DEFAULT (datetime('now'))" if spec.migrated else ""
        if spec.times_required and name in ("invocation", "embedding"):
            now += " NOT NULL"
        columns = text.format(now=now).split(";")
        ordered = ", ".join(columns[::-1] if spec.migrated else columns)
        connection.execute(f"CREATE TABLE {name} ({ordered}, PRIMARY KEY (id){uniques.get(name, '')})")
    indexes = ["run(experiment_id)", "invocation(run_id)", "invocation(input_invocation_id)"]
    for target in [*indexes, "persistencediagram(run_id)", "embedding(invocation_id)"]:
        name = target.replace("(", "_").removesuffix(")")
        connection.execute(f"CREATE INDEX ix_{name} ON {target}")
    if spec.unique == "index":
        connection.execute(
            "CREATE UNIQUE INDEX unique_invocation_embedding_model "
            "ON embedding (invocation_id, embedding_model)"
        )


def _insert_pipeline_rows(connection: sqlite3.Connection, facts: FieldFacts) -> None:
    spec = facts.spec
    network = json.dumps(["SDXLTurbo", "BLIP2"])
    prompts = [f"prompt {number}" for number in range(len(facts.runs))]
    started, completed = _times(spec)
    experiment = {
        "id": facts.experiment_id,
        "networks": f"[{network}]",
        "seeds": "[-1]",
        "prompts": json.dumps(prompts),
        "embedding_models": json.dumps([*spec.text_models, *spec.vision_models]),
        "max_length": spec.length,
        "started_at": started,
        "completed_at": completed,
    }
    _insert(connection, f"experimentconfig ({', '.join(experiment)})", [tuple(experiment.values())])
    # Old files have runs of no experiment.
    experiments = [facts.experiment_id] * (len(facts.runs) - 1) + [None]
    _insert(
        connection,
        "run (id, network, seed, max_length, initial_prompt, experiment_id)",
        (
            (run, network, -1, spec.length, prompt, experiment)
            for run, prompt, experiment in zip(facts.runs, prompts, experiments, strict=True)
        ),
    )
    image = b"RIFF\x00\x00\x00\x00WEBPVP8L".ljust(spec.image_bytes, b"\x2f")
    _insert(
        connection,
        "invocation (id, model, type, run_id, sequence_number, input_invocation_id, output_text, "
        "output_image_data, seed, started_at, completed_at)",
        (_invocation_row(invocation, image, spec) for invocation in facts.invocations),
    )
    # As after years of parallel work: rows do not lie in the order of their ids.
    order = np.random.default_rng(spec.seed).permutation(len(facts.embeddings)).tolist()
    _insert(
        connection,
        "embedding (id, embedding_model, invocation_id, vector, started_at, completed_at)",
        (_embedding_row(facts.embeddings[position], position, spec) for position in order),
    )


def _invocation_row(invocation: StoredInvocation, image: bytes, spec: FieldSpec) -> tuple[object, ...]:
    i = invocation
    output = image if i.type == "IMAGE" else None
    return i.id, i.model, i.type, i.run_id, i.sequence_number, i.input_id, i.text, output, -1, *_times(spec)


def _embedding_row(embedding: StoredEmbedding, position: int, spec: FieldSpec) -> tuple[object, ...]:
    invocation = embedding.invocation.id if embedding.invocation else f"0bad{position:028x}"
    vector = None if embedding.vector is None else embedding.vector.tobytes()
    return embedding.id, embedding.model, invocation, vector, *_times(spec)


def _insert_other_rows(connection: sqlite3.Connection, facts: FieldFacts) -> None:
    spec = facts.spec
    for number, run in enumerate(facts.runs):
        connection.execute(
            "INSERT INTO persistencediagram (id, diagram_data, run_id, embedding_model) VALUES (?, ?, ?, ?)",
            (f"0680{number:028x}", bytes(range(20)), run, spec.text_models[0]),
        )
    if spec.alembic_version is not None:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (spec.alembic_version,))
    if spec.unknown_table:
        connection.execute("CREATE TABLE 'lab notes' (day, 'what happened', number UUID)")
        connection.execute("INSERT INTO 'lab notes' VALUES ('2025-07-15', x'00ff', '1e5')")


def _write_old_clusterings(connection: sqlite3.Connection, facts: FieldFacts) -> dict[str, int]:
    spec = facts.spec
    if spec.layout == 0:
        return {}
    _create_old_tables(connection, spec.layout)
    model = spec.text_models[0]
    members = [e for e in facts.embeddings if e.model == model and e.kind == "good" and e.invocation]
    started, completed = _times(spec)
    for clustering in range(spec.clusterings):
        result = _old_id(clustering)
        values = {"id": result, "created_at": started, "embedding_model": model, "algorithm": "hdbscan"}
        values["parameters"] = json.dumps({"cluster_selection_epsilon": 0.6})
        if spec.layout == 1:
            values["clusters"] = json.dumps([{"id": 0, "medoid_text": "attractor 0"}])
        else:
            values |= {"started_at": started, "completed_at": completed}
        _insert(connection, f"clusteringresult ({', '.join(values)})", [tuple(values.values())])
        if spec.layout == 2:
            rows = [(_old_id(clustering, c), result, c, members[c].id, 7) for c in range(3)]
            _insert(connection, "cluster (id, clustering_result_id, label, medoid_embedding_id, size)", rows)
        for row, embedding in enumerate(members):
            cluster = embedding.invocation.attractor if embedding.invocation else 0
            line = {"id": f"06a{clustering:05x}{row:024x}", "embedding_id": embedding.id}
            line["clustering_result_id"] = result
            line["cluster_id"] = _old_id(clustering, cluster) if spec.layout == 2 else cluster
            if spec.layout == 3:
                line["medoid_embedding_id"] = members[cluster].id
            _insert(connection, f"embeddingcluster ({', '.join(line)})", [tuple(line.values())])
    tables = [table for table in OLD_TABLES if table != "cluster" or spec.layout == 2]
    return {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}


def _create_old_tables(connection: sqlite3.Connection, layout: int) -> None:
    uuid = "UUID" if layout == 2 else "CHAR(32)"
    clusters = ", clusters JSON NOT NULL" if layout == 1 else ", started_at DATETIME, completed_at DATETIME"
    connection.execute(
        f"CREATE TABLE clusteringresult (id {uuid} NOT NULL, created_at DATETIME NOT NULL, "
        "embedding_model VARCHAR NOT NULL, algorithm VARCHAR NOT NULL, parameters JSON NOT NULL"
        f"{clusters}, PRIMARY KEY (id))"
    )
    if layout == 2:
        connection.execute(
            "CREATE TABLE cluster (id UUID NOT NULL, clustering_result_id UUID NOT NULL, "
            "label INTEGER NOT NULL, medoid_embedding_id UUID, size INTEGER NOT NULL, PRIMARY KEY (id), "
            "FOREIGN KEY(clustering_result_id) REFERENCES clusteringresult (id), "
            "FOREIGN KEY(medoid_embedding_id) REFERENCES embedding (id))"
        )
    cluster = "UUID NOT NULL REFERENCES cluster (id)" if layout == 2 else "INTEGER NOT NULL"
    medoid = ", medoid_embedding_id CHAR(32) REFERENCES embedding (id)" if layout == 3 else ""
    connection.execute(
        f"CREATE TABLE embeddingcluster (id {uuid} NOT NULL, embedding_id {uuid} NOT NULL, "
        f"clustering_result_id {uuid} NOT NULL, cluster_id {cluster}{medoid}, PRIMARY KEY (id), "
        "FOREIGN KEY(embedding_id) REFERENCES embedding (id), "
        "FOREIGN KEY(clustering_result_id) REFERENCES clusteringresult (id))"
    )
    connection.execute("CREATE INDEX ix_embeddingcluster_embedding_id ON embeddingcluster (embedding_id)")


def _old_id(clustering: int, cluster: int = -1) -> str:
    # What broke the files of layout 2: a column declared UUID has numeric affinity and stores these two
    # as floats, the first one as infinity.
    unlucky = {(0, -1): "06888680501e75097830817616369915", (0, 0): "06888680501875097830817616369915"}
    return unlucky.get((clustering, cluster), f"069f{clustering:014x}{cluster + 1:014x}")


def _times(spec: FieldSpec) -> tuple[str, str]:
    fraction = "" if spec.migrated else ".495375"
    return f"2025-04-16 14:41:18{fraction}", f"2025-04-16 14:41:20{fraction}"


def _insert(connection: sqlite3.Connection, target: str, rows: Iterable[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * (target.count(",") + 1))
    connection.executemany(f"INSERT INTO {target} VALUES ({marks})", rows)
