"""The golden shard with columns in blocks reads as it was written, and by the page: zones and blooms too."""

from __future__ import annotations

import itertools
import struct
import sys
from pathlib import Path

import crc32c
import msgpack
import numpy as np
import pytest
import zstandard

from vstore.cache import BlockCache
from vstore.format.columns import column_values
from vstore.format.manifest_codec import decode_manifest
from vstore.shard.reader import Shard
from vstore.storage.memory import MemoryStore

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

from make_v1_columns import BLOCK_ROWS, FIELDS, N, rows  # noqa: E402 - the folder is no package

SHARD = (GOLDEN / "v1_columns" / "shard").read_bytes()


def head() -> dict:
    start, length = struct.unpack_from("<QQ", SHARD, len(SHARD) - 44 + 16)
    return msgpack.unpackb(SHARD[start + 32 : start + length])


HEAD = head()
META = msgpack.unpackb(HEAD["inline"]["meta"])


def blocks(name: str) -> list[bytes]:
    section = HEAD["sections"][name]
    offsets = np.frombuffer(section["offsets"], "<i8").tolist()
    found = [SHARD[start:end] for start, end in itertools.pairwise(offsets)]
    assert [crc32c.crc32c(data) for data in found] == np.frombuffer(section["checks"], "<u4").tolist()
    return [zstandard.decompress(data) for data in found] if section["compressed"] else found


def shard() -> Shard:
    manifest = decode_manifest((GOLDEN / "v1_columns" / "manifest").read_bytes(), "golden")
    store = MemoryStore()
    store.put(manifest.shards[0].key, SHARD)
    return Shard(manifest.shards[0], manifest.schema, "int", store, BlockCache(1 << 20))


def test_rows_read_as_they_were_written():
    wanted = rows()
    found = shard().rows(shard().lookup(wanted.keys))
    assert np.array_equal(found.vectors, wanted.vectors)
    for name in FIELDS:
        assert column_values(found.columns[name]) == column_values(wanted.columns[name])


def held_rows() -> dict[str, list]:
    """The values of each field by node id, with what the package says of none of this."""
    found: dict[str, list] = {}
    order = np.frombuffer(b"".join(blocks("keys")), "<i8").tolist()
    for name in FIELDS:
        values = column_values(rows().columns[name])
        found[name] = [values[key] for key in order]
    return found


def zone_rows() -> list[range]:
    clusters = np.frombuffer(HEAD["inline"]["clusters"], "<i8").tolist()
    starts = sorted({*clusters[:-1], *range(0, N, META["column_block_rows"])})
    return [range(a, b) for a, b in zip(starts, [*starts[1:], N], strict=True)]


@pytest.mark.parametrize("name", FIELDS)
def test_zones_are_as_the_page_says(name: str):
    assert META["column_block_rows"] == BLOCK_ROWS
    assert len(blocks(f"column:{name}")) == -(-N // BLOCK_ROWS)
    stored = msgpack.unpackb(blocks(f"zones:{name}")[0])
    present, full = (np.frombuffer(stored[part], "<i4").tolist() for part in ("n_present", "n_full"))
    values, kind = held_rows()[name], FIELDS[name]
    assert (stored["type"], stored["n_zones"]) == (kind, len(zone_rows()))
    for zone, ids in enumerate(zone_rows()):
        items = [values[i] for i in ids if values[i] is not None]
        assert present[zone] == len(items)
        if kind.startswith("list"):
            assert full[zone] == sum(map(bool, items))
            items = [item for row in items for item in row]
        else:
            assert full[zone] == present[zone]
        numbers = {"int": "<i8", "float": "<f8"}.get(kind)
        if "values" in stored:
            distinct = np.frombuffer(stored["values"], numbers).tolist() if numbers else stored["values"]
            width = -(-len(distinct) // 8)
            bits = stored["sets"][zone * width : (zone + 1) * width]
            assert set(items) == {v for i, v in enumerate(distinct) if bits[i // 8] >> i % 8 & 1}
        elif items:
            low, high = (
                np.frombuffer(stored[part], numbers).tolist() if numbers else stored[part]
                for part in ("low", "high")
            )
            cut = items if numbers else [item[:32] for item in items]
            assert (low[zone], high[zone]) == (min(cut), max(cut))


def test_bloom_filters_are_as_the_page_says():
    from vstore.format.rows_codec import hash_keys

    assert [name for name in HEAD["sections"] if name.startswith("bloom:")] == ["bloom:user", "bloom:name"]
    for name in ("user", "name"):
        values = held_rows()[name]
        for block, bits in enumerate(blocks(f"bloom:{name}")):
            part = values[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            assert len(bits) == -(-len(part) * 10 // 8)
            wanted = bytearray(len(bits))
            for value in part:
                key = np.array([value]) if name == "user" else (value,)
                digest = int(hash_keys(key)[0])
                for i in range(7):
                    bit = ((digest & 0xFFFFFFFF) + i * (digest >> 32 | 1)) % (8 * len(bits))
                    wanted[bit // 8] |= 1 << bit % 8
            assert bits == bytes(wanted)


def test_golden_objects_are_never_made_again():
    with pytest.raises(FileExistsError):
        (GOLDEN / "v1_columns").mkdir()
