"""A row of 4-bit codes for four queries at once: products, estimates and what is in doubt, in one pass.

The row is unpacked once, and the arithmetic of `scoring.narrow_score` and `scoring.spread` is done for the
four beside each other, in the same order of operations: a query has the estimates that it has alone.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vstore_kernels.dots import dot_nibbles, emit_sums
from vstore_kernels.isa import ISA
from vstore_kernels.jit import DISABLE_JIT
from vstore_kernels.layout import F_BASE, F_BIAS, F_SCALE, F_SHIFT, F_STEP_ERROR
from vstore_kernels.rescore import SIGMAS

FOUR: Final = 4
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, FOUR), ir.VectorType(_I32, FOUR)


def _python_judge_four(
    row: Any,
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

    raw = np.array([dot_nibbles(row, int(query) + j * int(stride), n_chunks) for j in range(FOUR)])
    bias, step = floats(int(row) + int(bias_at), 2)
    with np.errstate(all="ignore"):
        lean = factor(F_BIAS) * bias
        scaled = step * (factor(F_SCALE) * raw.astype(np.float32) + factor(F_SHIFT))
        estimates = factor(F_BASE) + lean + scaled
        lows = estimates - SIGMAS * (abs(step) * factor(F_STEP_ERROR))
    (ctypes.c_float * FOUR).from_address(int(out))[:] = estimates.tolist()
    return sum(1 << j for j in range(FOUR) if not lows[j] > floats(limits)[j])


def _sums_of_four(builder: Any, lanes: list[Any]) -> Any:
    """Return i32 [4], the sum of the eight lanes of each of four vectors."""

    def picked(a: Any, b: Any, places: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(places)), places))

    def folded(a: Any, b: Any, low: list[int], high: list[int]) -> Any:
        return builder.add(picked(a, b, low), picked(a, b, high))

    within = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    first, second = (folded(lanes[j], lanes[j + 1], *within) for j in (0, 2))
    sums = folded(first, second, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    return folded(sums, sums, [0, 1, 2, 3], [4, 5, 6, 7])


def emit_judgement(builder: Any, arguments: list[Any], isa: str) -> Any:
    """Emit `judge_four`; return an i64.

    Args:
        builder: an llvmlite IR builder.
        arguments: i64, as `judge_four` takes them.
        isa: one of `isa.ISAS`.
    """
    row, query, stride, n_chunks, bias_at, factors, factor_stride, limits, out = arguments

    def pointer(address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, kind.as_pointer())

    def factor(place: int) -> Any:
        at = builder.add(factors, builder.mul(factor_stride, _I64(place)))
        return builder.load(pointer(at, _FLOATS), align=4)

    def of_row(offset: int) -> Any:
        at = builder.add(builder.add(row, bias_at), _I64(offset))
        value = builder.load(pointer(at, _F32), align=1)
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _I32(0))
        return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * FOUR))

    queries = [builder.add(query, builder.mul(stride, _I64(j))) for j in range(FOUR)]
    lanes = emit_sums(builder, row, queries, n_chunks, 4, isa)
    raw = builder.sitofp(_sums_of_four(builder, lanes), _FLOATS)
    step = of_row(4)
    lean = builder.fmul(factor(F_BIAS), of_row(0))
    scaled = builder.fmul(step, builder.fadd(builder.fmul(factor(F_SCALE), raw), factor(F_SHIFT)))
    estimates = builder.fadd(builder.fadd(factor(F_BASE), lean), scaled)
    builder.store(estimates, pointer(out, _FLOATS), align=4)
    positive = ir.Constant(_INTS, [0x7FFFFFFF] * FOUR)
    size = builder.bitcast(builder.and_(builder.bitcast(step, _INTS), positive), _FLOATS)
    slack = builder.fmul(
        ir.Constant(_FLOATS, [float(SIGMAS)] * FOUR), builder.fmul(size, factor(F_STEP_ERROR))
    )
    lows = builder.fsub(estimates, slack)
    # Not greater, or no number: as `not low > limit`.
    doubtful = builder.fcmp_unordered("<=", lows, builder.load(pointer(limits, _FLOATS), align=4))
    return builder.zext(builder.bitcast(doubtful, ir.IntType(FOUR)), _I64)


if DISABLE_JIT:
    judge_four: Any = _python_judge_four
else:

    @intrinsic
    def judge_four(
        typingctx: Any,
        row: Any,
        query: Any,
        stride: Any,
        n_chunks: Any,
        bias_at: Any,
        factors: Any,
        factor_stride: Any,
        limits: Any,
        out: Any,
    ) -> Any:
        """Score one row for four queries; return int64, bit j set where query j leaves the row in doubt.

        In doubt is a row whose estimate, less SIGMAS deviations, does not exceed the query's limit. All
        arguments are int64; addresses are those of `row`, of the first query (int8, `stride` bytes to the
        next), of its factors (float32, those of the four side by side, `factor_stride` bytes to the next
        factor), of the four `limits` and of `out` (float32 [4]: the estimates, written).
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit_judgement(builder, list(args), ISA)

        return types.int64(*[types.int64] * 9), codegen
