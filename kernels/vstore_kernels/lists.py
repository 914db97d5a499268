"""Neighbour lists as bytes. Written as pairs and gaps under Huffman codes (`pair_lists`), behind a marker.

Blocks without the marker are of the first version, which is read still: each row its length, then
zigzag(first - own id), then (delta - 1) for each further neighbour, every number a LEB128 varint of at most 5
bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.layout import MAX_NODES, NO_NODE
from vstore_kernels.pair_lists import BAD_TABLE, decode_pairs, encode_pairs

MARKER: Final = bytes.fromhex("ffffffff0f")
"""What a block of pairs begins with: a length of 2^32 - 1 for row 0 to a reader of the first version."""
_VARINT_BYTES: Final = 5
_OK, _TRUNCATED, _TOO_LONG, _OUT_OF_RANGE, _TRAILING, _OVERLONG = 0, 1, 2, 3, 4, 5
# A row of pairs has three counts of at least a bit.
_PAIR_ROW_BITS: Final = 3
_REASONS: Final = {
    _TRUNCATED: "the bytes end inside a row",
    _TOO_LONG: "a row is longer than M0",
    _OUT_OF_RANGE: "a neighbour id is outside the shard",
    _TRAILING: "bytes follow the last row",
    _OVERLONG: "a number takes more than 5 bytes",
    BAD_TABLE: "a Huffman table is not whole",
}


def encode_lists(neighbors: NDArray[np.int32], base: int) -> NDArray[np.uint8]:
    """Return the encoded rows (uint8 [bytes]) of `neighbors`.

    Args:
        neighbors: int32 [B, M0]; a row's ids are distinct and not its own, and -1 ends it.
        base: node id of row 0.

    Raises:
        TypeError: not int32.
        ValueError: a repeated or negative id in a row, or the row's own.
    """
    gate.array("neighbors", neighbors, np.int32, 2)
    bad = _bad_row(neighbors, base, np.empty(neighbors.shape[1], np.int32))
    if bad >= 0:
        raise ValueError(
            f"row {bad} of neighbors repeats an id, names its own node or holds one below {NO_NODE}"
        )
    return np.concatenate([np.frombuffer(MARKER, np.uint8), encode_pairs(neighbors, base)])


def decode_lists(data: NDArray[np.uint8], base: int, rows: int, M0: int, n: int) -> NDArray[np.int32]:
    """Return int32 [rows, M0] of what `encode_lists` gave: ascending in a row, -1 padded.

    Args:
        data: uint8 [bytes]; not trusted.
        base: node id of row 0.
        rows: rows of the block.
        M0: the longest row.
        n: rows of the shard; every id lies in [0, n).

    Raises:
        TypeError: not uint8.
        ValueError: malformed bytes, naming row and reason.
    """
    gate.array("data", data, np.uint8, 1)
    if rows < 0 or M0 < 1 or not 0 <= base <= base + rows <= n <= MAX_NODES:
        raise ValueError(f"rows {base} to {base + rows} with M0 {M0} do not lie in a shard of {n} rows")
    paired = data[: len(MARKER)].tobytes() == MARKER
    # The least that a row takes bounds the allocation by the bytes at hand.
    if rows > (data.size * 8 // _PAIR_ROW_BITS if paired else data.size):
        raise ValueError(f"{data.size} bytes cannot hold {rows} rows of neighbours")
    out = np.full((rows, M0), NO_NODE, np.int32)
    if paired:
        status, row = decode_pairs(data[len(MARKER) :], base, n, out)
    else:
        status, row = _decode(data, base, n, out)
    if status != _OK:
        raise ValueError(f"malformed neighbour lists: {_REASONS[status]} (row {row} of {rows})")
    return out


@kernel()
def _bad_row(neighbors: NDArray[np.int32], base: Int, row: NDArray[np.int32]) -> Int:
    """Return the first row that cannot be encoded, or -1; `row` (int32 [M0]) is a buffer."""
    for i in range(neighbors.shape[0]):
        m = 0
        while m < neighbors.shape[1] and neighbors[i, m] != NO_NODE:
            value = neighbors[i, m]
            p = m
            while p > 0 and row[p - 1] > value:
                row[p] = row[p - 1]
                p -= 1
            if value < 0 or value == base + i or (p > 0 and row[p - 1] == value):
                return i
            row[p] = value
            m += 1
    return -1


@part()
def _get(data: NDArray[np.uint8], at: Int) -> tuple[Int, Int]:
    """Return (value, next position); a next position below 0 is minus a reason."""
    value = np.int64(0)
    for k in range(_VARINT_BYTES):
        if at >= data.shape[0]:
            return value, -_TRUNCATED
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << (7 * k)
        if byte < 128:
            return value, at
    return value, -_OVERLONG


@kernel()
def _decode(data: NDArray[np.uint8], base: Int, n: Int, out: NDArray[np.int32]) -> tuple[Int, Int]:
    at = 0
    for i in range(out.shape[0]):
        length, at = _get(data, at)
        if at < 0:
            return -at, i
        if length > out.shape[1]:
            return _TOO_LONG, i
        current = np.int64(base + i)
        for t in range(length):
            value, at = _get(data, at)
            if at < 0:
                return -at, i
            if t == 0:
                current += (value >> 1) if value & 1 == 0 else -((value + 1) >> 1)
            else:
                current += value + 1
            if current < 0 or current >= n:
                return _OUT_OF_RANGE, i
            out[i, t] = current
    if at != data.shape[0]:
        return _TRAILING, out.shape[0]
    return _OK, 0
