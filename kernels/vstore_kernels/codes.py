"""Scalar-quantized codes and distance estimates from them.

A component is coded as a signed byte between the least and greatest value of its dimension, so nothing is
ever clipped in the rows that trained the codes: x ~ center + scale * c. Every metric's estimate then has one
form,

    estimate_i = base + bias_i + <weights, c_i>

where `base` and `weights` depend on the query only and `bias_i` (squared L2 only) is stored beside the row's
codes: |q - x|^2 = |q - center|^2 + sum (scale c)^2 - 2 sum (q - center) scale c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.intrinsics import load_f32, load_i8, prefetch
from vstore_kernels.jit import Int, sum_kernel
from vstore_kernels.layout import METRICS

BITS: Final = (8,)
_LEVELS: Final = 127
_CHUNK_ROWS: Final = 16_384
_AHEAD: Final = 4
_L2: Final = METRICS.index("l2")
_COSINE: Final = METRICS.index("cosine")


def row_bytes(d: int, metric: str, bits: int = 8) -> int:
    """Return the bytes of one encoded row of `d` dimensions: its codes, then the float32 bias under l2.

    Raises:
        ValueError: bits that have no code, or an unknown metric.
    """
    gate.metric(metric)
    if bits not in BITS:
        raise ValueError(f"bits is {bits}; codes exist for {', '.join(map(str, BITS))}")
    return d + 4 if metric == "l2" else d


@dataclass(frozen=True, slots=True, eq=False)
class CodeParams:
    """What it takes to encode a row and to read codes; one a shard.

    Raises:
        TypeError: arrays that are not float32.
        ValueError: unequal lengths, values that are not finite, a negative scale, unknown bits or metric.
    """

    bits: int
    metric: str
    center: NDArray[np.float32]
    """float32 [d]: the middle of each dimension's range."""
    scale: NDArray[np.float32]
    """float32 [d]: the step of each dimension; 0 where it is constant."""

    def __post_init__(self) -> None:
        gate.array("center", self.center, np.float32, 1)
        gate.array("scale", self.scale, np.float32, 1)
        row_bytes(self.center.size, self.metric, self.bits)
        if self.center.size != self.scale.size or self.center.size == 0:
            raise ValueError(
                f"center has {self.center.size} and scale {self.scale.size} dimensions; "
                "they must be equal, and at least 1"
            )
        if not (np.isfinite(self.center).all() and np.isfinite(self.scale).all() and (self.scale >= 0).all()):
            raise ValueError("center and scale must be finite, and scale not negative")

    @property
    def d(self) -> int:
        """Dimensions of a vector."""
        return self.center.size

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row."""
        return row_bytes(self.d, self.metric, self.bits)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays to store; `bits` and `metric` are stored beside them."""
        return {"center": self.center, "scale": self.scale}

    @classmethod
    def from_arrays(cls, bits: int, metric: str, arrays: Mapping[str, NDArray[Any]]) -> CodeParams:
        """Return the params of what `to_arrays` gave.

        Raises:
            ValueError: a missing array, or one that breaks the class's rules.
        """
        missing = {"center", "scale"} - set(arrays)
        if missing:
            raise ValueError(f"the code parameters lack {', '.join(sorted(missing))}")
        center, scale = (np.ascontiguousarray(arrays[name]) for name in ("center", "scale"))
        return cls(bits, metric, center, scale)


@dataclass(frozen=True, slots=True, eq=False)
class QueryCode:
    """A query made ready for the kernels; opaque to callers."""

    weights: NDArray[np.float32]
    """float32 [d]."""
    base: float
    bias_at: int
    """Byte offset of a row's float32 bias, or 0 where rows have none."""
    bits: int
    row_bytes: int
    error_at_zero: float
    """Standard deviation of an estimate at distance 0."""
    error_growth: float
    """Added variance of an estimate per unit of distance."""


def train_codes(vectors: NDArray[np.float32], metric: str, bits: int = 8) -> CodeParams:
    """Return the code parameters for `vectors` (float32 [n, d], n >= 1; under cosine they are normalised
    here).

    Raises:
        TypeError: not float32.
        ValueError: no rows, values that are not finite, unknown bits or metric.
    """
    gate.array("vectors", vectors, np.float32, 2)
    n, d = vectors.shape
    row_bytes(d, metric, bits)
    if n == 0 or d == 0:
        raise ValueError(f"vectors has shape ({n}, {d}); codes need at least one row and one dimension")
    low = np.full(d, np.inf, np.float64)
    high = np.full(d, -np.inf, np.float64)
    for start in range(0, n, _CHUNK_ROWS):
        rows = _normalised(vectors[start : start + _CHUNK_ROWS], metric)
        np.minimum(low, rows.min(axis=0), out=low)
        np.maximum(high, rows.max(axis=0), out=high)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("vectors holds NaN or infinity; every component must be finite")
    center = ((low + high) / 2).astype(np.float32)
    scale = ((high - low) / (2 * _LEVELS)).astype(np.float32)
    return CodeParams(bits, metric, center, scale)


def encode(vectors: NDArray[np.float32], params: CodeParams) -> NDArray[np.uint8]:
    """Return the encoded rows, uint8 [n, params.row_bytes], of `vectors` (float32 [n, d], finite).

    A component outside the trained range takes the nearest code.

    Raises:
        TypeError: not float32.
        ValueError: another number of dimensions than the params'.
    """
    gate.array("vectors", vectors, np.float32, 2)
    if vectors.shape[1] != params.d:
        raise ValueError(f"vectors has {vectors.shape[1]} dimensions; the codes have {params.d}")
    out = np.empty((vectors.shape[0], params.row_bytes), np.uint8)
    inverse = np.zeros(params.d, np.float32)
    np.divide(np.float32(1), params.scale, out=inverse, where=params.scale > 0)
    for start in range(0, vectors.shape[0], _CHUNK_ROWS):
        rows = _normalised(vectors[start : start + _CHUNK_ROWS], params.metric)
        part = np.clip(np.rint((rows - params.center) * inverse), -_LEVELS, _LEVELS)
        out[start : start + len(rows), : params.d] = part.astype(np.int8).view(np.uint8)
        if params.metric == "l2":
            part *= params.scale
            bias = np.einsum("ij,ij->i", part, part).astype("<f4")
            out[start : start + len(rows), params.d :] = bias.view(np.uint8).reshape(-1, 4)
    return out


def prepare_query(query: NDArray[np.float32], params: CodeParams) -> QueryCode:
    """Return `query` (float32 [d], raw) made ready for estimates against codes of `params`.

    Raises:
        TypeError: not float32.
        ValueError: another number of dimensions than the params'.
    """
    gate.array("query", query, np.float32, 1)
    if query.size != params.d:
        raise ValueError(f"query has {query.size} dimensions; the codes have {params.d}")
    weights = np.empty(params.d, np.float32)
    base, at_zero, growth = _prepare(
        query, params.center, params.scale, METRICS.index(params.metric), weights
    )
    bias_at = params.d if params.metric == "l2" else 0
    return QueryCode(weights, base, bias_at, params.bits, params.row_bytes, at_zero, growth)


def estimate(
    query_code: QueryCode, codes: NDArray[np.uint8], node_ids: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Return estimated distances (float32 [m]) to rows of `codes` (uint8 [n, row_bytes]), all or `node_ids`'
    [m].

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or an id out of range.
    """
    gate.array("codes", codes, np.uint8, 2)
    check_row_bytes(query_code, codes.shape[1])
    if node_ids is None:
        ids = np.arange(codes.shape[0], dtype=np.int32)
    else:
        ids = gate.node_ids("node_ids", node_ids, codes.shape[0])
    out = np.empty(ids.size, np.float32)
    _estimate(codes, query_code.weights, np.float32(query_code.base), query_code.bias_at, ids, out)
    return out


def error_std(query_code: QueryCode, distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one standard deviation of (estimate - exact), float32 [m], for rows at `distances` (float32
    [m]).

    The model is uniform, independent rounding errors; under l2 the error grows with the distance.
    """
    nearness = np.maximum(distances, 0)
    return np.sqrt(query_code.error_at_zero**2 + query_code.error_growth * nearness).astype(np.float32)


def check_row_bytes(query_code: QueryCode, value: int) -> None:
    """Raise ValueError unless `value` is the row length that `query_code` reads."""
    if value != query_code.row_bytes:
        raise ValueError(
            f"codes have {value} bytes a row; this query reads {query_code.row_bytes}: "
            "prepare it with the parameters that encoded them"
        )


def _normalised(rows: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    if metric != "cosine":
        return rows
    norms = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    out: NDArray[np.float32] = np.divide(rows, norms, dtype=np.float32)
    return out


@sum_kernel()
def _prepare(
    query: NDArray[np.float32],
    center: NDArray[np.float32],
    scale: NDArray[np.float32],
    metric: Int,
    weights: NDArray[np.float32],
) -> tuple[float, float, float]:
    """Write the weights; return (base, error at distance 0, added variance per unit of distance)."""
    d = query.shape[0]
    shrink = np.float32(1)
    if metric == _COSINE:
        square = np.float32(0)
        for j in range(d):
            square += query[j] * query[j]
        if square > np.float32(0):
            shrink = np.float32(1) / np.float32(np.sqrt(square))
    base = np.float32(0)
    step_square = np.float32(0)
    if metric == _L2:
        step_fourth = np.float32(0)
        for j in range(d):
            shifted = query[j] - center[j]
            weights[j] = np.float32(-2) * shifted * scale[j]
            base += shifted * shifted
            step = scale[j] * scale[j]
            step_square += step
            step_fourth += step * step
        # The gap between query and row is taken to spread over the dimensions as their ranges do.
        growth = step_fourth / step_square / 3.0 if step_square > np.float32(0) else 0.0
        return float(base), float(step_square) / 12.0, float(growth)
    for j in range(d):
        component = query[j] * shrink
        weights[j] = -component * scale[j]
        base -= component * center[j]
        step_square += weights[j] * weights[j]
    if metric == _COSINE:
        base += np.float32(1)
    # A uniform rounding error over one step has variance step^2 / 12.
    return float(base), math.sqrt(step_square / 12.0), 0.0


@sum_kernel()
def score(address: Int, weights: NDArray[np.float32], base: np.float32, bias_at: Int) -> np.float32:
    """Return the estimate for the row at `address`; weights float32 [d]; for use inside kernels."""
    total = np.float32(0)
    for j in range(weights.shape[0]):
        total += weights[j] * np.float32(load_i8(address, j))
    if bias_at > 0:
        total += load_f32(address, bias_at)
    return total + base


@sum_kernel()
def prefetch_row(address: Int, n_bytes: Int) -> None:
    """Prefetch the row at `address`, at most its first 1,024 bytes; for use inside kernels."""
    for line in range(0, min(n_bytes, 1024), 64):
        prefetch(address, line)


@sum_kernel()
def _estimate(
    codes: NDArray[np.uint8],
    weights: NDArray[np.float32],
    base: np.float32,
    bias_at: Int,
    node_ids: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None:
    start = np.int64(codes.ctypes.data)
    n_bytes = codes.shape[1]
    for t in range(out.shape[0]):
        if t + _AHEAD < out.shape[0]:
            prefetch_row(start + np.int64(node_ids[t + _AHEAD]) * n_bytes, n_bytes)
        out[t] = score(start + np.int64(node_ids[t]) * n_bytes, weights, base, bias_at)
