"""Neighbour lists as bits: links within the block once for both ends, gaps under Huffman codes.

Most links go both ways, and in cluster order about half of them stay within a block. Such a pair is told at
its lower end: the gap to the other end, and whether both, the lower or the upper end alone has the link.
Links that leave the block are gaps counted from its edge. A number v is the class c = floor(log2(v + 1))
under a canonical Huffman code of its context, then the c low bits of v + 1: Elias's gamma code (1975) with
its unary part replaced. docs/FORMAT.md has the layout.
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.layout import NO_NODE

N_CONTEXTS: Final = 10
PAIRS, BELOW, ABOVE, STATE = 0, 1, 2, 3
"""Contexts of a row's counts, and of which ends have a pair's link."""
FIRST: Final = 4
"""Context of a row's first gap to a pair's end; + 1 of its further ones; then two each below and above."""
MAX_CLASSES: Final = 32
MAX_CODE_BITS: Final = 12

OK, TRUNCATED, TOO_LONG, OUT_OF_RANGE, TRAILING, BAD_TABLE = 0, 1, 2, 3, 4, 6
"""Statuses, as in `lists`."""

_Ints = NDArray[np.int64]


def encode_pairs(neighbors: NDArray[np.int32], base: int) -> NDArray[np.uint8]:
    """Return the tables and bits (uint8 [bytes]) of rows (int32 [B, M0], distinct, -1 ends a row)."""
    planes = _planes(neighbors, base)
    values = np.concatenate([plane for _, plane in planes])
    contexts = np.concatenate([context for context, _ in planes])
    # frexp gives the exponent of [0.5, 1): exact below 2^53.
    classes = (np.frexp((values + 1).astype(np.float64))[1] - 1).astype(np.uint8)
    counts = np.zeros((N_CONTEXTS, MAX_CLASSES), np.int64)
    np.add.at(counts, (contexts, classes), 1)
    lengths = np.zeros((N_CONTEXTS, MAX_CLASSES), np.uint8)
    tables = bytearray()
    for context in range(N_CONTEXTS):
        lengths[context] = code_lengths(counts[context])
        used = np.flatnonzero(lengths[context])
        size = int(used[-1]) + 1 if used.size else 0
        tables.append(size)
        padded = lengths[context, : size + (size & 1)]
        tables += (padded[0::2] | padded[1::2] << 4).tobytes()
    codes = np.zeros((N_CONTEXTS, MAX_CLASSES), np.uint16)
    for context in range(N_CONTEXTS):
        _codes_of(lengths[context], codes[context])
    n_bits = int((lengths[contexts, classes].astype(np.int64) + classes).sum())
    out = np.zeros(len(tables) + (n_bits + 7) // 8 + 8, np.uint8)
    out[: len(tables)] = np.frombuffer(bytes(tables), np.uint8)
    _write(values, classes, contexts, codes, lengths, out, 8 * len(tables))
    return out[: len(tables) + (n_bits + 7) // 8].copy()


def decode_pairs(data: NDArray[np.uint8], base: int, n: int, out: NDArray[np.int32]) -> tuple[int, int]:
    """Fill `out` (int32 [B, M0] of -1) from what `encode_pairs` gave; return (status, row)."""
    lookup = np.zeros((N_CONTEXTS, 1 << MAX_CODE_BITS), np.uint16)
    lengths = np.zeros((N_CONTEXTS, MAX_CLASSES), np.uint8)
    at = _read_tables(data, lengths, np.zeros(MAX_CLASSES, np.uint16), lookup)
    if at < 0:
        return BAD_TABLE, 0
    bits = np.concatenate([data[at:], np.zeros(8, np.uint8)])
    counts = np.zeros((4, out.shape[0]), np.int64)
    status, row = _decode(bits, 8 * (data.size - at), lookup, base, n, counts, out)
    return int(status), int(row)


def code_lengths(counts: _Ints) -> NDArray[np.uint8]:
    """Return Huffman's code lengths (uint8, 0 where a count is 0), none above MAX_CODE_BITS."""
    lengths = np.zeros(counts.size, np.uint8)
    used = np.flatnonzero(counts).tolist()
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    weights = counts[used].tolist()
    while used:
        # (weight, tie-break, symbols)
        heap = [(weight, at, [at]) for at, weight in enumerate(weights)]
        heapq.heapify(heap)
        depth = [0] * len(used)
        while len(heap) > 1:
            one, two = heapq.heappop(heap), heapq.heappop(heap)
            for at in one[2] + two[2]:
                depth[at] += 1
            heapq.heappush(heap, (one[0] + two[0], min(one[1], two[1]), one[2] + two[2]))
        if max(depth) <= MAX_CODE_BITS:
            lengths[used] = depth
            break
        weights = [(weight + 1) // 2 for weight in weights]
    return lengths


def _planes(neighbors: NDArray[np.int32], base: int) -> list[tuple[NDArray[np.uint8], _Ints]]:
    """Return (contexts, values) of the counts, the pairs, and the links below and above the block."""
    rows = neighbors.shape[0]
    linked = np.logical_and.accumulate(neighbors != NO_NODE, axis=1)
    owners = np.repeat(np.arange(rows), linked.sum(axis=1))
    others = neighbors[linked].astype(np.int64) - base
    inside = (others >= 0) & (others < rows)
    own, other = owners[inside], others[inside]
    pairs, place = np.unique(np.minimum(own, other) * rows + np.maximum(own, other), return_inverse=True)
    ends = np.zeros(pairs.size, np.int64)
    np.bitwise_or.at(ends, place, np.where(own < other, 1, 2))
    # 0: both ends have the link; 1: the lower one alone; 2: the upper one alone.
    states = np.where(ends == 3, 0, ends)
    lower, gap = np.divmod(pairs, rows)
    counts, contexts, gaps = _gaps(lower, gap - lower - 1, rows, FIRST)
    interleaved = np.stack([gaps, states], axis=1).ravel()
    both = np.stack([contexts, np.full(contexts.size, STATE, np.uint8)], axis=1).ravel()
    planes = [(both, interleaved)]
    totals = [counts]
    for side, (chosen, distances) in enumerate(((others < 0, -1 - others), (others >= rows, others - rows))):
        order = np.lexsort((distances[chosen], owners[chosen]))
        counts, contexts, gaps = _gaps(
            owners[chosen][order], distances[chosen][order], rows, FIRST + 2 * (side + 1)
        )
        totals.append(counts)
        planes.append((contexts, gaps))
    first = np.repeat(np.array([PAIRS, BELOW, ABOVE], np.uint8), rows)
    return [(first, np.concatenate(totals)), *planes]


def _gaps(owners: _Ints, distances: _Ints, rows: int, context: int) -> tuple[_Ints, NDArray[np.uint8], _Ints]:
    """Return the counts of the rows, and contexts and gaps of distances that ascend within each owner."""
    first = np.ones(owners.size, np.bool_)
    first[1:] = owners[1:] != owners[:-1]
    gaps = distances.copy()
    gaps[1:] -= np.where(first[1:], 0, distances[:-1] + 1)
    contexts = np.where(first, context, context + 1).astype(np.uint8)
    return np.bincount(owners, minlength=rows).astype(np.int64), contexts, gaps


@part()
def _put(out: NDArray[np.uint8], at: Int, value: Int, n_bits: Int) -> Int:
    """Write the low `n_bits` of `value` at bit `at`, lowest first, over zeros; return the bit after them."""
    while n_bits > 0:
        shift = at & 7
        taken = min(8 - shift, n_bits)
        out[at >> 3] |= np.uint8((value & ((1 << taken) - 1)) << shift)
        value >>= taken
        at += taken
        n_bits -= taken
    return at


@kernel()
def _write(
    values: NDArray[np.int64],
    classes: NDArray[np.uint8],
    contexts: NDArray[np.uint8],
    codes: NDArray[np.uint16],
    lengths: NDArray[np.uint8],
    out: NDArray[np.uint8],
    at: Int,
) -> None:
    for t in range(values.shape[0]):
        context = contexts[t]
        symbol = np.int64(classes[t])
        at = _put(out, at, np.int64(codes[context, symbol]), np.int64(lengths[context, symbol]))
        at = _put(out, at, values[t] + 1 - (np.int64(1) << symbol), symbol)


@part()
def _codes_of(lengths: NDArray[np.uint8], codes: NDArray[np.uint16]) -> Int:
    """Write the canonical codes of one context, first bit lowest; return the code space they take.

    Codes of one length ascend with the class, and shorter ones come first (RFC 1951, 3.2.2). A whole code
    takes 1 << MAX_CODE_BITS.
    """
    code = np.int64(0)
    space = np.int64(0)
    for length in range(1, MAX_CODE_BITS + 1):
        code <<= 1
        for symbol in range(lengths.shape[0]):
            if lengths[symbol] == length:
                mirrored = np.int64(0)
                for bit in range(length):
                    mirrored |= ((code >> bit) & 1) << (length - 1 - bit)
                codes[symbol] = mirrored
                code += 1
                space += np.int64(1) << (MAX_CODE_BITS - length)
    return space


@kernel()
def _read_tables(
    data: NDArray[np.uint8],
    lengths: NDArray[np.uint8],
    codes: NDArray[np.uint16],
    lookup: NDArray[np.uint16],
) -> Int:
    """Fill `lookup` by the tables that `data` begins with; return the byte after them, or -1.

    An entry of `lookup` is 16 * class + length for the runs of bits that begin with the class's code, 0 for
    no code. Lengths must make a whole code or a single one: else some bits would mean nothing, or two things.
    """
    at = np.int64(0)
    for context in range(lookup.shape[0]):
        if at >= data.shape[0]:
            return -1
        size = np.int64(data[at])
        if size > MAX_CLASSES or at + 1 + (size + 1) // 2 > data.shape[0]:
            return -1
        n_used = np.int64(0)
        for symbol in range(size):
            length = (np.int64(data[at + 1 + (symbol >> 1)]) >> (4 * (symbol & 1))) & 15
            if length > MAX_CODE_BITS:
                return -1
            lengths[context, symbol] = length
            n_used += np.int64(length > 0)
        at += 1 + (size + 1) // 2
        if _codes_of(lengths[context], codes) != 1 << MAX_CODE_BITS and n_used > 1:
            return -1
        for symbol in range(size):
            length = np.int64(lengths[context, symbol])
            if length > 0:
                for run in range(np.int64(codes[symbol]), lookup.shape[1], np.int64(1) << length):
                    lookup[context, run] = 16 * symbol + length
    return at


@part()
def _peek(bits: NDArray[np.uint8], at: Int) -> Int:
    """Return the 25 bits or more from bit `at` on."""
    byte = at >> 3
    word = np.int64(bits[byte]) | np.int64(bits[byte + 1]) << 8
    word |= np.int64(bits[byte + 2]) << 16 | np.int64(bits[byte + 3]) << 24
    return word >> (at & 7)


@part()
def _get(
    bits: NDArray[np.uint8], n_bits: Int, at: Int, lookup: NDArray[np.uint16], context: Int
) -> tuple[Int, Int]:
    """Return (value, next bit); a next bit below 0 says that the bits end, or that no code begins here."""
    if at >= n_bits:
        return 0, -1
    entry = np.int64(lookup[context, _peek(bits, at) & (lookup.shape[1] - 1)])
    symbol = entry >> 4
    at += entry & 15
    if entry == 0 or at + symbol > n_bits:
        return 0, -1
    low = symbol if symbol < 16 else np.int64(16)
    value = _peek(bits, at) & ((np.int64(1) << low) - 1)
    if symbol > low:
        value |= (_peek(bits, at + low) & ((np.int64(1) << (symbol - low)) - 1)) << low
    return value + (np.int64(1) << symbol) - 1, at + symbol


@kernel()
def _decode(
    bits: NDArray[np.uint8],
    n_bits: Int,
    lookup: NDArray[np.uint16],
    base: Int,
    n: Int,
    counts: NDArray[np.int64],
    out: NDArray[np.int32],
) -> tuple[Int, Int]:
    """Return (status, row). Pairs come in ascending order at both ends, so rows only grow at their ends."""
    rows, M0 = out.shape
    degrees = counts[3]
    at = np.int64(0)
    for kind in range(3):
        for i in range(rows):
            counts[kind, i], at = _get(bits, n_bits, at, lookup, kind)
            if at < 0:
                return TRUNCATED, i
    for i in range(rows):
        other = np.int64(i)
        for t in range(counts[0, i]):
            gap, at = _get(bits, n_bits, at, lookup, FIRST + min(t, 1))
            if at < 0:
                return TRUNCATED, i
            state, at = _get(bits, n_bits, at, lookup, STATE)
            if at < 0:
                return TRUNCATED, i
            other += gap + 1
            if other >= rows or state > 2:
                return OUT_OF_RANGE, i
            for end in range(2):
                # State 1 leaves the upper end out, state 2 the lower one.
                if state != 2 - end:
                    row = i if end == 0 else other
                    if degrees[row] == M0:
                        return TOO_LONG, row
                    out[row, degrees[row]] = base + (other if end == 0 else i)
                    degrees[row] += 1
    for side in range(2):
        for i in range(rows):
            node = np.int64(base if side == 0 else base + rows - 1)
            degree = degrees[i]
            if degree + counts[1 + side, i] > M0:
                return TOO_LONG, i
            for t in range(counts[1 + side, i]):
                gap, at = _get(bits, n_bits, at, lookup, FIRST + 2 * (side + 1) + min(t, 1))
                if at < 0:
                    return TRUNCATED, i
                node += -gap - 1 if side == 0 else gap + 1
                if node < 0 or node >= n:
                    return OUT_OF_RANGE, i
                place = degree if side == 1 else 0
                for s in range(degree, place, -1):
                    out[i, s] = out[i, s - 1]
                out[i, place] = node
                degree += 1
            degrees[i] = degree
    if (at + 7) >> 3 != n_bits >> 3:
        return TRAILING, rows
    return OK, 0
