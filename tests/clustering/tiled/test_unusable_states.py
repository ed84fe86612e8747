"""Test that damaged, forged and foreign states are named in the log, and that the fit starts again."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.state_files import write_state
from panic_tda.clustering.tiled import engine
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.types import SpanningTree

N_ROWS, MIN_SAMPLES = 300, 5
STATES = ("neighbours", "first-tree", "verify", "finished-tree")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


class Killed(Exception):
    """Stands for a kill."""


class DyingCheckpoint(Checkpoint):
    """Dies once it has saved a state of one name."""

    def __init__(self, root: Path, last: str) -> None:
        super().__init__(root, "rows", save_seconds=0)
        self._last = last

    def save(self, name: str, **arrays: Any) -> None:
        super().save(name, **arrays)
        if name == self._last:
            raise Killed


def fit(rows: np.ndarray, checkpoint: Checkpoint | None = None) -> SpanningTree:
    options = FitOptions(min_samples=MIN_SAMPLES, distance_floor=1e-3, checkpoint=checkpoint)
    backend = TiledBackend(Settings(tile_rows=20, threads=1))
    return backend.fit(rows, np.ones(len(rows), dtype=np.int64), options)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    drawn = np.random.default_rng(3).standard_normal((N_ROWS, 40)) * np.arange(1, 41) ** -0.5
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(rows: np.ndarray) -> SpanningTree:
    return fit(rows)


@pytest.fixture(scope="module")
def saved(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the work folder of a fit that was killed after each of its states."""
    folders = {}
    for name in STATES:
        folders[name] = tmp_path_factory.mktemp("saved") / "work"
        with pytest.raises(Killed):
            fit(rows, DyingCheckpoint(folders[name], name))
    return folders


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest, saved: dict[str, Path], tmp_path: Path) -> Path:
    """Return a saved state in a work folder of its own."""
    shutil.copytree(saved[request.param], tmp_path / "work")
    (path,) = (tmp_path / "work").glob(f"*/{request.param}.state")
    return path


def assert_begins_anew(
    path: Path, rows: np.ndarray, expected: SpanningTree, caplog: pytest.LogCaptureFixture
) -> None:
    """Fit, and check that the tree is the right one, that the log names the state, and what is left."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "panic_tda"):
        checkpoint = Checkpoint(path.parent.parent, "rows")
        tree = fit(rows, checkpoint)
    np.testing.assert_array_equal(tree.core_distances, expected.core_distances)
    np.testing.assert_array_equal(np.sort(tree.height), np.sort(expected.height))
    assert [str(path) in message for message in caplog.messages].count(True) >= 1, caplog.messages
    assert "is not used, and its work begins anew" in caplog.text


def test_an_undamaged_state_is_used(
    state: Path, rows: np.ndarray, expected: SpanningTree, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"):
        tree = fit(rows, Checkpoint(state.parent.parent, "rows"))
    np.testing.assert_array_equal(np.sort(tree.height), np.sort(expected.height))
    assert f"going on from the state {state}" in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def opened(state: Path) -> Checkpoint:
    """Return the checkpoint whose folder a state is in."""
    checkpoint = Checkpoint(state.parent.parent, "rows")
    checkpoint.open(
        backend="tiled",
        format=engine.FORMAT,
        min_samples=MIN_SAMPLES,
        distance_floor=1e-3,
        library="numpy",
        tile_rows=20,
    )
    assert checkpoint.folder == state.parent
    return checkpoint


def test_every_flipped_bit_of_header_and_digest_is_detected(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, checkpoint = state.read_bytes(), opened(state)
    header = 24 + int.from_bytes(content[16:24], "little")
    for place in (*range(header + 8), *range(len(content) - 32, len(content))):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            state.write_bytes(flipped)
            assert checkpoint.load(state.stem) is None, (place, bit)
    assert caplog.text.count(str(state)) == 8 * (header + 40)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_flipped_bit_is_detected(state: Path, place: float, bit: int) -> None:
    content = state.read_bytes()
    flipped = bytearray(content)
    flipped[int(place * len(content))] ^= 1 << bit
    try:
        state.write_bytes(flipped)
        assert opened(state).load(state.stem) is None
    finally:
        state.write_bytes(content)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def make_sparse(path: Path) -> None:
    """Claim 8 TiB where 8 TiB of zeros are, which take no room."""
    with path.open("r+b") as file:
        file.truncate(8 << 40)


def make_zip_bomb(path: Path) -> None:
    """Write what earlier versions read: an array of 64 MiB in 64 KiB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 23,)}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("cores.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(64):
            member.write(bytes(1 << 20))


def make_another_states(path: Path) -> None:
    """Write a sound state of another name."""
    content = path.read_bytes().replace(
        f'"name": "{path.stem}"'.encode(), f'"name": "{path.stem[::-1]}"'.encode()
    )
    path.write_bytes(content[:-32] + hashlib.blake2b(content[:-32], digest_size=32).digest())


@pytest.mark.parametrize(
    "damage",
    [
        *(flip_a_bit, cut, empty, extend, make_fifo, make_folder, make_link, make_sparse),
        *(make_zip_bomb, make_another_states),
    ],
)
def test_an_unusable_state_is_computed_again(
    state: Path,
    damage: Callable[[Path], None],
    rows: np.ndarray,
    expected: SpanningTree,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(state)
    assert_begins_anew(state, rows, expected, caplog)


@needs_root
@pytest.mark.parametrize("what", ["file", "folder", "root"])
def test_another_users_state_is_not_used(
    state: Path,
    what: str,
    rows: np.ndarray,
    expected: SpanningTree,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owned = {"file": state, "folder": state.parent, "root": state.parent.parent}[what]
    before = state.read_bytes()
    os.chown(owned, 4321, 4321)
    assert_begins_anew(state, rows, expected, caplog)
    assert "belongs to another user (uid 4321)" in caplog.text
    if what != "file":
        assert state.read_bytes() == before


def forge(path: Path, **changed: Any) -> None:
    """Write a state with other values and a digest that fits."""
    checkpoint = opened(path)
    stored = checkpoint.load(path.stem)
    assert stored is not None
    for name, (place, value) in changed.items():
        stored[name][place] = value
    with path.open("wb") as file:
        write_state(file, checkpoint.metadata | {"name": path.stem}, stored)


HOSTILE: dict[str, list[dict[str, Any]]] = {
    "neighbours": [
        {"rows": ((7, 3), N_ROWS)},
        {"rows": ((7, 3), 2**31 - 1)},
        {"rows": ((7, 3), -2)},
        {"sims": ((7, 3), np.nan)},
        {"sims": ((7, 3), np.inf)},
        {"order": (5, 6)},
        {"order": (5, 10**6)},
        {"pairs": ((3, 1), 10**6)},
        {"pairs": ((3, 1), -1)},
        {"pairs": (3, (4, 4))},
        {"done": ((), 10**9)},
        {"done": ((), -1)},
    ],
    "first-tree": [
        {"u": (4, 10**9)},
        {"v": (4, -1)},
        {"v": (4, N_ROWS)},
        {"u": (slice(None), 0), "v": (slice(None), 1)},
        {"height": (4, np.nan)},
        {"height": (0, -1.0)},
        {"height": (4, 1.9)},
        {"height": (N_ROWS - 2, np.inf)},
        {"cores": (4, np.nan)},
        {"cores": (4, -1.0)},
    ],
    "verify": [
        {"u": (4, 10**9)},
        {"order": (5, -1)},
        {"gaps": (4, np.nan)},
        {"gaps": (4, -1.0)},
        {"size": ((), 0)},
        {"size": ((), -5)},
        {"done": ((), 10**9)},
        {"pairs": ((3, 0), 10**6)},
    ],
}
HOSTILE["finished-tree"] = HOSTILE["first-tree"]


@pytest.mark.parametrize("name", STATES)
def test_forged_values_do_not_crash_the_process(
    name: str,
    saved: dict[str, Path],
    tmp_path: Path,
    rows: np.ndarray,
    expected: SpanningTree,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number, changed in enumerate(HOSTILE[name]):
        work = tmp_path / str(number)
        shutil.copytree(saved[name], work)
        (state,) = work.glob(f"*/{name}.state")
        forge(state, **changed)
        assert_begins_anew(state, rows, expected, caplog)
