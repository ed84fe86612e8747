#!/usr/bin/env python3
"""Run random commands on a growing database, kill some of them, and fail on the first inconsistency.

The seed chooses the order of imports, clusterings, recuts, deletions and copies. A third of the writing
commands are stopped (SIGKILL, SIGTERM, Ctrl-C) at a random moment and then repeated. After every step the
script checks that `PRAGMA integrity_check` passes, that `doctor` finds only unfinished work, that the stored
embeddings are the imported ones, and that the stored clusterings are those made and not deleted. The same
command on the same embeddings must give the same clusters. Copies (SQLite, and PostgreSQL if
PANIC_TDA_POSTGRES names a database) must equal the original.

Usage: soak.py MINUTES [--seed N] [--folder FOLDER]
Exit code 0: no inconsistency. Exit code 1: the last line describes it, and FOLDER keeps the files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
MODELS = {"Soak A": 24, "Soak B": 48}
N_PLACES = 12
KILLED_SHARE = 1 / 3
OWN_TABLES = ("clusteringresult", "cluster", "embeddingcluster")
FIELD_TABLES = ("experimentconfig", "run", "invocation", "embedding")


class Inconsistent(Exception):
    """Inconsistency found by a check."""


class Soak:
    """Random commands on a database, and its expected contents.

    Parameters
    ----------
    folder : Path
        Empty folder for the database, files to import and copies.
    seed : int
        Seed of all random choices, except for the moments at which processes are stopped.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance, self.rng = folder, random.Random(seed), np.random.default_rng(seed)
        self.database = folder / "soak.sqlite"
        self.n_embeddings: Counter[str] = Counter()
        self.clusterings: set[str] = set()
        self.answers: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.places = {model: self.rng.standard_normal((N_PLACES, width)) for model, width in MODELS.items()}
        self.n_files = 0

    def run(self, *words: str, stop: bool = True, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command, perhaps after a stopped first attempt; return its stdout.

        The first attempt is stopped within the time that the command took before.
        """
        command = [sys.executable, "-m", "panic_tda", *words, "--db", str(self.database)]
        usual = self.seconds.get(words[0])
        if stop and usual and self.chance.random() < KILLED_SHARE:
            self._stop(command, words[0], usual)
        begun = time.monotonic()
        completed = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        self.seconds[words[0]] = time.monotonic() - begun
        if completed.returncode not in codes:
            raise Inconsistent(
                f"{words}: exit {completed.returncode}: {completed.stderr[-2000:]}{completed.stdout[-500:]}"
            )
        return completed.stdout

    def _stop(self, command: list[str], name: str, usual: float) -> None:
        kind = self.chance.choice(list(SIGNALS))
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )
        try:
            process.wait(self.chance.uniform(0.3, max(0.4, usual)))
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
        stderr = process.communicate()[1]
        if process.returncode == SIGNALS[kind] or (process.returncode == -kind and "panic_tda" not in stderr):
            # Before the program is there a signal ends the interpreter itself.
            self.stopped[kind.name] += 1
        elif process.returncode:
            raise Inconsistent(f"{name} stopped by {kind.name}: exit {process.returncode}: {stderr[-2000:]}")
        self.look(unfinished=True)

    def step(self) -> str:
        """Run a random step and check the database; return the name of the step."""
        things = {"import": 4, "cluster": 4, "recut": 2, "delete": 1, "copy": 1, "again": 1}
        if not self.n_embeddings:
            things = {"import": 1}
        elif not self.clusterings:
            things = {"import": 1, "cluster": 1}
        name = self.chance.choices(list(things), list(things.values()))[0]
        getattr(self, f"do_{name}")()
        self.look(unfinished=False)
        self.done[name] += 1
        return name

    def do_import(self) -> None:
        """Import a new file, and one of the earlier files again."""
        model = self.chance.choice(list(MODELS))
        n_runs, length = self.chance.randint(1, 6), self.chance.randint(20, 200)
        walk = self.rng.integers(N_PLACES, size=n_runs * length)
        jitter = 0.15 * self.rng.standard_normal((len(walk), MODELS[model]))
        # Walks return to exactly the same sentence: equal texts have equal vectors.
        jitter[self.rng.random(len(walk)) < 0.3] = 0
        vectors = (self.places[model][walk] + jitter).astype(np.float32)
        self.n_files += 1
        table = pa.table(
            {
                "run": np.repeat([f"{self.n_files}-{number}" for number in range(n_runs)], length),
                "sequence_number": np.tile(np.arange(length), n_runs),
                "text": [hashlib.sha256(vector.tobytes()).hexdigest() for vector in vectors],
                "vector": list(vectors),
                "embedding_model": [model] * len(walk),
            }
        )
        path = self.folder / f"{self.n_files}.parquet"
        pq.write_table(table, path)
        old = self.folder / f"{self.chance.randint(1, self.n_files)}.parquet"
        self.run("upgrade", "--yes", stop=False) if self.database.exists() else None
        self.run("import-embeddings", str(path), str(old), "--quiet")
        self.n_embeddings[model] += len(walk)

    def do_cluster(self) -> None:
        """Cluster all models; the same embeddings must give the same clusters as before."""
        words = ("--min-cluster-size", str(self.chance.choice([5, 10])), "--json", "--quiet")
        # Stopped: whatever models were saved by then stay, and are told apart from the new ones below.
        printed = json.loads(self.run("cluster-embeddings", *words))["results"]
        for result in printed:
            if result["status"] != "saved" and result["id"] is None:
                raise Inconsistent(f"clustering failed: {result}")
        self.clusterings = self._stored(at_least=self.clusterings | {record["id"] for record in printed})
        self._same_answers()

    def do_again(self) -> None:
        """Cluster all models with the default settings."""
        self.run("cluster-embeddings", "--quiet")
        self.clusterings = self._stored(at_least=self.clusterings)
        self._same_answers()

    def do_recut(self) -> None:
        """Recut one of the clusterings at another epsilon."""
        chosen = self.chance.choice(sorted(self.clusterings))
        self.run("recut-clustering", chosen, "--epsilon", self.chance.choice(["0", "0.2", "0.5"]), "--quiet")
        self.clusterings = self._stored(at_least=self.clusterings)
        self._same_answers()

    def do_delete(self) -> None:
        """Delete some of the clusterings."""
        deleted = self.chance.sample(sorted(self.clusterings), k=-(-len(self.clusterings) // 3))
        # Asked again after it was stopped, some may be gone already.
        self.run("delete-clusterings", *deleted, "--yes", stop=False)
        self.clusterings -= set(deleted)

    def do_copy(self) -> None:
        """Copy the database, and compare every table of the field and of ours."""
        copy = self.folder / "copy.sqlite"
        for path in self.folder.glob("copy.sqlite*"):
            path.unlink()
        self._copy(str(self.database), str(copy))
        for table in (*FIELD_TABLES, *OWN_TABLES):
            if self._digest(self.database, table) != self._digest(copy, table):
                raise Inconsistent(f"the copy's table {table} differs")
        if server := os.environ.get("PANIC_TDA_POSTGRES"):
            back = self.folder / "back.sqlite"
            for path in self.folder.glob("back.sqlite*"):
                path.unlink()
            with _fresh_database(server) as url:
                self._copy(str(self.database), url)
                self._copy(url, str(back))
            for table in (*FIELD_TABLES, *OWN_TABLES):
                if self._digest(self.database, table) != self._digest(back, table):
                    raise Inconsistent(f"table {table} differs after PostgreSQL")

    def _copy(self, source: str, target: str) -> None:
        command = [sys.executable, "-m", "panic_tda", "copy-database", source, target, "--quiet"]
        if self.chance.random() < KILLED_SHARE:
            self._stop(command, "copy-database", 2.0)
        completed = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        if completed.returncode:
            raise Inconsistent(f"copy {source} {target}: {completed.stderr[-2000:]}")

    def look(self, *, unfinished: bool) -> None:
        """Compare the database with its expected contents.

        Parameters
        ----------
        unfinished : bool
            Whether a command was just stopped: results that it saved before may be stored.
        """
        if not self.database.exists():
            return
        with closing(sqlite3.connect(self.database)) as raw:
            (verdict,) = raw.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise Inconsistent(f"integrity_check: {verdict}")
            if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'embedding'").fetchall():
                return
            counted = dict(raw.execute("SELECT embedding_model, count(*) FROM embedding GROUP BY 1"))
        command = [sys.executable, "-m", "panic_tda", "doctor", "--json", "--db", str(self.database)]
        completed = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        if completed.returncode not in (0, 1):
            raise Inconsistent(f"doctor: exit {completed.returncode}: {completed.stderr[-2000:]}")
        bad = [
            finding
            for finding in json.loads(completed.stdout)["findings"]
            if finding["kind"] != "unfinished_work"
        ]
        if bad:
            raise Inconsistent(f"doctor finds {bad}")
        if unfinished:
            return
        if counted != dict(self.n_embeddings):
            raise Inconsistent(f"embeddings: {counted}, imported were {dict(self.n_embeddings)}")
        if (there := self._stored()) != self.clusterings:
            raise Inconsistent(f"clusterings differ: {there ^ self.clusterings}")

    def _stored(self, *, at_least: set[str] | None = None) -> set[str]:
        there = {
            record["id"] for record in json.loads(self.run("list-clusterings", "--limit", "0", "--json"))
        }
        if at_least is not None and not at_least <= there:
            raise Inconsistent(f"clusterings are gone: {at_least - there}")
        return there

    def _same_answers(self) -> None:
        """Check that clusterings of the same input by the same parameters agree in every label."""
        for record in json.loads(self.run("list-clusterings", "--limit", "0", "--json")):
            question = self._question(record["id"])
            answer = self._answer(record["id"])
            if self.answers.setdefault(question, answer) != answer:
                raise Inconsistent(f"clustering {record['id']} differs from an earlier one of the same")

    def _question(self, identity: str) -> str:
        wanted = ("input_sha256", "cluster_selection_epsilon", "min_cluster_size", "min_samples")
        with closing(sqlite3.connect(self.database)) as raw:
            model, parameters = raw.execute(
                "SELECT embedding_model, parameters FROM clusteringresult WHERE id = ?",
                (identity.replace("-", ""),),
            ).fetchone()
        record: dict[str, Any] = json.loads(parameters)
        return json.dumps([model, {name: record[name] for name in wanted}], sort_keys=True)

    def _answer(self, identity: str) -> str:
        with closing(sqlite3.connect(self.database)) as raw:
            rows = raw.execute(
                "SELECT embedding_id, label, probability FROM embeddingcluster WHERE result_key = "
                "(SELECT key FROM clusteringresult WHERE id = ?) ORDER BY embedding_id",
                (identity.replace("-", ""),),
            )
            return hashlib.sha256(repr(rows.fetchall()).encode()).hexdigest()

    @staticmethod
    def _digest(path: Path, table: str) -> str:
        with closing(sqlite3.connect(path)) as raw:
            names = sorted(row[1] for row in raw.execute(f"PRAGMA table_info({table})"))
            # Keys of our own tables are numbered anew where they are copied.
            wanted = ", ".join(name for name in names if name not in ("key", "result_key"))
            rows = raw.execute(f"SELECT {wanted} FROM {table} ORDER BY {wanted}")
            return hashlib.sha256(repr(rows.fetchall()).encode()).hexdigest()


class _fresh_database:  # noqa: N801
    """A new database on a PostgreSQL server, for as long as the block lasts."""

    def __init__(self, server: str) -> None:
        self.server, self.name = server, f"soak{os.getpid()}"

    def __enter__(self) -> str:
        self._ask(f'CREATE DATABASE "{self.name}"')
        return self.server.rsplit("/", 1)[0] + "/" + self.name

    def __exit__(self, *_: object) -> None:
        self._ask(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    def _ask(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(statement)


def main() -> int:
    """Run steps until the time is over; return 1 at the first inconsistency."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="panic-tda-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    # Unfinished work goes to the folder of this run.
    os.environ["TMPDIR"] = str(folder)
    soak, end = Soak(folder, args.seed), time.monotonic() + 60 * args.minutes
    print(f"seed {args.seed}, folder {folder}", flush=True)
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            name = soak.step()
        except Inconsistent as error:
            print(f"INCONSISTENT (seed {args.seed}, folder {folder}): {error}", flush=True)
            return 1
        print(
            f"{name:8} {time.monotonic() - begun:6.1f} s; {sum(soak.n_embeddings.values()):7,} embeddings, "
            f"{len(soak.clusterings):3} clusterings, {sum(soak.stopped.values()):4} stopped",
            flush=True,
        )
    print(f"nothing inconsistent: {dict(soak.done)}, stopped by {dict(soak.stopped)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
