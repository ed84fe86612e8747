"""Test arrays in memory and in unnamed mapped files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from panic_tda.arrays.mapped import new_array
from panic_tda.errors import NoRoom
from tests.snapshots import run_python


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_file_holds_the_values_and_has_no_name(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "not" / "there"
    first_array, second_array = (new_array((70, 300), dtype, folder) for _ in range(2))
    first_array[:], second_array[:] = np.arange(70 * 300).reshape(70, 300), -1
    assert (first_array.shape, first_array.dtype, type(first_array)) == ((70, 300), dtype, np.ndarray)
    assert first_array.ravel().tolist() == list(range(70 * 300))
    assert list(folder.iterdir()) == []
    assert isinstance(first_array.base, np.memmap)


def test_without_a_folder_it_lies_in_memory() -> None:
    array = new_array((3, 5), np.float32, None)
    assert (array.shape, array.dtype, array.base) == ((3, 5), np.float32, None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        process = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if process.returncode:
        pytest.skip(f"only root may mount: {process.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


FILLED = """
import sys
from pathlib import Path
import numpy as np
from panic_tda.arrays.mapped import new_array

arrays = []
for _ in range(int(sys.argv[2])):
    arrays.append(new_array((3 << 17,), np.float32, Path(sys.argv[1])))
    arrays[-1][:] = 1
"""


def test_a_full_disk_is_an_error_before_anything_is_written(small_disk: Path) -> None:
    """The file was sparse: the first write beyond the end of the disk ended the process by SIGBUS."""
    process = run_python(FILLED, str(small_disk), "2")
    assert process.returncode == 0, process.stderr
    process = run_python(FILLED, str(small_disk), "3")
    assert process.returncode == 1, "killed"
    line = process.stderr.splitlines()[-1]
    assert f"a temporary file of 2 MiB could not be made in {small_disk}" in line
    assert "1 MiB are free" in line
    for option in ("--work-dir", "--memory-limit", "--downsample"):
        assert option in line


LIMITED = (
    """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
"""
    + FILLED
)


@pytest.mark.skipif(os.name != "posix", reason="no limits of file sizes here")
def test_a_file_size_limit_is_an_error_that_names_it(tmp_path: Path) -> None:
    process = run_python(LIMITED, str(tmp_path), "1")
    assert process.returncode == 1
    assert "could not be made" in process.stderr.splitlines()[-1]


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("mine")
    with pytest.raises(NoRoom, match="--work-dir"):
        new_array((3, 5), np.float32, tmp_path / "work" / "model")
    assert (tmp_path / "work").read_text() == "mine"
