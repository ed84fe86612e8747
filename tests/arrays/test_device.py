"""Test that all rows reach a device in order, and that a failure leaves no memory in use."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from panic_tda.arrays import device as device_memory
from panic_tda.arrays.device import DeviceRows, free_device_memory, translate_out_of_memory, upload
from panic_tda.arrays.namespace import on_device, to_host
from panic_tda.devices import cuda
from panic_tda.errors import BadVectors, DatabaseError, DeviceOutOfMemory
from panic_tda.types import EmbeddingMatrix
from tests.conftest import MakeFile
from tests.field_files import FieldSpec
from tests.stand_ins import EarlyLane, LateLane, StandIn, StandInOutOfMemory, require_device

if TYPE_CHECKING:
    from panic_tda.storage.database import Database

SPOILED = FieldSpec(
    runs=9, null_vectors=2, short_vectors=1, nan_vectors=3, infinite_vectors=1, zero_vectors=2
)


def storage() -> Any:
    """Import the loading module when needed, because device tests also run without SQLAlchemy."""
    return importlib.import_module("panic_tda.storage.read.loading")


def batches(vectors: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield slices of one array that is overwritten each time, like a driver's buffer."""
    buffer = np.empty((size, vectors.shape[1]), dtype=np.float32)
    for begin in range(0, len(vectors), size):
        part = vectors[begin : begin + size]
        buffer[: len(part)] = part
        yield buffer[: len(part)]


@pytest.mark.parametrize("lane", [LateLane, EarlyLane])
@pytest.mark.parametrize("stage_rows", [1, 7, 10, 64, 1000])
@pytest.mark.parametrize("batch_rows", [1, 3, 10, 33, 100])
def test_all_rows_arrive_in_order(
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    lane: type[LateLane],
    stage_rows: int,
    batch_rows: int,
) -> None:
    monkeypatch.setattr(device_memory, "STAGE_BYTES", stage_rows * 4 * 5)
    stand_in.lane = lane
    vectors = np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32)
    vectors[41], vectors[77, 3] = 0, np.nan
    destination = DeviceRows(100, 5)
    for batch in batches(vectors, batch_rows):
        destination.put(batch)
    matrix, valid = destination.finish()
    assert on_device(matrix)
    assert matrix.get().tobytes() == vectors.tobytes()
    assert np.flatnonzero(~valid).tolist() == [41, 77]
    assert sum(lane.n_sent for lane in stand_in.lanes) == -(-100 // min(100, stage_rows))


def test_a_buffer_is_filled_while_the_other_is_copied(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "STAGE_BYTES", 10 * 4 * 5)
    destination = DeviceRows(100, 5)
    rows = np.ones((10, 5), dtype=np.float32)
    destination.put(rows)
    destination.put(rows[:9])
    assert [lane.under_way for lane in stand_in.lanes] == [True, False]
    destination.put(rows[:1])
    assert [lane.under_way for lane in stand_in.lanes] == [True, True]
    destination.put(rows[:1])
    assert [lane.under_way for lane in stand_in.lanes] == [False, True]


def test_fewer_rows_than_were_counted(stand_in: StandIn) -> None:
    destination = DeviceRows(100, 5)
    destination.put(np.ones((3, 5), dtype=np.float32))
    matrix, valid = destination.finish()
    assert matrix.get().tolist() == np.ones((3, 5)).tolist()
    assert valid.tolist() == [True] * 3
    assert len(stand_in.lanes[0].buffer) == 100


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (300, 70)])
def test_a_matrix_is_uploaded(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    monkeypatch.setattr(device_memory, "STAGE_BYTES", 10_000)
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    there = upload(vectors)
    assert on_device(there)
    assert there.shape == shape
    assert to_host(there).tobytes() == vectors.tobytes()


def load_both(database: Database, *, factor: int = 1, skip: bool = False) -> list[EmbeddingMatrix]:
    census = storage().take_census(database, factor)["Nomic"]
    return [
        storage().load_embeddings(database, census, downsample=factor, skip_invalid=skip, to_device=to_device)
        for to_device in (False, True)
    ]


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("stage_bytes", [1, 1000, 32 << 20])
@pytest.mark.parametrize("factor", [1, 3])
def test_a_database_is_loaded_the_same_on_the_device(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, stage_bytes: int, factor: int
) -> None:
    monkeypatch.setattr(device_memory, "STAGE_BYTES", stage_bytes)
    monkeypatch.setattr(storage(), "BATCH_BYTES", 700)
    database, _ = upgraded(FieldSpec(runs=12, dimensions=11))
    here, there = load_both(database, factor=factor)
    assert not on_device(here.vectors)
    assert on_device(there.vectors)
    assert here.ids.tolist() == there.ids.tolist() == sorted(here.ids.tolist())
    assert here.vectors.tobytes() == to_host(there.vectors).tobytes()
    assert storage().input_sha256(here) == storage().input_sha256(there)
    assert (here.n_total, here.n_sampled, here.n_excluded) == (
        there.n_total,
        there.n_sampled,
        there.n_excluded,
    )


@pytest.mark.usefixtures("any_device")
def test_bad_vectors_are_found_on_the_device(upgraded: MakeFile) -> None:
    database, _ = upgraded(SPOILED)
    here, there = load_both(database, skip=True)
    assert here.ids.tolist() == there.ids.tolist()
    assert here.vectors.tobytes() == to_host(there.vectors).tobytes()
    assert here.n_excluded == there.n_excluded == 9
    database, facts = upgraded(FieldSpec(nan_vectors=6), name="nan.sqlite")
    with pytest.raises(BadVectors, match="6 vectors of model Nomic are zero, NaN or infinite") as error:
        storage().load_embeddings(database, storage().take_census(database)["Nomic"], to_device=True)
    assert sorted(facts.bad("Nomic"))[0] in str(error.value).replace("-", "")


def test_no_copy_is_pending_after_a_failure(
    stand_in: StandIn, upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "STAGE_BYTES", 32 * 8)
    database, _ = upgraded()
    stream_all_vectors = storage().stream_vectors
    under_way = []

    def broken(*args: object, **options: object) -> Iterator[object]:
        yield from stream_all_vectors(*args, **options)  # type: ignore[arg-type]
        under_way.append([lane.under_way for lane in stand_in.lanes])
        raise DatabaseError("the disk went away")

    monkeypatch.setattr(storage(), "stream_vectors", broken)
    with pytest.raises(DatabaseError, match="the disk went away"):
        storage().load_embeddings(database, storage().take_census(database)["Nomic"], to_device=True)
    assert under_way[0] != [False, False]
    assert [lane.under_way for lane in stand_in.lanes] == [False, False]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (device_memory, "STAGE_BYTES"),
        (device_memory.rows, "DEVICE_CHUNK_BYTES"),
        (device_memory.rows, "PERMUTE_BYTES"),
        (storage(), "BATCH_BYTES"),
    ):
        monkeypatch.setattr(module, name, 1 << 16)


def host_peaks(database: Database) -> list[float]:
    """Return the peak host memory while loading to the device and to the host, as shares of the matrix."""
    census = storage().take_census(database)["Nomic"]
    peaks = []
    for to_device in (True, False):
        tracemalloc.start()
        try:
            matrix = storage().load_embeddings(database, census, to_device=to_device)
            peaks.append(tracemalloc.get_traced_memory()[1] / (4 * matrix.vectors.size))
        finally:
            tracemalloc.stop()
    assert matrix.vectors.shape == (600, 2000)
    return peaks


@pytest.mark.usefixtures("small_pieces")
def test_host_memory_holds_a_few_batches(
    stand_in: StandIn, upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What lies in the file stands for the device's memory, and is not traced.
    monkeypatch.setattr(
        stand_in,
        "allocate",
        lambda n, d: np.asarray(np.memmap(tmp_path / "device", dtype=np.float32, mode="w+", shape=(n, d))),
    )
    there, here = host_peaks(upgraded(FieldSpec(runs=60, dimensions=2000)).database)
    assert there < 0.25
    assert here > 1


@pytest.mark.gpu
@pytest.mark.usefixtures("small_pieces")
def test_host_memory_holds_a_few_batches_beside_a_real_device(upgraded: MakeFile) -> None:
    require_device()
    upload(np.ones((10, 10), dtype=np.float32))  # compiles and imports, which takes memory of its own
    database = upgraded(FieldSpec(runs=60, dimensions=2000)).database
    storage().load_embeddings(database, storage().take_census(database)["Nomic"], to_device=True)
    assert host_peaks(database)[0] < 0.25


def test_an_out_of_memory_error_has_the_sizes(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: 2 << 30)
    stand_in.refuses = lambda _n_rows, _n_features: True
    with pytest.raises(DeviceOutOfMemory) as error, translate_out_of_memory(1_100_000, 768, "cuml"):
        upload(np.ones((5, 4), dtype=np.float32))
    text = str(error.value)
    assert "the stand-in is full" in text
    assert "1,100,000 × 768 rows alone are 3.1 GiB, and 2.0 GiB were free" in text
    assert "backend cuml" in text
    for option in ("--backend tiled", "--memory-limit SIZE", "--min-samples", "--downsample 2"):
        assert option in text
    assert isinstance(error.value.__cause__, StandInOutOfMemory)


@pytest.mark.parametrize(("free_gib", "factor"), [(80, 2), (2, 2), (1, 4), (0.5, 8)])
def test_the_suggested_factor_fits(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, free_gib: float, factor: int
) -> None:
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: int(free_gib * 2**30))
    with (
        pytest.raises(DeviceOutOfMemory, match=rf"--downsample {factor}$"),
        translate_out_of_memory(1_100_000, 768, "tiled"),
    ):
        raise StandInOutOfMemory


@pytest.mark.usefixtures("stand_in")
def test_the_exact_backend_is_not_suggested_where_it_ran_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: 2 << 30)
    with pytest.raises(DeviceOutOfMemory) as error, translate_out_of_memory(1_100_000, 768, "tiled"):
        raise StandInOutOfMemory
    assert "--backend tiled" not in str(error.value)
    assert "--devices none" in str(error.value)


@pytest.mark.usefixtures("stand_in")
def test_running_out_of_host_memory_is_not_reported_as_a_device_error() -> None:
    with pytest.raises(MemoryError, match="the host's"), translate_out_of_memory(10, 10, "tiled"):
        raise MemoryError("the host's")


def test_releasing_imports_nothing() -> None:
    code = (
        "import sys; from panic_tda.arrays.device import free_device_memory; free_device_memory(); "
        "print('cupy' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"


@pytest.mark.gpu
def test_memory_goes_back_to_the_device() -> None:
    require_device()
    import cupy

    free_device_memory()
    pool, before = cupy.get_default_memory_pool(), cuda.allocatable_bytes()
    there = upload(np.ones((100_000, 256), dtype=np.float32))
    assert pool.used_bytes() >= 4 * there.size
    del there
    free_device_memory()
    assert pool.total_bytes() == pool.used_bytes()
    assert cuda.allocatable_bytes() >= before - (64 << 20)


@pytest.mark.gpu
def test_a_full_device_is_an_error_with_the_sizes() -> None:
    require_device()
    n_rows = cuda.devices()[0].total_bytes // (4 * 768) + 1
    with pytest.raises(DeviceOutOfMemory, match="--downsample"), translate_out_of_memory(n_rows, 768, "cuml"):
        DeviceRows(n_rows, 768)
    free_device_memory()
    with contextlib.closing(DeviceRows(1000, 768)) as destination:
        destination.put(np.ones((1000, 768), dtype=np.float32))
        assert destination.finish()[1].all()


@pytest.mark.gpu
def test_many_buffers_arrive_on_a_real_device() -> None:
    require_device()
    vectors = np.random.default_rng(0).standard_normal((60_000, 768), dtype=np.float32)
    destination = DeviceRows(*vectors.shape)
    for batch in batches(vectors, 41):
        destination.put(batch)
    matrix, valid = destination.finish()
    assert valid.all()
    assert matrix.get().tobytes() == vectors.tobytes()
