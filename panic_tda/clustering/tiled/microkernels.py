"""Multiply a block of packed rows with a block of packed columns, and compare in registers.

A matrix product followed by a comparison writes every product to memory and reads it back. Here the products
of a block of `ROWS` rows and `COLUMNS` columns stay in the processor's registers: each is compared with the
smaller threshold of its row and its column, and only a bit for each pair that reaches it leaves the loop.

Two forms of one kernel, chosen by the type of the packed values (`panels` has the packing and the bounds):

int16    pairs of values in words of 32 bits, multiplied and added by one instruction (`vpmaddwd`) into exact
         32-bit sums: twice the speed of float32. On processors with AVX-512 VNNI, the compiler replaces it
         and the addition after it by `vpdpwssd`.
float32  products and sums in single precision, in vector code for any processor.

`PANIC_TDA_KERNEL` chooses between them by name.

The kernels are written in the compiler's own language, because Numba's vectoriser does not keep a block of
sums in registers (1.8 times slower for float32, 3 times for int16, measured on AVX2).

References
----------
.. [1] Goto, van de Geijn (2008). Anatomy of high-performance matrix multiplication. ACM TOMS 34(3).
   https://doi.org/10.1145/1356052.1356053
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from panic_tda.clustering.compiled import compiled
from panic_tda.errors import WrongUsage

if TYPE_CHECKING:
    from panic_tda.types import Array, BoolArray, Int32Array

_NO_FEATURES = ""


def _features() -> str:
    """Return the processor features that Numba compiles for, such as `+avx2,-avx512bw`."""
    # Numba adds its settings to the module when it is imported.
    settings = vars(config)
    if settings["CPU_FEATURES"] is not None:
        return str(settings["CPU_FEATURES"])
    # A processor that is named in Numba's settings may be any; the float32 form needs no feature.
    if settings["CPU_NAME"] is not None:
        return _NO_FEATURES
    try:
        return str(llvmlite.binding.get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM does not know the host
        return _NO_FEATURES


_FEATURES = frozenset(_features().split(","))
LANES = 16 if "+avx512bw" in _FEATURES else 8 if "+avx2" in _FEATURES else 4
"""Sums of 32 bits in one register."""
ROWS = 8 if LANES == 16 else 4
"""Rows of a block: its sums have to fit into the registers, of which AVX-512 has 32, AVX2 and SSE 16."""
COLUMNS = PANEL = 2 * LANES
"""Columns of a block, and rows that are packed side by side: a block reads its columns from end to end."""
KERNEL_VARIABLE = "PANIC_TDA_KERNEL"
_INT16, _FLOAT32 = "int16", "float32"


def _choose_kernel() -> str:
    """Return the form to use: the one that the environment names, or the faster one on this processor."""
    choices = (_INT16, _FLOAT32) if LANES > 4 else (_FLOAT32,)
    kernel = os.environ.get(KERNEL_VARIABLE) or choices[0]
    if kernel not in choices:
        raise WrongUsage(
            f"{KERNEL_VARIABLE} must be {' or '.join(choices)} on this processor; got {kernel!r}. "
            "Unset it to use the fastest one"
        )
    return kernel


KERNEL = _choose_kernel()
INTEGERS = KERNEL == _INT16
"""Whether rows are packed as int16."""


def describe_kernel() -> str:
    """Return the kernel in use and the width of its registers, as `doctor --environment` prints it."""
    if vars(config)["DISABLE_JIT"]:
        return f"{KERNEL} by NumPy: NUMBA_DISABLE_JIT is set"
    return f"{KERNEL}, {32 * LANES} bits"


_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_MULTIPLY_ADD = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


class _Form:
    """Code generation that both forms of the kernel share; the subclasses add the arithmetic."""

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder, self.element = builder, element
        self.vector = ir.VectorType(element, LANES)
        self.zero = ir.Constant(self.vector, [0] * LANES)

    def load(self, pointer: Any, offset: Any) -> Any:
        """Load `LANES` elements."""
        at = self.builder.bitcast(self.builder.gep(pointer, [offset]), ir.PointerType(self.vector))
        return self.builder.load(at, align=4)

    def spread(self, pointer: Any, offset: Any) -> Any:
        """Load one element into every lane."""
        value = self.builder.load(self.builder.gep(pointer, [offset]))
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        lanes = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def accumulate(self, total: Any, left: Any, right: Any) -> Any:
        """Add products to sums."""
        raise NotImplementedError

    def smaller(self, left: Any, right: Any) -> Any:
        """Return the smaller one in each lane."""
        raise NotImplementedError

    def reaches(self, total: Any, lower: Any) -> Any:
        """Return a bit for each lane whose sum is not below the threshold."""
        raise NotImplementedError


class _Integers(_Form):
    """Words of two int16 values, sums of 32 bits."""

    def __init__(self, builder: Any) -> None:
        super().__init__(builder, _I32)
        self._halves = ir.VectorType(ir.IntType(16), 2 * LANES)
        signature = ir.FunctionType(self.vector, [self._halves, self._halves])
        insert: Any = cgutils.get_or_insert_function
        self._multiply_add = insert(builder.module, signature, _MULTIPLY_ADD[LANES])

    def accumulate(self, total: Any, left: Any, right: Any) -> Any:
        b = self.builder
        products = b.call(self._multiply_add, [b.bitcast(left, self._halves), b.bitcast(right, self._halves)])
        return b.add(total, products)

    def smaller(self, left: Any, right: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", left, right), left, right)

    def reaches(self, total: Any, lower: Any) -> Any:
        return self.builder.icmp_signed(">=", total, lower)


class _Floats(_Form):
    """Values and sums of float32."""

    def __init__(self, builder: Any) -> None:
        super().__init__(builder, _FLOAT)

    def accumulate(self, total: Any, left: Any, right: Any) -> Any:
        # One instruction where the processor has it; a call of `fma` would be a subroutine elsewhere.
        product = self.builder.fmul(left, right, flags=["contract"])
        return self.builder.fadd(total, product, flags=["contract"])

    def smaller(self, left: Any, right: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", left, right), left, right)

    def reaches(self, total: Any, lower: Any) -> Any:
        return self.builder.fcmp_ordered(">=", total, lower)


def _declare_compare_block(  # type: ignore[no-untyped-def]
    typing_context, panels, left, right, words, lower_rows, row, lower_columns, column, hits
):
    """Compare a block, and write a word of bits for each of its rows into `hits` if any bit is set.

    `left` and `right` are the offsets in `panels` of the block's first row and column, `row` and `column`
    those in the arrays of thresholds. Returns 0 when no pair reaches a threshold.
    """
    long = types.int64
    arguments = (panels, long, long, long, lower_rows, long, lower_columns, long, hits)
    return long(*arguments), _generate_block


_compare_block: Any = intrinsic(_declare_compare_block)


def _generate_block(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Generate the kernel for the type of the packed values."""

    def pointer(number: int) -> Any:
        return context.make_array(signature.args[number])(context, builder, arguments[number]).data

    form = (_Integers if signature.args[0].dtype == types.int32 else _Floats)(builder)
    sums = _generate_sums(form, pointer(0), (arguments[1], arguments[2]), arguments[3])
    lower_rows, row, lower_columns, column = pointer(4), arguments[5], pointer(6), arguments[7]

    def at(start: Any, offset: int) -> Any:
        return builder.add(start, ir.Constant(_I64, offset))

    columns = [form.load(lower_columns, at(column, lane)) for lane in range(0, COLUMNS, LANES)]
    bits = []
    for i in range(ROWS):
        lower = form.spread(lower_rows, at(row, i))
        bits += [form.reaches(sums[i][j], form.smaller(lower, columns[j])) for j in range(len(columns))]
    any_lane = bits[0]
    for more in bits[1:]:
        any_lane = builder.or_(any_lane, more)
    any_bit = builder.zext(builder.bitcast(any_lane, ir.IntType(LANES)), _I64)
    with builder.if_then(builder.icmp_signed("!=", any_bit, ir.Constant(_I64, 0)), likely=False):
        for i in range(ROWS):
            word = ir.Constant(_I32, 0)
            for j in range(len(columns)):
                lanes = builder.bitcast(bits[i * len(columns) + j], ir.IntType(LANES))
                lanes = builder.zext(lanes, _I32)
                word = builder.or_(word, builder.shl(lanes, ir.Constant(_I32, j * LANES)))
            builder.store(word, builder.gep(pointer(8), [ir.Constant(_I64, i)]))
    return any_bit


def _generate_sums(form: _Form, panels: Any, sides: tuple[Any, Any], words: Any) -> list[list[Any]]:
    """Generate the loop over the packed words; the sums stay in registers."""
    b, n_vectors = form.builder, COLUMNS // LANES
    before, loop, after = b.block, b.append_basic_block("words"), b.append_basic_block("compare")
    b.branch(loop)
    b.position_at_end(loop)
    step = b.phi(_I64)
    sums = [[b.phi(form.vector) for _ in range(n_vectors)] for _ in range(ROWS)]
    offset = b.mul(step, ir.Constant(_I64, PANEL))
    left, right = (b.add(side, offset) for side in sides)
    columns = [form.load(panels, b.add(right, ir.Constant(_I64, j * LANES))) for j in range(n_vectors)]
    new = []
    for i in range(ROWS):
        value = form.spread(panels, b.add(left, ir.Constant(_I64, i)))
        new.append([form.accumulate(sums[i][j], value, columns[j]) for j in range(n_vectors)])
    following = b.add(step, ir.Constant(_I64, 1))
    b.cbranch(b.icmp_signed("<", following, words), loop, after)
    step.add_incoming(ir.Constant(_I64, 0), before)
    step.add_incoming(following, loop)
    for i in range(ROWS):
        for j in range(n_vectors):
            sums[i][j].add_incoming(form.zero, before)
            sums[i][j].add_incoming(new[i][j], loop)
    b.position_at_end(after)
    return new


def _declare_lowest_bit(typing_context, word):  # type: ignore[no-untyped-def]
    """Return the number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.zext(zeros, _I64)

    return types.int64(types.uint32), generate


_lowest_bit: Any = intrinsic(_declare_lowest_bit)


@compiled
def find_candidates_compiled(
    panels: Array,
    words: int,
    tile_panels: int,
    pair: tuple[int, int],
    strip: tuple[int, int],
    lower: tuple[Array, Array],
    live: tuple[BoolArray, BoolArray],
    hits: Array,
    limit: int,
    out: tuple[Int32Array, Int32Array],
) -> int:
    """List the pairs of two packed tiles whose product reaches the smaller threshold of the two.

    Parameters
    ----------
    panels : (values,) int32 or float32
        See `panels.Panels`.
    words : int
        Values of a packed row.
    tile_panels : int
        Panels of a tile.
    pair : (int, int)
        Two tiles.
    strip : (int, int)
        First panel of the first tile that is looked at, and the one after the last.
    lower : two arrays of (tile_panels * PANEL,) int32 or float32
        Thresholds of both tiles' rows.
    live : two arrays of bool
        Whether a group of `ROWS` rows, or of `COLUMNS` columns, is looked at.
    hits : (ROWS,) uint32
        Scratch.
    limit : int
        Pairs above which the search ends early.
    out : two arrays of int32
        Local indices of the pairs.

    Returns
    -------
    int
        Pairs written. Those above `limit` mean that some were not looked for.
    """
    n_pairs = 0
    for right_panel in range(tile_panels):
        for j in range(0, PANEL, COLUMNS):
            column = right_panel * PANEL + j
            if not live[1][column // COLUMNS]:
                continue
            right = (pair[1] * tile_panels + right_panel) * words * PANEL + j
            for left_panel in range(strip[0], strip[1]):
                left = (pair[0] * tile_panels + left_panel) * words * PANEL
                for i in range(0, PANEL, ROWS):
                    row = left_panel * PANEL + i
                    if not live[0][row // ROWS]:
                        continue
                    if _compare_block(panels, left + i, right, words, lower[0], row, lower[1], column, hits):
                        for k in range(ROWS):
                            word = hits[k]
                            while word:
                                out[0][n_pairs] = row + k
                                out[1][n_pairs] = column + _lowest_bit(word)
                                n_pairs += 1
                                word &= word - np.uint32(1)
            if n_pairs > limit:
                return n_pairs
    return n_pairs


def find_candidates_in_numpy(
    panels: Array,
    words: int,
    tile_panels: int,
    pair: tuple[int, int],
    strip: tuple[int, int],
    lower: tuple[Array, Array],
    live: tuple[BoolArray, BoolArray],
    hits: Array,
    limit: int,
    out: tuple[Int32Array, Int32Array],
) -> int:
    """Do what `find_candidates_compiled` does, without compiled code; float32 is multiplied in float64."""

    def unpack(tile: int) -> Array:
        size = tile_panels * words * PANEL
        packed = panels[tile * size : (tile + 1) * size].reshape(tile_panels, words, PANEL)
        rows = packed.transpose(0, 2, 1).reshape(tile_panels * PANEL, words)
        if panels.dtype == np.int32:
            return np.ascontiguousarray(rows).view(np.int16).astype(np.int64)
        return rows.astype(np.float64)

    reach = unpack(pair[0]) @ unpack(pair[1]).T >= np.minimum(lower[0][:, None], lower[1][None, :])
    reach &= np.repeat(live[0], ROWS)[:, None] & np.repeat(live[1], COLUMNS)[None, :]
    i, j = np.nonzero(reach[strip[0] * PANEL : strip[1] * PANEL])
    i += strip[0] * PANEL
    out[0][: len(i)], out[1][: len(i)] = i, j
    return len(i)


find_candidates: Any = find_candidates_in_numpy if vars(config)["DISABLE_JIT"] else find_candidates_compiled
