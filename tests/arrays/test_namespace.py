"""Test array libraries, and that the stand-in for device arrays is as strict as CuPy."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda.arrays.namespace import namespace, on_device, squared_lengths, to_host
from tests import strict_arrays

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)
DEVICE = strict_arrays.namespace.asarray(HOST)


def test_host_arrays_are_numpys() -> None:
    assert namespace(HOST) is np
    assert not on_device(HOST)
    assert to_host(HOST) is HOST


def test_memory_maps_are_host_arrays(tmp_path) -> None:
    rows = np.memmap(tmp_path / "rows", dtype=np.float32, mode="w+", shape=(2, 3))
    assert namespace(rows) is np
    assert not on_device(rows)


def test_device_arrays_name_their_library() -> None:
    assert namespace(DEVICE) is strict_arrays.namespace
    assert on_device(DEVICE)
    assert np.array_equal(to_host(DEVICE), HOST)


@pytest.mark.parametrize(
    "mix",
    [
        lambda: DEVICE + HOST,
        lambda: HOST + DEVICE,
        lambda: HOST @ DEVICE.T,
        lambda: np.sqrt(DEVICE),
        lambda: np.asarray(DEVICE),
        lambda: DEVICE[np.array([0, 1])],
        lambda: DEVICE.__setitem__(0, HOST[0]),
        lambda: strict_arrays.namespace.concatenate([DEVICE, HOST]),
        lambda: strict_arrays.namespace.where(DEVICE > 0, DEVICE, HOST),
    ],
)
def test_the_stand_in_does_not_mix_with_host_arrays(mix) -> None:
    with pytest.raises(TypeError):
        mix()


@pytest.mark.parametrize(
    "what",
    [
        lambda xp, device: xp.searchsorted(xp.arange(3), np.int64(1)),
        lambda xp, device: xp.lexsort((xp.arange(3), xp.arange(3))),
        lambda xp, device: device.T.copy().T.sort(),
        lambda xp, device: xp.partition(device[:, ::2], 1),
        lambda xp, device: device.__setitem__(xp.asarray([1, 1]), xp.ones((2, 3))),
        lambda xp, device: device.__setitem__((xp.asarray([0, 0]), xp.asarray([2, 2])), xp.ones(2)),
    ],
)
def test_the_stand_in_refuses_what_cupy_cannot_do(what) -> None:
    with pytest.raises((TypeError, NotImplementedError), match="CuPy"):
        what(strict_arrays.namespace, strict_arrays.namespace.asarray(HOST))


def test_the_stand_in_writes_if_no_index_is_repeated() -> None:
    xp = strict_arrays.namespace
    device = xp.asarray(HOST)
    device[xp.asarray([1, 0])] = xp.asarray(HOST)
    device[:, xp.asarray([2])] = 7.0
    device[xp.asarray([0, 0]), 0] = 8.0
    assert device.get().tolist() == [[8, 4, 7], [0, 1, 7]]


def test_the_stand_in_does_not_warn_of_overflow() -> None:
    xp = strict_arrays.namespace
    large = xp.full(2, 3e38, dtype=xp.float32)
    assert np.isinf((large * large).get()).all()
    assert np.isinf(xp.multiply(large, large).get()).all()


@pytest.mark.parametrize("upload", [np.asarray, strict_arrays.namespace.asarray], ids=["NumPy", "stand-in"])
def test_squared_lengths_keep_the_precision_of_the_rows(upload) -> None:
    for dtype in (np.float32, np.float64):
        lengths = squared_lengths(upload(HOST.astype(dtype)))
        assert lengths.dtype == dtype
        assert to_host(lengths).tolist() == [5, 50]


def test_the_stand_in_computes_as_numpy_does() -> None:
    xp = strict_arrays.namespace
    chosen = DEVICE[DEVICE > 2]
    assert np.array_equal(chosen.get(), HOST[HOST > 2])
    assert float((DEVICE @ DEVICE.T).sum()) == float((HOST @ HOST.T).sum())
    assert np.array_equal(xp.maximum(DEVICE, 2.5).get(), np.maximum(HOST, 2.5))
    assert int(xp.argmax(DEVICE)) == 5
    i, j = xp.nonzero(DEVICE > 3)
    assert (i.get().tolist(), j.get().tolist()) == ([1, 1], [1, 2])


def test_uploading_copies() -> None:
    host = np.zeros(3)
    device = strict_arrays.namespace.asarray(host)
    device += 1
    assert host.sum() == 0


def test_cupy_has_what_the_stand_in_offers() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install '.[cuda13]'")
    offered = [name for name in vars(strict_arrays.namespace) if not name.startswith("_")]
    assert len(offered) > 80
    assert [name for name in offered if not hasattr(cupy, name)] == []
    methods = strict_arrays.METHODS
    assert [name for name in methods if not hasattr(cupy.ndarray, name)] == []
