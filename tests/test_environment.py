"""Test which lock file the environment of the scripts follows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RECORDING_PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >> "$(dirname "$0")/../calls"
case "$*" in *"config list"*) [ -z "$PIP_INDEX_URL" ] || echo ":env:.index-url='$PIP_INDEX_URL'" ;; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout whose environment has a Python that only records its arguments."""
    for name in ("scripts", "env"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    new_environment(tmp_path)
    return tmp_path


def new_environment(folder: Path) -> None:
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    _write_program(folder / ".venv" / "bin" / "python", RECORDING_PYTHON)
    # As a first installation leaves it that was cut short.
    (folder / ".venv" / "panic_tda.lock").write_text("unfinished\n")
    (folder / ".venv" / "panic_tda.env").touch()


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _installed(checkout: Path, *, driver: str | None = None, **variables: str) -> tuple[str, str]:
    """Source environment.sh; return the locks that pip installed since, and the output."""
    programs = checkout / "programs"
    programs.mkdir(exist_ok=True)
    calls = checkout / ".venv" / "calls"
    calls.unlink(missing_ok=True)
    answer = "exit 9" if driver is None else f"echo '| Driver Version: 580.95   CUDA Version: {driver}  |'"
    _write_program(programs / "nvidia-smi", f"#!/bin/sh\n{answer}\n")
    inherited = {name: value for name, value in os.environ.items() if name != "PANIC_TDA_ENV"}
    environment = inherited | {"PATH": f"{programs}:{os.environ['PATH']}"} | variables
    process = subprocess.run(
        ["bash", "-c", "source scripts/environment.sh"],
        check=False,
        capture_output=True,
        text=True,
        cwd=checkout,
        env=environment,
    )
    text = calls.read_text() if calls.exists() else ""
    return " ".join(re.findall(r"-r env/(\S+)\.txt", text)), process.stderr


@pytest.mark.parametrize(
    ("index", "program"), [({}, "uv"), ({"PIP_INDEX_URL": "https://mirror.example/simple"}, "python")]
)
def test_uv_installs_unless_pip_is_configured_with_an_index(
    checkout: Path, index: dict[str, str], program: str
) -> None:
    _write_program(checkout / ".venv" / "bin" / "uv", RECORDING_PYTHON)
    assert _installed(checkout, **index)[0] == "cpu"
    lines = (checkout / ".venv" / "calls").read_text().splitlines()
    assert [line.split()[0] for line in lines if "-r env/cpu.txt" in line] == [program]


@pytest.mark.parametrize(
    ("driver", "lock"),
    [(None, "cpu"), ("11.8", "cpu"), ("12.4", "cuda12"), ("13.0", "cuda13"), ("14.2", "cuda13")],
)
def test_a_new_environment_matches_the_driver_and_the_log_names_it(
    checkout: Path, driver: str | None, lock: str
) -> None:
    installed, output = _installed(checkout, driver=driver)
    assert installed == lock
    assert ("the driver runs CUDA" in output) == (driver is not None)
    if driver is not None:
        assert f"taking env/{lock}.txt" in output


def test_a_chosen_environment_stays_until_another_is_chosen(checkout: Path) -> None:
    assert _installed(checkout, driver="12.8", PANIC_TDA_ENV="cuda13")[0] == "cuda13"
    # Nothing to do, whatever the driver would take.
    assert _installed(checkout, driver="12.8") == ("", "")
    assert _installed(checkout, PANIC_TDA_ENV="cpu")[0] == "cpu"
    assert _installed(checkout, driver="12.8") == ("", "")
    (checkout / "env" / "cpu.txt").write_text("# newer\n")
    assert _installed(checkout, driver="12.8")[0] == "cpu"


def test_an_environment_of_an_older_version_stays_a_cpu_environment(checkout: Path) -> None:
    (checkout / ".venv" / "panic_tda.env").unlink()
    installed, output = _installed(checkout, driver="13.0")
    assert installed == "cpu"
    assert "keeping env/cpu.txt, though there is an NVIDIA driver" in output


def test_no_driver_is_mentioned_on_a_machine_without_one(checkout: Path) -> None:
    (checkout / ".venv" / "panic_tda.env").unlink()
    installed, output = _installed(checkout)
    assert installed == "cpu"
    assert "driver" not in output


def test_an_unknown_environment_is_refused(checkout: Path) -> None:
    installed, output = _installed(checkout, PANIC_TDA_ENV="cuda11")
    assert installed == ""
    assert output == "PANIC_TDA_ENV must be cpu, cuda12 or cuda13; got cuda11\n"
