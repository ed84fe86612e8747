"""Test the list of CUDA devices, on machines with and without them."""

from __future__ import annotations

import importlib.util
import re
import threading

import pytest

from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter
from tests.snapshots import run_python


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate two devices by their number only."""
    monkeypatch.setattr(cuda, "count", lambda: 2)
    monkeypatch.delenv(cuda.VISIBLE, raising=False)


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    if cuda.count():
        pytest.skip("there is a CUDA device here")


def test_without_a_device_the_reason_names_what_is_missing(no_devices: None) -> None:
    reason = cuda.unavailable_reason()
    assert reason is not None
    if importlib.util.find_spec("cupy") is None:
        assert reason == "CuPy is not installed; pip install '.[cuda13]' " + (
            "in the checkout of panic_tda (or '.[cuda12]', by the driver's CUDA version)"
        )
    else:
        assert re.search(
            "see nvidia-smi and CUDA_VISIBLE_DEVICES$|install or update the NVIDIA driver", reason
        )
    assert (cuda.count(), cuda.devices()) == (0, [])


def test_a_hidden_device_is_no_device() -> None:
    code = (
        "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from panic_tda.devices import cuda\nprint(cuda.count(), cuda.devices(), cuda.unavailable_reason())"
    )
    process = run_python(code)
    assert process.stdout.startswith("0 [] "), process.stderr
    assert "None" not in process.stdout


def test_without_cupy_nothing_is_imported() -> None:
    code = (
        "import sys\nfrom panic_tda.devices import cuda\nbefore = set(sys.modules)\ncuda.devices()\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = set(run_python(code).stdout.split())
    if importlib.util.find_spec("cupy") is None:
        assert loaded & {"cupy", "numpy", "cuml"} == set()


@pytest.mark.gpu
def test_devices_have_names_and_memory_sizes() -> None:
    if cuda.unavailable_reason():
        pytest.skip(f"{cuda.unavailable_reason()}")
    devices = cuda.devices()
    assert [device.number for device in devices] == list(range(cuda.count()))
    for device in devices:
        assert device.name
        assert 0 < device.free_bytes <= device.total_bytes
        major, minor = device.compute_capability.split(".")
        assert int(major) >= 3
        assert int(minor) >= 0
    assert 0 < cuda.allocatable_bytes() <= devices[0].total_bytes


def test_all_visible_devices_are_used_by_default(two_devices: None) -> None:
    assert cuda.choose(None) == (0, 1)


def test_devices_are_selected_by_number_in_the_given_order(two_devices: None) -> None:
    assert cuda.choose([1, 0, 1]) == (1, 0)
    assert cuda.choose([]) == ()


def test_a_number_that_no_device_has_is_refused(two_devices: None) -> None:
    with pytest.raises(InvalidParameter, match=r"must be among 0, 1, as .*doctor.* got 1, 2$"):
        cuda.choose([1, 2])


def test_a_number_is_refused_where_there_is_no_device(no_devices: None) -> None:
    with pytest.raises(
        InvalidParameter, match=r"no CUDA device is available, got devices 0: .*(CuPy|CUDA).*--devices none"
    ):
        cuda.choose([0])
    assert cuda.choose(None) == ()


def test_a_new_process_sees_one_of_the_devices_that_this_one_sees(
    two_devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cuda.environment(1) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8a1b")
    assert cuda.environment(0) == {"CUDA_VISIBLE_DEVICES": "3"}
    assert cuda.environment(1) == {"CUDA_VISIBLE_DEVICES": "GPU-8a1b"}


def test_cuda_can_be_disabled_temporarily() -> None:
    before = cuda.unavailable_reason()
    elsewhere: list[str | None] = []
    with cuda.cuda_disabled():
        assert cuda.unavailable_reason() == "CUDA is disabled (--devices none)"
        assert cuda.count() == 0
        # Another caller in the same process is not concerned.
        thread = threading.Thread(target=lambda: elsewhere.append(cuda.unavailable_reason()))
        thread.start()
        thread.join()
    assert cuda.unavailable_reason() == before
    assert elsewhere == [before]
