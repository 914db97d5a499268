"""Squared distances of two rows of the table that a graph is built on, and the moving of beam entries."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vstore_kernels.jit import DISABLE_JIT

STRIDE: Final = 32
"""A row's length is a multiple of this many elements."""

_I8 = ir.IntType(8)
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()


def _python_row_gap(table: Any, a: Any, b: Any) -> Any:
    if table.dtype == np.int16:
        gap = table[a].astype(np.int64) - table[b]
        return np.int32((gap * gap).sum())
    gap = table[a] - table[b]
    return np.float32((gap * gap).sum(dtype=np.float32))


def _python_move_up(array: Any, start: Any, stop: Any) -> Any:
    array[start + 1 : stop + 1] = array[start:stop].copy()


def _square_i16(builder: Any, gap: Any) -> Any:
    """<16 x i16> -> <8 x i32>, sums of the squares of neighbours; x86 has one instruction for it."""
    wide = builder.sext(gap, ir.VectorType(_I32, 16))
    undefined = ir.Constant(wide.type, ir.Undefined)
    halves = []
    for first in (0, 1):
        mask = ir.Constant(ir.VectorType(_I32, 8), [_I32(first + 2 * lane) for lane in range(8)])
        half = builder.shuffle_vector(wide, undefined, mask)
        halves.append(builder.mul(half, half))
    return builder.add(*halves)


def _sum_lanes(builder: Any, vector: Any, floating: bool) -> Any:
    lanes = n_lanes = vector.type.count
    undefined = ir.Constant(vector.type, ir.Undefined)
    while lanes > 1:
        lanes //= 2
        places = [_I32((lane + lanes) % n_lanes) for lane in range(n_lanes)]
        mask = ir.Constant(ir.VectorType(_I32, n_lanes), places)
        other = builder.shuffle_vector(vector, undefined, mask)
        vector = builder.fadd(vector, other) if floating else builder.add(vector, other)
    return builder.extract_element(vector, _I32(0))


def _gap_loop(builder: Any, pointer_a: Any, pointer_b: Any, n: Any, floating: bool) -> Any:
    """Emit the loop over blocks of STRIDE elements; return the sum."""
    element, lanes = (_F32, 8) if floating else (_I16, 16)
    steps = STRIDE // lanes
    total_type = ir.VectorType(_F32 if floating else _I32, 8)
    vector = ir.VectorType(element, lanes)
    before = builder.block
    body = builder.append_basic_block("gap")
    after = builder.append_basic_block("gap_end")
    builder.branch(body)
    builder.position_at_end(body)
    at = builder.phi(_I64)
    at.add_incoming(_I64(0), before)
    totals = [builder.phi(total_type) for _ in range(steps)]
    sums = []
    for step, total in enumerate(totals):
        total.add_incoming(ir.Constant(total_type, None), before)
        place = builder.add(at, _I64(step * lanes))
        rows = []
        for pointer in (pointer_a, pointer_b):
            lane = builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())
            rows.append(builder.load(lane, align=4 if floating else 2))
        if floating:
            gap = builder.fsub(*rows)
            sums.append(builder.fadd(total, builder.fmul(gap, gap)))
        else:
            sums.append(builder.add(total, _square_i16(builder, builder.sub(*rows))))
    following = builder.add(at, _I64(STRIDE))
    at.add_incoming(following, body)
    for total, new in zip(totals, sums, strict=True):
        total.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed("<", following, n), body, after)
    builder.position_at_end(after)
    whole = sums[0]
    for other in sums[1:]:
        whole = builder.fadd(whole, other) if floating else builder.add(whole, other)
    return _sum_lanes(builder, whole, floating)


if DISABLE_JIT:
    row_gap = _python_row_gap
    move_up = _python_move_up
else:

    @intrinsic
    def row_gap(typingctx: Any, table: Any, a: Any, b: Any) -> Any:
        """Return |table[a] - table[b]|^2; int16 rows give an int32, float32 rows a float32.

        Rows are C-contiguous and STRIDE divides their length.
        """
        floating = table.dtype == types.float32

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            n = builder.extract_value(array.shape, 1)
            pointers = [builder.gep(array.data, [builder.mul(row, n)]) for row in args[1:]]
            return _gap_loop(builder, pointers[0], pointers[1], n, floating)

        return (types.float32 if floating else types.int32)(table, types.int64, types.int64), codegen

    @intrinsic
    def move_up(typingctx: Any, array: Any, start: Any, stop: Any) -> Any:
        """Move `array[start:stop]` (of 4-byte elements) up by one place."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            source = builder.gep(data, [args[1]])
            target = builder.gep(source, [_I64(1)])
            n_bytes = builder.mul(builder.sub(args[2], args[1]), _I64(4))
            kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I8.as_pointer(), _I64, ir.IntType(1)])
            name = "llvm.memmove.p0.p0.i64"
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            to_bytes = [builder.bitcast(pointer, _I8.as_pointer()) for pointer in (target, source)]
            builder.call(function, [*to_bytes, n_bytes, ir.IntType(1)(0)])
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen
