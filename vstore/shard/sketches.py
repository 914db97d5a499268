"""Sketches: 1-bit codes of rows beside their cluster's centroid, to find candidates where nothing is cached.

RaBitQ (Gao & Long 2024, SIGMOD) with the centroid of the row's cluster c in the place of the mean. Of the
residual r = x - c the signs of the rotated components are kept, and two numbers: with u the signs times a
half and t = |r|^2 / <u, r>, <r, q - c> is estimated by t <u, q - c>, so that

    l2      |x - q|^2 ~ |q - c|^2 + bias + step <u, q>      bias = |r|^2 + 2 t <u, c>, step = -2 t
    dot     -<x, q>   ~ -<q, c> + bias + step <u, q>        bias = 0, step = -t

(q, c and r rotated where u is beside them). Under cosine rows and queries are normalised and l2 serves: half
of it is the distance. Within a block both numbers are kept in 16 bits between their least and greatest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vstore.errors import CorruptData
from vstore.shard import sections
from vstore.traverse.base import Sketches, SketchParams, sketch_row_bytes
from vstore.types import Float32s, Int64s, Metric, UInt8s
from vstore_kernels import narrow
from vstore_kernels.layout import METRICS
from vstore_kernels.rotation import rotate

if TYPE_CHECKING:
    from vstore.shard.head import ShardHead

_BLOCKS_AT_ONCE: Final = 64
_ERROR_ROWS: Final = 4_096
_LEVELS: Final = np.float32((1 << 16) - 1)
_SCALES: Final = 16
"""Bytes before a block's rows: least and unit of its biases, and of its steps."""


class _Encoded(NamedTuple):
    sketches: Sketches
    errors: Float32s


class Sketcher:
    """Sketches rows in cluster order.

    Args:
        vectors: float32[n, d], as upserted.
        centroids: float32[K, d'], of the space that the shard is built in.
        offsets: int64[K + 1]: cluster c holds the rows from offsets[c] to offsets[c + 1].
        metric: of the collection.
    """

    def __init__(self, vectors: Float32s, centroids: Float32s, offsets: Int64s, metric: Metric) -> None:
        self._vectors, self._offsets, self._metric = vectors, offsets, metric
        self._centroids = np.ascontiguousarray(centroids[:, : vectors.shape[1]], np.float32)
        self._rotated = rotate(self._centroids)
        step = max(1, len(vectors) // _ERROR_ROWS)
        sample = self._encode(np.arange(0, len(vectors), step, dtype=np.int64))
        error = float(np.sqrt(np.mean(sample.errors.astype(np.float64) ** 2)))
        self.params = SketchParams(sections.SKETCH_BLOCK_ROWS, error)

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of each block, in order."""
        n, block_rows = len(self._vectors), self.params.block_rows
        for start in range(0, n, block_rows * _BLOCKS_AT_ONCE):
            found = self._encode(np.arange(start, min(n, start + block_rows * _BLOCKS_AT_ONCE))).sketches
            for at in range(0, len(found.bits), block_rows):
                own = slice(at, at + block_rows)
                yield encode_sketches(Sketches(found.bits[own], found.bias[own], found.step[own]))

    def _encode(self, rows: Int64s) -> _Encoded:
        vectors = np.ascontiguousarray(self._vectors[rows], np.float32)
        if self._metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cluster = np.searchsorted(self._offsets, rows, side="right") - 1
        residuals = rotate(np.ascontiguousarray(vectors - self._centroids[cluster], np.float32))
        width = residuals.shape[1]
        kind = METRICS.index("dot" if self._metric == "dot" else "l2")
        units = np.empty(width, np.float32)
        coded = np.zeros((len(rows), width // 8 + narrow.FACTOR_BYTES), np.uint8)
        narrow.encode_rows(residuals, np.zeros(width, np.float32), kind, 1, coded, units)
        errors = np.empty(len(rows), np.float32)
        narrow.relative_errors(residuals, coded, kind, 1, errors, units)
        bits = np.ascontiguousarray(coded[:, : width // 8])
        factors = np.ascontiguousarray(coded[:, width // 8 :]).view("<f4").astype(np.float32)
        bias, step = factors[:, 0], np.ascontiguousarray(factors[:, 1])
        if self._metric != "dot":
            bias = bias - step * np.einsum("ij,ij->i", signs_of(bits), self._rotated[cluster])
        return _Encoded(Sketches(bits, np.asarray(bias, np.float32), step), errors)


def signs_of(bits: UInt8s) -> Float32s:
    """Return float32[m, w]: a half with the sign that each bit of uint8[m, w / 8] stands for."""
    return np.unpackbits(bits, axis=1, bitorder="little").astype(np.float32) - np.float32(0.5)


def encode_sketches(sketches: Sketches) -> bytes:
    """Return the bytes of a block."""
    scales, places = [], []
    for values in (sketches.bias, sketches.step):
        least = values.min()
        unit = np.float32((values.max() - least) / _LEVELS)
        scales += [least, unit]
        places.append(np.clip(np.rint((values - least) / unit) if unit else 0 * values, 0, _LEVELS))
    parts = (np.array(scales, "<f4"), *(np.asarray(part, "<u2") for part in places), sketches.bits)
    return b"".join(part.tobytes() for part in parts)


def decode_sketches(data: bytes, block: int, head: ShardHead, where: str) -> Sketches:
    """Return the sketches of a block.

    Raises:
        CorruptData: the bytes are not those of the block's rows.
    """
    assert head.sketch_params is not None
    block_rows = head.sketch_params.block_rows
    m = min(block_rows, head.n - block * block_rows)
    n_bytes = _SCALES + m * sketch_row_bytes(head.dim)
    if len(data) != n_bytes:
        raise CorruptData(f"{where}: {len(data)} bytes; sketches of {m} rows have {n_bytes}")
    least_bias, bias_unit, least_step, step_unit = np.frombuffer(data, "<f4", count=4)
    places = np.frombuffer(data, "<u2", count=2 * m, offset=_SCALES).astype(np.float32).reshape(2, m)
    bits = np.frombuffer(data, np.uint8, offset=_SCALES + 4 * m).reshape(m, -1)
    bias, step = least_bias + places[0] * bias_unit, least_step + places[1] * step_unit
    if not (np.isfinite(bias).all() and np.isfinite(step).all()):
        raise CorruptData(f"{where}: the numbers of its rows are not finite")
    return Sketches(bits, bias, step)
