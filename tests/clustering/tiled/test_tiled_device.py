"""Compare the tiled engine on device arrays with the reference used for host memory.

Without a GPU the arrays are the strict stand-ins of `strict_arrays`: every line runs but the compiled CUDA
kernel. The tests marked gpu are the same ones on a real device.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from panic_tda.clustering import state_files
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.tiled import device, layout, neighbours
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.tiled.space import build_space
from panic_tda.devices import cuda
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.types import SpanningTree
from tests import strict_arrays
from tests.clustering.tiled.test_tiled import (
    DATA,
    FLOOR,
    anisotropic,
    assert_exact,
    blobs,
    fit,
    near_copies,
    problems,
    random_tree,
    unit,
)

STRICT = strict_arrays.namespace
NO_GPU = cuda.unavailable_reason()
real = pytest.param(
    "cupy", marks=[pytest.mark.gpu, pytest.mark.skipif(NO_GPU is not None, reason=f"{NO_GPU}")]
)
LIBRARIES = ["stand-in", real]
# Whether the rows lie on the device, or come tile by tile from host memory.
PLACES = [True, False]


def library_of(name: str) -> Any:
    if name == "stand-in":
        return STRICT
    import cupy

    return cupy


def on_device(
    library: str, rows: np.ndarray, *others: object, resident: bool = True, **how: object
) -> SpanningTree:
    xp = library_of(library)
    return fit(rows, *others, upload=xp.asarray if resident else np.asarray, library=xp, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("min_samples", "resident"), [(1, True), (5, False), (30, True)])
@pytest.mark.parametrize("name", DATA)
def test_weights_and_cores_equal_the_oracle(
    name: str, min_samples: int, resident: bool, library: str
) -> None:
    rows = unit(DATA[name](np.random.default_rng(1)))
    k = min(min_samples, len(rows))
    assert_exact(on_device(library, rows, k, tile_rows=100, resident=resident), rows, k)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("tile_rows", [7, 300, 301, 1024])
def test_tile_size_changes_nothing(tile_rows: int, library: str) -> None:
    rows = unit(blobs(np.random.default_rng(2), 300))
    assert_exact(on_device(library, rows, 6, tile_rows=tile_rows), rows, 6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("prune_rows", "resident"), [(False, True), (True, False)])
@pytest.mark.parametrize("n_axes", [0, 64])
def test_pruning_changes_nothing(resident: bool, n_axes: int, prune_rows: bool, library: str) -> None:
    rows = unit(anisotropic(np.random.default_rng(3)))
    tree = on_device(library, rows, 8, tile_rows=128, n_axes=n_axes, prune_rows=prune_rows, resident=resident)
    assert_exact(tree, rows, 8)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["blobs", "rings", "near_copies", "anisotropic_768", "touching_arcs"])
def test_verify_pass_repairs_any_initial_tree(name: str, library: str) -> None:
    rows = unit(DATA[name](np.random.default_rng(5)))
    tree = on_device(library, rows, 5, tile_rows=100, initial_tree=random_tree)
    assert_exact(tree, rows, 5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("min_samples", [1, 3, 12, 40])
def test_copies_count_as_rows(min_samples: int, library: str) -> None:
    rng = np.random.default_rng(6)
    rows = unit(anisotropic(rng, 400, 200))
    weights = np.where(rng.random(len(rows)) < 0.3, rng.integers(2, 30, len(rows)), 1)
    tree = on_device(library, rows, min_samples, weights, tile_rows=90, n_axes=32)
    assert_exact(tree, rows, min_samples, weights)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("extra", [0, 7, 40])
def test_min_samples_up_to_all_rows(extra: int, library: str) -> None:
    rows = unit(blobs(np.random.default_rng(8), 40, 12))
    weights = np.full(len(rows), 2)
    tree = on_device(library, rows, len(rows) + extra, weights, tile_rows=16)
    assert_exact(tree, rows, len(rows) + extra, weights)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("resident", PLACES)
def test_short_lists_are_looked_up_again(resident: bool, library: str) -> None:
    rng = np.random.default_rng(11)
    centres = np.repeat(rng.standard_normal((3, 768)), 150, axis=0)
    rows = unit(centres + 2e-4 * rng.standard_normal((450, 768)))
    tree = on_device(library, rows, 40, floor=1e-6, tile_rows=128, resident=resident)
    assert_exact(tree, rows, 40, floor=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_nearest_row_of_another_component(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CHUNK_BYTES", 1 << 16)  # several tiles
    xp, rng = library_of(library), np.random.default_rng(13)
    rows, cores, leader = unit(rng.standard_normal((900, 5))), rng.random(900), rng.integers(0, 4, 900)
    query_rows = np.sort(rng.choice(900, 200, replace=False))
    weights = np.maximum(cores[query_rows][:, None], cores)
    products = rows[query_rows].astype(np.float64) @ rows.astype(np.float64).T
    weights = np.maximum(weights, np.sqrt(np.maximum(2 - 2 * products, 0)))
    weights[leader[query_rows][:, None] == leader] = np.inf
    space = build_space(xp, xp.asarray(rows), 0, rng)
    search = device.OutsideSearch(space, layout.Layout(xp.arange(900), np.array([0, 900])), cores)
    search.begin(leader)
    best = search.find(query_rows, full_rows=True)
    np.testing.assert_allclose(weights[np.arange(200), best], weights.min(axis=1), atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("floor", [1e-9, 1e-4, 0.3])
def test_distances_below_the_floor_count_as_the_floor(floor: float, library: str) -> None:
    rows = unit(near_copies(np.random.default_rng(10)))
    assert_exact(on_device(library, rows, 10, floor=floor, tile_rows=100), rows, 10, floor=floor)


@pytest.mark.parametrize("library", LIBRARIES)
def test_three_thousand_rows_in_device_tiles_equal_the_reference(library: str) -> None:
    rows = unit(anisotropic(np.random.default_rng(12), 3000, 192))
    assert_exact(on_device(library, rows, 12), rows, 12)


@settings(deadline=None, max_examples=40)
@given(problem=problems())
def test_small_random_problems_equal_the_reference(problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    rows, weights, min_samples = problem
    for resident in PLACES:
        tree = on_device("stand-in", rows, min_samples, weights, tile_rows=17, n_axes=4, resident=resident)
        assert_exact(tree, rows, min_samples, weights)


class Killed(Exception):
    """Stands for a kill: nothing after it is done."""


class Dying(Checkpoint):
    """Keeps every state it is offered, and dies after some of them."""

    def __init__(self, folder: Any, states: int) -> None:
        super().__init__(folder, "rows", save_seconds=0)
        self.left = states

    def save(self, name: str, **arrays: Any) -> None:
        super().save(name, **arrays)
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("states", [1, 2, 3, 4])
def test_a_killed_fit_continues(states: int, library: str, tmp_path: Any) -> None:
    """From lists on the device, half filled, and from a half finished verify pass."""
    rows = unit(anisotropic(np.random.default_rng(20), 900, 192))
    xp = library_of(library)
    backend = TiledBackend(Settings(tile_rows=40, library=xp))
    ones = np.ones(len(rows), dtype=np.int64)

    def options(checkpoint: Checkpoint) -> FitOptions:
        return FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=checkpoint)

    with pytest.raises(Killed):
        backend.fit(xp.asarray(rows), ones, options(Dying(tmp_path, states)))
    assert list(tmp_path.glob("*/*.state"))
    tree = backend.fit(xp.asarray(rows), ones, options(Checkpoint(tmp_path, "rows")))
    assert_exact(tree, rows, 8)


OTHERS = [
    {"n_axes": 0},
    {"n_axes": 16, "threads": 1, "prune_rows": False},
    {"bound_neighbours": False, "bound_verify": False, "threads": 3},
]


@pytest.mark.parametrize(("changed_options", "states"), [*zip(OTHERS * 2, [1, 2, 3, 4, 1, 2], strict=True)])
@pytest.mark.parametrize("library", ["numpy", "stand-in"])
def test_a_killed_fit_continues_with_other_settings(
    library: str, states: int, changed_options: dict[str, Any], tmp_path: Any
) -> None:
    """The key leaves out settings that change only the order of rows or tile pairs: both are in the state."""
    rows = unit(anisotropic(np.random.default_rng(20), 900, 192))
    xp = np if library == "numpy" else STRICT
    ones = np.ones(len(rows), dtype=np.int64)

    def run(checkpoint: Checkpoint, **how: Any) -> SpanningTree:
        options = FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=checkpoint)
        return TiledBackend(Settings(tile_rows=40, library=xp, **how)).fit(xp.asarray(rows), ones, options)

    with pytest.raises(Killed):
        run(Dying(tmp_path, states))
    resumed = Checkpoint(tmp_path, "rows", save_seconds=0)
    assert_exact(run(resumed, **changed_options), rows, 8)
    assert len(list(tmp_path.iterdir())) == 1  # it went on from the same states


@pytest.mark.parametrize("library", ["numpy", "stand-in"])
def test_lists_of_another_length_are_not_used(
    library: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a version that keeps more neighbours would find them."""
    rows = unit(anisotropic(np.random.default_rng(20), 900, 192))
    xp = np if library == "numpy" else STRICT
    ones = np.ones(len(rows), dtype=np.int64)
    backend = TiledBackend(Settings(tile_rows=40, library=xp))
    dying = FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=Dying(tmp_path, 2))
    with pytest.raises(Killed):
        backend.fit(xp.asarray(rows), ones, dying)
    monkeypatch.setattr(neighbours, "SPARE_NEIGHBOURS", neighbours.SPARE_NEIGHBOURS + 1)
    resumed = FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=Checkpoint(tmp_path, "rows"))
    assert_exact(backend.fit(xp.asarray(rows), ones, resumed), rows, 8)


@pytest.mark.parametrize("library", ["numpy", "stand-in"])
def test_damaged_lists_are_not_used(library: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read straight into the lists, piece by piece, before their values are checked."""
    monkeypatch.setattr(state_files, "PIECE_BYTES", 1000)
    rows = unit(anisotropic(np.random.default_rng(20), 900, 192))
    xp = np if library == "numpy" else STRICT
    ones = np.ones(len(rows), dtype=np.int64)
    backend = TiledBackend(Settings(tile_rows=40, library=xp))
    for checkpoint in (Dying(tmp_path, 2), Checkpoint(tmp_path, "rows")):
        options = FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=checkpoint)
        if isinstance(checkpoint, Dying):
            with pytest.raises(Killed):
                backend.fit(xp.asarray(rows), ones, options)
            (path,) = tmp_path.glob("*/neighbours.state")
            content = bytearray(path.read_bytes())
            # Within the products, which come last before the digest.
            content[-2032:-2028] = np.float32(np.nan).tobytes()
            path.write_bytes(content[:-32] + hashlib.blake2b(content[:-32], digest_size=32).digest())
        else:
            assert_exact(backend.fit(xp.asarray(rows), ones, options), rows, 8)


@pytest.mark.parametrize("library", LIBRARIES)
def test_partly_filled_lists_are_used_with_another_layout(
    library: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device may find axes that differ in their last bits, and then another order of the rows."""
    rows = unit(anisotropic(np.random.default_rng(20), 900, 192))
    xp = library_of(library)
    backend = TiledBackend(Settings(tile_rows=40, library=xp))
    ones = np.ones(len(rows), dtype=np.int64)
    dying = FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=Dying(tmp_path, 2))
    with pytest.raises(Killed):
        backend.fit(xp.asarray(rows), ones, dying)
    assert list(tmp_path.glob("*/neighbours.state"))

    def turned(*arguments: Any) -> layout.Layout:
        local_layout = build_local_layout(*arguments)
        return layout.Layout(local_layout.order[::-1].copy(), local_layout.starts)

    build_local_layout = layout.build_local_layout
    monkeypatch.setattr(layout, "build_local_layout", turned)
    resumed = FitOptions(min_samples=8, distance_floor=FLOOR, checkpoint=Checkpoint(tmp_path, "rows"))
    assert_exact(backend.fit(xp.asarray(rows), ones, resumed), rows, 8)


def test_lists_that_do_not_fit_are_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1.1 million rows of 768 with 64 neighbours: 3.1 GiB of rows, and less beside them."""
    backend, shape = TiledBackend(), (1_100_000, 768)
    options = FitOptions(min_samples=64, distance_floor=FLOOR, on_device=True)
    needed = backend.device_bytes(*shape, 64)
    assert 2 * 2**30 < needed < 4 * 2**30
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: needed + 4 * 768 * 1_100_000)
    backend.check(*shape, options)
    assert backend.rows_on_device(*shape, options)
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: needed)
    backend.check(*shape, options)
    assert not backend.rows_on_device(*shape, options)
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: needed - 1)
    with pytest.raises(
        UnsupportedOnBackend, match=r"GiB of device memory for 1,100,000 rows.*--devices none"
    ):
        backend.check(*shape, options)
