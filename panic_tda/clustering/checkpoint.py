"""State of a long computation in a folder, from which a killed process goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from panic_tda.arrays.namespace import namespace
from panic_tda.arrays.rows import slices
from panic_tda.disk import free_text, sync_folder
from panic_tda.parameters import format_bytes

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from panic_tda.types import Array

SAVE_SECONDS = 60.0
"""Least time between two saved states of one stage: a kill costs at most this much and one save."""
_FORMAT = 2
_ABOUT = "checkpoint.json"
_PARTIAL = ".panic-tda.partial"
_KEY_DIGITS = 16
_PIECE_BYTES = 1 << 20

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
    """Return the states in the folders below `root`, in the order of their names."""
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
    for state in saved_states(root):
        if state.input_sha256 == input_sha256:
            _discard(state.folder)
            _remove_empty(state.folder.parent)
    _remove_empty(root)


def _saved_state(folder: Path) -> SavedState | None:
    try:
        about = json.loads((folder / _ABOUT).read_text())
    except (OSError, ValueError):
        about = None
    try:
        files = [file.stat() for file in folder.iterdir()]
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
        Identity of the input, such as `storage.loading.input_sha256`. A state is taken up only for the same.
    save_seconds : float
        Least time between two saves for which `due` says yes.

    Notes
    -----
    A folder that cannot be written or read costs the chance to go on, never the run: that is warned of.
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
        key = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()
        self.folder = self.root / key[:_KEY_DIGITS]

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

    def load(self, name: str, into: Mapping[str, Array] = MappingProxyType({})) -> dict[str, Any] | None:
        """Return the arrays stored under a name, or None.

        Parameters
        ----------
        name : str
        into : mapping of str to array
            Arrays, in host or in device memory or in files, into which those of these names are read piece by
            piece. Where None is returned something may have been written to them already.
        """
        path = self._path(name)
        try:
            saved = path.stat().st_mtime
            with ZipFile(path) as stored:
                members = [Path(member).stem for member in stored.namelist()]
                state = {member: _read(stored, member, into.get(member)) for member in members}
                if missing := into.keys() - state:
                    raise KeyError(missing)
        except (OSError, BadZipFile, KeyError, ValueError, EOFError):
            return None
        _log.info(
            "going on from the state %s, saved %s", path, time.strftime("%H:%M:%S", time.localtime(saved))
        )
        return state

    def remove(self, name: str) -> None:
        """Forget a state."""
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def discard(self) -> None:
        """Remove the states of these parameters, and folders that are empty then; other files stay."""
        if self._about:
            _discard(self.folder)
            _remove_empty(self.root)

    def _store(self, name: str, arrays: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _ABOUT).exists():
            # For people, and for whoever tidies up: whose states these are.
            about = json.dumps(self._about, indent=1).encode()
            self._replace(self.folder / _ABOUT, lambda file: file.write(about))
            for folder in (self.root, self.root.parent):
                sync_folder(folder)
        self._replace(self._path(name), lambda file: np.savez(file, **arrays))

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
        return self.folder / f"{name}.npz"


def discard_all(root: Path) -> None:
    """Remove the states of every set of parameters below a folder, and folders that are empty then."""
    try:
        for folder in sorted(root.iterdir()) if os.path.isdir(root) else ():
            if re.fullmatch(rf"[0-9a-f]{{{_KEY_DIGITS}}}", folder.name) and folder.is_dir():
                _discard(folder)
                _log.info("discarded the states in %s", folder)
    except OSError as error:
        _log.warning("not all states in %s could be discarded: %s", root, error)
    _remove_empty(root)


def _discard(folder: Path) -> None:
    # A path's own method raises where the name is too long for a folder, in which then nothing was saved.
    for pattern in ("*.npz", f"*{_PARTIAL}", _ABOUT) if os.path.isdir(folder) else ():
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    _remove_empty(folder)


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[IO[bytes] | None]:
    """Open a file, empty, that no other process writes; give None where one does.

    A killed process keeps no lock: what it left behind is overwritten.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError:  # a file system without locks
                pass
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                # Between the opening and the lock it got its name: it is the state itself now.
                yield None
                return
        file.truncate(0)
        yield file


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # something else is in it, or it never was there
        folder.rmdir()


def _read(stored: ZipFile, name: str, into: Array | None) -> Array:
    """Read an array of a state, in pieces where there is one to take it: no second one is made then."""
    with stored.open(f"{name}.npy") as member:
        if into is None:
            return np.lib.format.read_array(member)
        # Headers of plain numbers are of the first version.
        np.lib.format.read_magic(member)
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(member)
        if (shape, columns_first, dtype) != (into.shape, False, into.dtype):
            raise ValueError(f"{name} is {shape} of {dtype}, not {into.shape} of {into.dtype}")
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        for rows in slices(len(into), _PIECE_BYTES // max(1, row_bytes)):
            n_rows = rows.stop - rows.start
            piece = np.frombuffer(_exactly(member, n_rows * row_bytes), dtype=dtype)
            into[rows] = namespace(into).asarray(piece.reshape(n_rows, *shape[1:]))
    return into


def _exactly(member: IO[bytes], size: int) -> bytes:
    found = member.read(size)
    if len(found) < size:
        raise EOFError("the state ends too soon")
    return found
