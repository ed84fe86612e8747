"""Pack the data of the page into one text: a JSON object and the arrays that it refers to, compressed.

The bytes are: the length of the JSON text (uint32), the JSON text, and the arrays one after another, each
aligned to 8 bytes. The object refers to an array as `{"$": [type, offset, number of values]}`; offsets are in
bytes from the end of the JSON text. Numbers are little-endian. The bytes are compressed with gzip and encoded
in base64; a browser decodes both.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import numpy as np

_TYPES = {"u1": "u1", "u2": "u2", "u4": "u4", "i1": "i1", "i2": "i2", "i4": "i4", "f4": "f4", "f8": "f8"}
_ALIGNED = 8


def pack(page: dict[str, Any]) -> str:
    """Pack an object of plain values and arrays into base64 text.

    Parameters
    ----------
    page : dict
        Values of JSON types, and one-dimensional NumPy arrays. Integers are stored in the smallest type that
        holds all values of the array.

    Raises
    ------
    ValueError
        A number is not finite; JSON has no such numbers.
    """
    arrays: list[bytes] = []
    text = json.dumps(_convert(page, arrays), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A text may end with half of a surrogate pair, which has no encoding.
    encoded = text.encode("utf-8", "replace")
    encoded += b" " * (-(len(encoded) + 4) % _ALIGNED)
    packed = gzip.compress(struct.pack("<I", len(encoded)) + encoded + b"".join(arrays), 9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def unpack(text: str) -> Any:
    """Return the object that `pack` packed, as the page reads it."""
    packed = gzip.decompress(base64.b64decode(text))
    (length,) = struct.unpack_from("<I", packed)
    first = 4 + length

    def read(value: dict[str, Any]) -> Any:
        if set(value) != {"$"}:
            return value
        kind, offset, count = value["$"]
        return np.frombuffer(packed, np.dtype(kind), count, first + offset)

    return json.loads(packed[4:first], object_hook=read)


def _convert(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, np.ndarray):
        return _append_array(value, arrays)
    if isinstance(value, dict):
        return {str(name): _convert(item, arrays) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_convert(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _append_array(values: Any, arrays: list[bytes]) -> dict[str, list[Any]]:
    if values.dtype.kind in "iub":
        values = values.astype(_find_smallest_type(values))
    kind = _TYPES[values.dtype.str[1:]]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    offset = sum(map(len, arrays))
    arrays.append(data + bytes(-len(data) % _ALIGNED))
    return {"$": [kind, offset, len(values)]}


def _find_smallest_type(values: Any) -> Any:
    if not len(values):
        return np.uint8
    low, high = int(values.min()), int(values.max())
    fitting = (kind for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32))
    return next(kind for kind in fitting if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
