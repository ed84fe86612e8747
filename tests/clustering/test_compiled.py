"""Test that compiled code that cannot be read or written is compiled again, and that the folder is named."""

from __future__ import annotations

import logging
import os
import pickle
import random
import runpy
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest

from panic_tda.clustering import compiled
from tests.conftest import MakeDisk

# A kernel of the same kind as ours, which compiles fast.
KERNELS = """
from panic_tda.clustering.compiled import compiled

@compiled
def add_up(values):
    total = 0.0
    for value in values:
        total += value
    return total
"""
Run = Callable[[Path], tuple[bool, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Run:
    """Call the kernel as in a new process; return whether it came from the cache, and the log.

    Numba reads and writes the cache of a function that was decorated anew: a process of its own for each
    call takes seconds to start and reads the same files.
    """
    source = tmp_path / "kernels.py"
    source.write_text(KERNELS)
    monkeypatch.setattr(compiled, "KERNELS", [])

    def call(cache: Path) -> tuple[bool, str]:
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(cache))
        monkeypatch.setattr(compiled, "cache_failures", set())
        caplog.clear()
        with caplog.at_level(logging.WARNING, "panic_tda"):
            add_up = runpy.run_path(str(source))["add_up"]
            assert add_up(np.arange(5.0)) == 10.0
        return sum(add_up.stats.cache_hits.values()) == 1, caplog.text

    return call


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


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "damage",
    [empty, truncate, write_random_bytes, write_other_pickle, replace_by_folder, deny_reading],
)
def test_a_damaged_cache_is_named_and_replaced(
    run: Run, tmp_path: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    cache = tmp_path / "cache"
    assert run(cache) == (False, "")
    assert run(cache) == (True, "")
    (file,) = cache.rglob(f"*{suffix}")
    damage(file)
    cached, log = run(cache)
    assert not cached
    warnings = [line for line in log.splitlines() if "compiled code in" in line]
    assert warnings
    assert all(str(file.parent) in line for line in warnings)
    assert "Traceback" not in log
    if damage is not replace_by_folder:
        # Numba replaces no folder; what is a file is in order again.
        assert len(warnings) == 1
        assert run(cache) == (True, "")


def test_a_cache_file_of_another_user_is_not_changed(run: Run, tmp_path: Path) -> None:
    """The cache may be shared: nothing is removed but the index of the function that could not be read."""
    cache = tmp_path / "cache"
    run(cache)
    (index,) = cache.rglob("*.nbi")
    others = [index.with_name("other.f-1.py311.nbi"), index.with_name("other.f-1.py311.1.nbc")]
    for other_path in others:
        other_path.write_bytes(b"of another program")
    empty(index)
    run(cache)
    assert [other_path.read_bytes() for other_path in others] == [b"of another program"] * 2


def test_a_full_disk_disables_the_cache_only(run: Run, disk: MakeDisk) -> None:
    cache = disk(16 << 10)
    for _ in range(2):
        cached, log = run(cache)
        assert not cached
        (line,) = log.splitlines()
        assert str(cache) in line
        assert "cannot be written (No space left on device)" in line
        # No index is left that names code which is not there.
        assert not list(cache.rglob("*.nb?"))
