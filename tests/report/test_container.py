"""Test that the page reads back everything that was packed."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from panic_tda.report.container import pack, unpack

VALUES = st.one_of(
    arrays.arrays(np.int64, st.integers(0, 9), elements=st.integers(-(2**31), 2**31 - 1)),
    arrays.arrays(np.float64, st.integers(0, 9), elements=st.floats(allow_nan=False)),
    arrays.arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32, allow_nan=False)),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), VALUES), st.text())
def test_arrays_and_texts_are_read_back_unchanged(arrays: dict[str, Any], text: str) -> None:
    result = unpack(pack({"arrays": arrays, "text": text, "none": [None, True, 1.5]}))
    assert result["text"] == text.encode("utf-8", "replace").decode()
    assert result["none"] == [None, True, 1.5]
    assert result["arrays"].keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(result["arrays"][name], values)


def test_integers_use_the_smallest_type_that_holds_them() -> None:
    for highest, width in ((255, 1), (65_535, 2), (2**31, 4)):
        assert unpack(pack({"a": np.array([0, highest])}))["a"].itemsize == width
    assert unpack(pack({"a": np.array([-1, 40_000])}))["a"].itemsize == 4


def test_every_array_is_aligned_for_typed_arrays() -> None:
    """A typed array of 8-byte numbers begins at a multiple of 8, or is an error there."""
    packed = pack({"text": "ä", "a": np.arange(3), "b": np.linspace(0, 1, 5), "c": np.arange(5)})
    raw = gzip.decompress(base64.b64decode(packed))
    length = int.from_bytes(raw[:4], "little")
    assert (4 + length) % 8 == 0
    assert len(raw) % 8 == 0


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        pack({"share": float("nan")})
