"""Names of runs for files that do not name their runs.

A run is named by a hash of the shortest beginning of its file that no other run has. That is its first row
alone, unless another file begins with the same row.

A file continues a stored run if their texts are equal at all positions that both have. This holds for a file
that has grown and for a shorter file of another model. With sequence numbers, it also holds if the rows are
in another order or if rows were inserted. Without sequence numbers, an inserted row changes the numbers of
those behind it: the file is then another run. A file that differs in one text is another run. If one of two
files is the beginning of the other, they are one run, because the longer one may be the shorter one that has
grown.

A run without any text is named by its first usable vector and its embedding model. A file that has grown is
then the same run, and the vectors of another model are another run.

Earlier versions hashed all rows that a file had at the time. Runs with these names are found by the hash of
each beginning of the file, and keep their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice, takewhile

import numpy as np

from panic_tda.files.embedding_files import EmbeddingFile
from panic_tda.storage.write.additions import Additions, run_id
from panic_tda.storage.write.batches import RunKey
from panic_tda.types import IntArray

_NAMES_AT_ONCE = 64


def derive_run_name(file: EmbeddingFile, additions: Additions, *, skip_invalid: bool = False) -> str:
    """Return the name of a file's run: that of the stored run that it continues, or a new name.

    If it could continue several runs, the one with the most of its texts is chosen. `skip_invalid` is that of
    `EmbeddingFile.batches`.

    Raises
    ------
    BadInput
        As for `EmbeddingFile.batches`.
    """
    if not file.has_texts:
        return _name_by_first_vector(file, skip_invalid)
    openings = _Openings(file)
    if not openings.has_texts:
        return _name_by_first_vector(file, skip_invalid)
    name, candidates = _find_by_opening(openings, 0, additions)
    candidates += _find_by_later_opening(openings, additions, candidates)
    most = -1
    for key in [*candidates, *_find_by_former_name(file, additions, candidates)]:
        n_stored = additions.count_stored_texts(file.texts(key.name))
        if n_stored is not None and n_stored > most:
            name, most = key.name, n_stored
    return name


def _name_by_first_vector(file: EmbeddingFile, skip_invalid: bool) -> str:
    first_row, content = -1, b""
    with closing(file.batches(skip_invalid=skip_invalid)) as batches:
        for batch in batches:
            # Batches of several models alternate; those that begin later have no earlier row.
            if content and batch.rows[0] > first_row:
                break
            row = int(batch.rows[batch.places[0]]) if len(batch.places) else -1
            if row >= 0 and (not content or row < first_row):
                vector = batch.vectors[0].astype("<f4").tobytes()
                first_row, content = row, b"vectors\0" + batch.model.encode() + b"\0" + vector
    return hashlib.sha256(content).hexdigest() if content else ""


def _find_by_opening(openings: _Openings, start: int, additions: Additions) -> tuple[str, list[RunKey]]:
    """Return the first unused name, and the stored runs with the names before and shortly after it."""
    names = openings.names(start)
    stored: list[RunKey] = []
    while keys := list(islice(names, _NAMES_AT_ONCE)):
        stored += (known := additions.find_stored_runs(keys))
        free = next((key for key in keys if key not in known), None)
        if free is not None:
            return free.name, stored
    return "", stored


def _find_by_later_opening(openings: _Openings, additions: Additions, known: list[RunKey]) -> list[RunKey]:
    """Return the stored runs to which the file adds rows before the row that named them."""
    # Without sequence numbers, a row that is inserted at the beginning changes the numbers of all others.
    if not openings.numbered:
        return []
    stored = additions.read_first_texts(openings.keys)
    likely = {run for run, first in stored.items() if openings.has(*first)} - set(map(run_id, known))
    keys = []
    for start in range(1, len(openings)):
        # Naming all rows takes half as long as adding them, and seldom finds a run.
        if not likely:
            break
        for key in takewhile(lambda key: run_id(key) in stored, openings.names(start)):
            if run_id(key) in likely:
                likely.remove(run_id(key))
                keys.append(key)
    return keys


class _Openings:
    """The texts of a file, of all models together, in the order of their sequence numbers.

    Texts with the same number are in the order of the file, and the same text of another model counts once.
    Runs that differ in seed, network or prompt have one name; the key is that of the first one.
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
        # With an empty array first, this works for a file without rows.
        number = np.concatenate([np.zeros(0, dtype=np.int64), *numbers])
        order = np.argsort(number, kind="stable")
        self._numbers: IntArray = number[order]
        self._digests = np.concatenate([np.zeros(0, dtype="V16"), *digests])[order]
        self._codes: IntArray = np.concatenate([np.zeros(0, dtype=np.int64), *codes])[order]

    def __len__(self) -> int:
        return len(self._numbers)

    def names(self, start: int) -> Iterator[RunKey]:
        """Yield the name of the row `start`, of this row and the next one, and so on."""
        name, number, texts = b"", -1, set[bytes]()
        for row in range(start, len(self._numbers)):
            if self._numbers[row] != number:
                number, texts = int(self._numbers[row]), set()
            text = self._digests[row].tobytes()
            if text not in texts:
                texts.add(text)
                name = hashlib.sha256(name + number.to_bytes(8, "little") + text).digest()
                yield replace(self.keys[self._codes[start]], name=name.hex())

    def has(self, number: int, text: str | None) -> bool:
        """Return whether the file has this text with this sequence number."""
        first, last = np.searchsorted(self._numbers, [number, number + 1])
        return _digest(text) in self._digests[first:last].tolist()


def _find_by_former_name(file: EmbeddingFile, additions: Additions, known: list[RunKey]) -> list[RunKey]:
    first = next(file.texts(), None)
    if first is None or first.texts[0] is None:
        return []
    key, text = first.runs[first.run_codes[0]], first.texts[0]
    assert text is not None
    likely = additions.find_runs_with_text(key, int(first.sequence_numbers[0]), text)
    # Hashing all beginnings takes half as long as adding the rows, and seldom finds a run.
    if not likely - set(map(run_id, known)):
        return []
    keys = (replace(key, name=name) for name in _hash_former_names(file))
    return [key for key in keys if run_id(key) in likely]


def _hash_former_names(file: EmbeddingFile) -> Iterator[str]:
    """Hash every beginning of a file as earlier versions hashed a complete file."""
    lengths, texts, numbers = (hashlib.sha256() for _ in range(3))
    for batch_texts, sequence in file.contents():
        stored_numbers = sequence.astype("<i8").tobytes()
        for row, text in enumerate(batch_texts):
            # Earlier versions refused files with a row without a text.
            encoded = b"\0" if text is None else text.encode()
            lengths.update(len(encoded).to_bytes(8, "little"))
            texts.update(encoded)
            numbers.update(stored_numbers[8 * row : 8 * row + 8])
            yield hashlib.sha256(lengths.digest() + texts.digest() + numbers.digest()).hexdigest()


def _digest(text: str | None) -> bytes:
    # Texts never contain NUL, so that this distinguishes outputs without a text.
    return hashlib.sha256(b"\0" if text is None else text.encode()).digest()[:16]
