"""The estimate of a row's distance from its codes, inside kernels; `codes` says what the codes mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.dots import CHUNK, dot_bits, dot_bytes, dot_nibbles, dot_pairs
from vstore_kernels.intrinsics import load_f32, prefetch, trailing_zeros
from vstore_kernels.jit import Int, inner, part
from vstore_kernels.layout import (
    F_AT_ZERO,
    F_BASE,
    F_BIAS,
    F_GROWTH,
    F_SCALE,
    F_SHIFT,
    F_STEP_ERROR,
)

_LINE = 64
_MAX_PREFETCH = 1024


class QueryView(NamedTuple):
    """What a `codes.QueryCode` holds; read only."""

    packed: NDArray[np.uint64]
    """uint64, the quantized query as `dots` reads it."""
    factors: NDArray[np.float32]
    """float32 [N_FACTORS]."""
    bits: Int
    width: Int
    """Dimensions of the codes, padding included."""
    bias_at: Int
    """Byte offset of a row's bias, or 0 where rows have none."""


@inner()
def score(address: Int, query: QueryView) -> np.float32:
    """Return the estimate for the row at `address`."""
    packed = np.int64(query.packed.ctypes.data)
    factors = query.factors
    if query.bits == 8:
        distance = np.float32(
            factors[F_BASE] + factors[F_SCALE] * np.float32(_bytes(address, packed, query.width))
        )
        if query.bias_at > 0:
            distance += load_f32(address, query.bias_at)
        return distance
    if query.bits == 4:
        raw = np.float32(_nibbles(address, packed, query.width // CHUNK))
    elif query.bits == 2:
        raw = np.float32(_pairs(address, packed, query.width // CHUNK))
    else:
        raw = np.float32(dot_bits(address, packed, query.width // CHUNK))
    return np.float32(narrow_score(address, raw, query))


@inner()
def narrow_score(address: Int, raw: np.float32, query: QueryView) -> np.float32:
    """Return the estimate for the row of narrow codes at `address`, whose product with the query is `raw`."""
    factors = query.factors
    step = load_f32(address, query.bias_at + 4)
    lean = factors[F_BIAS] * load_f32(address, query.bias_at)
    return np.float32(factors[F_BASE] + lean + step * (factors[F_SCALE] * raw + factors[F_SHIFT]))


@inner()
def spread(address: Int, estimate: np.float32, query: QueryView) -> np.float32:
    """Return one standard deviation of the error of `estimate`, `score`'s of the row at `address`."""
    factors = query.factors
    if query.bits == 8:
        nearness = max(estimate, np.float32(0))
        return np.float32(np.sqrt(factors[F_AT_ZERO] * factors[F_AT_ZERO] + factors[F_GROWTH] * nearness))
    return np.float32(abs(load_f32(address, query.bias_at + 4)) * factors[F_STEP_ERROR])


@inner()
def prefetch_row(address: Int, n_bytes: Int) -> None:
    """Prefetch the row at `address`, at most its first 1,024 bytes."""
    for line in range(0, min(n_bytes, _MAX_PREFETCH), _LINE):
        prefetch(address, line)


@inner()
def prefetch_passing(
    word: np.uint64, first: Int, code_table: NDArray[np.int64], block_shift: Int, row_bytes: Int
) -> None:
    """Prefetch the rows of the ones in a bitmap's word, whose lowest bit is node `first`.

    They lie close together: asked for at once, they come at once.
    """
    mask = (np.int64(1) << block_shift) - 1
    while word != np.uint64(0):
        node = first + trailing_zeros(word)
        word &= word - np.uint64(1)
        prefetch_row(code_table[node >> block_shift] + (node & mask) * row_bytes, row_bytes)


@part()
def _nibbles(row: Int, query: Int, n_chunks: Int) -> Int:
    return np.int64(dot_nibbles(row, query, n_chunks))


@part()
def _pairs(row: Int, query: Int, n_chunks: Int) -> Int:
    return np.int64(dot_pairs(row, query, n_chunks))


@part()
def _bytes(row: Int, query: Int, d: Int) -> Int:
    return np.int64(dot_bytes(row, query, d))
