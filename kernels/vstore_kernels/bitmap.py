"""Filter bitmaps: uint64[ceil(n / 64)], bit `i & 63` of word `i >> 6` for node i; bits from n on are zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.intrinsics import popcount as _popcount
from vstore_kernels.intrinsics import trailing_zeros as _trailing_zeros
from vstore_kernels.jit import Int, kernel, part

Bitmap = NDArray[np.uint64]


def n_words(n: int) -> int:
    """Return the words of a bitmap over `n` nodes."""
    return (n + 63) >> 6


def pack(flags: NDArray[np.bool_]) -> Bitmap:
    """Return the bitmap (uint64 [ceil(n / 64)]) of `flags` (bool [n])."""
    gate.array("flags", flags, np.bool_, 1)
    out = np.zeros(n_words(flags.size) * 8, np.uint8)
    packed = np.packbits(flags, bitorder="little")
    out[: packed.size] = packed
    return out.view("<u8").astype(np.uint64, copy=False)


def unpack(bitmap: Bitmap, n: int) -> NDArray[np.bool_]:
    """Return bool [n] of `bitmap` (uint64 [ceil(n / 64)])."""
    _check(bitmap, n)
    return np.unpackbits(bitmap.astype("<u8", copy=False).view(np.uint8), count=n, bitorder="little").view(
        np.bool_
    )


def popcount(bitmap: Bitmap) -> int:
    """Return the number of ones in `bitmap` (uint64)."""
    gate.array("bitmap", bitmap, np.uint64, 1)
    return int(np.bitwise_count(bitmap).sum(dtype=np.int64))


def indices(bitmap: Bitmap) -> NDArray[np.int32]:
    """Return the ascending positions (int32) of the ones in `bitmap` (uint64)."""
    out = np.empty(popcount(bitmap), np.int32)
    _indices(bitmap, out)
    return out


def range_counts(bitmap: Bitmap, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64 [K]: the ones of `bitmap` in each range [offsets[k], offsets[k + 1]), offsets int64 [K +
    1].

    Raises:
        ValueError: offsets that descend or lie outside the bitmap.
    """
    gate.array("bitmap", bitmap, np.uint64, 1)
    gate.array("offsets", offsets, np.int64, 1)
    if offsets.size == 0:
        raise ValueError("offsets is empty; it must hold at least one position")
    if offsets[0] < 0 or offsets[-1] > bitmap.size * 64 or np.any(np.diff(offsets) < 0):
        raise ValueError(f"offsets must ascend from 0 to at most {bitmap.size * 64}")
    out = np.empty(offsets.size - 1, np.int64)
    _range_counts(bitmap, offsets, out)
    return out


def full(n: int) -> Bitmap:
    """Return a bitmap of `n` ones."""
    out = np.full(n_words(n), ~np.uint64(0), np.uint64)
    if n & 63:
        out[-1] = np.uint64((1 << (n & 63)) - 1)
    return out


def empty(n: int) -> Bitmap:
    """Return a bitmap of `n` zeros."""
    return np.zeros(n_words(n), np.uint64)


def both(a: Bitmap, b: Bitmap) -> Bitmap:
    """Return the bitmap of what is in `a` and in `b` (uint64, one size)."""
    _same(a, b)
    return a & b


def without(a: Bitmap, b: Bitmap) -> Bitmap:
    """Return the bitmap of what is in `a` and not in `b` (uint64, one size)."""
    _same(a, b)
    return a & ~b


def test(bitmap: Bitmap, i: int) -> bool:
    """Return bit `i` of `bitmap`."""
    return bool((int(bitmap[i >> 6]) >> (i & 63)) & 1)


def set_bits(bitmap: Bitmap, node_ids: NDArray[np.integer]) -> None:
    """Set the bits of `node_ids` (integers [m]) in `bitmap`, in place.

    Raises:
        ValueError: an id outside the bitmap.
    """
    gate.array("bitmap", bitmap, np.uint64, 1)
    _write_bits(bitmap, gate.node_ids("node_ids", node_ids, bitmap.size * 64), True)


def clear_bits(bitmap: Bitmap, node_ids: NDArray[np.integer]) -> None:
    """Clear the bits of `node_ids` (integers [m]) in `bitmap`, in place.

    Raises:
        ValueError: an id outside the bitmap.
    """
    gate.array("bitmap", bitmap, np.uint64, 1)
    _write_bits(bitmap, gate.node_ids("node_ids", node_ids, bitmap.size * 64), False)


def _check(bitmap: Bitmap, n: int) -> None:
    gate.array("bitmap", bitmap, np.uint64, 1)
    if bitmap.size != n_words(n):
        raise ValueError(f"a bitmap over {n} nodes has {n_words(n)} words; this one has {bitmap.size}")


def _same(a: Bitmap, b: Bitmap) -> None:
    gate.array("a", a, np.uint64, 1)
    gate.array("b", b, np.uint64, 1)
    if a.size != b.size:
        raise ValueError(f"bitmaps of {a.size} and {b.size} words cannot be combined")


@part()
def passes(bitmap: Bitmap, node: Int) -> bool:
    """Return whether bit `node` (int64) of `bitmap` is one; for use inside kernels."""
    return bool((bitmap[node >> 6] >> np.uint64(node & 63)) & np.uint64(1))


@kernel()
def _indices(bitmap: Bitmap, out: NDArray[np.int32]) -> None:
    m = 0
    for w in range(bitmap.shape[0]):
        word = bitmap[w]
        while word != np.uint64(0):
            out[m] = w * 64 + _trailing_zeros(word)
            word &= word - np.uint64(1)
            m += 1


@kernel()
def _range_counts(bitmap: Bitmap, offsets: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    ones = ~np.uint64(0)
    for k in range(out.shape[0]):
        start = offsets[k]
        stop = offsets[k + 1]
        total = np.int64(0)
        if start < stop:
            first = start >> 6
            last = (stop - 1) >> 6
            for w in range(first, last + 1):
                word = bitmap[w]
                if w == first:
                    word &= ones << np.uint64(start & 63)
                if w == last:
                    word &= ones >> np.uint64(63 - ((stop - 1) & 63))
                total += _popcount(word)
        out[k] = total


@kernel()
def _write_bits(bitmap: Bitmap, node_ids: NDArray[np.int32], value: bool) -> None:
    for t in range(node_ids.shape[0]):
        node = np.int64(node_ids[t])
        bit = np.uint64(1) << np.uint64(node & 63)
        if value:
            bitmap[node >> 6] |= bit
        else:
            bitmap[node >> 6] &= ~bit
