"""Whatever happens to the bytes, a decoder gives the right answer or an error naming object and reason."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.cache import BlockCache
from vstore.errors import CorruptData, FormatError, UnsupportedVersion
from vstore.format import frame
from vstore.format.column_codec import decode_column
from vstore.format.dead_rows import decode_dead
from vstore.format.log_record import decode_log_record
from vstore.format.manifest_codec import decode_manifest
from vstore.format.shard_file import TRAILER_BYTES, ShardFile
from vstore.shard import sections
from vstore.shard.head import decode_head
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


def test_a_block_that_promises_too_much_is_refused_before_it_is_inflated():
    import zstandard

    from vstore.format.dead_rows import inflate

    bomb = zstandard.ZstdCompressor().compress(b"\0" * (64 << 20))
    with pytest.raises(CorruptData, match=r"thing.*announce 8 bytes"):
        inflate(bomb, 8, "thing")
