"""Test the reason and the remedy in errors about files that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from panic_tda.errors import CannotWrite, WrongUsage
from panic_tda.files.replacing import replacing, require_place


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "delete some of your files"),
        (errno.EROFS, "another file system"),
        (errno.EACCES, "in which you may create files"),
        (errno.EFBIG, "ulimit -f"),
    ],
)
def test_the_reason_and_a_remedy_are_named(tmp_path: Path, code: int, advice: str) -> None:
    path = tmp_path / "rows.csv"

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(CannotWrite) as error:
        write_half()
    message = str(error.value)
    assert message.startswith(f"{path} cannot be written: {os.strerror(code)} (0 MiB of it were written, ")
    assert advice in message
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_file_names_that_file(tmp_path: Path) -> None:
    missing = tmp_path / "font.ttf"
    with pytest.raises(CannotWrite, match=rf"because of {missing}: No such file"), replacing(tmp_path / "a"):
        missing.read_bytes()


def test_a_folder_that_vanished_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(CannotWrite, match=r"a cannot be written: No such file"), replacing(folder / "a"):
        pytest.fail("nothing can be opened")


def test_a_folder_is_called_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="is a folder; give another name"):
        require_place(tmp_path)
