"""Whatever happens to the bytes, a decoder gives the right answer or an error naming object and reason."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from pathlib import Path

import crc32c
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.cache import BlockCache, BlockKey
from vstore.errors import CorruptData, FormatError, UnsupportedVersion
from vstore.format import frame
from vstore.format.column_codec import decode_column
from vstore.format.dead_rows import decode_dead, inflate
from vstore.format.log_record import decode_log_record
from vstore.format.manifest_codec import decode_manifest
from vstore.format.shard_file import HEAD_MAGIC, TRAILER_BYTES, ShardFile
from vstore.shard import sections
from vstore.shard.head import ShardHead, decode_head
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.storage.memory import MemoryStore

GOLDEN = Path(__file__).parent.parent / "golden" / "v1"
MANIFEST = decode_manifest((GOLDEN / "manifest").read_bytes(), "golden")
HEAD = MANIFEST.shards[0].head
SHARD = (GOLDEN / "shard").read_bytes()

DECODERS = {
    "manifest": lambda data: decode_manifest(data, "thing"),
    "log": lambda data: decode_log_record(data, "thing"),
    "fence": lambda data: decode_log_record(data, "thing"),
    "dead": lambda data: decode_dead(data, "thing", 70),
    "shard": lambda data: ShardFile.from_bytes(data, "thing"),
    "head": lambda data: decode_head(data, "thing"),
}


def golden(name: str) -> bytes:
    return SHARD[HEAD.start : HEAD.start + HEAD.length] if name == "head" else (GOLDEN / name).read_bytes()


@contextlib.contextmanager
def named_error_or_answer():
    try:
        yield
    except FormatError as error:
        if "thing" not in str(error):
            raise AssertionError(f"the error names no object: {error}") from error


def refused(name: str, data: bytes) -> None:
    with pytest.raises(FormatError, match="thing"):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_truncated_anywhere(name, data):
    whole = golden(name)
    refused(name, whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "shard"])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_one_flipped_bit(name, data):
    spoiled = bytearray(golden(name))
    at = data.draw(st.integers(0, len(spoiled) * 8 - 1))
    spoiled[at // 8] ^= 1 << at % 8
    refused(name, bytes(spoiled))


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=300))
def test_random_bytes(name, noise):
    refused(name, noise)


@pytest.mark.parametrize("name", ["manifest", "log", "dead", "head"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_under_a_valid_checksum(name, data):
    """What a broken writer might frame: no crash, no hang, nothing but a named error or an answer."""
    payload = bytearray(golden(name)[frame.HEADER_BYTES :])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    spoiled = frame.encode_frame(golden(name)[:8], bytes(payload))
    with named_error_or_answer():
        DECODERS[name](spoiled)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_columns(data):
    column = frame.pack(
        {
            "type": data.draw(st.sampled_from(["int", "str", "list[str]", "list[int]", "bool", "x"])),
            "n": data.draw(st.integers(-2, 70)),
            "present": data.draw(st.binary(max_size=9)),
            "values": data.draw(st.binary(max_size=64)),
            "offsets": data.draw(st.binary(max_size=64)),
            "dictionary": data.draw(st.lists(st.text(max_size=2), max_size=4)),
        }
    )
    with named_error_or_answer():
        decoded = decode_column(column, "thing")
        assert len(decoded.present) == decoded.n


@pytest.mark.parametrize("name", ["manifest", "log", "dead", "head"])
def test_a_newer_version_and_unknown_flags_are_refused_by_name(name):
    whole = golden(name)
    for at, packed, said in ((8, struct.pack("<H", 2), "version 2"), (12, struct.pack("<I", 4), "0x4")):
        header = bytearray(whole[:28])
        header[at : at + len(packed)] = packed
        spoiled = bytes(header) + struct.pack("<I", crc32c.crc32c(bytes(header))) + whole[32:]
        with pytest.raises(UnsupportedVersion, match=rf"thing.*{said}"):
            DECODERS[name](spoiled)


def test_a_shard_of_a_newer_version_is_refused():
    trailer = bytearray(SHARD[-TRAILER_BYTES:-4])
    trailer[8:10] = struct.pack("<H", 9)
    spoiled = SHARD[:-TRAILER_BYTES] + bytes(trailer) + struct.pack("<I", crc32c.crc32c(bytes(trailer)))
    with pytest.raises(UnsupportedVersion, match=r"thing.*version 9"):
        ShardFile.from_bytes(spoiled, "thing")


@settings(max_examples=150, deadline=None)
@given(at=st.integers(8, HEAD.start - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_any_block_is_found_when_the_block_is_read(at, bit):
    spoiled = bytearray(SHARD)
    spoiled[at] ^= 1 << bit
    entry = MANIFEST.shards[0]
    store = MemoryStore()
    store.put(entry.key, bytes(spoiled))
    session = ShardSession(Shard(entry, MANIFEST.schema, "str", store, BlockCache(0)), BlockCache(0))
    session.fetch([session.key(sections.HEAD)])
    name = next(n for n, part in entry.sections.items() if part.start <= at < part.start + part.length)
    whole = (sections.UPPER, sections.KEYS, sections.KEY_INDEX)
    if name in whole or name.startswith("column:"):
        keys = [session.key(name)]
    else:
        keys = session.keys(name, range(session.head.file.n_blocks(name)))
    with pytest.raises(CorruptData, match=rf"s1\.shard.*{name}.*offset \d+ fails its checksum"):
        session.fetch(keys)


def opened() -> tuple[Shard, ShardHead]:
    entry = dataclasses.replace(MANIFEST.shards[0], key="thing")
    return Shard(entry, MANIFEST.schema, "str", MemoryStore(), BlockCache(0)), decode_head(
        golden("head"), "thing"
    )


@pytest.mark.parametrize("name", sorted(MANIFEST.shards[0].sections))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_inside_a_block_whose_checksum_holds(name, data):
    """As above, for what kernels and filters read: no id outside the shard, no array of another shape."""
    shard, head = opened()
    part = shard.entry.sections[name]
    whole = name in (sections.UPPER, sections.KEYS, sections.KEY_INDEX) or name.startswith("column:")
    plain = bytearray(head.file.decode_section(name, SHARD[part.start : part.start + part.length])[0])
    for _ in range(data.draw(st.integers(1, 4))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del plain[data.draw(st.integers(0, len(plain))) :]
    key = BlockKey(shard.shard_id, name, sections.WHOLE if whole else 0)
    with named_error_or_answer():
        value = shard._value(key, [bytes(plain)], head, f"thing: {name}")
        if name == sections.LISTS:
            assert value.shape == (head.block_of(0), head.M0)
            assert ((value >= -1) & (value < head.n)).all()
        elif name == sections.KEYS:
            assert len(value) == head.n
        elif name.startswith("column:"):
            assert value.n == len(value.present)


def forged_head(**changes) -> bytes:
    """A head whose checksums hold and whose META says something else."""
    stored = frame.unpack(golden("head")[frame.HEADER_BYTES :], "golden")
    meta = frame.unpack(stored["inline"][sections.META], "golden") | changes
    stored["inline"][sections.META] = frame.pack(meta)
    return frame.encode_frame(HEAD_MAGIC, frame.pack(stored))


@pytest.mark.parametrize(
    "changes",
    [
        dict(n=71),
        dict(n=-1),
        dict(n=2**64 - 1),
        dict(n=True),
        dict(dim=6),
        dict(metric="dot"),
        dict(metric="hamming"),
        dict(M0=0),
        dict(M0=7),
        dict(block_rows=0),
        dict(block_rows=32),
        dict(block_rows=65),
        dict(vector_block_rows=0),
        dict(payload_block_rows=1),
        dict(fields=[["year"]]),
    ],
    ids=str,
)
def test_a_head_that_contradicts_its_own_blocks_is_refused(changes):
    decode_head(forged_head(), "thing", HEAD.start)
    with pytest.raises(CorruptData, match="thing"):
        decode_head(forged_head(**changes), "thing", HEAD.start)


def test_blocks_end_before_the_head_begins():
    with pytest.raises(CorruptData, match=rf"thing, section .*the head begins at {HEAD.start - 1}"):
        decode_head(golden("head"), "thing", HEAD.start - 1)


def forged_column(**changes) -> bytes:
    column = {"type": "str", "n": 2, "present": b"\1", "values": b"\0" * 8, "dictionary": ["a"]}
    return frame.pack(column | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(n=10**13), "null flags"),
        (dict(n=-1), "whole number"),
        (dict(n=2.0), "whole number"),
        (dict(present=b"\4"), "past the 2 rows"),
        (dict(present=b"\1\0"), "null flags"),
        (dict(values=b"\0" * 12), "3 values for 2 rows"),
        (dict(values=struct.pack("<ii", 0, 1)), "null row holds a code"),
        (dict(values=struct.pack("<ii", 1, 0)), "outside the dictionary"),
        (dict(values=struct.pack("<ii", -1, 0)), "outside the dictionary"),
        (dict(dictionary=["b", "a"]), "not sorted unique"),
        (dict(dictionary=["a", "a"]), "not sorted unique"),
        (dict(dictionary=[1]), "not sorted unique"),
        (dict(type="bool", values=b"\2\0"), "neither 0 nor 1"),
        (dict(type="list[str]", offsets=struct.pack("<qqq", 0, 1, 2)), "null row holds items"),
        (dict(type="list[str]", offsets=struct.pack("<qqq", 0, 3, 2)), "in order"),
    ],
    ids=str,
)
def test_a_column_that_contradicts_itself_is_refused(changes, message):
    assert decode_column(forged_column(), "thing").n == 2
    with pytest.raises(CorruptData, match=rf"thing.*{message}"):
        decode_column(forged_column(**changes), "thing")


def forged(name: str, change) -> bytes:
    stored = frame.unpack(golden(name)[frame.HEADER_BYTES :], "golden")
    change(stored)
    return frame.encode_frame(golden(name)[:8], frame.pack(stored))


FORGED = [
    ("manifest", lambda m: m.update(version=3.0)),
    ("manifest", lambda m: m.update(name=3)),
    ("manifest", lambda m: m.update(created_at=float("nan"))),
    ("manifest", lambda m: m.update(dropped=0)),
    ("manifest", lambda m: m["schema"].update(dim=0)),
    ("manifest", lambda m: m["schema"].update(metric=["l2"])),
    ("manifest", lambda m: m["schema"].update(fields=[["a", "int"], ["a", "str"]])),
    ("manifest", lambda m: m["index"].update(M=4.0)),
    ("manifest", lambda m: m["index"].update(M=1000)),
    ("manifest", lambda m: m["shards"][0].update(head=[1, 2, 3])),
    ("manifest", lambda m: m["shards"][0].update(head=[0, 2**62])),
    ("manifest", lambda m: m["shards"][0].update(n_dead=71)),
    ("log", lambda r: r.update(kind="fence")),
    ("log", lambda r: r.update(seq=-1)),
    ("log", lambda r: r["batches"][0].update(dim=-1)),
    ("log", lambda r: r["batches"][0].update(n=71)),
    ("log", lambda r: r["batches"][0].update(documents=[{"text": 3}] * 70)),
    ("log", lambda r: r["batches"][0].update(documents=[{"sound": ""}] * 70)),
    ("log", lambda r: r["batches"][1].update(op="truncate")),
    ("head", lambda h: h["inline"].update(meta=10**12)),
    ("head", lambda h: h["sections"]["codes"].update(compressed=2)),
    ("head", lambda h: h["sections"]["codes"].update(offsets=struct.pack("<qqq", 2**63 - 1, -(2**63), 9))),
]


@pytest.mark.parametrize(
    ("name", "change"), FORGED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(FORGED)]
)
def test_what_no_writer_writes_is_refused(name, change):
    refused(name, forged(name, change))


def test_keys_that_a_later_version_added_are_passed_over():
    found = decode_manifest(
        forged("manifest", lambda m: m.update(later=1) or m["index"].update(later=2)), "thing"
    )
    assert found == MANIFEST


def test_compressed_data_is_one_frame_of_an_honest_size():
    plain = b"\0" * 200_000
    whole = zstandard.ZstdCompressor(level=19).compress(plain)
    assert inflate(whole, len(plain), "thing") == plain
    for extra in (b"x", whole):
        with pytest.raises(CorruptData, match="thing"):
            inflate(whole + extra, len(plain), "thing")
    liar = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**41) + b"\1\0\0"
    with pytest.raises(CorruptData, match=r"thing.*16 bytes cannot hold"):
        inflate(liar, 2**41, "thing")


def test_a_block_that_promises_too_much_is_refused_before_it_is_inflated():
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (64 << 20))
    with pytest.raises(CorruptData, match=r"thing.*announce 8 bytes"):
        inflate(bomb, 8, "thing")
