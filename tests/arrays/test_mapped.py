"""Arrays in memory and in nameless files hold what is put into them, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panic_tda.arrays.mapped import new_array


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_file_holds_the_values_and_has_no_name(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "not" / "there"
    found, other = (new_array((70, 300), dtype, folder) for _ in range(2))
    found[:], other[:] = np.arange(70 * 300).reshape(70, 300), -1
    assert (found.shape, found.dtype, type(found)) == ((70, 300), dtype, np.ndarray)
    assert found.ravel().tolist() == list(range(70 * 300))
    assert list(folder.iterdir()) == []
    assert isinstance(found.base, np.memmap)


def test_without_a_folder_it_lies_in_memory() -> None:
    found = new_array((3, 5), np.float32, None)
    assert (found.shape, found.dtype, found.base) == ((3, 5), np.float32, None)
