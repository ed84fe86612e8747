"""Databases of runs that walk between planted clusters, made by the commands themselves."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from panic_tda.main import main

MODEL = "Walks"
DIMENSIONS = 16


@dataclass(frozen=True)
class Walk:
    """Description of the runs to make."""

    runs: int = 8
    steps: int = 40
    places: int = 5
    noise: float = 0.1
    model: str = MODEL
    rename: Callable[[str], str] = str
    options: Sequence[str] = ("--min-cluster-size", "5", "--epsilon", "0")


def run_command(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def read_json(*words: object) -> Any:
    return json.loads(run_command(*words, "--json"))


def make_walks(folder: Path, walk: Walk) -> Path:
    """Write a database with one clustering, and return its path."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(walk.places, DIMENSIONS))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("text", "run", "number", "prompt", "network", "vector")
    }
    for run in range(walk.runs):
        place = int(rng.integers(walk.places))
        for step in range(walk.steps):
            # The first run comes to rest, so that there is a fixed point of its texts.
            if (run > 0 or step < 10) and rng.random() < 0.25:
                place = int(rng.integers(walk.places))
            text = walk.rename(f"place {place} seen from {step % 3 if run else 0}")
            about = np.random.default_rng(zlib.crc32(f"{place} {step % 3 if run else 0}".encode()))
            vector = centres[place] + walk.noise * about.normal(size=DIMENSIONS)
            if run and step % 9 == 4:
                text, vector = walk.rename(f"nowhere {run} {step}"), rng.normal(size=DIMENSIONS)
            for name, value in (
                ("text", text),
                ("run", f"{run:032x}"),
                ("number", step),
                ("prompt", walk.rename(f"prompt {run % 3}")),
                ("network", [walk.rename(f"Net{run % 2}"), "Writer"]),
                ("vector", vector.astype(np.float32)),
            ):
                rows[name].append(value)
    table = pa.table(
        {
            "text": rows["text"],
            "vector": pa.array(rows["vector"], pa.list_(pa.float32())),
            "run": rows["run"],
            "sequence_number": rows["number"],
            "initial_prompt": rows["prompt"],
            "network": rows["network"],
            "embedding_model": [walk.model] * len(rows["text"]),
        }
    )
    pq.write_table(table, folder / "walks.parquet")
    database = folder / "walks.sqlite"
    run_command("import-embeddings", folder / "walks.parquet", "--db", database, "-q")
    run_command("cluster-embeddings", *walk.options, "--db", database, "-q")
    return database
