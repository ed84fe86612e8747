"""Test CuPy's cache of kernels: its folder if the home folder is not writable, and its error messages."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.snapshots import REPOSITORY

# What CuPy 14 does with its cache: it makes the folder when it is imported, and writes every new kernel to it
# unless kernels are kept in memory, as the environment says at that moment.
CACHE = """
import os, tempfile
folder = os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache"))
if not os.path.isdir(folder):
    os.makedirs(folder, exist_ok=True)

def save(name, data):
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    os.replace(file.name, os.path.join(folder, name))
"""
RUNTIME = "def getDeviceCount():\n    return 1\n"
IMPORT = "from cupy.cuda import _compiler_cache, runtime\n"

REASON = (
    "from panic_tda.devices import cuda\nprint(cuda.unavailable_reason())\n"
    "import os\nprint(os.environ.get('CUPY_CACHE_DIR'), os.environ.get('CUPY_CACHE_IN_MEMORY'))\n"
    "from cupy.cuda import _compiler_cache\n_compiler_cache.save('kernel', b'code')\n"
)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run code with the fake CuPy above and with its own home and temporary folder."""
    package = tmp_path / "packages" / "cupy" / "cuda"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("from cupy import cuda\n")
    for name, text in (("__init__", IMPORT), ("_compiler_cache", CACHE), ("runtime", RUNTIME)):
        (package / f"{name}.py").write_text(text)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    # No folder can be made in a file, whoever tries.
    (tmp_path / "file").write_text("")

    def run(code: str, **environment: object) -> subprocess.CompletedProcess[str]:
        without = ("CUPY_CACHE_DIR", "CUPY_CACHE_IN_MEMORY", "XDG_CACHE_HOME", "COVERAGE_PROCESS_CONFIG")
        usual = {name: value for name, value in os.environ.items() if name not in without}
        variables = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "temporary"} | environment
        variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "packages"), str(REPOSITORY)])
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=usual | {name: str(value) for name, value in variables.items()},
        )

    return run


def kernels(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("kernel"))


def test_a_home_that_can_be_written_is_left_to_cupy(run: Run, tmp_path: Path) -> None:
    result = run(REASON)
    assert result.stdout.splitlines() == ["None", "None None"], result.stderr
    assert kernels(tmp_path / "home") == [Path(".cupy/kernel_cache/kernel")]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_unwritable_home_does_not_disable_the_device(run: Run, tmp_path: Path) -> None:
    result = run(REASON, HOME=tmp_path / "file")
    folder = tmp_path / "temporary" / f"panic_tda-cupy-{os.getuid()}"
    assert result.stdout.splitlines() == ["None", f"{folder} None"], result.stderr
    assert kernels(folder) == [Path("kernel")]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # And once more, with what is there.
    assert run(REASON, HOME=tmp_path / "file").stdout == result.stdout


def test_the_cache_home_comes_before_temporary_files(run: Run, tmp_path: Path) -> None:
    result = run(REASON, HOME=tmp_path / "file", XDG_CACHE_HOME=tmp_path / "caches")
    assert result.stdout.splitlines() == ["None", f"{tmp_path / 'caches/cupy/kernel_cache'} None"], (
        result.stderr
    )


def test_a_folder_named_by_the_user_is_used(run: Run, tmp_path: Path) -> None:
    result = run(REASON, HOME=tmp_path / "file", CUPY_CACHE_DIR=tmp_path / "mine")
    assert result.stdout.splitlines() == ["None", f"{tmp_path / 'mine'} None"], result.stderr
    assert kernels(tmp_path / "mine") == [Path("kernel")]


def test_a_named_folder_that_cannot_be_written_is_replaced(run: Run, tmp_path: Path) -> None:
    result = run(REASON, CUPY_CACHE_DIR=tmp_path / "file" / "mine", XDG_CACHE_HOME=tmp_path / "caches")
    assert result.stdout.splitlines()[1] == f"{tmp_path / 'caches/cupy/kernel_cache'} None", result.stderr


def test_kernels_stay_in_memory_where_no_folder_can_be_written(run: Run, tmp_path: Path) -> None:
    # What somebody else could have prepared is not trusted.
    (tmp_path / "temporary" / f"panic_tda-cupy-{os.getuid()}").symlink_to(tmp_path / "home")
    code = "import logging\nlogging.basicConfig()\n" + REASON
    result = run(code, HOME=tmp_path / "file", XDG_CACHE_HOME=tmp_path / "file")
    assert result.stdout.splitlines() == ["None", f"{os.sep} 1"], result.stderr
    assert kernels(tmp_path) == []
    assert (
        "compiles its CUDA kernels again; set CUPY_CACHE_DIR to a folder that can be written" in result.stderr
    )


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_folder_that_others_can_enter_is_not_used(run: Run, tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "temporary" / f"panic_tda-cupy-{os.getuid()}"
    folder.mkdir()
    folder.chmod(mode)
    assert run(REASON, HOME=tmp_path / "file").stdout.splitlines()[1] == f"{os.sep} 1"


def test_the_environment_is_left_alone_once_cupy_is_imported(run: Run, tmp_path: Path) -> None:
    result = run("import cupy, os\nos.environ['HOME'] = '/proc/none'\n" + REASON)
    assert result.stdout.splitlines() == ["None", "None None"], result.stderr


def test_doctor_names_the_variable_where_the_cache_keeps_cupy_from_loading(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "packages" / "cupy" / "cuda" / "_compiler_cache.py"
    source.write_text("raise PermissionError(13, 'Permission denied', '/home/you/.cupy')\n")
    code = (
        "from panic_tda.main import main\n"
        "main(['doctor', '--environment', '--json'], prog_name='panic-tda', standalone_mode=False)"
    )
    result = run(code)
    assert (
        "no CUDA device can be used ([Errno 13] Permission denied: '/home/you/.cupy'); " in result.stdout
    ), result.stderr
    assert "set CUPY_CACHE_DIR to a folder that can be written" in result.stdout


def test_a_cache_that_fails_in_the_middle_of_a_fit_says_what_to_do(run: Run, tmp_path: Path) -> None:
    code = f"""
import shutil
import numpy, panic_tda
from panic_tda.clustering.backends import sklearn
from panic_tda.devices import cuda
assert cuda.unavailable_reason() is None

def fit(self, vectors, weights, options):
    from cupy.cuda import _compiler_cache
    shutil.rmtree({str(tmp_path / "home")!r})
    _compiler_cache.save("kernel", b"code")

sklearn.SklearnBackend.fit = fit
try:
    panic_tda.hdbscan(numpy.eye(6), backend="sklearn", min_cluster_size=2)
except panic_tda.PanicTdaError as error:
    print(type(error).__name__, error)
"""
    result = run(code)
    assert result.stdout.startswith(
        "CannotWrite CuPy's cache of compiled kernels failed ([Errno 2] No such"
    ), result.stderr
    assert "set CUPY_CACHE_DIR to a folder that can be written and has s" in result.stdout


def test_other_file_errors_are_not_attributed_to_cupy(run: Run) -> None:
    code = """
from panic_tda.devices.kernel_cache import translate_cache_errors
try:
    with translate_cache_errors():
        open("/proc/none")
except FileNotFoundError:
    print("as it was")
"""
    assert run(code).stdout == "as it was\n"
