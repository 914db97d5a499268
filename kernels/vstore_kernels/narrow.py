"""Codes of 4, 2 and 1 bits: rotated residuals on a uniform grid of the row's own step.

RaBitQ (Gao & Long 2024, SIGMOD) and its extension to more bits (Gao et al. 2025, SIGMOD). A row is taken
relative to the mean of all, rotated, and each component rounded to one of 2^bits levels; the grid's extent is
the one, of a few, that leaves the least angle between row and code. With u the levels centred on zero and r
the residual, <q, r> is estimated without bias as

    <q, u> * |r|^2 / <u, r>

so a row carries its codes, a float32 bias and that float32 step (times the metric's sign and factor). What is
linear in the mean is exact, since it is kept in the bias: under l2 |r|^2, else -<mean, r>.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.distance import unit_scale
from vstore_kernels.dots import CHUNK, N_PLANES
from vstore_kernels.intrinsics import load_u8, store_f32, store_i8
from vstore_kernels.jit import Int, finite_part, kernel, part
from vstore_kernels.layout import (
    F_BASE,
    F_BIAS,
    F_SCALE,
    F_SHIFT,
    F_STEP_ERROR,
    METRICS,
)
from vstore_kernels.rotation import rotate_row
from vstore_kernels.sums import gap_sum, product_sum, scaled_gap_sum

BITS: Final = (4, 2, 1)
FACTOR_BYTES: Final = 8
"""Bytes after a row's codes: bias and step."""

_N_EXTENTS: Final = 12
_L2: Final = METRICS.index("l2")
_COSINE: Final = METRICS.index("cosine")
_QUERY_LEVELS: Final = 127
_PLANE_LEVELS: Final = 31


def code_bytes(width: int, bits: int) -> int:
    """Return the bytes of the codes of a row of `width` rotated dimensions."""
    return width * bits // 8


@part()
def _level(value: np.float32, inverse: np.float32, half: np.float32, top: np.float32) -> np.float32:
    return min(max(np.float32(np.floor(value * inverse)) + half, np.float32(0)), top)


@part()
def _best_step(
    row: NDArray[np.float32], rms: np.float32, bits: Int, units: NDArray[np.float32]
) -> np.float32:
    """Return the grid step, of _N_EXTENTS, that leaves the least angle between `row` and its code.

    `units` (float32, as long as the row) is mutated.
    """
    levels = np.float32(1 << bits)
    half = levels * np.float32(0.5)
    middle = half - np.float32(0.5)
    least = np.float32(1.2) if bits == 2 else np.float32(1.8)
    most = np.float32(2.8) if bits == 2 else np.float32(3.6)
    best = np.float32(-1)
    chosen = np.float32(1)
    width = row.shape[0]
    own, held = np.int64(row.ctypes.data), np.int64(units.ctypes.data)
    for t in range(_N_EXTENTS):
        extent = least + (most - least) * np.float32(t) / np.float32(_N_EXTENTS - 1)
        step = np.float32(2) * extent * rms / levels
        inverse = np.float32(1) / step
        for j in range(width):
            units[j] = _level(row[j], inverse, half, levels - np.float32(1)) - middle
        inner = np.float32(product_sum(held, own, width))
        cosine = inner / np.float32(np.sqrt(np.float32(product_sum(held, held, width))))
        if cosine > best:
            best = cosine
            chosen = step
    return chosen


@kernel()
def encode_rows(
    rows: NDArray[np.float32],
    mean: NDArray[np.float32],
    metric: Int,
    bits: Int,
    out: NDArray[np.uint8],
    units: NDArray[np.float32],
) -> None:
    """Encode residuals.

    Args:
        rows: float32 [n, width], rotated residuals.
        mean: float32 [width], the rotated mean.
        metric: position in METRICS.
        bits: 4, 2 or 1.
        out: uint8 [n, code_bytes + FACTOR_BYTES] of zeros, mutated.
        units: float32 [width], mutated.
    """
    width = rows.shape[1]
    held, average = np.int64(units.ctypes.data), np.int64(mean.ctypes.data)
    lanes = CHUNK * bits // 8
    levels = np.float32(1 << bits)
    half = levels * np.float32(0.5)
    middle = half - np.float32(0.5)
    for i in range(rows.shape[0]):
        row = rows[i]
        own = np.int64(row.ctypes.data)
        square = np.float32(product_sum(own, own, width))
        lean = np.float32(product_sum(own, average, width))
        address = np.int64(out.ctypes.data) + i * out.shape[1]
        inner = np.float32(0)
        if square > np.float32(0):
            rms = np.float32(np.sqrt(square / np.float32(width)))
            step = rms if bits == 1 else _best_step(row, rms, bits, units)
            inverse = np.float32(1) / step
            for j in range(width):
                u = _level(row[j], inverse, half, levels - np.float32(1))
                units[j] = u - middle
                chunk, within = j // CHUNK, j % CHUNK
                byte = within // 8 if bits == 1 else within % lanes
                shift = within % 8 if bits == 1 else bits * (within // lanes)
                at = chunk * lanes + byte
                store_i8(address, at, np.int8(load_u8(address, at) | (np.int64(u) << shift)))
            inner = np.float32(product_sum(held, own, width))
        codes = width * bits // 8
        factor = square / inner if inner > np.float32(0) else np.float32(0)
        store_f32(address, codes, square if metric == _L2 else -lean)
        store_f32(address, codes + 4, np.float32(-2) * factor if metric == _L2 else -factor)


@kernel()
def relative_errors(
    rows: NDArray[np.float32],
    encoded: NDArray[np.uint8],
    metric: Int,
    bits: Int,
    out: NDArray[np.float32],
    units: NDArray[np.float32],
) -> None:
    """Write each row's root mean square error of a component, in units of its step, to `out` (float32 [n]).

    Args:
        rows: float32 [n, width], rotated residuals.
        encoded: uint8 [n, row_bytes], of those rows.
        metric: position in METRICS.
        bits: 4, 2 or 1.
        out: mutated.
        units: float32 [width], mutated.
    """
    width = rows.shape[1]
    held = np.int64(units.ctypes.data)
    lanes = CHUNK * bits // 8
    middle = np.float32((1 << bits) - 1) * np.float32(0.5)
    for i in range(rows.shape[0]):
        address = np.int64(encoded.ctypes.data) + i * encoded.shape[1]
        step = np.float32(0)
        own = np.int64(rows.ctypes.data) + i * width * 4
        for j in range(width):
            units[j] = np.float32(_code(address, j, bits, lanes)) - middle
        inner = np.float32(product_sum(held, own, width))
        square = np.float32(product_sum(own, own, width))
        if inner > np.float32(0):
            step = square / inner
        error = np.float32(scaled_gap_sum(held, step, own, width))
        out[i] = (
            np.float32(np.sqrt(error / np.float32(width))) / step if step > np.float32(0) else np.float32(0)
        )


@part()
def _code(address: Int, j: Int, bits: Int, lanes: Int) -> Int:
    chunk, within = j // CHUNK, j % CHUNK
    byte = within // 8 if bits == 1 else within % lanes
    shift = within % 8 if bits == 1 else bits * (within // lanes)
    return (np.int64(load_u8(address, chunk * lanes + byte)) >> shift) & ((1 << bits) - 1)


@finite_part()
def _largest(row: NDArray[np.float32]) -> np.float32:
    most = np.float32(0)
    for j in range(row.shape[0]):
        most = max(most, np.float32(abs(row[j])))
    return most


@part()
def _pack_planes(row: NDArray[np.float32], inverse: np.float32, packed: NDArray[np.uint64]) -> Int:
    """Write the levels of `row` as bit planes; return their sum."""
    total = np.int64(0)
    for word in range(row.shape[0] // CHUNK * N_PLANES):
        packed[word] = np.uint64(0)
    for j in range(row.shape[0]):
        level = np.int64(np.rint(row[j] * inverse))
        total += level
        start = j // CHUNK * N_PLANES
        for plane in range(N_PLANES):
            packed[start + plane] |= np.uint64((level >> plane) & 1) << np.uint64(j % CHUNK)
    return total


@part()
def _pack_bytes(row: NDArray[np.float32], inverse: np.float32, packed: NDArray[np.uint64]) -> Int:
    """Write the levels of `row` as int8; return their sum."""
    address = np.int64(packed.ctypes.data)
    # int32: wider ones keep the loop from becoming SIMD.
    total = np.int32(0)
    for j in range(row.shape[0]):
        level = np.int32(np.rint(row[j] * inverse))
        total += level
        store_i8(address, j, np.int8(level))
    return np.int64(total)


@part()
def prepare_narrow(
    query: NDArray[np.float32],
    center: NDArray[np.float32],
    error: np.float32,
    metric: Int,
    bits: Int,
    flips: NDArray[np.float32],
    rotated: NDArray[np.float32],
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
) -> None:
    """Make a query ready for codes of 4, 2 or 1 bits.

    Args:
        query: float32 [d], raw.
        center: float32 [d], the mean.
        error: root mean square error of a component, in units of a row's step.
        metric: position in METRICS.
        bits: 4, 2 or 1.
        flips: from `rotation.signs`.
        rotated: float32 [width], mutated.
        packed: uint64, large enough for the query of `dots`, mutated.
        factors: float32 [N_FACTORS], mutated.
    """
    d, width = query.shape[0], rotated.shape[0]
    own, middle, held = (
        np.int64(query.ctypes.data),
        np.int64(center.ctypes.data),
        np.int64(rotated.ctypes.data),
    )
    lean = np.float32(1)
    if metric == _L2:
        for j in range(d):
            rotated[j] = query[j] - center[j]
        base = np.float32(gap_sum(own, middle, d))
    else:
        shrink = unit_scale(query) if metric == _COSINE else np.float32(1)
        inner = shrink * np.float32(product_sum(own, middle, d))
        square = np.float32(product_sum(middle, middle, d))
        # The part of the query along the mean meets the bias, which is exact; only the rest meets codes.
        lean = inner / square if square > np.float32(0) else np.float32(0)
        for j in range(d):
            rotated[j] = query[j] * shrink - lean * center[j]
        base = np.float32(1) - inner if metric == _COSINE else -inner
    for j in range(d, width):
        rotated[j] = np.float32(0)
    rotate_row(rotated, flips)
    most = _largest(rotated)
    length = np.float32(product_sum(held, held, width))
    levels = np.float32(_PLANE_LEVELS if bits == 1 else _QUERY_LEVELS)
    scale = most / levels
    inverse = levels / most if most > np.float32(0) else np.float32(0)
    total = _pack_planes(rotated, inverse, packed) if bits == 1 else _pack_bytes(rotated, inverse, packed)
    factors[F_BASE] = base
    factors[F_SCALE] = scale
    factors[F_SHIFT] = -np.float32((1 << bits) - 1) * np.float32(0.5) * scale * np.float32(total)
    factors[F_BIAS] = lean
    factors[F_STEP_ERROR] = error * np.float32(np.sqrt(length))
