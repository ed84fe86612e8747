"""Names for the runs of files that do not name them.

A run is named by the shortest beginning of its file that names no other run, which is its first row alone
unless another file begins alike. What is named so is that run again whenever its stored texts and those of
a file agree wherever both have one: for a file that has grown, for one that has not grown as far as another
model's, and, where rows have sequence numbers, for the same rows in another order and for rows that have come
between them or before them. Without sequence numbers a row that comes between others moves those behind it:
the file is another run then, or, where it names its runs, refused. A file that differs in one text is another
run. Of two files of which one is the beginning of the other, nothing tells whether it has grown: they are one
run.

A run without any text is named by its first usable vector and the embedding model of it: a file that has
grown is the run that it was, and the vectors of another model are another run.

Earlier versions hashed all rows that a file had then. Runs of these names are found by the hash of each
beginning of the file, and go on under them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.storage.write.additions import Additions, run_id
from panic_tda.storage.write.batches import RunKey

if TYPE_CHECKING:
    from panic_tda.types import IntArray

_FEW = 64


def name_of(file: EmbeddingFile, additions: Additions, *, skip_invalid: bool = False) -> str:
    """Return the name of a file's run: of the one in the database that it continues, or a new one.

    Of several that it could continue it is the one with the most of its texts. `skip_invalid` is that of
    `EmbeddingFile.batches`.

    Raises
    ------
    BadInput
        As `EmbeddingFile.batches`.
    """
    if not file.has_texts:
        return _by_first_vector(file, skip_invalid)
    openings = _Openings(file)
    if not openings.has_texts:
        return _by_first_vector(file, skip_invalid)
    new, candidates = _by_opening(openings, 0, additions)
    candidates += _by_later_opening(openings, additions, candidates)
    found, most = new, -1
    for key in [*candidates, *_by_former_name(file, additions, candidates)]:
        n_stored = additions.count_stored_texts(file.texts(key.name))
        if n_stored is not None and n_stored > most:
            found, most = key.name, n_stored
    return found


def _by_first_vector(file: EmbeddingFile, skip_invalid: bool) -> str:
    first_row, content = -1, b""
    with closing(file.batches(skip_invalid=skip_invalid)) as batches:
        for batch in batches:
            # Batches of several models take turns; those that begin later hold no earlier row.
            if content and batch.rows[0] > first_row:
                break
            row = int(batch.rows[batch.places[0]]) if len(batch.places) else -1
            if row >= 0 and (not content or row < first_row):
                vector = batch.vectors[0].astype("<f4").tobytes()
                first_row, content = row, b"vectors\0" + batch.model.encode() + b"\0" + vector
    return hashlib.sha256(content).hexdigest() if content else ""


def _by_opening(openings: _Openings, start: int, additions: Additions) -> tuple[str, list[RunKey]]:
    """Return the first name that is free, and the runs of those before it and soon after it."""
    names = openings.names(start)
    stored: list[RunKey] = []
    while few := list(islice(names, _FEW)):
        stored += (known := additions.find_stored_runs(few))
        free = next((key for key in few if key not in known), None)
        if free is not None:
            return free.name, stored
    return "", stored


def _by_later_opening(openings: _Openings, additions: Additions, known: list[RunKey]) -> list[RunKey]:
    """Return the runs of which the file has rows from before the one that named them."""
    # Where the order of the file numbers its rows, one that is put before others makes other texts of them.
    if not openings.numbered:
        return []
    stored = additions.read_first_texts(openings.keys)
    likely = {run for run, first in stored.items() if openings.has(*first)} - set(map(run_id, known))
    found = []
    for start in range(1, len(openings)):
        # To name all rows takes half as long as to add them, and seldom finds anything.
        if not likely:
            break
        for key in takewhile(lambda key: run_id(key) in stored, openings.names(start)):
            if run_id(key) in likely:
                likely.remove(run_id(key))
                found.append(key)
    return found


class _Openings:
    """The texts of a file in the order of its sequence numbers, whatever its models.

    Texts of equal numbers stand in the order of the file, and the same text of another model counts once.
    Runs that differ in seed, network or prompt have one name: the key is that of the first one.
    """

    def __init__(self, file: EmbeddingFile) -> None:
        self.numbered = file.numbers_rows
        numbers, digests, codes = [], [], []
        known: dict[RunKey, int] = {}
        self.has_texts = False
        for batch in file.texts():
            self.has_texts = self.has_texts or any(text is not None for text in batch.texts)
            numbers.append(batch.sequence_numbers)
            digests.append(np.frombuffer(b"".join(map(_digest, batch.texts)), dtype="V16"))
            of_batch = np.array([known.setdefault(key, len(known)) for key in batch.runs])
            codes.append(of_batch[batch.run_codes])
        self.keys = list(known)
        # Empty arrays stand first, so that a file without rows has some too.
        number = np.concatenate([np.zeros(0, dtype=np.int64), *numbers])
        order = np.argsort(number, kind="stable")
        self._numbers: IntArray = number[order]
        self._digests = np.concatenate([np.zeros(0, dtype="V16"), *digests])[order]
        self._codes: IntArray = np.concatenate([np.zeros(0, dtype=np.int64), *codes])[order]

    def __len__(self) -> int:
        return len(self._numbers)

    def names(self, start: int) -> Iterator[RunKey]:
        """Name what begins at a row: this row alone, it and the next one, and so on."""
        name, here, said = b"", -1, set[bytes]()
        for row in range(start, len(self._numbers)):
            if self._numbers[row] != here:
                here, said = int(self._numbers[row]), set()
            text = self._digests[row].tobytes()
            if text not in said:
                said.add(text)
                name = hashlib.sha256(name + here.to_bytes(8, "little") + text).digest()
                yield replace(self.keys[self._codes[start]], name=name.hex())

    def has(self, number: int, text: str | None) -> bool:
        """Tell whether the file has this text at this place."""
        first, last = np.searchsorted(self._numbers, [number, number + 1])
        return _digest(text) in self._digests[first:last].tolist()


def _by_former_name(file: EmbeddingFile, additions: Additions, known: list[RunKey]) -> list[RunKey]:
    first = next(file.texts(), None)
    if first is None or first.texts[0] is None:
        return []
    key, text = first.runs[first.run_codes[0]], first.texts[0]
    assert text is not None
    likely = additions.find_runs_with_text(key, int(first.sequence_numbers[0]), text)
    # To hash all beginnings takes half as long as to add the rows, and seldom finds anything.
    if not likely - {run_id(other) for other in known}:
        return []
    keys = (replace(key, name=name) for name in _former_names(file))
    return [key for key in keys if run_id(key) in likely]


def _former_names(file: EmbeddingFile) -> Iterator[str]:
    """Hash every beginning of a file as earlier versions hashed the whole."""
    lengths, texts, numbers = (hashlib.sha256() for _ in range(3))
    for some_texts, sequence in file.contents():
        stored_numbers = sequence.astype("<i8").tobytes()
        for row, text in enumerate(some_texts):
            # Earlier versions took no file with a row without a text.
            encoded = b"\0" if text is None else text.encode()
            lengths.update(len(encoded).to_bytes(8, "little"))
            texts.update(encoded)
            numbers.update(stored_numbers[8 * row : 8 * row + 8])
            yield hashlib.sha256(lengths.digest() + texts.digest() + numbers.digest()).hexdigest()


def _digest(text: str | None) -> bytes:
    # No text holds NUL: this stands for an output that has none.
    return hashlib.sha256(b"\0" if text is None else text.encode()).digest()[:16]
