"""Dot products of float32 queries with float32 rows, a few of each at once: a row that was read serves four.

Every product is summed in eight lanes, in the same order, whatever is computed beside it: a query has the
same products alone as among many, bit for bit, and so the same order of clusters.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from vstore_kernels.jit import DISABLE_JIT, Int, part
from vstore_kernels.outlined import call_outlined
from vstore_kernels.sums import fold

LANES: Final = 8
_emit: Any = _cgutils
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_EIGHT: Final = ir.VectorType(_F32, LANES)


def _python_block(n_queries: int, n_rows: int) -> Any:
    def block(query: Any, stride: Any, row: Any, row_stride: Any, d: Any, out: Any, out_stride: Any) -> None:
        length = int(d)
        for q in range(n_queries):
            for r in range(n_rows):
                ours = (ctypes.c_float * length).from_address(int(query) + q * int(stride))
                theirs = (ctypes.c_float * length).from_address(int(row) + r * int(row_stride))
                total = float(np.dot(np.array(ours, np.float32), np.array(theirs, np.float32)))
                ctypes.c_float.from_address(int(out) + q * int(out_stride) + 4 * r).value = total

    return block


def _sum(builder: Any, vector: Any) -> Any:
    """Return the sum of the lanes of a vector of floats, halves added to halves."""
    while isinstance(vector.type, ir.VectorType):
        vector = fold(builder, vector)
    return vector


def _multiply_add(builder: Any, a: Any, b: Any, total: Any) -> Any:
    # Not fused: a processor without the instruction, and so another machine, would round otherwise.
    return builder.fadd(total, builder.fmul(a, b))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def emit_block(builder: Any, shape: tuple[int, int], arguments: list[Any]) -> None:
    """Emit the products of `shape` = (queries, rows).

    Args:
        builder: an llvmlite IR builder.
        shape: how many of each.
        arguments: i64: address of the first query, bytes to the next; the same of rows; d; address of the
            first product, float32, and bytes to the next query's. A query's products lie side by side.
    """
    query, stride, row, row_stride, d, out, out_stride = arguments
    queries = [builder.add(query, builder.mul(stride, _I64(i))) for i in range(shape[0])]
    rows = [builder.add(row, builder.mul(row_stride, _I64(i))) for i in range(shape[1])]
    pairs = [(q, r) for q in range(shape[0]) for r in range(shape[1])]
    zero = ir.Constant(_EIGHT, [0.0] * LANES)
    sums = {pair: _emit.alloca_once(builder, _EIGHT) for pair in pairs}
    for place in sums.values():
        builder.store(zero, place)
    n_steps = builder.lshr(d, _I64(3))
    with _emit.for_range(builder, n_steps) as loop:
        at = builder.mul(loop.index, _I64(4 * LANES))
        ours = [_load(builder, builder.add(each, at), _EIGHT) for each in queries]
        theirs = [_load(builder, builder.add(each, at), _EIGHT) for each in rows]
        for (q, r), place in sums.items():
            builder.store(_multiply_add(builder, ours[q], theirs[r], builder.load(place)), place)
    totals = {pair: _emit.alloca_once(builder, _F32) for pair in pairs}
    for pair, place in totals.items():
        builder.store(_sum(builder, builder.load(sums[pair])), place)
    with _emit.for_range_slice(builder, builder.shl(n_steps, _I64(3)), d, _I64(1)) as (index, _):
        at = builder.mul(index, _I64(4))
        for (q, r), place in totals.items():
            a = _load(builder, builder.add(queries[q], at), _F32)
            b = _load(builder, builder.add(rows[r], at), _F32)
            builder.store(_multiply_add(builder, a, b, builder.load(place)), place)
    for (q, r), place in totals.items():
        to = builder.add(builder.add(out, builder.mul(out_stride, _I64(q))), _I64(4 * r))
        builder.store(builder.load(place), builder.inttoptr(to, _F32.as_pointer()), align=4)


def _block(n_queries: int, n_rows: int) -> Any:
    if DISABLE_JIT:
        return _python_block(n_queries, n_rows)

    def block(
        typingctx: Any,
        query: Any,
        stride: Any,
        row: Any,
        row_stride: Any,
        d: Any,
        out: Any,
        out_stride: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def emit(inside: Any, given: list[Any]) -> None:
                emit_block(inside, (n_queries, n_rows), given)

            name = f"vstore_products_{n_queries}_{n_rows}"
            call_outlined(builder, name, ir.VoidType(), list(args), emit)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    block.__name__ = block.__qualname__ = f"block_of_{n_queries}_by_{n_rows}"
    return intrinsic(block)


_four_by_two: Any = _block(4, 2)
_one_by_four: Any = _block(1, 4)
_one_by_one: Any = _block(1, 1)


@part()
def products_into(query: Int, m: Int, d: Int, rows: NDArray[np.float32], out: Int) -> None:
    """Write the products of m queries with the first d components of rows (float32 [n, >= d], C-contiguous);
    for use inside kernels.

    `query` is the address of float32 [m, d], `out` of float32 [m, n], which is written.
    """
    n = rows.shape[0]
    row = np.int64(rows.ctypes.data)
    stride, row_stride, out_stride = np.int64(4 * d), np.int64(4 * rows.shape[1]), np.int64(4 * n)
    in_fours, by_two = m & ~3, n & ~1
    # fmt: off
    for i in range(0, in_fours, 4):
        ours, at = query + i * stride, out + i * out_stride
        for c in range(0, by_two, 2):
            _four_by_two(ours, stride, row + c * row_stride, row_stride, d, at + 4 * c, out_stride)
        if by_two < n:
            for j in range(4):
                _one_by_one(
                    ours + j * stride, stride, row + by_two * row_stride, row_stride, d,
                    at + j * out_stride + 4 * by_two, out_stride,
                )
    # fmt: on
    for i in range(in_fours, m):
        products_of_one(query + i * stride, d, rows, out + i * out_stride)


@part()
def products_of_one(query: Int, d: Int, rows: NDArray[np.float32], out: Int) -> None:
    """As `products_into` of one query."""
    n = rows.shape[0]
    row = np.int64(rows.ctypes.data)
    stride, row_stride, by_four = np.int64(4 * d), np.int64(4 * rows.shape[1]), n & ~3
    for c in range(0, by_four, 4):
        _one_by_four(query, stride, row + c * row_stride, row_stride, d, out + 4 * c, stride)
    for c in range(by_four, n):
        _one_by_one(query, stride, row + c * row_stride, row_stride, d, out + 4 * c, stride)
