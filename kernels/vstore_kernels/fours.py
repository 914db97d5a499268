"""Rows of 4-bit codes for four queries at once: products, estimates and what is in doubt, in one pass.

A row is unpacked once, no branch depends on what it brings, and the arithmetic of `scoring.narrow_score` and
`scoring.spread` is done for the four beside each other, in the same order of operations: a query has the
estimates that it has alone.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from vstore_kernels.dots import dot_nibbles, emit_sums
from vstore_kernels.isa import ISA
from vstore_kernels.jit import DISABLE_JIT
from vstore_kernels.layout import F_BASE, F_BIAS, F_SCALE, F_SHIFT, F_STEP_ERROR
from vstore_kernels.outlined import call_outlined
from vstore_kernels.rescore import SIGMAS

FOUR: Final = 4
MOST_ROWS: Final = 16
"""Rows judged in one call: a bit for each of the four queries and each row."""
_emit: Any = _cgutils
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FOUR_FLOATS = ir.VectorType(_F32, FOUR)
_FLOATS, _INTS = ir.VectorType(_F32, 2 * FOUR), ir.VectorType(_I32, 2 * FOUR)


def _python_judge_rows(
    rows: Any,
    n_pairs: Any,
    query: Any,
    stride: Any,
    n_chunks: Any,
    bias_at: Any,
    factors: Any,
    factor_stride: Any,
    limits: Any,
    out: Any,
) -> int:
    def floats(address: Any, n: int = FOUR) -> Any:
        return np.array((ctypes.c_float * n).from_address(int(address)), np.float32)

    def factor(place: int) -> Any:
        return floats(int(factors) + place * int(factor_stride))

    doubtful = 0
    for t, row in enumerate((ctypes.c_int64 * (2 * int(n_pairs))).from_address(int(rows))):
        raw = np.array([dot_nibbles(row, int(query) + j * int(stride), n_chunks) for j in range(FOUR)])
        bias, step = floats(row + int(bias_at), 2)
        with np.errstate(all="ignore"):
            lean = factor(F_BIAS) * bias
            scaled = step * (factor(F_SCALE) * raw.astype(np.float32) + factor(F_SHIFT))
            estimates = factor(F_BASE) + lean + scaled
            lows = estimates - SIGMAS * (abs(step) * factor(F_STEP_ERROR))
        (ctypes.c_float * FOUR).from_address(int(out) + 4 * FOUR * t)[:] = estimates.tolist()
        limit = floats(limits)
        doubtful |= sum(1 << (FOUR * t + j) for j in range(FOUR) if not lows[j] > limit[j])
    return doubtful


def _picked(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _sums_of_four(builder: Any, lanes: list[Any]) -> Any:
    """Return i32 [8], whose halves, added, are the sums of the eight lanes of each of four vectors."""

    def folded(a: Any, b: Any, low: list[int], high: list[int]) -> Any:
        return builder.add(_picked(builder, a, b, low), _picked(builder, a, b, high))

    within = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    first, second = (folded(lanes[j], lanes[j + 1], *within) for j in (0, 2))
    return folded(first, second, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])


def emit_judgement(builder: Any, arguments: list[Any], isa: str) -> Any:
    """Emit `judge_rows`; return an i64.

    Args:
        builder: an llvmlite IR builder.
        arguments: i64, as `judge_rows` takes them.
        isa: one of `isa.ISAS`.
    """
    rows, n_pairs, query, stride, n_chunks, bias_at, factors, factor_stride, limits, out = arguments

    def pointer(address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, kind.as_pointer())

    def of_queries(address: Any) -> Any:
        """Floats of the four, once for each row of a pair."""
        own = builder.load(pointer(address, _FOUR_FLOATS), align=4)
        return _picked(builder, own, own, [0, 1, 2, 3] * 2)

    def of_rows(pair: list[Any], offset: int) -> Any:
        """Floats of two rows, once for each query."""
        both = ir.Constant(_FLOATS, ir.Undefined)
        for t, row in enumerate(pair):
            at = builder.add(builder.add(row, bias_at), _I64(offset))
            value = builder.load(pointer(at, _F32), align=1)
            both = builder.insert_element(both, value, _I32(FOUR * t))
        return _picked(builder, both, both, [0] * FOUR + [FOUR] * FOUR)

    queries = [builder.add(query, builder.mul(stride, _I64(j))) for j in range(FOUR)]
    base, bias, scale, shift, error = (
        of_queries(builder.add(factors, builder.mul(factor_stride, _I64(place))))
        for place in (F_BASE, F_BIAS, F_SCALE, F_SHIFT, F_STEP_ERROR)
    )
    limit = of_queries(limits)
    positive = ir.Constant(_INTS, [0x7FFFFFFF] * 2 * FOUR)
    sigmas = ir.Constant(_FLOATS, [float(SIGMAS)] * 2 * FOUR)
    doubts = _emit.alloca_once_value(builder, _I64(0))
    with _emit.for_range(builder, n_pairs) as loop:
        at = builder.add(rows, builder.shl(loop.index, _I64(4)))
        pair = [builder.load(pointer(builder.add(at, _I64(8 * t)), _I64), align=8) for t in range(2)]
        first, second = (
            _sums_of_four(builder, emit_sums(builder, row, queries, n_chunks, 4, isa)) for row in pair
        )
        totals = builder.add(
            _picked(builder, first, second, [0, 1, 2, 3, 8, 9, 10, 11]),
            _picked(builder, first, second, [4, 5, 6, 7, 12, 13, 14, 15]),
        )
        raw = builder.sitofp(totals, _FLOATS)
        step = of_rows(pair, 4)
        lean = builder.fmul(bias, of_rows(pair, 0))
        scaled = builder.fmul(step, builder.fadd(builder.fmul(scale, raw), shift))
        estimates = builder.fadd(builder.fadd(base, lean), scaled)
        to = builder.add(out, builder.shl(loop.index, _I64(5)))
        builder.store(estimates, pointer(to, _FLOATS), align=4)
        size = builder.bitcast(builder.and_(builder.bitcast(step, _INTS), positive), _FLOATS)
        lows = builder.fsub(estimates, builder.fmul(sigmas, builder.fmul(size, error)))
        # Not greater, or no number: as `not low > limit`.
        doubtful = builder.fcmp_unordered("<=", lows, limit)
        bits = builder.zext(builder.bitcast(doubtful, ir.IntType(2 * FOUR)), _I64)
        placed = builder.shl(bits, builder.shl(loop.index, _I64(3)))
        builder.store(builder.or_(builder.load(doubts), placed), doubts)
    return builder.load(doubts)


if DISABLE_JIT:
    judge_rows: Any = _python_judge_rows
else:

    @intrinsic
    def judge_rows(
        typingctx: Any,
        rows: Any,
        n_pairs: Any,
        query: Any,
        stride: Any,
        n_chunks: Any,
        bias_at: Any,
        factors: Any,
        factor_stride: Any,
        limits: Any,
        out: Any,
    ) -> Any:
        """Score pairs of rows, at most MOST_ROWS of them, for four queries; return int64, bit FOUR t + j set
        where query j leaves row t in doubt.

        In doubt is a row whose estimate, less SIGMAS deviations, does not exceed the query's limit. All
        arguments are int64; addresses are those of `rows` (int64 [2 n_pairs], their addresses), of the first
        query (int8, `stride` bytes to the next), of its factors (float32, those of the four side by side,
        `factor_stride` bytes to the next factor), of the four `limits` and of `out` (float32 [2 n_pairs,
        FOUR]: the estimates, written).
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def emit(inside: Any, given: list[Any]) -> Any:
                return emit_judgement(inside, given, ISA)

            return call_outlined(builder, "vstore_judge_rows", _I64, list(args), emit)

        return types.int64(*[types.int64] * 10), codegen
