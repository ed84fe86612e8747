"""What the page carries, as one text: a JSON object and the arrays that it names, compressed.

The bytes are the length of the JSON text (uint32), the text, and the arrays one after another, each from a
multiple of 8 on. An array stands in the object as `{"$": [type, first byte, values]}`, where bytes are
counted from the end of the text. All is little-endian, gzipped and written in base64, which a browser undoes
by itself.
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
    """Return an object of plain values and arrays as base64.

    Parameters
    ----------
    page : dict
        Values that JSON knows, and NumPy arrays of one axis. Arrays of whole numbers take as few bytes a
        value as hold them.

    Raises
    ------
    ValueError
        A number is not finite: JSON has none of these.
    """
    arrays: list[bytes] = []
    text = json.dumps(_plain(page, arrays), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half of a pair of surrogates, which a text may end with, is no character.
    encoded = text.encode("utf-8", "replace")
    encoded += b" " * (-(len(encoded) + 4) % _ALIGNED)
    packed = gzip.compress(struct.pack("<I", len(encoded)) + encoded + b"".join(arrays), 9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def unpack(text: str) -> Any:
    """Return what `pack` was given, as the page reads it."""
    packed = gzip.decompress(base64.b64decode(text))
    (length,) = struct.unpack_from("<I", packed)
    first = 4 + length

    def read(value: dict[str, Any]) -> Any:
        if set(value) != {"$"}:
            return value
        kind, offset, count = value["$"]
        return np.frombuffer(packed, np.dtype(kind), count, first + offset)

    return json.loads(packed[4:first], object_hook=read)


def _plain(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, np.ndarray):
        return _array(value, arrays)
    if isinstance(value, dict):
        return {str(name): _plain(item, arrays) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _array(values: Any, arrays: list[bytes]) -> dict[str, list[Any]]:
    if values.dtype.kind in "iub":
        values = values.astype(_smallest(values))
    kind = _TYPES[values.dtype.str[1:]]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    offset = sum(map(len, arrays))
    arrays.append(data + bytes(-len(data) % _ALIGNED))
    return {"$": [kind, offset, len(values)]}


def _smallest(values: Any) -> Any:
    if not len(values):
        return np.uint8
    low, high = int(values.min()), int(values.max())
    fitting = (kind for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32))
    return next(kind for kind in fitting if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
