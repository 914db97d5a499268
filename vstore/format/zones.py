"""What a column's zones hold, in a few bytes: enough to decide most rows of a filter without reading them.

A zone is a run of rows of one cluster in one block of the column, so each is as uniform as the numbering of
the rows makes it. A summary never says more than is so: a filter decided by it is decided exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vstore.errors import CorruptData
from vstore.format.columns import Column
from vstore.format.frame import decoding, pack, unpack
from vstore.format.rows_codec import hash_keys
from vstore.types import FIELD_TYPES, Bools, FieldType, Int32s, Int64s, UInt8s

MAX_DISTINCT: Final = 256
"""A column of at most this many distinct values lists them, and which of them each zone holds."""
PREFIX: Final = 32
"""Bounds of longer strings are cut to this many code points."""
BLOOM_BITS: Final = 10
"""Bits of a block's Bloom filter for each distinct value."""
BLOOM_HASHES: Final = 7
"""With 10 bits a value, 0.8 % of the values that a block lacks seem to be in it (Bloom 1970)."""
HASHED: Final[frozenset[str]] = frozenset({"int", "str", "list[int]", "list[str]"})
"""Types that Bloom filters are made for: what is asked for by equality."""

_NUMBERS: dict[FieldType, str] = {
    "int": "<i8",
    "float": "<f8",
    "bool": "|u1",
    "datetime": "<i8",
    "list[int]": "<i8",
}


@dataclass(frozen=True, slots=True)
class Zones:
    """The summary of a column in Z zones.

    `n_present` int32[Z] counts rows that are not null, `n_full` int32[Z] those with at least one value.
    Where the column has few distinct values, `values` has them, ascending, and `sets` bool[Z, len(values)]
    says which a zone holds. Otherwise `low` and `high` bound each zone's values: arrays of its dtype, or
    strings cut to PREFIX. Bounds of a zone without a value mean nothing.
    """

    type: FieldType
    n_present: Int32s
    n_full: Int32s
    values: npt.NDArray[Any] | tuple[str, ...] | None = None
    sets: Bools | None = None
    low: npt.NDArray[Any] | tuple[str, ...] | None = None
    high: npt.NDArray[Any] | tuple[str, ...] | None = None


def summarize(column: Column, starts: Int64s) -> Zones:
    """Return the summary of a column whose zones begin at rows `starts` (int64[Z], ascending, from 0)."""
    items, zones = _items(column, starts)
    n_zones = len(starts)
    present = np.add.reduceat(column.present.astype(np.int32), starts, dtype=np.int32)
    full = column.present if column.offsets is None else np.diff(column.offsets) > 0
    n_full = np.add.reduceat(full.astype(np.int32), starts, dtype=np.int32)
    distinct, places = np.unique(items, return_inverse=True)
    if len(distinct) <= MAX_DISTINCT:
        sets = np.zeros((n_zones, len(distinct)), dtype=np.bool_)
        sets[zones, places] = True
        words = column.dictionary
        values = distinct if words is None else tuple(words[code] for code in distinct.tolist())
        return Zones(column.type, present, n_full, values, sets)
    held, first = np.unique(zones, return_index=True)
    low = np.zeros(n_zones, dtype=items.dtype)
    high = low.copy()
    low[held] = np.minimum.reduceat(items, first)
    high[held] = np.maximum.reduceat(items, first)
    if column.dictionary is None:
        return Zones(column.type, present, n_full, low=low, high=high)
    cut = [word[:PREFIX] for word in column.dictionary]
    lows, highs = (tuple(cut[code] for code in codes.tolist()) for codes in (low, high))
    return Zones(column.type, present, n_full, low=lows, high=highs)


def encode_zones(zones: Zones) -> bytes:
    """Return the bytes of a summary; compress them elsewhere."""
    stored: dict[str, Any] = {
        "type": zones.type,
        "n_zones": len(zones.n_present),
        "n_present": zones.n_present.astype("<i4").tobytes(),
        "n_full": zones.n_full.astype("<i4").tobytes(),
    }
    if zones.values is not None and zones.sets is not None:
        stored["values"] = _raw(zones.type, zones.values)
        stored["sets"] = np.packbits(zones.sets, axis=1, bitorder="little").tobytes()
    if zones.low is not None and zones.high is not None:
        stored["low"], stored["high"] = _raw(zones.type, zones.low), _raw(zones.type, zones.high)
    return pack(stored)


def decode_zones(data: bytes, n_rows: Int64s, where: str) -> Zones:
    """Return the summary that `data` holds.

    Args:
        data: the bytes.
        n_rows: int64[Z]: how many rows each zone has.
        where: names the section in messages.

    Raises:
        CorruptData: it holds none, or one of other zones.
    """
    stored, n_zones = unpack(data, where), len(n_rows)
    with decoding(where):
        kind = stored["type"]
        if kind not in FIELD_TYPES or stored["n_zones"] != n_zones:
            raise CorruptData(f"{where}: {stored['n_zones']} zones of {kind!r}; the shard has {n_zones}")
        present, full = (
            np.frombuffer(stored[name], "<i4").astype(np.int32) for name in ("n_present", "n_full")
        )
        values = sets = low = high = None
        if "values" in stored:
            values = _values(kind, stored["values"], where)
            if any(a >= b for a, b in itertools.pairwise(values)):
                raise CorruptData(f"{where}: the distinct values do not ascend")
            width = -(-len(values) // 8)
            bits = np.frombuffer(stored["sets"], np.uint8).reshape(n_zones, width)
            sets = np.unpackbits(bits, axis=1, count=len(values), bitorder="little").view(np.bool_)
        else:
            low, high = (_values(kind, stored[name], where) for name in ("low", "high"))
            if len(low) != n_zones or len(high) != n_zones:
                raise CorruptData(f"{where}: {len(low)} bounds for {n_zones} zones")
        fits = len(present) == len(full) == n_zones
        if not fits or (full < 0).any() or (full > present).any() or (present > n_rows).any():
            raise CorruptData(f"{where}: the zones count other rows than the shard has")
    return Zones(kind, present, full, values, sets, low, high)


def bloom_blocks(column: Column, block_rows: int) -> Iterator[bytes]:
    """Yield the Bloom filter of the values of every `block_rows` rows, as bytes."""
    words = column.dictionary
    hashes = None if words is None else hash_keys(words)
    for start in range(0, column.n, block_rows):
        stop = min(start + block_rows, column.n)
        if column.offsets is None:
            items = column.values[start:stop][column.present[start:stop]]
        else:
            items = column.values[column.offsets[start] : column.offsets[stop]]
        held = np.unique(items)
        keys = hash_keys(held.astype(np.int64)) if hashes is None else hashes[held]
        n_bytes = max(1, -(-len(keys) * BLOOM_BITS // 8))
        flags = np.zeros(n_bytes * 8, dtype=np.bool_)
        flags[_bloom_bits(keys, n_bytes * 8)] = True
        yield np.packbits(flags, bitorder="little").tobytes()


def may_hold(bloom: UInt8s, hashes: npt.NDArray[np.uint64]) -> Bools:
    """Return bool[m]: which of the values with these hashes a block may hold; False is certain."""
    bits = _bloom_bits(hashes, len(bloom) * 8)
    found: Bools = ((bloom[bits >> 3] >> (bits & 7).astype(np.uint8)) & 1).all(axis=1)
    return found


def _bloom_bits(hashes: npt.NDArray[np.uint64], n_bits: int) -> npt.NDArray[np.int64]:
    # Two halves of one hash make as many as are wanted (Kirsch & Mitzenmacher 2006).
    low = (hashes & np.uint64(0xFFFFFFFF)).astype(np.int64)[:, None]
    high = (hashes >> np.uint64(32)).astype(np.int64)[:, None] | 1
    bits: npt.NDArray[np.int64] = (low + np.arange(BLOOM_HASHES) * high) % n_bits
    return bits


def _items(column: Column, starts: Int64s) -> tuple[npt.NDArray[Any], Int64s]:
    """Return the column's values without those of null rows, and the zone of each."""
    zones = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, column.n)))
    if column.offsets is not None:
        return column.values, np.repeat(zones, np.diff(column.offsets))
    return column.values[column.present], zones[column.present]


def _raw(kind: FieldType, values: npt.NDArray[Any] | tuple[str, ...]) -> Any:
    return values.astype(_NUMBERS[kind]).tobytes() if isinstance(values, np.ndarray) else list(values)


def _values(kind: FieldType, stored: Any, where: str) -> npt.NDArray[Any] | tuple[str, ...]:
    if kind in ("str", "list[str]"):
        if not all(isinstance(word, str) for word in stored):
            raise CorruptData(f"{where}: a value of a {kind} is no text")
        return tuple(stored)
    values = np.frombuffer(stored, _NUMBERS[kind])
    return values.astype(np.bool_ if kind == "bool" else values.dtype.newbyteorder("="))
