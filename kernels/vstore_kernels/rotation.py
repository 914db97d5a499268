"""A fixed random rotation that costs d log d: sign flips, Hadamard transforms, mixing of halves, four times.

Narrow codes need components of about equal size, whatever the data. The rotation is the one of the RaBitQ
library (Gao & Long 2024; fast Hadamard transform and Kac's walk): where the width is no power of two, the
transform acts on the first and the last power-of-two part by turns, and the halves are mixed after each. It
depends on the width alone, so nothing of it is stored: sign j of round r is the top bit of
splitmix64((r << 32) + j), minus for a one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.dots import CHUNK
from vstore_kernels.jit import kernel, part

ROUNDS: Final = 4
_HALF: Final = np.float32(np.sqrt(0.5))


def padded(d: int) -> int:
    """Return the width of the rotated space of `d` dimensions: the next multiple of 64."""
    return -(-d // CHUNK) * CHUNK


@lru_cache(maxsize=64)
def signs(width: int) -> NDArray[np.float32]:
    """Return the signs of every round, float32 [ROUNDS, width], read only.

    Raises:
        ValueError: a width that is no positive multiple of 64.
    """
    if width < CHUNK or width % CHUNK:
        raise ValueError(f"width is {width}; it must be a positive multiple of {CHUNK}")
    counter = (np.arange(ROUNDS, dtype=np.uint64)[:, None] << np.uint64(32)) + np.arange(
        width, dtype=np.uint64
    )
    with np.errstate(over="ignore"):
        word = counter + np.uint64(0x9E3779B97F4A7C15)
        word = np.bitwise_xor(word, np.right_shift(word, np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = np.bitwise_xor(word, np.right_shift(word, np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word = np.bitwise_xor(word, np.right_shift(word, np.uint64(31)))
    negative = np.right_shift(word, np.uint64(63)) != 0
    out = np.where(negative, np.float32(-1), np.float32(1)).astype(np.float32)
    out.flags.writeable = False
    return out


def rotate(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `rows` (float32 [n, d]) padded with zeros and rotated, float32 [n, padded(d)]; lengths stay.

    Raises:
        TypeError: not float32.
        ValueError: a wrong shape.
    """
    gate.array("rows", rows, np.float32, 2)
    width = padded(rows.shape[1])
    out = np.zeros((rows.shape[0], width), np.float32)
    out[:, : rows.shape[1]] = rows
    _rotate_rows(out, signs(width))
    return out


@kernel()
def _rotate_rows(rows: NDArray[np.float32], flips: NDArray[np.float32]) -> None:
    for i in range(rows.shape[0]):
        rotate_row(rows[i], flips)


@part()
def rotate_row(row: NDArray[np.float32], flips: NDArray[np.float32]) -> None:
    """Rotate `row` (float32 [width], mutated) by `signs(width)`; for use inside kernels."""
    width = row.shape[0]
    size = 1
    while 2 * size <= width:
        size *= 2
    half = width // 2
    first = row[:half]
    second = row[half:]
    for r in range(flips.shape[0]):
        for j in range(width):
            row[j] *= flips[r, j]
        start = width - size if r % 2 else 0
        _hadamard(row[start : start + size])
        if size != width:
            for j in range(half):
                a = first[j]
                b = second[j]
                first[j] = (a + b) * _HALF
                second[j] = (a - b) * _HALF


@part()
def _hadamard(row: NDArray[np.float32]) -> None:
    """Transform `row` (float32 [a power of two from 64 on], mutated) and keep its length."""
    size = row.shape[0]
    scale = np.float32(1) / np.float32(np.sqrt(np.float32(size)))
    step = size // 2
    # Slices, not sums of indices: the vectoriser must see that no index is negative.
    while step >= 8:
        for at in range(0, size, 2 * step):
            low = row[at : at + step]
            high = row[at + step : at + 2 * step]
            for j in range(step):
                a = low[j]
                b = high[j]
                low[j] = a + b
                high[j] = a - b
        step //= 2
    for at in range(0, size, 8):
        eight = row[at : at + 8]
        a0, a1, a2, a3 = eight[0], eight[1], eight[2], eight[3]
        a4, a5, a6, a7 = eight[4], eight[5], eight[6], eight[7]
        b0, b1, b2, b3 = a0 + a4, a1 + a5, a2 + a6, a3 + a7
        b4, b5, b6, b7 = a0 - a4, a1 - a5, a2 - a6, a3 - a7
        a0, a1, a2, a3 = b0 + b2, b1 + b3, b0 - b2, b1 - b3
        a4, a5, a6, a7 = b4 + b6, b5 + b7, b4 - b6, b5 - b7
        eight[0] = (a0 + a1) * scale
        eight[1] = (a0 - a1) * scale
        eight[2] = (a2 + a3) * scale
        eight[3] = (a2 - a3) * scale
        eight[4] = (a4 + a5) * scale
        eight[5] = (a4 - a5) * scale
        eight[6] = (a6 + a7) * scale
        eight[7] = (a6 - a7) * scale
