"""Test that compilation has a phase of its own, once per installation, wherever the cache is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda import hdbscan
from panic_tda.clustering.warm_up import PHASE
from tests.snapshots import REPOSITORY, run_python

CLUSTER = """
import json, logging, sys
import numpy as np
from panic_tda.clustering import trees, warm_up
from panic_tda.clustering.recipe import hdbscan
from panic_tda.progress import Silent

# Of the hierarchy only what this fit calls.
warm_up._compile_hierarchy = lambda: trees.find(np.arange(3), 2)
logging.basicConfig(stream=sys.stderr, level=logging.INFO)

class Phases(Silent):
    names = []
    def phase(self, name, total=None):
        self.names.append(name)

rows = np.random.default_rng(0).standard_normal((60, 3))
found = hdbscan(rows, backend="sklearn", epsilon=0, progress=Phases())
print(json.dumps({
    "phases": Phases.names,
    "seconds": found.record.seconds,
}))
"""
# One kernel instead of all those of a fit, because two processes compile it.
COMPILE = """
import json, sys
import numpy as np
from panic_tda.clustering import backends, compiled, trees, warm_up
from panic_tda.progress import Silent

class Phases(Silent):
    names = []
    def phase(self, name, total=None):
        self.names.append(name)

def compile_when_told():
    print("begun", flush=True)
    sys.stdin.readline()
    trees.find(np.arange(3), 2)

warm_up._compile_hierarchy = compile_when_told
seconds = warm_up.compile_kernels(backends.get_backend("sklearn"), Phases())
print(json.dumps({
    "phases": Phases.names,
    "seconds": seconds,
    "row": trees.find(np.array([1, 2, 2]), 0),
    "misses": sum(sum(kernel.stats.cache_misses.values()) for kernel in compiled.KERNELS),
    "cache": str(compiled.find_cache_folder()),
}))
"""


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """Return a copy of the package that cannot cache, because a file replaces the cache folder."""
    package = tmp_path / "site" / "panic_tda"
    shutil.copytree(REPOSITORY / "panic_tda", package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (package, *filter(Path.is_dir, package.rglob("*"))):
        (folder / "__pycache__").touch()
    return package.parent


def started(installation: Path, home: Path, *command: str) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    return subprocess.Popen(
        [sys.executable, *command],
        env=variables | {"HOME": str(home), "PYTHONPATH": str(installation), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=installation,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    stdout, stderr = process.communicate("go on\n")
    assert process.returncode == 0, stderr
    return json.loads(stdout), stderr


@pytest.mark.slow
def test_two_processes_compile_at_once_and_a_third_loads_the_cache(
    installation: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    both = [started(installation, home, "-c", COMPILE) for _ in range(2)]
    # Both have seen that nothing is compiled before one of them compiles.
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    first, second = (finished(process)[0] for process in both)
    third, _ = finished(started(installation, home, "-c", COMPILE))
    assert first["row"] == second["row"] == third["row"] == 2
    for run in (first, second):
        assert run["phases"] == [PHASE]
        assert run["seconds"] > 0
        assert Path(run["cache"]).is_relative_to(home)
    assert (third["phases"], third["seconds"], third["misses"]) == ([], 0, 0)


@pytest.mark.slow
def test_without_any_folder_for_a_cache_the_fit_runs_and_says_so(installation: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the home folder should be")
    printed, log = finished(started(installation, tmp_path / "home", "-c", CLUSTER))
    assert printed["phases"][0] == PHASE
    assert printed["seconds"]["compile"] > 0
    assert log.count("no folder for compiled code can be written") == 1
    assert "NUMBA_CACHE_DIR" in log


def test_listing_needs_no_cache_and_no_compiler(installation: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the home folder should be")
    code = (
        "import sys\nfrom panic_tda.main import main\n"
        "try: main(['list-clusterings', '--json', '--db', sys.argv[1]])\n"
        "except SystemExit as ending: assert not ending.code, ending.code\n"
        "assert 'numba' not in sys.modules"
    )
    database = tmp_path / "new.sqlite"
    process = run_python(
        "import sys; from panic_tda import open_database; open_database(sys.argv[1], create=True)",
        str(database),
    )
    assert process.returncode == 0, process.stderr
    listed, _ = finished(started(installation, tmp_path / "home", "-c", code, str(database)))
    assert listed == []


def test_warm_up_compiles_everything_that_fits_call() -> None:
    """Uses a process of its own, because other tests have compiled functions in this one."""
    process = run_python(
        """
import numpy as np
from panic_tda.clustering import compiled, warm_up
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering.tiled.engine import Settings, TiledBackend

warm_up._compile_hierarchy()
warm_up._compile_tiled()
before = {kernel: len(kernel.signatures) for kernel in compiled.KERNELS}
assert len(before) > 30
rng = np.random.default_rng(1)
piles = np.repeat(rng.standard_normal((30, 200)), 20, axis=0) + 1e-4 * rng.standard_normal((600, 200))
for rows in (rng.standard_normal((500, 256)), rng.standard_normal((400, 5)), piles):
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    weights = rng.integers(1, 3, len(rows))
    for bound, limit in ((True, None), (True, 1), (False, None)):
        settings = Settings(tile_rows=64, bound_neighbours=bound, bound_verify=bound)
        options = FitOptions(min_samples=9, distance_floor=1e-3, memory_limit=limit)
        TiledBackend(settings).fit(rows, weights, options)
    for asked in ({}, {"epsilon": 0}, {"selection_method": "leaf"}, {"max_cluster_size": 30}):
        hdbscan(rows, min_cluster_size=5, **asked)
later = [kernel.py_func.__name__ for kernel in compiled.KERNELS if len(kernel.signatures) > before[kernel]]
print("compiled later:", later)
"""
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "compiled later: []"


def test_without_a_compiler_the_fit_runs_in_python() -> None:
    process = run_python(
        """
import json, os
os.environ["NUMBA_DISABLE_JIT"] = "1"
import numpy as np
from panic_tda import hdbscan
rows = np.random.default_rng(0).standard_normal((60, 3))
for backend in ("sklearn", "tiled"):
    found = hdbscan(rows, backend=backend, epsilon=0, allow_single_cluster=False)
    print(json.dumps([found.labels.tolist(), sorted(found.record.seconds)]))
"""
    )
    assert process.returncode == 0, process.stderr
    rows = np.random.default_rng(0).standard_normal((60, 3))
    compiled = hdbscan(rows, epsilon=0, allow_single_cluster=False)
    assert len(compiled.persistence) > 1
    expected = [compiled.labels.tolist(), ["fit", "medoids"]]
    assert [json.loads(line) for line in process.stdout.splitlines()] == [expected, expected]
