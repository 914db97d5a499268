"""Quantized codes of vectors and distance estimates from them, at 8, 4, 2 or 1 bits a component.

`affine` says what 8-bit codes are, `narrow` the others. Every metric and width has one form of estimate,

    base + lean * bias_i + step_i * (scale * <query, codes_i> + shift)

with an exact dot product of integers, so estimates do not depend on the instruction set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import affine, gate, narrow
from vstore_kernels.distance import exact_distances
from vstore_kernels.dots import CHUNK, N_PLANES
from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.layout import METRICS, N_FACTORS
from vstore_kernels.rotation import padded, rotate, signs
from vstore_kernels.scoring import QueryView, prefetch_row, score, spread
from vstore_kernels.sums import row_squares

BITS: Final = (8, *narrow.BITS)
_CHUNK_ROWS: Final = 16_384
_ERROR_ROWS: Final = 4_096
_INFLATION_ROWS: Final = 1_024
_INFLATION_QUERIES: Final = 64
_AHEAD: Final = 4


def row_bytes(d: int, metric: str, bits: int = 8) -> int:
    """Return the bytes of one encoded row of `d` dimensions: its codes, then its float32 factors.

    Raises:
        ValueError: bits that have no code, or an unknown metric.
    """
    gate.metric(metric)
    if bits not in BITS:
        raise ValueError(f"bits is {bits}; codes exist for {', '.join(map(str, BITS))}")
    if bits == 8:
        return d + 4 if metric == "l2" else d
    return narrow.code_bytes(padded(d), bits) + narrow.FACTOR_BYTES


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
    """float32 [d]: the middle of each dimension's range at 8 bits, else the mean."""
    scale: NDArray[np.float32]
    """8 bits: float32 [d], the step of each dimension, 0 where it is constant. Else float32 [1]: the root
    mean square error of a component, in units of a row's own step."""
    inflation: float = 1.0
    """How many times larger than the model's the errors were when the codes were trained; 8 bits only, whose
    model (independent rounding) data on a grid of its own breaks."""

    def __post_init__(self) -> None:
        gate.array("center", self.center, np.float32, 1)
        gate.array("scale", self.scale, np.float32, 1)
        row_bytes(self.center.size, self.metric, self.bits)
        expected = self.center.size if self.bits == 8 else 1
        if self.scale.size != expected or self.center.size == 0:
            raise ValueError(
                f"center has {self.center.size} and scale {self.scale.size} dimensions; "
                f"{self.bits}-bit codes need at least 1 and {expected}"
            )
        if not (np.isfinite(self.center).all() and np.isfinite(self.scale).all() and (self.scale >= 0).all()):
            raise ValueError("center and scale must be finite, and scale not negative")
        if not 1 <= self.inflation < np.inf:
            raise ValueError(f"inflation is {self.inflation}; it must be finite and at least 1")

    @property
    def d(self) -> int:
        """Dimensions of a vector."""
        return self.center.size

    @property
    def width(self) -> int:
        """Dimensions of the codes, padding included."""
        return self.d if self.bits == 8 else padded(self.d)

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row."""
        return row_bytes(self.d, self.metric, self.bits)

    @property
    def bias_at(self) -> int:
        """Byte offset of a row's float32 bias, or 0 where rows have none."""
        if self.bits == 8:
            return self.d if self.metric == "l2" else 0
        return narrow.code_bytes(self.width, self.bits)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays to store; `bits` and `metric` are stored beside them."""
        arrays = {"center": self.center, "scale": self.scale}
        if self.bits == 8:
            arrays["inflation"] = np.array([self.inflation], np.float32)
        return arrays

    @classmethod
    def from_arrays(cls, bits: int, metric: str, arrays: Mapping[str, NDArray[Any]]) -> CodeParams:
        """Return the params of what `to_arrays` gave; without an inflation, which older shards lack, 1.

        Raises:
            ValueError: a missing array, or one that breaks the class's rules.
        """
        missing = {"center", "scale"} - set(arrays)
        if missing:
            raise ValueError(f"the code parameters lack {', '.join(sorted(missing))}")
        center, scale = (np.ascontiguousarray(arrays[name]) for name in ("center", "scale"))
        inflation = arrays.get("inflation", np.ones(1, np.float32))
        if inflation.size != 1:
            raise ValueError(f"inflation has {inflation.size} values; it must be one")
        return cls(bits, metric, center, scale, float(inflation[0]))


@dataclass(frozen=True, slots=True, eq=False)
class QueryCode:
    """A query made ready for the kernels; opaque to callers."""

    packed: NDArray[np.uint64]
    factors: NDArray[np.float32]
    bits: int
    width: int
    bias_at: int
    row_bytes: int


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
    total = np.zeros(d, np.float64)
    for start in range(0, n, _CHUNK_ROWS):
        rows = _normalised(vectors[start : start + _CHUNK_ROWS], metric)
        np.minimum(low, rows.min(axis=0), out=low)
        np.maximum(high, rows.max(axis=0), out=high)
        total += rows.sum(axis=0, dtype=np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("vectors holds NaN or infinity; every component must be finite")
    if bits == 8:
        center = ((low + high) / 2).astype(np.float32)
        scale = ((high - low) / (2 * affine.LEVELS)).astype(np.float32)
        plain = CodeParams(bits, metric, center, scale)
        return replace(plain, inflation=_inflation(vectors, plain))
    center = (total / n).astype(np.float32)
    sample = np.ascontiguousarray(vectors[:: max(1, n // _ERROR_ROWS)][:_ERROR_ROWS])
    error = _relative_error(_normalised(sample, metric) - center, center, metric, bits)
    return CodeParams(bits, metric, center, np.array([error], np.float32))


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
    out = np.zeros((vectors.shape[0], params.row_bytes), np.uint8)
    for start in range(0, vectors.shape[0], _CHUNK_ROWS):
        rows = _normalised(vectors[start : start + _CHUNK_ROWS], params.metric)
        part = out[start : start + len(rows)]
        if params.bits == 8:
            affine.encode_rows(rows, params.center, params.scale, params.metric == "l2", part)
        else:
            _encode_narrow(rows - params.center, params.center, params.metric, params.bits, part)
    return out


def residuals(vectors: NDArray[np.float32], params: CodeParams) -> NDArray[np.float32]:
    """Return what codes of fewer than 8 bits stand for: float32 [n, params.width], relative to the mean and
    rotated, of `vectors` (float32 [n, d]).

    Raises:
        TypeError: not float32.
        ValueError: a wrong shape, or params of 8 bits, which have no rotation.
    """
    gate.array("vectors", vectors, np.float32, 2)
    if params.bits == 8 or vectors.shape[1] != params.d:
        raise ValueError(
            f"vectors have {vectors.shape[1]} dimensions, params {params.d} of {params.bits} bits; "
            "they must agree, and bits be fewer than 8"
        )
    return rotate(_normalised(vectors, params.metric) - params.center)


def rotated_center(params: CodeParams) -> NDArray[np.float32]:
    """Return the rotated mean of codes of fewer than 8 bits, float32 [params.width]."""
    center: NDArray[np.float32] = rotate(params.center[None])[0]
    return center


def decode(encoded: NDArray[np.uint8], params: CodeParams) -> NDArray[np.float32]:
    """Return the residuals, float32 [n, params.width], that codes of fewer than 8 bits stand for.

    Raises:
        TypeError: not uint8.
        ValueError: a wrong shape, or params of 8 bits.
    """
    gate.array("encoded", encoded, np.uint8, 2)
    if params.bits == 8 or encoded.shape[1] != params.row_bytes:
        raise ValueError(
            f"rows have {encoded.shape[1]} bytes, params {params.row_bytes} of {params.bits} bits; "
            "they must agree, and bits be fewer than 8"
        )
    n, bits = len(encoded), params.bits
    packed = encoded[:, : params.bias_at].reshape(n, -1, CHUNK * bits // 8)
    if bits == 1:
        levels = np.unpackbits(packed, axis=2, bitorder="little")
    else:
        parts = [packed >> (bits * part) & ((1 << bits) - 1) for part in range(8 // bits)]
        levels = np.concatenate(parts, axis=2)
    step = np.ascontiguousarray(encoded[:, params.bias_at + 4 :]).view("<f4")
    factor = step / (-2 if params.metric == "l2" else -1)
    middle = np.float32(((1 << bits) - 1) / 2)
    return np.asarray((levels.reshape(n, -1) - middle) * factor, np.float32)


def prepare_query(query: NDArray[np.float32], params: CodeParams) -> QueryCode:
    """Return `query` (float32 [d], raw) made ready for estimates against codes of `params`.

    Raises:
        TypeError: not float32.
        ValueError: another number of dimensions than the params'.
    """
    gate.array("query", query, np.float32, 1)
    if query.size != params.d:
        raise ValueError(f"query has {query.size} dimensions; the codes have {params.d}")
    packed = np.empty(packed_words(params.width, params.bits), np.uint64)
    factors = np.zeros(N_FACTORS, np.float32)
    prepare_into(
        query,
        params.center,
        params.scale,
        np.float32(params.inflation),
        METRICS.index(params.metric),
        params.bits,
        flips_of(params),
        np.empty(params.width, np.float32),
        packed,
        factors,
    )
    return QueryCode(packed, factors, params.bits, params.width, params.bias_at, params.row_bytes)


def packed_words(width: int, bits: int) -> int:
    """Return the uint64 words of a prepared query."""
    return width // CHUNK * N_PLANES if bits == 1 else -(-width * (2 if bits == 8 else 1) // 8)


def flips_of(params: CodeParams) -> NDArray[np.float32]:
    """Return the signs of the codes' rotation, float32 [ROUNDS, width]; of any rotation at 8 bits, which has
    none.
    """
    return signs(CHUNK if params.bits == 8 else params.width)


@part()
def prepare_into(
    query: NDArray[np.float32],
    center: NDArray[np.float32],
    scale: NDArray[np.float32],
    inflation: np.float32,
    metric: Int,
    bits: Int,
    flips: NDArray[np.float32],
    buffer: NDArray[np.float32],
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
) -> None:
    """Prepare a query without allocating.

    Args:
        query: float32 [d].
        center: float32 [d].
        scale, inflation: as in `CodeParams`.
        metric: position in METRICS.
        bits: 8, 4, 2 or 1.
        flips: from `flips_of`.
        buffer: float32 [width], mutated.
        packed: uint64 [packed_words], mutated.
        factors: float32 [N_FACTORS], mutated.
    """
    if bits == 8:
        affine.prepare_affine(query, center, scale, inflation, metric, buffer, packed, factors)
    else:
        narrow.prepare_narrow(query, center, scale[0], metric, bits, flips, buffer, packed, factors)


def estimate(
    query_code: QueryCode, codes: NDArray[np.uint8], node_ids: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Return estimated distances (float32 [m]) to rows of `codes` (uint8 [n, row_bytes]), all or `node_ids`'
    [m].

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or an id out of range.
    """
    estimates: NDArray[np.float32] = _estimates(query_code, codes, node_ids)[0]
    return estimates


def error_std(
    query_code: QueryCode, codes: NDArray[np.uint8], node_ids: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Return one standard deviation of (estimate - exact), float32 [m], for the rows that `estimate` takes.

    The model is uniform, independent rounding errors. At 8 bits under l2 the error grows with the distance;
    at fewer bits with the row's own step and the query's length, as RaBitQ's bound does.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or an id out of range.
    """
    errors: NDArray[np.float32] = _estimates(query_code, codes, node_ids)[1]
    return errors


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
    norms = np.sqrt(row_squares(rows))[:, None]
    norms[norms == 0] = 1
    out: NDArray[np.float32] = np.divide(rows, norms, dtype=np.float32)
    return out


def _encode_narrow(
    residuals: NDArray[np.float32],
    center: NDArray[np.float32],
    metric: str,
    bits: int,
    out: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Encode into `out` (uint8 [n, row_bytes] of zeros); return the rotated residuals."""
    rotated = rotate(residuals)
    units = np.empty(rotated.shape[1], np.float32)
    narrow.encode_rows(rotated, rotate(center[None])[0], METRICS.index(metric), bits, out, units)
    return rotated


def _inflation(vectors: NDArray[np.float32], params: CodeParams) -> float:
    """Return the root mean square of errors over the model's, of sampled rows as queries; at least 1."""
    rows = np.ascontiguousarray(vectors[:: max(1, len(vectors) // _INFLATION_ROWS)][:_INFLATION_ROWS])
    encoded = encode(rows, params)
    total, count = 0.0, 0
    for query in rows[:: max(1, len(rows) // _INFLATION_QUERIES)][:_INFLATION_QUERIES]:
        code = prepare_query(query, params)
        exact = exact_distances(query, rows, None, params.metric)
        errors, spreads = estimate(code, encoded) - exact, error_std(code, encoded)
        known = spreads > 0
        total += float(np.sum((errors[known] / spreads[known]).astype(np.float64) ** 2))
        count += int(known.sum())
    return float(np.float32(max(1.0, math.sqrt(total / count)))) if count else 1.0


def _relative_error(
    residuals: NDArray[np.float32], center: NDArray[np.float32], metric: str, bits: int
) -> float:
    out = np.zeros((len(residuals), row_bytes(center.size, metric, bits)), np.uint8)
    rotated = _encode_narrow(residuals, center, metric, bits, out)
    errors = np.empty(len(residuals), np.float32)
    units = np.empty(rotated.shape[1], np.float32)
    narrow.relative_errors(rotated, out, METRICS.index(metric), bits, errors, units)
    return float(np.sqrt(np.mean(errors.astype(np.float64) ** 2)))


def _estimates(
    query_code: QueryCode, codes: NDArray[np.uint8], node_ids: NDArray[np.integer] | None
) -> NDArray[np.float32]:
    gate.array("codes", codes, np.uint8, 2)
    check_row_bytes(query_code, codes.shape[1])
    if node_ids is None:
        ids = np.arange(codes.shape[0], dtype=np.int32)
    else:
        ids = gate.node_ids("node_ids", node_ids, codes.shape[0])
    out = np.empty((2, ids.size), np.float32)
    _estimate(
        codes,
        query_code.packed,
        query_code.factors,
        query_code.bits,
        query_code.width,
        query_code.bias_at,
        ids,
        out,
    )
    return out


@kernel()
def _estimate(
    codes: NDArray[np.uint8],
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    node_ids: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None:
    query = QueryView(packed, factors, bits, width, bias_at)
    start = np.int64(codes.ctypes.data)
    n_bytes = codes.shape[1]
    for t in range(out.shape[1]):
        if t + _AHEAD < out.shape[1]:
            prefetch_row(start + np.int64(node_ids[t + _AHEAD]) * n_bytes, n_bytes)
        address = start + np.int64(node_ids[t]) * n_bytes
        out[0, t] = score(address, query)
        out[1, t] = spread(address, out[0, t], query)
