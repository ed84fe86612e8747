"""Test that a killed clustering continues from its work folder and stores the same result."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.parameters import ClusteringParameters
from panic_tda.types import CLUSTERED
from tests.conftest import MakeFile
from tests.field_files import FieldSpec
from tests.snapshots import opened, run_python

# Kills itself after some steps of a phase; states are saved at every chance, not once a minute. Each run is a
# fork of one process, which has loaded what they need and done nothing yet.
RUNS = """
import functools, json, os, signal, sys
from panic_tda import clustering_manager, model_fits
from panic_tda.clustering import backends, recipe, warm_up
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.parameters import ClusteringParameters
from panic_tda.clustering.tiled import engine

class Killer:
    def __init__(self, phase, steps):
        self.last, self.left = f"Nomic: {phase}", steps
    def phase(self, name, total=None):
        self.name, self.left_here = name, self.left
        self.advance(0)
    def advance(self, amount):
        self.left_here -= 1
        if self.name == self.last and self.left_here < 0:
            os.kill(os.getpid(), signal.SIGKILL)

model_fits.Checkpoint = functools.partial(Checkpoint, save_seconds=0)
backends.get_backend = lambda _name: engine.TiledBackend(engine.Settings(tile_rows=64))
asked = ClusteringParameters(backend="tiled")
# Load what is compiled.
warm_up._compile_hierarchy()
warm_up._compile_tiled()
for phase, steps in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        clustering_manager.cluster_all_data(sys.argv[1], parameters=asked, progress=Killer(phase, steps))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def rows_of(path: Path, key: int) -> list[tuple[object, ...]]:
    query = "SELECT embedding_id, label, probability FROM embeddingcluster WHERE result_key = ? ORDER BY 1"
    with opened(path) as connection:
        return connection.execute(query, (key,)).fetchall()


KILLS = [
    *(("load", 1), ("neighbours", 20), ("neighbours", 40), ("forest", 0), ("verify", 10)),
    *(("hierarchy", 0), ("medoids", 0), ("save", 0)),
]
"""Phases, each with the number of steps after which a process is killed; the next one goes on."""


def test_killed_at_every_stage_the_same_result_is_stored(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",), runs=12, length=120, dimensions=48))
    folder = file.path.with_name(f"{file.path.name}.panic-tda")
    killed = run_python(RUNS, str(file.path), json.dumps(KILLS))
    assert killed.stdout.split() == [str(-signal.SIGKILL)] * len(KILLS), killed.stderr
    assert rows_of(file.path, 1) == []
    assert list(folder.rglob("*.state"))
    resumed = run_python(RUNS, str(file.path), json.dumps([("never", 0)]))
    assert resumed.stdout.split() == ["0"], resumed.stderr
    (uninterrupted,) = cluster_all_data(file.database, parameters=ClusteringParameters(backend="tiled"))
    assert uninterrupted.status == CLUSTERED
    assert rows_of(file.path, 1) == rows_of(file.path, 2) != []
    assert not folder.exists()
