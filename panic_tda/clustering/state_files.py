"""Files of saved states: named arrays, followed by a digest of everything before it.

Layout: a mark, the length of the header (8 bytes), the header (JSON: what the state belongs to, and the
data type and shape of each array), the bytes of the arrays, and a BLAKE2b digest (32 bytes). The arrays are
read only after the size and the digest of the file have been checked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace
from panic_tda.arrays.rows import slices
from panic_tda.types import Array

_MARK = b"panic-tda state\n"
_LENGTH_BYTES, _DIGEST_BYTES = 8, 32
_MOST_HEADER_BYTES = 1 << 16
PIECE_BYTES = 1 << 20


class UnusableState(ValueError):
    """A file is not a usable state; the message says why."""


class Form(NamedTuple):
    """The shape and the data type that an array must have."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        """Return the number of bytes of such an array."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_state(file: IO[bytes], about: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write arrays of plain numbers into an empty file.

    Parameters
    ----------
    file : binary file
    about : mapping
        What the state belongs to; must be serializable as JSON.
    arrays : mapping of str to array
        In host memory.
    """
    # Not np.ascontiguousarray, which turns a scalar into an array of one dimension.
    plain = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    forms = {name: Form(array.shape, array.dtype) for name, array in plain.items()}
    header = _encode_header(about, forms)
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for piece in (_MARK, len(header).to_bytes(_LENGTH_BYTES, "little"), header):
        digest.update(piece)
        file.write(piece)
    for array in plain.values():
        flat = array.reshape(-1).view(np.uint8)
        for part in slices(len(flat), PIECE_BYTES):
            digest.update(flat[part].data)
            file.write(flat[part].data)
    file.write(digest.digest())


def read_state(
    file: IO[bytes],
    about: Mapping[str, Any],
    *,
    forms: Mapping[str, Form] | None = None,
    into: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read the arrays that `write_state` wrote.

    Parameters
    ----------
    file : binary file
    about : mapping
        What the state must belong to.
    forms : mapping of str to Form, optional
        The arrays that it must have. If given, a file of another size is rejected before it is read.
    into : mapping of str to array
        Existing arrays (in host memory, in device memory or in files) into which the arrays of the same name
        are read in pieces, without a copy. After an error they may be partly overwritten.

    Raises
    ------
    UnusableState
        The file is damaged, or belongs to something else.
    """
    header = _read_header(file)
    size = os.fstat(file.fileno()).st_size
    if forms is not None and size != file.tell() + _sum_bytes(forms) + _DIGEST_BYTES:
        raise UnusableState("its size is wrong")
    _require_digest(file, size)
    if forms is None:
        forms = _parse_forms(header)
        if size != len(_MARK) + _LENGTH_BYTES + len(header) + _sum_bytes(forms) + _DIGEST_BYTES:
            raise UnusableState("its size does not match its arrays")
    if header != _encode_header(about, forms):
        raise UnusableState("it belongs to another input, to other parameters or to another version")
    for name, array in into.items():
        if forms.get(name) != Form(array.shape, array.dtype):
            raise UnusableState(f"its array {name} has another shape or data type, or is missing")
    file.seek(len(_MARK) + _LENGTH_BYTES + len(header))
    return {name: _read_array(file, forms[name], into.get(name)) for name in sorted(forms)}


def _encode_header(about: Mapping[str, Any], forms: Mapping[str, Form]) -> bytes:
    arrays = [[name, forms[name].dtype.str, list(forms[name].shape)] for name in sorted(forms)]
    return json.dumps({"about": about, "arrays": arrays}, sort_keys=True).encode()


def _parse_forms(header: bytes) -> dict[str, Form]:
    try:
        return {
            name: Form(tuple(shape), np.dtype(dtype)) for name, dtype, shape in json.loads(header)["arrays"]
        }
    except (ValueError, TypeError, KeyError) as error:
        raise UnusableState("its header cannot be read") from error


def _sum_bytes(forms: Mapping[str, Form]) -> int:
    return sum(form.n_bytes for form in forms.values())


def _read_header(file: IO[bytes]) -> bytes:
    if file.read(len(_MARK)) != _MARK:
        raise UnusableState("it is not a state of this version of panic_tda")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 0 < length <= _MOST_HEADER_BYTES:
        raise UnusableState("it is damaged (the length of its header)")
    header = file.read(length)
    if len(header) < length:
        raise UnusableState("it is cut off")
    return header


def _require_digest(file: IO[bytes], size: int) -> None:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    left = size - _DIGEST_BYTES
    while left > 0:
        piece = file.read(min(left, PIECE_BYTES))
        if not piece:
            break
        digest.update(piece)
        left -= len(piece)
    if left or file.read(_DIGEST_BYTES) != digest.digest():
        raise UnusableState("it is damaged (its digest does not match)")


def _read_array(file: IO[bytes], form: Form, into: Array | None) -> Array:
    array = np.empty(form.shape, form.dtype) if into is None else into
    if not form.shape:
        array[()] = np.frombuffer(_read_exactly(file, form.n_bytes), form.dtype)[0]
        return array
    row_bytes = form.dtype.itemsize * math.prod(form.shape[1:])
    for rows in slices(len(array), PIECE_BYTES // max(1, row_bytes)):
        n_rows = rows.stop - rows.start
        piece = np.frombuffer(_read_exactly(file, n_rows * row_bytes), form.dtype)
        array[rows] = namespace(array).asarray(piece.reshape(n_rows, *form.shape[1:]))
    return array


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise UnusableState("it is cut off")
    return content
