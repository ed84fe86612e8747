"""State of a long computation in a folder, from which a killed process goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from panic_tda.arrays.namespace import to_host

if TYPE_CHECKING:
    from panic_tda.types import IntArray

SAVE_SECONDS = 60.0
"""Least time between two saved states of one stage: a kill costs at most this much and one save."""
_FORMAT = 1
_META = "checkpoint.json"
_KEY_FIELD = "panic_tda_key"
_CHUNK_ROWS = 16_384

_log = logging.getLogger(__name__)


def fingerprint(vectors: Any, weights: IntArray, **parameters: Any) -> str:
    """Hash everything that a saved state depends on.

    Parameters
    ----------
    vectors : (n, d) float32
        Rows, in host or device memory.
    weights : (n,) int64
        Their multiplicities.
    parameters
        Whatever else may not change between two runs; must have a JSON form.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, list(vectors.shape), parameters], sort_keys=True).encode())
    for begin in range(0, len(vectors), _CHUNK_ROWS):
        digest.update(np.ascontiguousarray(to_host(vectors[begin : begin + _CHUNK_ROWS])).data)
    digest.update(np.ascontiguousarray(weights).data)
    return digest.hexdigest()


class Checkpoint:
    """Named states in a folder; each is replaced as a whole or not at all.

    Parameters
    ----------
    folder : Path
        Made when the first state is saved. States of another input or other parameters in it are removed,
        files that are no states stay.
    save_seconds : float
        Least time between two saves for which `due` says yes.
    """

    def __init__(self, folder: Path, *, save_seconds: float = SAVE_SECONDS) -> None:
        self.folder = folder
        self._save_seconds = save_seconds
        self._saved = time.monotonic()
        self._key = ""

    def open(self, key: str) -> None:
        """Take up the states saved under `key`, and remove all others."""
        self._key = key
        if self._stored_key() != key:
            self.discard()

    fingerprint = staticmethod(fingerprint)

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
                "the state could not be saved in %s, the run goes on without: %s", self.folder, error
            )
            with contextlib.suppress(OSError):
                self._partial(name).unlink(missing_ok=True)

    def _store(self, name: str, arrays: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._stored_key() != self._key:
            self._replace(_META, json.dumps({"fingerprint": self._key}).encode())
        partial = self._partial(name)
        with partial.open("wb") as file:
            # Every state says whose it is: two runs in one folder may replace each other's.
            np.savez(file, **arrays | {_KEY_FIELD: np.array(self._key)})
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path(name))
        self._sync_folder()

    def load(self, name: str) -> dict[str, Any] | None:
        """Return the arrays stored under a name for the key of `open`, or None."""
        try:
            with self._path(name).open("rb") as file, np.load(file) as stored:
                if str(stored[_KEY_FIELD]) != self._key:
                    return None
                return {field: stored[field] for field in stored.files if field != _KEY_FIELD}
        except (OSError, BadZipFile, KeyError, ValueError, EOFError):
            return None

    def remove(self, name: str) -> None:
        """Forget a state."""
        self._path(name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove everything that was saved, and the folder when nothing else is in it."""
        if not self.folder.is_dir():
            return
        # The key goes first: what is left behind by a kill right here is never taken up.
        (self.folder / _META).unlink(missing_ok=True)
        for file in [
            *filter(_is_state, self.folder.glob("*.npz")),
            *self.folder.glob(self._partial("*").name),
        ]:
            file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.panic-tda.partial"

    def _stored_key(self) -> str | None:
        try:
            key = json.loads((self.folder / _META).read_text())["fingerprint"]
        except (OSError, ValueError, KeyError):
            return None
        return str(key)

    def _replace(self, name: str, content: bytes) -> None:
        partial = self._partial(name)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / name)

    def _sync_folder(self) -> None:
        if os.name == "posix":
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _is_state(path: Path) -> bool:
    # The folder is the user's to name, and people keep vectors in .npz files.
    try:
        with np.load(path) as stored:
            return _KEY_FIELD in stored.files
    except (OSError, BadZipFile, ValueError, EOFError):
        return False
