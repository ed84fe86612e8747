"""Compiled code that cannot be read or written is compiled anew, and the folder is named."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import pytest

from tests.conftest import MakeDisk
from tests.snapshots import REPOSITORY

# A kernel of the same kind as ours, which compiles fast, and two signatures of it.
KERNELS = """
import numpy as np
from panic_tda.clustering.compiled import compiled

@compiled
def add_up(values):
    total = 0.0
    for value in values:
        total += value
    return total
"""
PROGRAM = """
import json, logging, sys
import numpy as np
logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
import kernels
print(kernels.add_up(np.arange(5.0)), sum(kernels.add_up.stats.cache_hits.values()))
"""


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "kernels.py").write_text(KERNELS)
    return folder


def run(kernels: Path, cache: Path) -> tuple[bool, str]:
    """Call the kernel in a process of its own; return whether it came from the cache, and the log."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    path = f"{REPOSITORY}{os.pathsep}{kernels}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": path},
        cwd=kernels,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    total, hits = done.stdout.split()
    assert total == "10.0"
    return hits == "1", done.stderr


def write_random_bytes(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(file.stat().st_size))


def write_other_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(numba.__version__) + pickle.dumps(["no", "index", "at", "all"]))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def deny_reading(file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    file.chmod(0)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "damage",
    [empty, truncate, write_random_bytes, write_other_pickle, replace_by_folder, deny_reading],
)
def test_a_damaged_cache_is_named_and_replaced(
    kernels: Path, tmp_path: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    cache = tmp_path / "cache"
    assert run(kernels, cache) == (False, "")
    assert run(kernels, cache) == (True, "")
    (file,) = cache.rglob(f"*{suffix}")
    damage(file)
    cached, log = run(kernels, cache)
    assert not cached
    warnings = [line for line in log.splitlines() if "compiled code in" in line]
    assert warnings
    assert all(str(file.parent) in line for line in warnings)
    assert "Traceback" not in log
    if damage is not replace_by_folder:
        # Numba replaces no folder; what is a file is in order again.
        assert len(warnings) == 1
        assert run(kernels, cache) == (True, "")


def test_a_file_of_another_is_left_alone(kernels: Path, tmp_path: Path) -> None:
    """The cache may be shared: nothing is removed but the index of the function that could not be read."""
    cache = tmp_path / "cache"
    run(kernels, cache)
    (index,) = cache.rglob("*.nbi")
    others = [index.with_name("other.f-1.py311.nbi"), index.with_name("other.f-1.py311.1.nbc")]
    for other in others:
        other.write_bytes(b"of another program")
    empty(index)
    run(kernels, cache)
    assert [other.read_bytes() for other in others] == [b"of another program"] * 2


def test_a_full_disk_costs_the_cache_only(kernels: Path, disk: MakeDisk) -> None:
    cache = disk(16 << 10)
    for _ in range(2):
        cached, log = run(kernels, cache)
        assert not cached
        (line,) = log.splitlines()
        assert str(cache) in line
        assert "cannot be written (No space left on device)" in line
        # No index is left that names code which is not there.
        assert not list(cache.rglob("*.nb?"))
