"""Checkpoints: the state of a fit in a folder, from which a later process resumes after a kill."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from panic_tda.clustering.state_files import Form, UnusableState, read_state, write_state
from panic_tda.disk import (
    PRIVATE_FILE,
    UNFOLLOWED,
    commit_file,
    free_text,
    make_own_folder,
    open_own_file,
    require_own_file,
    require_own_folder,
    sync_folder,
)
from panic_tda.types import Array
from panic_tda.wording import format_bytes

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


SAVE_SECONDS = 60.0
"""Least time between two saved states, in seconds. A kill loses at most this time and that of one save."""
FORMAT = 3
"""Version of the format of the states. Versions 1 and 2 were zip files whose headers had no checksum."""
_ABOUT = "checkpoint.json"
_PARTIAL = ".panic-tda.partial"
_KEY_DIGITS = 16
_STATE, _OLDER_STATE = ".state", ".npz"
_ROW_FILES = ("*.rows", ".panic-tda-*.part")
"""Rows for the workers of an executor (`tiled.row_files`), and files that a killed run has not completed."""
_MOST_ABOUT_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedState:
    """The saved state of a fit that is running or was stopped.

    Attributes
    ----------
    folder : Path
        Folder of its files.
    input_sha256 : str or None
        Identity of its input; None if the folder has no readable description.
    parameters : mapping
        The parameters of `Checkpoint.open`; empty if the folder has no readable description.
    n_bytes : int
        Size of its files.
    saved_at : float
        Time at which the latest of them was written, in seconds since 1970.
    """

    folder: Path
    input_sha256: str | None
    parameters: Mapping[str, Any]
    n_bytes: int
    saved_at: float


def find_saved_states(root: Path) -> list[SavedState]:
    """Return the states that the current user saved in folders below `root`, in the order of their names."""
    try:
        folders = sorted(about.parent for about in root.rglob(_ABOUT))
    except OSError:  # the name is too long for a folder, so nothing can be saved there
        return []
    return [state for folder in folders if (state := _read_saved_state(folder)) is not None]


def remove_states_of_input(root: Path, input_sha256: str, parameters: Mapping[str, Any]) -> None:
    """Remove the states of one input and these parameters below `root`, and folders that become empty.

    Parameters
    ----------
    root : Path
        Folder that contains the folders of `Checkpoint`, at any depth.
    input_sha256 : str
        Identity of the input.
    parameters : mapping
        Values that a state's parameters must have; its other parameters may have any value.

    Raises
    ------
    OSError
        A file cannot be removed.
    """
    if not os.path.isdir(root):
        return
    require_own_folder(root)
    for state in find_saved_states(root):
        if state.input_sha256 == input_sha256 and parameters.items() <= state.parameters.items():
            _remove_states(state.folder)
            _remove_empty(state.folder.parent)
    _remove_empty(root)


def _read_saved_state(folder: Path) -> SavedState | None:
    try:
        require_own_folder(folder)
        with open_own_file(folder / _ABOUT) as file:
            about = json.loads(file.read(_MOST_ABOUT_BYTES))
    except (OSError, ValueError, RecursionError):
        about = None
    try:
        require_own_folder(folder)
        files = [file.lstat() for file in folder.iterdir()]
        times = [file.st_mtime for file in files]
        about = about if isinstance(about, dict) else {}
        parameters = about.get("parameters")
        return SavedState(
            folder=folder,
            input_sha256=about.get("input_sha256"),
            parameters=parameters if isinstance(parameters, dict) else {},
            n_bytes=sum(file.st_size for file in files),
            saved_at=max(times),
        )
    except (OSError, ValueError):  # its own run has just removed it
        return None


class Checkpoint:
    """Named states of one input and one set of parameters; each is replaced atomically.

    Parameters
    ----------
    root : Path
        Folder that contains one folder for each set of parameters, created when the first state is saved.
        States of other parameters are not removed: a later run with these parameters can use them.
    input_sha256 : str
        Identity of the input, such as `storage.read.loading.input_sha256`. A state is only used for the
        same input.
    save_seconds : float
        Least time between two saves, in seconds; see `due`.

    Notes
    -----
    Errors in reading or writing a state are logged as warnings and do not end the run. States that are
    damaged, links or files of another user are not used, also with a warning. `root` and the folders in it
    must belong to the current user and must not be links.
    """

    def __init__(self, root: Path, input_sha256: str, *, save_seconds: float = SAVE_SECONDS) -> None:
        self.root = self.folder = root
        self._input = input_sha256
        self.metadata: dict[str, Any] = {}
        self._save_seconds = save_seconds
        self._saved = time.monotonic()

    def open(self, **parameters: Any) -> None:
        """Select the states of a set of parameters, and set `folder` to their folder.

        Parameters
        ----------
        parameters
            Everything except the input that a state depends on, including the version of the code that writes
            it; must be serializable as JSON.
        """
        self.metadata = {"format": FORMAT, "input_sha256": self._input, "parameters": parameters}
        self.folder = self._get_folder(FORMAT)
        for folder in self._list_older_folders():
            _log.warning(
                "the states in %s are of an earlier version of panic_tda and are not used; they are removed "
                "when this clustering is saved",
                folder,
            )

    def make_folder(self) -> Path:
        """Create the folder of these states, and return it; `discard` removes files of rows there too.

        Raises
        ------
        OSError
            It cannot be created, is a link, or belongs to another user.
        """
        for folder in (self.root, self.folder):
            make_own_folder(folder)
        if not os.path.lexists(self.folder / _ABOUT):
            # Describes the states, for people and for the commands that remove states.
            text = json.dumps(self.metadata, indent=1).encode()
            self._replace(self.folder / _ABOUT, lambda file: file.write(text))
            for folder in (self.root, self.root.parent):
                sync_folder(folder)
        return self.folder

    def due(self) -> bool:
        """Return whether enough time has passed since the last save."""
        return time.monotonic() - self._saved >= self._save_seconds

    def save(self, name: str, **arrays: Any) -> None:
        """Save arrays under a name.

        The new state is on the disk before it replaces the old one, so that one of the two remains if the
        process is killed or the machine stops.
        """
        self._saved = time.monotonic()
        try:
            self._write(name, arrays)
        except OSError as error:
            # The run continues: its result matters more than the possibility to resume it.
            _log.warning(
                "the state of %s could not be saved in %s%s, the run continues without it: %s",
                format_bytes(sum(getattr(array, "nbytes", 0) for array in arrays.values())),
                self.folder,
                free_text(self.folder),
                error,
            )

    def load(
        self,
        name: str,
        forms: Mapping[str, Form] | None = None,
        *,
        into: Mapping[str, Array] = MappingProxyType({}),
        check: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> dict[str, Any] | None:
        """Return the arrays saved under a name, or None; log a warning if the state cannot be used.

        Parameters
        ----------
        name : str
        forms : mapping of str to Form, optional
            The arrays that the state must have; a file of another size is rejected before it is read.
        into : mapping of str to array
            Existing arrays (in host memory, in device memory or in files) into which the arrays of the same
            name are read in pieces. If None is returned, they may be partly overwritten.
        check : callable, optional
            Raises `UnusableState` if values are invalid.
        """
        path = self._path(name)
        if not os.path.lexists(path):
            return None
        try:
            self._require_own_folders()
            with open_own_file(path) as file:
                saved = os.fstat(file.fileno()).st_mtime
                state = read_state(file, self.metadata | {"name": name}, forms=forms, into=into)
            if check is not None:
                check(state)
        except (OSError, UnusableState) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            _log.warning("the state %s is not used, and its work begins anew: %s", path, reason)
            return None
        _log.info(
            "going on from the state %s, saved %s", path, time.strftime("%H:%M:%S", time.localtime(saved))
        )
        return state

    def remove(self, name: str) -> None:
        """Remove a state."""
        with contextlib.suppress(OSError):
            self._require_own_folders()
            self._path(name).unlink()

    def remove_all(self) -> None:
        """Remove the states of these parameters, and folders that become empty; other files stay."""
        if self.metadata:
            for folder in (self.folder, *self._list_older_folders()):
                _remove_states(folder)
            _remove_empty(self.root)

    def _require_own_folders(self) -> None:
        for folder in (self.root, self.folder):
            require_own_folder(folder)

    def _get_folder(self, number: int) -> Path:
        """Return the folder of states in the format with this number."""
        about = json.dumps(self.metadata | {"format": number}, sort_keys=True)
        return self.root / hashlib.sha256(about.encode()).hexdigest()[:_KEY_DIGITS]

    def _list_older_folders(self) -> list[Path]:
        folders = [self._get_folder(number) for number in range(1, FORMAT)]
        return [folder for folder in folders if os.path.isdir(folder)]

    def _write(self, name: str, arrays: dict[str, Any]) -> None:
        self.make_folder()
        about = self.metadata | {"name": name}
        self._replace(self._path(name), lambda file: write_state(file, about, arrays))

    def _replace(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Replace a file by a new one that is complete and on the disk."""
        partial = path.with_name(f"{path.stem}{_PARTIAL}")
        with _open_exclusively(partial) as file:
            if file is None:
                # Another run of the same input and parameters saves this state; both can use it.
                _log.debug("another process is writing %s", partial)
                return
            try:
                write(file)
                commit_file(file, partial, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_STATE}"


def remove_all_states(root: Path) -> None:
    """Remove the states of every set of parameters below a folder, and folders that become empty."""
    if not os.path.isdir(root):
        return
    try:
        require_own_folder(root)
        folders = sorted(root.iterdir())
    except OSError as error:
        _log.warning("the states in %s could not be discarded: %s", root, error)
        return
    for folder in folders:
        if re.fullmatch(rf"[0-9a-f]{{{_KEY_DIGITS}}}", folder.name) and os.path.isdir(folder):
            try:
                _remove_states(folder)
                _log.info("discarded the states in %s", folder)
            except OSError as error:
                _log.warning("not all states in %s could be discarded: %s", root, error)
    _remove_empty(root)


def _remove_states(folder: Path) -> None:
    """Remove the states in a folder; raise OSError if it is a link or belongs to another user."""
    # Also False if the name is too long for a folder, so that nothing can be saved there.
    if not os.path.lexists(folder):
        return
    require_own_folder(folder)
    for pattern in (f"*{_STATE}", f"*{_OLDER_STATE}", f"*{_PARTIAL}", *_ROW_FILES, _ABOUT):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    _remove_empty(folder)


@contextlib.contextmanager
def _open_exclusively(path: Path) -> Iterator[IO[bytes] | None]:
    """Open an empty file for writing and lock it; yield None if another process has locked it.

    The lock of a killed process is released, and its file is overwritten. Anything else with this name, such
    as a link, is removed first.
    """
    with _open_plain(path) as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError:  # a file system without locks
                pass
            if not os.path.lexists(path) or not os.path.samestat(os.fstat(file.fileno()), path.lstat()):
                # Another process renamed the file after we opened it: it is now the finished state.
                yield None
                return
        file.truncate(0)
        yield file


def _open_plain(path: Path) -> IO[bytes]:
    """Open a regular file of the current user without other hard links for writing, or create it."""
    flags = os.O_RDWR | UNFOLLOWED
    if os.path.lexists(path):
        try:
            _require_plain(path, path.lstat())
            number = os.open(path, flags)
            try:
                _require_plain(path, os.fstat(number))
            except BaseException:
                os.close(number)
                raise
            return os.fdopen(number, "r+b")
        except OSError:
            path.unlink()
    return os.fdopen(os.open(path, flags | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "r+b")


def _require_plain(path: Path, status: os.stat_result) -> None:
    require_own_file(path, status)
    if status.st_nlink != 1:
        raise OSError(errno.EMLINK, "it has another name too", str(path))


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty, or does not exist
        folder.rmdir()
