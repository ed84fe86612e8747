"""Multiply a block of packed rows with a block of packed columns, and compare in registers.

A matrix product followed by a comparison writes every product to memory and reads it back. Here the products
of a block of `ROWS` rows and `COLUMNS` columns stay in the processor's registers: each is compared with the
smaller threshold of its row and its column, and only a bit for each pair that reaches it leaves the loop.

Three forms of one kernel (`panels` and `coarse` have the packing and the bounds):

int16    pairs of values in words of 32 bits, multiplied and added by one instruction (`vpmaddwd`) into exact
         32-bit sums: twice the speed of float32. On processors with VNNI, the compiler replaces it and the
         addition after it by `vpdpwssd`.
float32  products and sums in single precision, in vector code for any processor.
int8     four values in a word, multiplied by `vpmaddubsw` and added in 16 bits, long rows by segments: twice
         the speed of int16, but coarser. It only says whether a block has any pair that may reach a
         threshold; int16 says which.

`PANIC_TDA_KERNEL` chooses between them by name. `int8` means int8 first and int16 after it; it is the default
where `vpdpwssd`, which is as fast, is missing.

The kernels are written in the compiler's own language, because Numba's vectoriser does not keep a block of
sums in registers (1.8 times slower for float32, 3 times for int16, measured on AVX2).

References
----------
.. [1] Goto, van de Geijn (2008). Anatomy of high-performance matrix multiplication. ACM TOMS 34(3).
   https://doi.org/10.1145/1356052.1356053
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from panic_tda.errors import WrongUsage

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
_VECTORS = 2
"""Registers of sums that a row of a block takes."""
COLUMNS = PANEL = _VECTORS * LANES
"""Columns of a block, and rows that are packed side by side: a block reads its columns from end to end."""
KERNEL_VARIABLE = "PANIC_TDA_KERNEL"
_INT8, _INT16, _FLOAT32 = "int8", "int16", "float32"


def _choose_kernel() -> str:
    """Return the form to use: the one that the environment names, or the faster one on this processor."""
    choices: tuple[str, ...] = (_FLOAT32,)
    if LANES > 4:
        has_vnni = not _FEATURES.isdisjoint({"+avx512vnni", "+avxvnni"})
        choices = (_INT16, _INT8, _FLOAT32) if has_vnni else (_INT8, _INT16, _FLOAT32)
    if vars(config)["DISABLE_JIT"]:
        # NumPy compares whole tiles at once.
        choices = tuple(choice for choice in choices if choice != _INT8)
    kernel = os.environ.get(KERNEL_VARIABLE) or choices[0]
    if kernel not in choices:
        raise WrongUsage(
            f"{KERNEL_VARIABLE} must be {' or '.join(sorted(choices))} on this processor; got {kernel!r}. "
            "Unset it to use the fastest one"
        )
    return kernel


KERNEL = _choose_kernel()
INTEGERS = KERNEL != _FLOAT32
"""Whether rows are packed as int16."""
COARSE = KERNEL == _INT8
"""Whether points are packed as int8 as well."""


def describe_kernel() -> str:
    """Return the kernel in use and the width of its registers, as `doctor --environment` prints it."""
    if vars(config)["DISABLE_JIT"]:
        return f"{KERNEL} by NumPy: NUMBA_DISABLE_JIT is set"
    return f"{KERNEL}, {32 * LANES} bits"


_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_MULTIPLY_ADD = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
_MULTIPLY_ADD_BYTES = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}


class _Form:
    """Code generation that the forms of the kernel share; the subclasses add the arithmetic."""

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder, self.element = builder, element
        self.vector = ir.VectorType(element, LANES)
        self.zero = ir.Constant(self.vector, [0] * LANES)

    def _declare(self, names: dict[int, str], result: Any, operand: Any) -> Any:
        """Return an instruction of two operands, by the name that the compiler has for it."""
        insert: Any = cgutils.get_or_insert_function
        signature = ir.FunctionType(result, [operand, operand])
        return insert(self.builder.module, signature, names[LANES])

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
        self._halves = ir.VectorType(_I16, 2 * LANES)
        self._multiply_add = self._declare(_MULTIPLY_ADD, self.vector, self._halves)

    def accumulate(self, total: Any, left: Any, right: Any) -> Any:
        b = self.builder
        products = b.call(self._multiply_add, [b.bitcast(left, self._halves), b.bitcast(right, self._halves)])
        return b.add(total, products)

    def smaller(self, left: Any, right: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", left, right), left, right)

    def reaches(self, total: Any, lower: Any) -> Any:
        return self.builder.icmp_signed(">=", total, lower)


class _Bytes(_Integers):
    """Words of four int8 values, those of rows without a sign; two sums of 16 bits in each lane."""

    def __init__(self, builder: Any) -> None:
        super().__init__(builder)
        self._quarters = ir.VectorType(_I8, 4 * LANES)
        self._multiply_add_bytes = self._declare(_MULTIPLY_ADD_BYTES, self._halves, self._quarters)

    def accumulate(self, total: Any, left: Any, right: Any) -> Any:
        b = self.builder
        operands = [b.bitcast(left, self._quarters), b.bitcast(right, self._quarters)]
        products = b.call(self._multiply_add_bytes, operands)
        return b.bitcast(b.add(b.bitcast(total, self._halves), products), self.vector)

    def add_halves(self, total: Any) -> Any:
        """Add the two sums of each lane."""
        ones = ir.Constant(self._halves, [1] * 2 * LANES)
        return self.builder.call(self._multiply_add, [self.builder.bitcast(total, self._halves), ones])

    def larger(self, left: Any, right: Any) -> Any:
        """Return the larger one in each lane."""
        return self.builder.select(self.builder.icmp_signed(">", left, right), left, right)


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


compare_block: Any = intrinsic(_declare_compare_block)


def _generate_block(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Generate the kernel for the type of the packed values."""

    def pointer(number: int) -> Any:
        return context.make_array(signature.args[number])(context, builder, arguments[number]).data

    form = (_Integers if signature.args[0].dtype == types.int32 else _Floats)(builder)
    panels, initial = pointer(0), [form.zero] * _VECTORS
    sums = _generate_sums(form, (panels, panels), (arguments[1], arguments[2]), arguments[3], initial)
    bits = _generate_comparison(form, sums, (pointer(4), pointer(6)), (arguments[5], arguments[7]))
    any_bit = _join_bits(builder, bits)
    with builder.if_then(builder.icmp_signed("!=", any_bit, ir.Constant(_I64, 0)), likely=False):
        for i in range(ROWS):
            word = ir.Constant(_I32, 0)
            for j in range(_VECTORS):
                lanes = builder.bitcast(bits[i * _VECTORS + j], ir.IntType(LANES))
                lanes = builder.zext(lanes, _I32)
                word = builder.or_(word, builder.shl(lanes, ir.Constant(_I32, j * LANES)))
            builder.store(word, builder.gep(pointer(8), [ir.Constant(_I64, i)]))
    return any_bit


def _declare_may_reach(  # type: ignore[no-untyped-def]
    typing_context, left_bytes, left, right_bytes, right, segments, words, lower_groups, group, lower_columns,
    column,
):  # fmt: skip
    """Return 0 if no pair of a block reaches a threshold by its sum of int8 products.

    `left` and `right` are the offsets of the block's first row and column in `coarse.CoarsePanels`, whose
    right form has a word with the initial sums before each segment of `words` words. `lower_groups` has the
    smallest threshold of each group of rows.
    """
    long = types.int64
    arguments = (left_bytes, long, right_bytes, long, long, long, lower_groups, long, lower_columns, long)
    return long(*arguments), _generate_coarse_block


may_reach: Any = intrinsic(_declare_may_reach)


def _generate_coarse_block(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Generate the kernel for int8: compare each column once, by its largest sum."""
    if LANES not in _MULTIPLY_ADD_BYTES:
        # It is compiled with the code that would call it, but there is no coarse level on this processor.
        return ir.Constant(_I64, 1)

    def pointer(number: int) -> Any:
        return context.make_array(signature.args[number])(context, builder, arguments[number]).data

    form, panels = _Bytes(builder), (pointer(0), pointer(2))
    _, left, _, right, segments, words, _, group, _, column = arguments
    totals = _generate_segment(form, panels, (left, right), words)
    before, loop, after = builder.block, builder.append_basic_block("segments"), builder.append_basic_block()
    several = builder.icmp_signed(">", segments, ir.Constant(_I64, 1))
    builder.cbranch(several, loop, after)
    builder.position_at_end(loop)
    # Most points are one segment, whose sums stay in registers.
    step, length = builder.phi(_I64), ir.Constant(_I64, PANEL)
    earlier = [[builder.phi(form.vector) for _ in range(_VECTORS)] for _ in range(ROWS)]
    left = builder.add(left, builder.mul(builder.mul(step, words), length))
    with_sums = builder.add(words, ir.Constant(_I64, 1))
    right = builder.add(right, builder.mul(builder.mul(step, with_sums), length))
    more = _generate_segment(form, panels, (left, right), words)
    added = [
        [builder.add(x, y) for x, y in zip(*rows, strict=True)] for rows in zip(earlier, more, strict=True)
    ]
    following = builder.add(step, ir.Constant(_I64, 1))
    builder.cbranch(builder.icmp_signed("<", following, segments), loop, after)
    step.add_incoming(ir.Constant(_I64, 1), before)
    step.add_incoming(following, builder.block)
    last = builder.block
    builder.position_at_end(after)
    for i in range(ROWS):
        for j in range(_VECTORS):
            earlier[i][j].add_incoming(totals[i][j], before)
            earlier[i][j].add_incoming(added[i][j], last)
            total = builder.phi(form.vector)
            total.add_incoming(totals[i][j], before)
            total.add_incoming(added[i][j], last)
            totals[i][j] = total
    smallest = form.spread(pointer(6), group)
    bits = []
    for j in range(_VECTORS):
        largest = totals[0][j]
        for i in range(1, ROWS):
            largest = form.larger(largest, totals[i][j])
        lower = form.load(pointer(8), builder.add(column, ir.Constant(_I64, j * LANES)))
        bits.append(form.reaches(largest, form.smaller(smallest, lower)))
    return _join_bits(builder, bits)


def _generate_segment(
    form: _Bytes, panels: tuple[Any, Any], sides: tuple[Any, Any], words: Any
) -> list[list[Any]]:
    """Generate the sums of one segment in 32 bits; they begin as the word before its columns says."""
    b, (left, right) = form.builder, sides
    lanes = [ir.Constant(_I64, lane) for lane in range(0, COLUMNS, LANES)]
    initial = [form.load(panels[1], b.add(right, lane)) for lane in lanes]
    sides = left, b.add(right, ir.Constant(_I64, PANEL))
    sums = _generate_sums(form, panels, sides, words, initial)
    return [[form.add_halves(total) for total in row] for row in sums]


def _generate_comparison(
    form: _Form, sums: list[list[Any]], lower: tuple[Any, Any], offsets: tuple[Any, Any]
) -> list[Any]:
    """Compare each sum with the smaller threshold of its row and its column."""

    def at(side: int, offset: int) -> Any:
        return form.builder.add(offsets[side], ir.Constant(_I64, offset))

    columns = [form.load(lower[1], at(1, lane)) for lane in range(0, COLUMNS, LANES)]
    bits = []
    for i in range(ROWS):
        value = form.spread(lower[0], at(0, i))
        bits += [form.reaches(sums[i][j], form.smaller(value, columns[j])) for j in range(_VECTORS)]
    return bits


def _join_bits(builder: Any, bits: list[Any]) -> Any:
    """Return an integer that is 0 if no bit of any lane is set."""
    any_lane = bits[0]
    for more in bits[1:]:
        any_lane = builder.or_(any_lane, more)
    return builder.zext(builder.bitcast(any_lane, ir.IntType(LANES)), _I64)


def _generate_sums(
    form: _Form, panels: tuple[Any, Any], sides: tuple[Any, Any], words: Any, initial: list[Any]
) -> list[list[Any]]:
    """Generate the loop over the packed words; the sums, which begin as `initial`, stay in registers."""
    b = form.builder
    before, loop, after = b.block, b.append_basic_block("words"), b.append_basic_block("compare")
    b.branch(loop)
    b.position_at_end(loop)
    step = b.phi(_I64)
    sums = [[b.phi(form.vector) for _ in range(_VECTORS)] for _ in range(ROWS)]
    offset = b.mul(step, ir.Constant(_I64, PANEL))
    left, right = (b.add(side, offset) for side in sides)
    columns = [form.load(panels[1], b.add(right, ir.Constant(_I64, j * LANES))) for j in range(_VECTORS)]
    new = []
    for i in range(ROWS):
        value = form.spread(panels[0], b.add(left, ir.Constant(_I64, i)))
        new.append([form.accumulate(sums[i][j], value, columns[j]) for j in range(_VECTORS)])
    following = b.add(step, ir.Constant(_I64, 1))
    b.cbranch(b.icmp_signed("<", following, words), loop, after)
    step.add_incoming(ir.Constant(_I64, 0), before)
    step.add_incoming(following, loop)
    for i in range(ROWS):
        for j in range(_VECTORS):
            sums[i][j].add_incoming(initial[j], before)
            sums[i][j].add_incoming(new[i][j], loop)
    b.position_at_end(after)
    return new
