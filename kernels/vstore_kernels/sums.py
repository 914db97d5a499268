"""Sums of floats that every machine works out alike, bit by bit.

A compiler that may reassociate a sum splits it over as many lanes as the processor has, and joins products
and additions where it has an instruction for both: other machines, other last bits, other graphs. Here the
lanes are written out. Element j goes to lane j % LANES; what is left of a row goes to the lower half of the
lanes, folded, then to a quarter, and so on; products are rounded before they are added. LLVM makes of it what
registers there are, once a kernel. The plain Python twins say the same in numpy, and are equal to it.

Arguments are addresses of float32 rows, of any alignment.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.jit import DISABLE_JIT, Int, kernel
from vstore_kernels.outlined import call_outlined

LANES: Final = 32
"""Partial sums of a row."""

_cgutils: Any = cgutils
_types: Any = types
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def fold(builder: Any, vector: Any) -> Any:
    """Emit the lower half of the lanes of a vector, the upper half added to it; one lane is a scalar."""
    half = vector.type.count // 2
    undefined = ir.Constant(vector.type, ir.Undefined)
    parts = []
    for first in (0, half):
        mask = ir.Constant(ir.VectorType(_I32, half), [_I32(first + lane) for lane in range(half)])
        parts.append(builder.shuffle_vector(vector, undefined, mask))
    folded = builder.fadd(*parts)
    return builder.extract_element(folded, _I32(0)) if half == 1 else folded


def _load(builder: Any, address: Any, at: Any, lanes: int) -> Any:
    kind = _F32 if lanes == 1 else ir.VectorType(_F32, lanes)
    start = builder.inttoptr(address, _F32.as_pointer())
    return builder.load(builder.bitcast(builder.gep(start, [at]), kind.as_pointer()), align=4)


def _gap_term(builder: Any, a: Any, b: Any) -> Any:
    gap = builder.fsub(a, b)
    return builder.fmul(gap, gap)


def _product_term(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b)


def _shifted_term(builder: Any, a: Any, b: Any, origin: Any) -> Any:
    return builder.fmul(builder.fsub(a, origin), b)


def _scaled_gap_term(factor: Any) -> Callable[..., Any]:
    def term(builder: Any, a: Any, b: Any) -> Any:
        times = factor
        if isinstance(a.type, ir.VectorType):
            times = builder.insert_element(ir.Constant(a.type, ir.Undefined), factor, _I32(0))
            first = ir.Constant(ir.VectorType(_I32, a.type.count), [_I32(0)] * a.type.count)
            times = builder.shuffle_vector(times, times, first)
        return _gap_term(builder, builder.fmul(a, times), b)

    return term


def _own_square(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(b, b)


def _emit_sums(builder: Any, rows: list[Any], n: Any, terms: Sequence[Callable[..., Any]]) -> list[Any]:
    """Emit, for each of `terms`, its sum over n elements of the rows at the addresses `rows`; floats."""

    def added(totals: list[Any], at: Any, lanes: int) -> list[Any]:
        elements = [_load(builder, row, at, lanes) for row in rows]
        return [
            builder.fadd(total, term(builder, *elements)) for total, term in zip(totals, terms, strict=True)
        ]

    def phis(kind: Any) -> list[Any]:
        return [builder.phi(kind) for _ in terms]

    def join(into: list[Any], values: list[Any], block: Any) -> None:
        for phi, value in zip(into, values, strict=True):
            phi.add_incoming(value, block)

    wide = ir.VectorType(_F32, LANES)
    zeros = [ir.Constant(wide, [0.0] * LANES)] * len(terms)
    whole = builder.and_(n, _I64(-LANES))
    before = builder.block
    body, after = builder.append_basic_block("sum"), builder.append_basic_block("sum_rest")
    builder.cbranch(builder.icmp_signed(">", whole, _I64(0)), body, after)
    builder.position_at_end(body)
    at, running = builder.phi(_I64), phis(wide)
    following, summed = builder.add(at, _I64(LANES)), added(running, at, LANES)
    join([at, *running], [_I64(0), *zeros], before)
    join([at, *running], [following, *summed], body)
    builder.cbranch(builder.icmp_signed("<", following, whole), body, after)
    builder.position_at_end(after)
    totals = phis(wide)
    join(totals, zeros, before)
    join(totals, summed, body)
    place, lanes = whole, LANES
    while lanes > 1:
        lanes //= 2
        totals = [fold(builder, total) for total in totals]
        left = builder.and_(n, _I64(lanes))
        skipped = builder.block
        with builder.if_then(builder.icmp_signed("!=", left, _I64(0))):
            more = added(totals, place, lanes)
            taken = builder.block
        joined = phis(totals[0].type)
        join(joined, totals, skipped)
        join(joined, more, taken)
        totals, place = joined, builder.add(place, left)
    return totals


def _summing(name: str, term: Callable[..., Any]) -> Callable[..., Any]:
    """Return the code of an intrinsic of rows' addresses, then their length: the sum of `term`, outlined."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def emit(inside: Any, given: list[Any]) -> Any:
            return _emit_sums(inside, given[:-1], given[-1], [term])[0]

        return call_outlined(builder, name, _F32, list(args), emit)

    return codegen


def _rows_at(addresses: tuple[Any, ...], n: Any) -> list[NDArray[np.float32]]:
    kind = ctypes.c_float * int(n)
    return [np.ctypeslib.as_array(kind.from_address(int(address))) for address in addresses]


def _python_sum(terms: NDArray[np.float32]) -> np.float32:
    """Return the sum of float32 [n] as the kernels work it out."""
    total, place, lanes = np.zeros(LANES, np.float32), 0, LANES
    while place + LANES <= terms.size:
        total += terms[place : place + LANES]
        place += LANES
    while lanes > 1:
        lanes //= 2
        total = total[:lanes] + total[lanes:]
        if terms.size & lanes:
            total = total + terms[place : place + lanes]
            place += lanes
    return np.float32(total[0])


def _python_gap_sum(a: Any, b: Any, n: Any) -> Any:
    first, second = _rows_at((a, b), n)
    gaps = first - second
    return _python_sum(gaps * gaps)


def _python_scaled_gap_sum(a: Any, factor: Any, b: Any, n: Any) -> Any:
    first, second = _rows_at((a, b), n)
    gaps = first * np.float32(factor) - second
    return _python_sum(gaps * gaps)


def _python_product_sum(a: Any, b: Any, n: Any) -> Any:
    first, second = _rows_at((a, b), n)
    return _python_sum(first * second)


def _python_product_and_square(a: Any, b: Any, n: Any) -> Any:
    return _python_product_sum(a, b, n), _python_product_sum(b, b, n)


def _python_shifted_sum(a: Any, b: Any, origin: Any, n: Any) -> Any:
    first, second, shift = _rows_at((a, b, origin), n)
    return _python_sum((first - shift) * second)


if DISABLE_JIT:
    gap_sum = _python_gap_sum
    scaled_gap_sum = _python_scaled_gap_sum
    product_sum = _python_product_sum
    product_and_square = _python_product_and_square
    shifted_sum = _python_shifted_sum
else:

    @intrinsic
    def gap_sum(typingctx: Any, a: Any, b: Any, n: Any) -> Any:
        """Return the sum of (a[j] - b[j])^2 over n elements at two addresses."""
        return types.float32(types.int64, types.int64, types.int64), _summing("vstore_gap_sum", _gap_term)

    @intrinsic
    def scaled_gap_sum(typingctx: Any, a: Any, factor: Any, b: Any, n: Any) -> Any:
        """Return the sum of (factor a[j] - b[j])^2 over n elements at two addresses."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def emit(inside: Any, given: list[Any]) -> Any:
                a, factor, b, n = given
                return _emit_sums(inside, [a, b], n, [_scaled_gap_term(factor)])[0]

            return call_outlined(builder, "vstore_scaled_gap_sum", _F32, list(args), emit)

        return types.float32(types.int64, types.float32, types.int64, types.int64), codegen

    @intrinsic
    def product_sum(typingctx: Any, a: Any, b: Any, n: Any) -> Any:
        """Return the sum of a[j] * b[j] over n elements at two addresses."""
        return types.float32(types.int64, types.int64, types.int64), _summing(
            "vstore_product_sum", _product_term
        )

    @intrinsic
    def product_and_square(typingctx: Any, a: Any, b: Any, n: Any) -> Any:
        """Return the sums of a[j] * b[j] and of b[j]^2, of one pass over n elements at two addresses."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def emit(inside: Any, given: list[Any]) -> Any:
                found = _emit_sums(inside, given[:2], given[2], [_product_term, _own_square])
                return _cgutils.pack_array(inside, found)

            kind = ir.ArrayType(_F32, 2)
            return call_outlined(builder, "vstore_product_and_square", kind, list(args), emit)

        two = _types.UniTuple(types.float32, 2)
        return two(types.int64, types.int64, types.int64), codegen

    @intrinsic
    def shifted_sum(typingctx: Any, a: Any, b: Any, origin: Any, n: Any) -> Any:
        """Return the sum of (a[j] - origin[j]) * b[j] over n elements at three addresses."""
        return types.float32(types.int64, types.int64, types.int64, types.int64), _summing(
            "vstore_shifted_sum", _shifted_term
        )


def row_squares(rows: NDArray[np.float32], d: int | None = None) -> NDArray[np.float32]:
    """Return the square of the length of each row (float32 [n, >= d]) over its first d components, or over
    all, float32 [n].

    Raises:
        TypeError: not float32.
        ValueError: a wrong shape.
    """
    gate.array("rows", rows, np.float32, 2)
    out = np.empty(rows.shape[0], np.float32)
    _row_squares(rows, rows.shape[1] if d is None else min(d, rows.shape[1]), out)
    return out


def wide_row_squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """As `row_squares`, summed in float64 from the first element to the last: float64 [n]."""
    gate.array("rows", rows, np.float32, 2)
    out = np.empty(rows.shape[0])
    _wide_row_squares(rows, out)
    return out


@kernel()
def _wide_row_squares(rows: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            total += np.float64(rows[i, j]) * np.float64(rows[i, j])
        out[i] = total


@kernel()
def _row_squares(rows: NDArray[np.float32], d: Int, out: NDArray[np.float32]) -> None:
    width = rows.shape[1]
    for i in range(rows.shape[0]):
        address = np.int64(rows.ctypes.data) + i * width * 4
        out[i] = product_sum(address, address, d)
