"""Conversion of Arrow arrays to arrays of plain types, without loss.

Plain types are numbers, decimals, times, strings, bytes, and lists of them, which all readers of columns
support. Dictionaries, run-end encodings and views are other layouts of the same values. Of the extension
types, a UUID becomes a text with dashes, JSON becomes text, and a tensor with at most one dimension longer
than 1 becomes a list; any other one becomes its storage type.
"""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TENSOR, _UUID, _BOOLEAN = "arrow.fixed_shape_tensor", "arrow.uuid", "arrow.bool8"
MAX_VALUES, BATCH_VALUES = 65_536, 1 << 27
"""Largest number of values of a row in a column (dimensions of a vector), and of all rows of a batch."""


def get_plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the plain type to which `to_plain` converts a type; a type without one is returned unchanged."""
    if isinstance(kind, pa.BaseExtensionType):
        return _get_plain_extension(kind)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        plain = get_plain_type(kind.value_type)
        # The same long text in many rows can exceed the 2 GiB that 32-bit offsets allow.
        return pa.large_string() if pa.types.is_string(plain) else plain
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    if is_list(kind):
        value = get_plain_type(kind.value_type)
        return kind if value == kind.value_type and not _is_view(kind) else pa.large_list(value)
    return kind


def to_plain(array: pa.Array) -> pa.Array:
    """Convert a validated array to its plain type.

    Raises
    ------
    pyarrow.ArrowInvalid
        The runs of a run-end encoded array do not cover its rows.
    """
    kind = array.type
    plain = get_plain_type(kind)
    if plain == kind:
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return _convert_extension(array)
    if pa.types.is_dictionary(kind):
        return with_plain_dictionary(array).dictionary.take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        return _repeat_runs(array).cast(plain)
    if is_list(kind):
        return _convert_list(array)
    return array.cast(plain)


def with_plain_dictionary(array: pa.Array) -> pa.Array:
    """Return a dictionary-encoded array with plain values, and any other array unchanged.

    Slices of the array then share the converted values.
    """
    if not pa.types.is_dictionary(array.type):
        return array
    plain = get_plain_type(array.type)
    if array.dictionary.type == plain:
        return array
    # `take` does not support views and extension types.
    values = to_plain(array.dictionary).cast(plain)
    return pa.DictionaryArray.from_arrays(array.indices, values, safe=False)


def cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert a plain array to another type; only whole numbers become texts or integers.

    Raises
    ------
    pyarrow.ArrowInvalid
        A value does not fit.
    """
    is_real = pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)
    if is_real and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        array = array.cast(pa.int64())
    if pa.types.is_decimal(array.type) and pa.types.is_floating(kind):
        # Arrow's conversion of decimals to floats does not round to the nearest float.
        array = array.cast(pa.string())
    return array.cast(kind)


def widest(array: pa.Array) -> int:
    """Return the largest number of values of a row, for an array whose plain form may be larger; else 1."""
    kind = array.type
    if get_plain_type(kind) == kind or not len(array):
        return 1
    if isinstance(kind, pa.BaseExtensionType):
        return widest(array.storage)
    if pa.types.is_dictionary(kind):
        return _count_longest(array.dictionary)
    if pa.types.is_run_end_encoded(kind):
        return _count_longest(array.values)
    return _count_longest(array)


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list, of any layout."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return _is_view(kind) or any(check(kind) for check in checks)


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _count_longest(array: pa.Array) -> int:
    if not is_list(array.type) or not len(array):
        return 1
    return max(1, pc.max(pc.list_value_length(array)).as_py() or 1)


def _get_plain_extension(kind: pa.BaseExtensionType) -> pa.DataType:
    name = kind.extension_name
    if name == _TENSOR and sum(length != 1 for length in kind.shape) > 1:
        return kind
    fixed = {_UUID: pa.string(), _BOOLEAN: pa.bool_()}
    return fixed[name] if name in fixed else get_plain_type(kind.storage_type)


def _convert_extension(array: pa.ExtensionArray) -> pa.Array:
    name, storage = array.type.extension_name, array.storage
    if name == _UUID:
        values = (None if value is None else str(UUID(bytes=value)) for value in storage.to_pylist())
        return pa.array(values, pa.string())
    if name == _BOOLEAN:
        return pc.not_equal(storage, 0)
    return to_plain(storage)


def _repeat_runs(array: pa.RunEndEncodedArray) -> pa.Array:
    first, n_runs = array.find_physical_offset(), array.find_physical_length()
    ends = array.run_ends.slice(first, n_runs).to_numpy().astype(np.int64) - array.offset
    counts = np.diff(np.clip(ends, 0, len(array)), prepend=0)
    if (counts < 0).any() or counts.sum() != len(array):
        raise pa.ArrowInvalid("its runs do not cover its rows")
    return to_plain(array.values.slice(first, n_runs)).take(pa.array(np.repeat(np.arange(n_runs), counts)))


def _convert_list(array: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(array)
    is_missing = lengths.is_null()
    lengths = lengths.fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    # `flatten` drops the values of missing lists, and returns those of views in the order of their rows.
    values = to_plain(array.flatten())
    return pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=is_missing)
