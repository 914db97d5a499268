"""Loads through block addresses, prefetch and bit counts: what numba's Python subset lacks.

An address is the `ctypes.data` of a live array; nothing here checks it, so only the gates that own the arrays
may pass one. Under NUMBA_DISABLE_JIT=1 plain Python twins of the same names read through ctypes.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vstore_kernels.jit import DISABLE_JIT

_I8 = ir.IntType(8)
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def _pointer(builder: Any, address: Any, offset: Any, to: Any) -> Any:
    # The offset goes through a GEP, not an addition before inttoptr: only so does the loop vectoriser see
    # that consecutive offsets are consecutive bytes.
    base = builder.inttoptr(address, _I8.as_pointer())
    return builder.bitcast(builder.gep(base, [offset]), to.as_pointer())


def _python_load_i8(address: Any, offset: Any) -> Any:
    return ctypes.c_int8.from_address(int(address) + int(offset)).value


def _python_load_u8(address: Any, offset: Any) -> Any:
    return ctypes.c_uint8.from_address(int(address) + int(offset)).value


def _python_load_i32(address: Any, offset: Any) -> Any:
    return ctypes.c_int32.from_address(int(address) + int(offset)).value


def _python_load_f32(address: Any, offset: Any) -> Any:
    return ctypes.c_float.from_address(int(address) + int(offset)).value


def _python_load_u64(address: Any, offset: Any) -> Any:
    return ctypes.c_uint64.from_address(int(address) + int(offset)).value


def _python_store_i8(address: Any, offset: Any, value: Any) -> None:
    ctypes.c_int8.from_address(int(address) + int(offset)).value = int(value)


def _python_store_i16(address: Any, offset: Any, value: Any) -> None:
    ctypes.c_int16.from_address(int(address) + int(offset)).value = int(value)


def _python_store_f32(address: Any, offset: Any, value: Any) -> None:
    ctypes.c_float.from_address(int(address) + int(offset)).value = float(value)


def _python_prefetch(address: Any, offset: Any) -> Any:
    return None


def _python_popcount(word: Any) -> Any:
    return int(word).bit_count()


def _python_trailing_zeros(word: Any) -> Any:
    word = int(word)
    return (word & -word).bit_length() - 1 if word else 64


if DISABLE_JIT:
    load_i8 = _python_load_i8
    load_u8 = _python_load_u8
    load_i32 = _python_load_i32
    load_f32 = _python_load_f32
    load_u64 = _python_load_u64
    store_i8 = _python_store_i8
    store_i16 = _python_store_i16
    store_f32 = _python_store_f32
    prefetch = _python_prefetch
    popcount = _python_popcount
    trailing_zeros = _python_trailing_zeros
else:

    @intrinsic
    def load_i8(typingctx: Any, address: Any, offset: Any) -> Any:
        """Return the int8 at `address + offset` bytes."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], args[1], _I8))

        return types.int8(types.int64, types.int64), codegen

    @intrinsic
    def load_u8(typingctx: Any, address: Any, offset: Any) -> Any:
        """Return the uint8 at `address + offset` bytes."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], args[1], _I8))

        return types.uint8(types.int64, types.int64), codegen

    @intrinsic
    def load_i32(typingctx: Any, address: Any, offset: Any) -> Any:
        """Return the int32 at `address + offset` bytes, aligned to 4."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], args[1], _I32), align=4)

        return types.int32(types.int64, types.int64), codegen

    @intrinsic
    def load_f32(typingctx: Any, address: Any, offset: Any) -> Any:
        """Return the float32 at `address + offset` bytes, of any alignment."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], args[1], ir.FloatType()), align=1)

        return types.float32(types.int64, types.int64), codegen

    @intrinsic
    def load_u64(typingctx: Any, address: Any, offset: Any) -> Any:
        """Return the uint64 at `address + offset` bytes, of any alignment."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], args[1], _I64), align=1)

        return types.uint64(types.int64, types.int64), codegen

    @intrinsic
    def store_i8(typingctx: Any, address: Any, offset: Any, value: Any) -> Any:
        """Write the int8 `value` at `address + offset` bytes, of any alignment."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _pointer(builder, args[0], args[1], _I8), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int8), codegen

    @intrinsic
    def store_i16(typingctx: Any, address: Any, offset: Any, value: Any) -> Any:
        """Write the int16 `value` at `address + offset` bytes, of any alignment."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _pointer(builder, args[0], args[1], _I16), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int16), codegen

    @intrinsic
    def store_f32(typingctx: Any, address: Any, offset: Any, value: Any) -> Any:
        """Write the float32 `value` at `address + offset` bytes, of any alignment."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _pointer(builder, args[0], args[1], ir.FloatType()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32), codegen

    @intrinsic
    def prefetch(typingctx: Any, address: Any, offset: Any) -> Any:
        """Ask for the cache line at `address + offset` bytes; never faults."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], args[1], _I8)
            kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
            name = "llvm.prefetch.p0"
            function = builder.module.globals.get(name)
            if function is None:
                function = ir.Function(builder.module, kind, name)
            # read, high temporal locality, data cache
            builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    @intrinsic
    def popcount(typingctx: Any, word: Any) -> Any:
        """Return the number of ones of a uint64, as int64."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.ctpop(args[0])

        return types.int64(types.uint64), codegen

    @intrinsic
    def trailing_zeros(typingctx: Any, word: Any) -> Any:
        """Return the number of zeros below the lowest one of a uint64, as int64; 64 for zero."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

        return types.int64(types.uint64), codegen
