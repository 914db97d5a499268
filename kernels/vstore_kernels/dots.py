"""Dot products of packed integer codes with a quantized query: exact sums, so every path gives the same one.

Codes are unsigned below 8 bits and signed at 8; packed in chunks of 64 dimensions so that a few shifts and
masks unpack whole registers:

| bits | chunk    | byte j of a chunk holds dimensions           | query                                    |
|------|----------|----------------------------------------------|------------------------------------------|
| 8    | none     | j                                            | int16 [d]                                |
| 4    | 32 bytes | j, 32 + j (low to high nibble)               | int8 [d]                                 |
| 2    | 16 bytes | j, 16 + j, 32 + j, 48 + j (low to high pair) | int8 [d]                                 |
| 1    | 8 bytes  | bit i of the little-endian word is i         | N_PLANES words a chunk, two's complement |

The products of 4- and 2-bit codes are summed in pairs by vpmaddubsw (15 * 127 * 8 fits 16 bits, so it cannot
saturate), or by AVX-512 VNNI's vpdpbusd; those of 8-bit codes by vpmaddwd or vpdpwssd; 1-bit codes by
population counts, which LLVM turns into VPOPCNTDQ where there is one (RaBitQ, Gao & Long 2024, 3.3.2).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from vstore_kernels.intrinsics import load_u64, popcount
from vstore_kernels.isa import ISA
from vstore_kernels.jit import DISABLE_JIT, Int, part

CHUNK: Final = 64
"""Dimensions of a chunk; narrow codes are padded to a multiple of it."""
N_PLANES: Final = 6
"""Bit planes of a query against 1-bit codes; the last one counts negative."""

_emit: Any = _cgutils
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
# LLVM 22 gave the byte dot product its true operand types.
_BYTES_ARE_BYTES: Final = llvm.llvm_version_info[0] >= 22


def _vector(element: Any, count: int) -> Any:
    return ir.VectorType(element, count)


def _splat(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _sum(builder: Any, vector: Any) -> Any:
    """Return the sum of the lanes of an i32 vector."""
    count = vector.type.count
    while count > 1:
        count //= 2
        low = ir.Constant(_vector(_I32, count), list(range(count)))
        high = ir.Constant(_vector(_I32, count), list(range(count, 2 * count)))
        vector = builder.add(
            builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high)
        )
    return builder.extract_element(vector, _I32(0))


def _wide_products(builder: Any, total: Any, a: Any, b: Any, unsigned: bool) -> Any:
    """Return i32 lanes `total` plus the products of two equal integer vectors, in portable code."""
    wide = _vector(_I32, a.type.count)
    extended = builder.zext(a, wide) if unsigned else builder.sext(a, wide)
    products = builder.mul(extended, builder.sext(b, wide))
    lanes = total.type.count
    for start in range(0, a.type.count, lanes):
        take = ir.Constant(_vector(_I32, lanes), list(range(start, start + lanes)))
        total = builder.add(total, builder.shuffle_vector(products, products, take))
    return total


def _add_words(builder: Any, total: Any, codes: Any, query: Any, isa: str) -> Any:
    """Return i32 lanes `total` plus products of int16 vectors of 16."""
    if isa == "avx512":
        name = "llvm.x86.avx512.vpdpwssd.256"
        kind = _vector(_I16, 16) if _BYTES_ARE_BYTES else _vector(_I32, 8)
        return _call(
            builder, name, total.type, [total, builder.bitcast(codes, kind), builder.bitcast(query, kind)]
        )
    if isa == "avx2":
        return builder.add(total, _call(builder, "llvm.x86.avx2.pmadd.wd", total.type, [codes, query]))
    return _wide_products(builder, total, codes, query, unsigned=False)


def _add_bytes(builder: Any, total: Any, parts: list[tuple[Any, Any]], isa: str) -> Any:
    """Return i32 lanes `total` plus products of small unsigned codes and int8 queries (16 or 32 lanes)."""
    lanes = parts[0][0].type.count
    if isa == "portable":
        for codes, query in parts:
            total = _wide_products(builder, total, codes, query, unsigned=True)
        return total
    if isa == "avx512":
        name = f"llvm.x86.avx512.vpdpbusd.{8 * lanes}"
        kind = _vector(_I8, lanes) if _BYTES_ARE_BYTES else _vector(_I32, lanes // 4)
        for codes, query in parts:
            total = _call(
                builder, name, total.type, [total, builder.bitcast(codes, kind), builder.bitcast(query, kind)]
            )
        return total
    pairs_name = "llvm.x86.avx2.pmadd.ub.sw" if lanes == 32 else "llvm.x86.ssse3.pmadd.ub.sw.128"
    words = _vector(_I16, lanes // 2)
    pairs = None
    for codes, query in parts:
        product = _call(builder, pairs_name, words, [codes, query])
        pairs = product if pairs is None else builder.add(pairs, product)
    sums_name = "llvm.x86.avx2.pmadd.wd" if lanes == 32 else "llvm.x86.sse2.pmadd.wd"
    return builder.add(total, _call(builder, sums_name, total.type, [pairs, _splat(words, 1)]))


def emit_chunks(builder: Any, row: Any, query: Any, n_chunks: Any, bits: int, isa: str) -> Any:
    """Emit the dot product of `n_chunks` chunks of 4- or 2-bit codes; return an i32.

    Args:
        builder: an llvmlite IR builder.
        row: i64, the address of the codes.
        query: i64, the address of int8 [64 * n_chunks].
        n_chunks: i64.
        bits: 4 or 2.
        isa: one of `isa.ISAS`.
    """
    return _sum(builder, emit_sums(builder, row, [query], n_chunks, bits, isa)[0])


def emit_sums(builder: Any, row: Any, queries: list[Any], n_chunks: Any, bits: int, isa: str) -> list[Any]:
    """As `emit_chunks` for several queries, which a row is unpacked for once; return the i32 lanes of each
    product, whose sum it is.
    """
    lanes = CHUNK * bits // 8
    kind, sums = _vector(_I8, lanes), _vector(_I32, lanes // 4)
    accumulators = [_emit.alloca_once(builder, sums) for _ in queries]
    for accumulator in accumulators:
        builder.store(_splat(sums, 0), accumulator)

    def add(first: Any, n: int) -> None:
        codes = [
            (code, builder.add(builder.mul(first, _I64(CHUNK)), _I64(CHUNK * c + lanes * place)))
            for c in range(n)
            for place, code in enumerate(_unpacked(builder, row, builder.add(first, _I64(c)), kind, bits))
        ]
        for query, accumulator in zip(queries, accumulators, strict=True):
            parts = [(code, _load(builder, builder.add(query, at), kind)) for code, at in codes]
            builder.store(_add_bytes(builder, builder.load(accumulator), parts, isa), accumulator)

    if bits == 4 and len(queries) > 1:
        # Two chunks at once: their pairs are widened once (15 * 127 * 8 fits 16 bits).
        with _emit.for_range(builder, builder.lshr(n_chunks, _I64(1))) as loop:
            add(builder.shl(loop.index, _I64(1)), 2)
        odd = builder.and_(n_chunks, _I64(1))
        with builder.if_then(builder.icmp_unsigned("!=", odd, _I64(0))):
            add(builder.sub(n_chunks, _I64(1)), 1)
    else:
        with _emit.for_range(builder, n_chunks) as loop:
            add(loop.index, 1)
    return [builder.load(accumulator) for accumulator in accumulators]


def _unpacked(builder: Any, row: Any, chunk: Any, kind: Any, bits: int) -> list[Any]:
    """Return the codes of a chunk, as vectors of bytes in the order of their dimensions."""
    packed = _load(builder, builder.add(row, builder.mul(chunk, _I64(kind.count))), kind)
    mask, n_parts = _splat(kind, (1 << bits) - 1), 8 // bits
    codes = []
    for place in range(n_parts):
        shifted = packed if place == 0 else builder.lshr(packed, _splat(kind, bits * place))
        codes.append(shifted if place == n_parts - 1 else builder.and_(shifted, mask))
    return codes


def emit_bytes(builder: Any, row: Any, query: Any, d: Any, isa: str) -> Any:
    """Emit the dot product of int8 [d] codes at `row` with int16 [d] at `query`; return an i32.

    Args:
        builder: an llvmlite IR builder.
        row: i64, an address.
        query: i64, an address.
        d: i64.
        isa: one of `isa.ISAS`.
    """
    codes_kind, query_kind = _vector(_I8, 16), _vector(_I16, 16)
    accumulator = _emit.alloca_once(builder, _vector(_I32, 8))
    builder.store(_splat(_vector(_I32, 8), 0), accumulator)
    n_steps = builder.lshr(d, _I64(4))
    with _emit.for_range(builder, n_steps) as loop:
        codes = builder.sext(
            _load(builder, builder.add(row, builder.mul(loop.index, _I64(16))), codes_kind), query_kind
        )
        weights = _load(builder, builder.add(query, builder.mul(loop.index, _I64(32))), query_kind)
        builder.store(_add_words(builder, builder.load(accumulator), codes, weights, isa), accumulator)
    total = _emit.alloca_once_value(builder, _sum(builder, builder.load(accumulator)))
    with _emit.for_range_slice(builder, builder.shl(n_steps, _I64(4)), d, _I64(1)) as (index, _):
        code = builder.sext(builder.load(builder.inttoptr(builder.add(row, index), _I8.as_pointer())), _I32)
        at = builder.add(query, builder.shl(index, _I64(1)))
        weight = builder.sext(builder.load(builder.inttoptr(at, _I16.as_pointer()), align=1), _I32)
        builder.store(builder.add(builder.load(total), builder.mul(code, weight)), total)
    return builder.load(total)


def _python_dot_bytes(row: Any, query: Any, d: Any) -> int:
    codes = (ctypes.c_int8 * int(d)).from_address(int(row))
    weights = (ctypes.c_int16 * int(d)).from_address(int(query))
    return sum(code * weight for code, weight in zip(codes, weights, strict=True))


def _python_dot_chunks(bits: int) -> Callable[[Any, Any, Any], int]:
    def dot(row: Any, query: Any, n_chunks: Any) -> int:
        lanes = CHUNK * bits // 8
        codes = (ctypes.c_uint8 * (lanes * int(n_chunks))).from_address(int(row))
        weights = (ctypes.c_int8 * (CHUNK * int(n_chunks))).from_address(int(query))
        total = 0
        for at, weight in enumerate(weights):
            chunk, within = divmod(at, CHUNK)
            part, byte = divmod(within, lanes)
            total += (codes[chunk * lanes + byte] >> (bits * part) & ((1 << bits) - 1)) * weight
        return total

    return dot


if DISABLE_JIT:
    dot_bytes: Any = _python_dot_bytes
    dot_nibbles: Any = _python_dot_chunks(4)
    dot_pairs: Any = _python_dot_chunks(2)
else:

    @intrinsic
    def dot_bytes(typingctx: Any, row: Any, query: Any, d: Any) -> Any:
        """Return, as int32, the dot product of int8 [d] codes at `row` with int16 [d] at `query`."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit_bytes(builder, args[0], args[1], args[2], ISA)

        return types.int32(types.int64, types.int64, types.int64), codegen

    @intrinsic
    def dot_nibbles(typingctx: Any, row: Any, query: Any, n_chunks: Any) -> Any:
        """Return, as int32, the dot product of chunks of 4-bit codes at `row` with int8 at `query`."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit_chunks(builder, args[0], args[1], args[2], 4, ISA)

        return types.int32(types.int64, types.int64, types.int64), codegen

    @intrinsic
    def dot_pairs(typingctx: Any, row: Any, query: Any, n_chunks: Any) -> Any:
        """Return, as int32, the dot product of chunks of 2-bit codes at `row` with int8 at `query`."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit_chunks(builder, args[0], args[1], args[2], 2, ISA)

        return types.int32(types.int64, types.int64, types.int64), codegen


@part()
def dot_bits(row: Int, query: Int, n_chunks: Int) -> Int:
    """Return the dot product of chunks of 1-bit codes at `row` with the planes at `query`."""
    total = 0
    for chunk in range(n_chunks):
        word = load_u64(row, 8 * chunk)
        start = 8 * N_PLANES * chunk
        for plane in range(N_PLANES - 1):
            total += popcount(word & load_u64(query, start + 8 * plane)) << plane
        total -= popcount(word & load_u64(query, start + 8 * (N_PLANES - 1))) << (N_PLANES - 1)
    return total
