"""Test tasks on a CUDA device: the trees of the processor, whichever blocks are kept in device memory.

Without a device, the arrays are the strict stand-ins of `strict_arrays`, as in `test_tiled_device`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.clustering.tiled import block_cores, block_joining, cores, device, device_blocks, host, tasks
from panic_tda.clustering.tiled.contract import Space
from panic_tda.clustering.tiled.device_blocks import BlockCache
from panic_tda.clustering.tiled.row_files import MatrixFile
from panic_tda.devices import cuda
from panic_tda.errors import DeviceOutOfMemory, PanicTdaError, UnsupportedOnBackend
from tests import strict_arrays
from tests.clustering.tiled.test_tasks import assert_same, fit, make_rows, star_tree
from tests.clustering.tiled.test_tiled_device import LIBRARIES
from tests.executors import ShuffledExecutor
from tests.stand_ins import StandIn, StandInOutOfMemory
from tests.strict_arrays import StrictArray

STRICT = strict_arrays.namespace


class DeviceExecutor(ShuffledExecutor):
    """Executor of workers with a device; keeps the device memory of a task."""

    on_device = True
    device_bytes = 0

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        self.device_bytes = device_bytes


@pytest.fixture
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DeviceExecutor:
    """Return the executor of a library of `LIBRARIES`, the stand-in by default."""
    if getattr(request, "param", "stand-in") == "stand-in":
        StandIn(monkeypatch)
        for module in (tasks, device_blocks):
            monkeypatch.setattr(module, "device_library", lambda: STRICT)
    device_blocks.open_cache.cache_clear()
    return DeviceExecutor(3, 7, 0.4, np.random.default_rng(0))


@pytest.fixture(autouse=True)
def forget_blocks() -> Any:
    yield
    device_blocks.open_cache.cache_clear()


@pytest.fixture
def everything_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "MOST_ROWS_HERE", 0)
    monkeypatch.setattr(block_cores, "GROUP_ROWS", 150)
    monkeypatch.setattr(block_joining, "MOST_ROWS_HERE", 0)
    monkeypatch.setattr(block_joining, "BLOCK_ROWS", 5)


@pytest.fixture
def another_order_of_summation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every distance on the device differ in its last digit."""
    measure = device.measure_distances

    def measure_otherwise(space: Space, u: Any, v: Any) -> Any:
        distances = measure(space, u, v)
        return space.xp.nextafter(distances, space.xp.full(len(distances), space.xp.inf))

    monkeypatch.setattr(device, "measure_distances", measure_otherwise)


@pytest.mark.usefixtures("everything_in_tasks", "another_order_of_summation")
@pytest.mark.parametrize("executor", LIBRARIES, indirect=True)
@pytest.mark.parametrize(
    ("kind", "min_samples", "kept_share", "settings"),
    [
        ("spectrum", 1, 1.0, {"initial_tree": star_tree}),
        ("piles", 40, 0.0, {}),
        ("noise", 3, 1e-6, {"prune_rows": False}),
    ],
)
def test_workers_with_a_device_give_the_tree_of_the_processor(
    kind: str,
    min_samples: int,
    kept_share: float,
    settings: dict[str, Any],
    executor: DeviceExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_blocks, "KEPT_SHARE", kept_share)
    rows = make_rows(kind, 600, 140, 3)
    weights = np.random.default_rng(5).integers(1, 4, 600)
    options: dict[str, Any] = {
        "min_samples": min_samples,
        "keep_neighbours": min_samples,
        "settings": settings,
    }
    here, spread = fit(rows, weights, **options), fit(rows, weights, executor=executor, **options)
    assert_same(spread, here)
    for name in ("rows", "distances"):
        values = (np.sort(getattr(tree.neighbours, name), axis=1) for tree in (spread, here))
        np.testing.assert_array_equal(*values)
    assert executor.device_bytes > rows.nbytes


def test_the_same_panels_are_chosen_as_on_the_processor() -> None:
    rng = np.random.default_rng(0)
    points, centres = (make_rows("noise", n, 12, n) for n in (30, 50))
    # Rows of component 1 may choose among 5 panels, those of component 2 among all.
    owners, only = rng.integers(0, 3, 30), np.where(np.arange(50) < 5, 0, 1)
    here = host.choose_panels(points, owners, centres, only)
    there = device.choose_panels(STRICT.asarray(points), owners, STRICT.asarray(centres), only)
    assert (here[0] == -1).any()
    np.testing.assert_array_equal(there[0], here[0])
    np.testing.assert_allclose(there[1], here[1], rtol=1e-6)


def test_the_block_that_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    rows = np.arange(36, dtype=np.float32).reshape(12, 3)
    rows.tofile(tmp_path / "rows")
    file = MatrixFile(tmp_path / "rows", 3)
    blocks = BlockCache(STRICT, rows[:8].nbytes)
    first, second, third, large = (0, 4), (4, 8), (8, 12), (0, 12)
    for block in (first, second, first, third, large):
        np.testing.assert_array_equal(blocks.read(file, [block]).get(), rows[slice(*block)])
    np.testing.assert_array_equal(blocks.read(file, [third, first]).get(), rows[[8, 9, 10, 11, 0, 1, 2, 3]])
    file.path.unlink()
    for block in (first, third):
        np.testing.assert_array_equal(blocks.read(file, [block]).get(), rows[slice(*block)])
    for block in (second, large):
        with pytest.raises(FileNotFoundError):
            blocks.read(file, [block])


def test_a_device_without_room_is_named_with_a_remedy(
    executor: DeviceExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(BlockCache):
        def read(self, *_: object) -> Any:
            raise StandInOutOfMemory("the stand-in is full")

    monkeypatch.setattr(device_blocks, "BlockCache", Full)
    with pytest.raises(DeviceOutOfMemory, match=r"\d × 20 rows alone are .*use --devices none") as raised:
        fit(make_rows("noise", 300, 20, 0), executor=executor)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_worker_without_a_device_is_named(executor: DeviceExecutor) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "unavailable_reason", lambda: "CuPy is not installed")
        with pytest.raises(UnsupportedOnBackend, match="no CUDA device, unlike the others: CuPy is not"):
            fit(make_rows("noise", 300, 20, 0), executor=executor)


def test_a_device_that_multiplies_with_fewer_bits_is_refused(
    executor: DeviceExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply = StrictArray.__matmul__

    def multiply_coarsely(left: StrictArray, right: StrictArray) -> StrictArray:
        return multiply(left.astype(np.float16).astype(left.dtype), right)

    monkeypatch.setattr(StrictArray, "__matmul__", multiply_coarsely)
    with pytest.raises(PanicTdaError, match="less than float32 precision"):
        fit(make_rows("noise", 300, 20, 0), executor=executor)
