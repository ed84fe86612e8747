"""Test that libraries with imprecise float32 products are detected, for any rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from panic_tda.clustering.tiled.space import build_space
from panic_tda.errors import PanicTdaError
from tests.clustering.tiled.test_tiled import unit
from tests.clustering.tiled.test_tiled_device import LIBRARIES, library_of


class Coarse(np.ndarray):
    """Rows whose products take fewer bits of each number than float32 has."""

    bits: int

    def __matmul__(self, right: Any) -> Any:
        if self.dtype == np.float64:
            return np.asarray(self) @ np.asarray(right)
        return self._rounded(self) @ self._rounded(right)

    def _rounded(self, values: Any) -> np.ndarray:
        mantissa, exponent = np.frexp(np.asarray(values))
        return np.ldexp(np.round(mantissa * 2**self.bits) / 2**self.bits, exponent).astype(np.float32)


class Tf32(Coarse):
    """Ten bits of mantissa, and the one before the point."""

    bits = 11


class Bf16(Coarse):
    """Seven bits of mantissa, and the one before the point."""

    bits = 8


class RightOnly(Tf32):
    """A library that rounds one side alone."""

    def __matmul__(self, right: Any) -> Any:
        return np.asarray(self) @ (np.asarray(right) if self.dtype == np.float64 else self._rounded(right))


@pytest.mark.parametrize("coarse", [Tf32, Bf16, RightOnly])
@pytest.mark.parametrize("d", [1, 2, 64, 768, 4096])
def test_imprecise_products_are_refused(d: int, coarse: type[Coarse]) -> None:
    """At 4,096 dimensions the margin, 2.5e-4, let TF32's products pass: they are off by 4e-5."""
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((600, d)))
    assert build_space(np, rows, 0, rng).margin < 1e-7 * (d + 7)
    with pytest.raises(PanicTdaError, match="TF32"):
        build_space(np, rows.view(coarse), 0, rng)


class OneByOne(np.ndarray):
    """Rows whose products are summed term by term, in float32."""

    def __matmul__(self, operand: Any) -> Any:
        left, right = np.asarray(self), np.asarray(operand)
        total = np.zeros((len(left), right.shape[1]), dtype=left.dtype)
        for term in range(len(right)):
            total += left[:, term, None] * right[term]
        return total


@pytest.mark.parametrize("library", ["numpy", *LIBRARIES])
def test_float32_is_float32_whatever_the_rows(library: str) -> None:
    """Components of one size are all rounded the same way: off by 1.3e-5, where TF32 may be off by less."""
    rng = np.random.default_rng(0)
    rows = unit(np.c_[np.full(3000, 2 * 500**0.5), rng.choice([-1, 1], (3000, 499))])
    exact = rows[:512].astype(np.float64) @ rows[:512].astype(np.float64).T
    assert np.abs(rows[:512].view(OneByOne) @ rows[:512].T - exact).max() > 1e-5
    xp = np if library == "numpy" else library_of(library)
    for library_rows, module in ((xp.asarray(rows), xp), (rows.view(OneByOne), np)):
        assert build_space(module, library_rows, 0, rng).margin < 1e-4


class Wrong(np.ndarray):
    """A library whose products of short rows are right and of whole ones are not."""

    def __matmul__(self, right: Any) -> Any:
        product = np.asarray(self) @ np.asarray(right)
        has_no_zero = (np.asarray(self) != 0).all(axis=1)[:, None] & (np.asarray(right) != 0).all(axis=0)
        return product if self.dtype == np.float64 else product + np.float32(1e-3) * has_no_zero


def test_products_beyond_the_margin_are_refused() -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((600, 64)))
    with pytest.raises(PanicTdaError, match="off by"):
        build_space(np, rows.view(Wrong), 0, rng)
