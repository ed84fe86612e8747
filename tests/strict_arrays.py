"""Arrays that behave as CuPy's do where CuPy is stricter than NumPy: code that runs on them has no call in
it that needs host memory.

They hold a NumPy array and give it out by `.get()` alone. Whatever would mix the two memories raises
TypeError, as it does with CuPy: implicit conversion, NumPy functions, operators, indices and assigned values
that are NumPy arrays. `namespace` offers only functions that CuPy 14 has, with the arguments that it takes.
Reductions give arrays without dimensions, not numbers. Semantics and results are NumPy's.

What CuPy has and nobody should call is missing too: its einsum makes of the dot products of two matrices'
rows a batch of matrix products of one number each, as many as there are rows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np


def _words(text: str) -> list[str]:
    return text.split()


_CREATE = _words(
    """
    arange array asarray empty full ones zeros empty_like full_like ones_like zeros_like linspace
    """
)
_FUNCTIONS = _words(
    """
    all any amax amin argmax argmin argpartition argsort array_equal ascontiguousarray bincount
    broadcast_to clip compress concatenate copyto count_nonzero cumsum diff divmod expand_dims
    flatnonzero lexsort matmul max mean min nonzero partition put_along_axis ravel repeat reshape
    searchsorted sort stack sum take take_along_axis transpose tril triu triu_indices unique where
    """
)
_UFUNCS = _words(
    """
    absolute add bitwise_and bitwise_or bitwise_xor divide equal floor_divide frexp greater
    greater_equal invert isfinite isnan left_shift less less_equal log2 logical_and logical_not
    logical_or maximum minimum multiply negative nextafter not_equal remainder right_shift sqrt square
    subtract
    """
)
_CONSTANTS = _words(
    """
    bool_ float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 inf nan newaxis pi dtype
    """
)
_STABLE = (None, "stable")
_NUMBERS = (int, float, bool, np.generic)


class StrictArray:
    """A stand-in for `cupy.ndarray`."""

    __slots__ = ("_host",)
    # NumPy's functions refuse objects that say so, instead of calling __array__.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_namespace__(self, *_: object, **__: object) -> Any:
        return namespace

    def get(self) -> np.ndarray:
        """Copy to host memory."""
        return self._host.copy()

    def set(self, host: np.ndarray) -> None:
        """Copy from host memory, of the same shape and type."""
        if not isinstance(host, np.ndarray) or host.shape != self.shape or host.dtype != self.dtype:
            raise ValueError("set takes a NumPy array of the same shape and type")
        self._host[...] = host

    def __getitem__(self, index: Any) -> StrictArray:
        return _wrap(self._host[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, StrictArray) and value.ndim:
            _require_one_writer(self._host, _index(index))
        self._host[_index(index)] = _unwrap(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __int__(self) -> int:
        return int(self._host)

    def __index__(self) -> int:
        return operator.index(self._host.item())

    def __float__(self) -> float:
        return float(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __repr__(self) -> str:
        return f"StrictArray({self._host!r})"

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"):
            return getattr(self._host, name)
        if name == "T":
            return _wrap(self._host.T)
        if name in METHODS:
            return _guarded(getattr(self._host, name))
        raise AttributeError(f"cupy.ndarray has no {name}, or none that this stand-in knows")


METHODS = _words(
    """
    all any argmax argmin argsort astype copy cumsum dot fill item max mean min nonzero ravel reshape
    sort sum take transpose view
    """
)


def _wrap(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_wrap(part) for part in value)
    return StrictArray(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, StrictArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array where one in device memory is needed; upload it with asarray")
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(part) for part in value)
    return value


def _index(index: Any) -> Any:
    return tuple(_unwrap(part) for part in index) if isinstance(index, tuple) else _unwrap(index)


def _require_one_writer(target: np.ndarray, index: Any) -> None:
    """Refuse to write different values to one place: the device's threads come in any order."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, np.ndarray) and part.dtype != bool for part in parts):
        places = np.arange(target.size).reshape(target.shape)[index].reshape(-1)
        if len(np.unique(places)) < len(places):
            raise TypeError("CuPy writes in no certain order where an index comes twice")


def _require_what_cupy_takes(name: str, args: tuple[Any, ...]) -> None:
    """Refuse what CuPy's functions of this name refuse, or get wrong, and NumPy's do not."""
    if name == "searchsorted" and not isinstance(args[1], (StrictArray, int, float)):
        raise NotImplementedError("CuPy looks for Python's numbers and its own arrays only")
    if name == "lexsort" and not isinstance(args[0], StrictArray):
        raise TypeError("CuPy sorts by the rows of one array")
    if name == "partition" and not args[0].flags.c_contiguous:
        raise NotImplementedError("CuPy partitions contiguous arrays only")


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a NumPy function with what the given arrays hold, unless one of them lies in host memory."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)

    def call(*args: Any, **options: Any) -> Any:
        if name in ("argsort", "sort") and options.get("kind") not in _STABLE:
            raise TypeError("CuPy sorts stably, and takes no other kind")
        if name == "argsort" and isinstance(args[0] if args else None, StrictArray):
            options["kind"] = "stable"
        if name == "repeat" and isinstance(args[1], StrictArray):
            raise TypeError("CuPy repeats by numbers, not by an array")
        if name == "take" and options.get("mode") is not None:
            raise TypeError("CuPy's take has no mode")
        if name == "sort" and isinstance(owner, np.ndarray) and not owner.flags.c_contiguous:
            raise NotImplementedError("CuPy sorts contiguous arrays only where they lie")
        if not isinstance(owner, np.ndarray):
            _require_what_cupy_takes(name, args)
        with np.errstate(all="ignore"):  # a device says nothing of overflow, nor of NaN
            return _wrap(
                function(*map(_unwrap, args), **{key: _unwrap(value) for key, value in options.items()})
            )

    return call


class _Ufunc:
    def __init__(self, ufunc: np.ufunc) -> None:
        self._ufunc = ufunc

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _guarded(self._ufunc)(*args, **options)

    def at(self, array: StrictArray, indices: Any, values: Any = None) -> None:
        """Apply the function in place, element by element; CuPy supports three."""
        if self._ufunc.__name__ not in ("add", "maximum", "minimum"):
            raise TypeError(f"CuPy has no {self._ufunc.__name__}.at")
        self._ufunc.at(_unwrap(array), _index(indices), _unwrap(values))


class _LinearAlgebra:
    eigh = staticmethod(_guarded(np.linalg.eigh))
    norm = staticmethod(_guarded(np.linalg.norm))


class _Namespace:
    """The module that `import cupy` would return."""

    __name__ = "strict_arrays"
    ndarray = StrictArray
    linalg = _LinearAlgebra()

    def __init__(self) -> None:
        for name in _CONSTANTS:
            setattr(self, name, getattr(np, name))
        for name in _UFUNCS:
            setattr(self, name, _Ufunc(getattr(np, name)))
        for name in _FUNCTIONS:
            setattr(self, name, _guarded(getattr(np, name)))
        for name in _CREATE:
            setattr(self, name, _creator(getattr(np, name)))

    def asnumpy(self, array: Any) -> np.ndarray:
        """Copy to host memory."""
        return array.get() if isinstance(array, StrictArray) else np.asarray(array)


def _creator(function: Callable[..., Any]) -> Callable[..., StrictArray]:
    """Wrap a function that creates a device array; NumPy arrays are copied."""

    def create(*args: Any, **options: Any) -> StrictArray:
        args = tuple(arg._host if isinstance(arg, StrictArray) else arg for arg in args)
        result = function(*args, **options)
        return StrictArray(result.copy() if any(result is arg for arg in args) else result)

    return create


def _operator(name: str) -> Callable[..., Any]:
    def operate(self: StrictArray, *others: Any) -> Any:
        for operand in others:
            if not isinstance(operand, (StrictArray, *_NUMBERS)):
                _unwrap(operand)
                return NotImplemented
        with np.errstate(all="ignore"):
            return _wrap(getattr(self._host, name)(*(_unwrap(operand) for operand in others)))

    return operate


for _name in _words(
    """
    add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift radd rsub rmul rtruediv
    rfloordiv rmod rpow rand ror rxor iadd isub imul itruediv ifloordiv iand ior ixor eq ne lt le gt ge
    neg pos abs invert
    """
):
    setattr(StrictArray, f"__{_name}__", _operator(f"__{_name}__"))

namespace = _Namespace()
