"""Codes of 8 bits: each component a signed byte between the least and greatest value of its dimension.

Nothing is ever clipped in the rows that trained the codes: x ~ center + scale * c. With weights that depend
on the query only, and a bias beside the codes under squared L2 only,

    |q - x|^2 ~ |q - center|^2 + sum (scale c)^2 - 2 sum (q - center) scale c
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.distance import unit_scale
from vstore_kernels.intrinsics import store_i16
from vstore_kernels.jit import Int, part
from vstore_kernels.layout import F_AT_ZERO, F_BASE, F_GROWTH, F_SCALE, METRICS
from vstore_kernels.sums import gap_sum, product_sum, row_squares

LEVELS: Final = 127
_L2: Final = METRICS.index("l2")
_COSINE: Final = METRICS.index("cosine")
_MAX_WEIGHT: Final = 32_767
_MAX_SUM: Final = (1 << 31) - 1


def encode_rows(
    rows: NDArray[np.float32],
    center: NDArray[np.float32],
    scale: NDArray[np.float32],
    with_bias: bool,
    out: NDArray[np.uint8],
) -> None:
    """Encode rows.

    Args:
        rows: float32 [n, d].
        center: float32 [d].
        scale: float32 [d]; a component beyond its range takes the nearest code.
        with_bias: whether a bias follows the codes.
        out: uint8 [n, d, or d + 4 with a bias], mutated.
    """
    d = center.size
    inverse = np.zeros(d, np.float32)
    np.divide(np.float32(1), scale, out=inverse, where=scale > 0)
    part = np.clip(np.rint((rows - center) * inverse), -LEVELS, LEVELS)
    out[:, :d] = part.astype(np.int8).view(np.uint8)
    if with_bias:
        part *= scale
        bias = row_squares(part).astype("<f4")
        out[:, d:] = bias.view(np.uint8).reshape(-1, 4)


@part()
def _pack_words(weights: NDArray[np.float32], packed: NDArray[np.uint64]) -> np.float32:
    """Write the weights as int16, as fine as sums in 32 bits allow; return their step."""
    d = weights.shape[0]
    most = np.float32(0)
    for j in range(d):
        most = max(most, np.float32(abs(weights[j])))
    levels = np.float32(min(_MAX_WEIGHT, _MAX_SUM // (LEVELS * d)))
    step = np.float32(0)
    inverse = np.float32(0)
    if most > np.float32(0):
        # A power of two, so that weights that are whole numbers stay exact.
        mantissa, exponent = math.frexp(most / levels)
        step = np.float32(math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent))
        inverse = np.float32(1) / step
    address = np.int64(packed.ctypes.data)
    for j in range(d):
        store_i16(address, 2 * j, np.int16(np.int32(np.rint(weights[j] * inverse))))
    return step


@part()
def prepare_affine(
    query: NDArray[np.float32],
    center: NDArray[np.float32],
    scale: NDArray[np.float32],
    inflation: np.float32,
    metric: Int,
    weights: NDArray[np.float32],
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
) -> None:
    """Make a query ready for 8-bit codes.

    Args:
        query: float32 [d], raw.
        center: float32 [d].
        scale: float32 [d].
        inflation: how much larger than the model's the errors are.
        metric: position in METRICS.
        weights: float32 [d], mutated.
        packed: uint64 [>= d / 4], mutated: the weights as int16, as fine as sums in 32 bits allow.
        factors: float32 [N_FACTORS], mutated.
    """
    d = query.shape[0]
    own, middle = np.int64(query.ctypes.data), np.int64(center.ctypes.data)
    steps, held = np.int64(scale.ctypes.data), np.int64(weights.ctypes.data)
    step_fourth = np.float32(0)
    if metric == _L2:
        for j in range(d):
            weights[j] = scale[j] * scale[j]
        step_square = np.float32(product_sum(steps, steps, d))
        step_fourth = np.float32(product_sum(held, held, d))
        for j in range(d):
            weights[j] = np.float32(-2) * (query[j] - center[j]) * scale[j]
        base = np.float32(gap_sum(own, middle, d))
    else:
        shrink = unit_scale(query) if metric == _COSINE else np.float32(1)
        for j in range(d):
            weights[j] = -(query[j] * shrink) * scale[j]
        step_square = np.float32(product_sum(held, held, d))
        base = -shrink * np.float32(product_sum(own, middle, d))
        if metric == _COSINE:
            base += np.float32(1)
    factors[F_SCALE] = _pack_words(weights, packed)
    factors[F_BASE] = base
    # A uniform rounding error over one step has variance step^2 / 12. Under l2 the gap between query and row
    # is taken to spread over the dimensions as their ranges do, and adds to it.
    factors[F_AT_ZERO] = inflation * np.float32(np.sqrt(step_square / np.float32(12)))
    factors[F_GROWTH] = np.float32(0)
    if metric == _L2:
        factors[F_AT_ZERO] = inflation * step_square / np.float32(12)
        if step_square > np.float32(0):
            factors[F_GROWTH] = inflation * inflation * step_fourth / step_square / np.float32(3)
