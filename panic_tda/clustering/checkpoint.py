"""State of a long computation in a folder, from which a killed process goes on."""

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
from typing import IO, TYPE_CHECKING, Any

from panic_tda.clustering.state_files import Form, UnusableState, read_state, write_state
from panic_tda.disk import (
    PRIVATE_FILE,
    UNFOLLOWED,
    free_text,
    make_own_folder,
    open_own_file,
    require_own_file,
    require_own_folder,
    sync_folder,
)
from panic_tda.parameters import format_bytes

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from panic_tda.types import Array

SAVE_SECONDS = 60.0
"""Least time between two saved states of one stage: a kill costs at most this much and one save."""
_FORMAT = 3
"""Of the states. Those of formats 1 and 2 were zip files whose headers no check covered."""
_ABOUT = "checkpoint.json"
_PARTIAL = ".panic-tda.partial"
_KEY_DIGITS = 16
_STATE, _OLDER_STATE = ".state", ".npz"
_MOST_ABOUT_BYTES = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedState:
    """The state of a run that has not ended, or was stopped.

    Attributes
    ----------
    folder : Path
        Where it lies.
    input_sha256 : str or None
        Identity of its input; None where the folder does not say.
    n_bytes : int
        Size of its files.
    saved_at : float
        When the latest of them was written, in seconds since 1970.
    """

    folder: Path
    input_sha256: str | None
    n_bytes: int
    saved_at: float


def saved_states(root: Path) -> list[SavedState]:
    """Return our own user's states in the folders below `root`, in the order of their names."""
    try:
        places = sorted(about.parent for about in root.rglob(_ABOUT))
    except OSError:  # its name is too long for a folder, in which then nothing was saved
        return []
    return [state for place in places if (state := _saved_state(place)) is not None]


def discard_states(root: Path, input_sha256: str) -> None:
    """Remove the states of one input below `root`, whatever their parameters, and folders empty then.

    Raises
    ------
    OSError
        A file cannot be removed.
    """
    if not os.path.isdir(root):
        return
    require_own_folder(root)
    for state in saved_states(root):
        if state.input_sha256 == input_sha256:
            _discard(state.folder)
            _remove_empty(state.folder.parent)
    _remove_empty(root)


def _saved_state(folder: Path) -> SavedState | None:
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
        known = about.get("input_sha256") if isinstance(about, dict) else None
        return SavedState(folder, known, sum(file.st_size for file in files), max(times))
    except (OSError, ValueError):  # just removed by the run whose it was
        return None


class Checkpoint:
    """Named states of one input and one set of parameters; each is replaced as a whole or not at all.

    Parameters
    ----------
    root : Path
        Every set of parameters has a folder of its own in it, made when the first state is saved. States of
        other parameters stay: they are of use to whoever asks for these again.
    input_sha256 : str
        Identity of the input, such as `storage.read.loading.input_sha256`. A state is only used for the
        same input.
    save_seconds : float
        Least time between two saves for which `due` says yes.

    Notes
    -----
    A folder that cannot be written or read costs the chance to go on, never the run: that is warned of. So is
    a state that is damaged, a link or another user's. Its folders are our own user's, and no links; only what
    lies above `root` may be anything.
    """

    def __init__(self, root: Path, input_sha256: str, *, save_seconds: float = SAVE_SECONDS) -> None:
        self.root = self.folder = root
        self._input = input_sha256
        self._about: dict[str, Any] = {}
        self._save_seconds = save_seconds
        self._saved = time.monotonic()

    def open(self, **parameters: Any) -> None:
        """Turn to the states of these parameters, of which `folder` is the place from now on.

        Parameters
        ----------
        parameters
            Whatever else than the input a state depends on, the format of the code that wrote it included;
            must have a JSON form.
        """
        self._about = {"format": _FORMAT, "input_sha256": self._input, "parameters": parameters}
        self.folder = self._folder_of(_FORMAT)
        for folder in self._older_folders():
            _log.warning(
                "the states in %s are of an earlier version of panic_tda and are not used; they are removed "
                "when this clustering is saved",
                folder,
            )

    def due(self) -> bool:
        """Say whether enough time has passed since the last save."""
        return time.monotonic() - self._saved >= self._save_seconds

    def save(self, name: str, **arrays: Any) -> None:
        """Store arrays under a name.

        The new state is on the disk before it takes the old one's place, so that a process killed at any
        moment, or a machine that stops, leaves one of the two.
        """
        self._saved = time.monotonic()
        try:
            self._store(name, arrays)
        except OSError as error:
            # Hours of work are worth more than the chance to repeat them sooner.
            _log.warning(
                "the state of %s could not be saved in %s%s, the run goes on without: %s",
                format_bytes(sum(getattr(one, "nbytes", 0) for one in arrays.values())),
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
        """Return the arrays stored under a name, or None; a state that cannot be used is warned of.

        Parameters
        ----------
        name : str
        forms : mapping of str to Form, optional
            The arrays that the state must have; no file of another size is read.
        into : mapping of str to array
            Arrays, in host or in device memory or in files, into which those of these names are read piece by
            piece. Where None is returned something may have been written to them already.
        check : callable, optional
            Raises `UnusableState` where values are not what they must be.
        """
        path = self._path(name)
        if not os.path.lexists(path):
            return None
        try:
            self._require_own_folders()
            with open_own_file(path) as file:
                saved = os.fstat(file.fileno()).st_mtime
                state = read_state(file, self._about | {"name": name}, forms=forms, into=into)
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
        """Forget a state."""
        with contextlib.suppress(OSError):
            self._require_own_folders()
            self._path(name).unlink()

    def discard(self) -> None:
        """Remove the states of these parameters, and folders that are empty then; other files stay."""
        if self._about:
            for folder in (self.folder, *self._older_folders()):
                _discard(folder)
            _remove_empty(self.root)

    def _require_own_folders(self) -> None:
        for folder in (self.root, self.folder):
            require_own_folder(folder)

    def _folder_of(self, number: int) -> Path:
        """Return the folder that states of a format with this number have."""
        about = json.dumps(self._about | {"format": number}, sort_keys=True)
        return self.root / hashlib.sha256(about.encode()).hexdigest()[:_KEY_DIGITS]

    def _older_folders(self) -> list[Path]:
        folders = [self._folder_of(number) for number in range(1, _FORMAT)]
        return [folder for folder in folders if os.path.isdir(folder)]

    def _store(self, name: str, arrays: dict[str, Any]) -> None:
        for folder in (self.root, self.folder):
            make_own_folder(folder)
        if not os.path.lexists(self.folder / _ABOUT):
            # For people, and for whoever tidies up: whose states these are.
            text = json.dumps(self._about, indent=1).encode()
            self._replace(self.folder / _ABOUT, lambda file: file.write(text))
            for folder in (self.root, self.root.parent):
                sync_folder(folder)
        about = self._about | {"name": name}
        self._replace(self._path(name), lambda file: write_state(file, about, arrays))

    def _replace(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Put a file that is written whole, and on the disk, in the place of another."""
        partial = path.with_name(f"{path.stem}{_PARTIAL}")
        with _only_writer(partial) as file:
            if file is None:
                # Another run of the same input and parameters is at it: what it saves is of use to both.
                _log.debug("another process is writing %s", partial)
                return
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise
        sync_folder(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_STATE}"


def discard_all(root: Path) -> None:
    """Remove the states of every set of parameters below a folder, and folders that are empty then."""
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
                _discard(folder)
                _log.info("discarded the states in %s", folder)
            except OSError as error:
                _log.warning("not all states in %s could be discarded: %s", root, error)
    _remove_empty(root)


def _discard(folder: Path) -> None:
    """Remove the states in a folder; what is a link or another user's folder is left alone, by an error."""
    # False too where the name is too long for a folder, in which then nothing was saved.
    if not os.path.lexists(folder):
        return
    require_own_folder(folder)
    for pattern in (f"*{_STATE}", f"*{_OLDER_STATE}", f"*{_PARTIAL}", _ABOUT):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    _remove_empty(folder)


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[IO[bytes] | None]:
    """Open a file, empty, that no other process writes; give None where one does.

    A killed process keeps no lock: what it left behind is overwritten. Whatever else has the name, such as a
    link, is removed first.
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
                # Between the opening and the lock it got its name: it is the state itself now.
                yield None
                return
        file.truncate(0)
        yield file


def _open_plain(path: Path) -> IO[bytes]:
    """Open a file of our own user, which has no other name, for writing; make it where there is none."""
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
    with contextlib.suppress(OSError):  # something else is in it, or it never was there
        folder.rmdir()
