"""Compare the report of `doctor --environment` with other sources about this machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from panic_tda.clustering import backends
from panic_tda.clustering.tiled.microkernels import KERNEL, describe_kernel
from panic_tda.devices import cuda
from panic_tda.devices.doctor import Environment, examine_environment
from panic_tda.errors import InvalidParameter

DEVICES = (
    cuda.CudaDevice(0, "NVIDIA H200", 150_000_000_000, 149_000_000_000, "9.0"),
    cuda.CudaDevice(1, "NVIDIA RTX A6000", 51_000_000_000, 1_000_000_000, "8.6"),
)


def databases() -> Any:
    """Import the rendering module when needed, because device tests also run without SQLAlchemy."""
    return importlib.import_module("panic_tda.cli.rendering.databases")


def command() -> Any:
    """Return the command line, imported when it is needed."""
    return importlib.import_module("panic_tda.main").main


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path for a fake nvidia-smi on a machine with two devices."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "nvidia-smi"


def examine() -> Environment:
    return examine_environment(
        backends=backends.unavailable_reasons(), sqlite=sqlite3.sqlite_version, kernel=describe_kernel()
    )


def write_tool(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_libraries_and_machine_are_those_of_this_process() -> None:
    examination = examine()
    for name, package in (("NumPy", "numpy"), ("numba", "numba"), ("SQLAlchemy", "sqlalchemy")):
        assert examination.versions[name] == importlib.metadata.version(package)
    assert examination.versions["SQLite"] == sqlite3.sqlite_version
    assert set(examination.versions) >= {"panic_tda", "scikit-learn", "pyarrow", "CuPy", "cuML"}
    assert examination.memory_bytes == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert examination.available_bytes is not None
    assert 0 < examination.available_bytes < examination.memory_bytes
    # With what the system keeps of files and gives back, which is most of it after a large one was read.
    # Other processes take some of it between the two looks.
    assert examination.available_bytes == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    assert examination.cores == len(psutil.Process().cpu_affinity())


def test_what_is_missing_has_a_reason_and_a_remedy() -> None:
    examination = examine()
    assert set(examination.backends) == set(backends.NAMES) - {backends.AUTO}
    assert examination.backends["tiled"] is examination.backends["sklearn"] is None
    if cuda.count():
        pytest.skip("there is a CUDA device here")
    assert examination.cuda_unusable_because == cuda.unavailable_reason() is not None
    assert (examination.devices, examination.driver_cuda, examination.cuda_runtime) == ((), None, None)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="backend must be one of"):
        backends.unavailable_reason("faiss")


def test_the_driver_version_is_read_from_the_driver(nvidia_smi: Path) -> None:
    write_tool(nvidia_smi, 'test "$1" = --query-gpu=driver_version && printf "580.95.05\\n580.95.05\\n"')
    assert examine().driver == "580.95.05"


@pytest.mark.parametrize("body", ["echo 'NVIDIA-SMI has failed'; exit 9", "exit 0"])
def test_a_driver_that_does_not_answer_has_no_version(nvidia_smi: Path, body: str) -> None:
    write_tool(nvidia_smi, body)
    assert examine().driver is None


def with_devices() -> Environment:
    return replace(
        examine(),
        driver="580.95.05",
        driver_cuda="13.0",
        cuda_runtime="13.0",
        cuda_unusable_because=None,
        devices=DEVICES,
        backends={"cuml": "cuML is not installed; install it", "tiled": None},
    )


def test_text_says_what_there_is_and_what_is_missing() -> None:
    lines = databases().environment_text(with_devices(), 1000).splitlines()
    assert "CUDA      driver 580.95.05 (CUDA up to 13.0), runtime 13.0" in lines
    assert "device 0  NVIDIA H200, compute capability 9.0, 139.7 GiB memory, 138.8 GiB free" in lines
    assert "device 1  NVIDIA RTX A6000, compute capability 8.6, 47.5 GiB memory, 954 MiB free" in lines
    assert "backend   cuml: cannot be used: cuML is not installed; install it" in lines
    assert "backend   tiled: can be used" in lines


def test_text_without_cuda_says_why() -> None:
    without_device = replace(
        with_devices(), driver=None, devices=(), cuda_unusable_because="CuPy is not installed"
    )
    text = databases().environment_text(
        replace(without_device, memory_bytes=None, versions={"cuML": None, "numba": "1"}), 1000
    )
    assert "CUDA      driver none found; cannot be used: CuPy is not installed\n" in text
    assert "unknown memory" in text
    assert "versions  cuML (not installed), numba 1\n" in text
    assert "device" not in text


def test_text_fits_a_terminal() -> None:
    without_device = replace(with_devices(), backends={"cuml": "CuPy is not installed; " * 9})
    lines = databases().environment_text(without_device, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[-2][:10] == lines[-1][:10] == " " * 10


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("panic_tda.cli.terminal").print_data(with_devices())
    printed = json.loads(capsys.readouterr().out)
    assert printed["devices"][1] == {
        "number": 1,
        "name": "NVIDIA RTX A6000",
        "total_bytes": 51_000_000_000,
        "free_bytes": 1_000_000_000,
        "compute_capability": "8.6",
    }
    assert printed["backends"]["tiled"] is None


def test_the_command_needs_no_database_and_prints_text_or_json(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.sqlite")
    text = CliRunner().invoke(command(), ["doctor", "--environment", "--db", missing])
    assert text.exit_code == 0, text.output
    assert "backend   tiled: can be used" in text.stdout
    assert f"kernel    {KERNEL}, " in text.stdout
    answer = CliRunner().invoke(command(), ["doctor", "--environment", "--json", "--db", missing])
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["backends"]["tiled"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_on_a_device_every_field_has_a_value() -> None:
    if cuda.unavailable_reason():
        pytest.skip(f"{cuda.unavailable_reason()}; with a device, run: pytest -m gpu")
    examination = examine()
    assert examination.cuda_unusable_because is None
    assert examination.driver is not None
    assert examination.driver_cuda is not None
    assert examination.cuda_runtime is not None
    assert len(examination.devices) == cuda.count()
