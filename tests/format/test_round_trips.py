"""What is encoded decodes to the same: of every kind of object, for whatever may stand in it."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.format.column_codec import decode_column, encode_column
from vstore.format.columns import column_from_values, column_values, null_column
from vstore.format.dead_rows import decode_dead, encode_dead
from vstore.format.log_record import DeleteBatch, LogRecord, UpsertBatch, decode_log_record, encode_log_record
from vstore.format.manifest import Extent, Manifest, ShardEntry
from vstore.format.manifest_codec import decode_manifest, encode_manifest
from vstore.format.rows import RowBatch
from vstore.format.rows_codec import decode_keys, encode_keys, hash_keys
from vstore.format.shard_file import ShardFile, ShardFileWriter
from vstore.settings import IndexSettings
from vstore.types import FIELD_TYPES, METRICS, Schema

INT64 = st.integers(-(2**63), 2**63 - 1)
NATURAL = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=6)
FLOATS = st.floats(allow_nan=False)
VALUES = {
    "int": INT64,
    "float": FLOATS,
    "bool": st.booleans(),
    "str": TEXT,
    "datetime": st.datetimes(),
    "list[str]": st.lists(TEXT, max_size=3),
    "list[int]": st.lists(INT64, max_size=3),
}
FIELDS = st.dictionaries(TEXT, st.sampled_from(FIELD_TYPES), max_size=4)
DOCUMENTS = st.none() | st.fixed_dictionaries(
    {}, optional={"text": TEXT, "image": TEXT | st.binary(max_size=5)}
)


@st.composite
def columns(draw, kind: str, n: int):
    return column_from_values(kind, draw(st.lists(st.none() | VALUES[kind], min_size=n, max_size=n)))


@st.composite
def key_sets(draw, kind: str):
    found = draw(st.lists(INT64 if kind == "int" else TEXT, max_size=5, unique=True))
    return np.array(found, dtype=np.int64) if kind == "int" else tuple(found)


@st.composite
def row_batches(draw) -> RowBatch:
    kind = draw(st.sampled_from(["int", "str"]))
    keys = draw(key_sets(kind))
    n, dim = len(keys), draw(st.integers(1, 4))
    components = draw(st.lists(st.floats(width=32), min_size=n * dim, max_size=n * dim))
    fields = draw(FIELDS)
    return RowBatch(
        keys,
        kind,
        np.array(components, dtype=np.float32).reshape(n, dim),
        {name: draw(columns(type_, n)) for name, type_ in fields.items()},
        draw(st.none() | st.lists(DOCUMENTS, min_size=n, max_size=n)),
    )


def same_rows(found: RowBatch, wanted: RowBatch) -> None:
    assert list(found.keys) == list(wanted.keys)
    assert found.id_kind == wanted.id_kind
    assert found.vectors.tobytes() == wanted.vectors.tobytes()
    assert found.vectors.shape == wanted.vectors.shape
    assert list(found.columns) == list(wanted.columns)
    for name, column in wanted.columns.items():
        assert found.columns[name].type == column.type
        assert column_values(found.columns[name]) == column_values(column)
    assert (found.documents is None) == (wanted.documents is None)
    assert list(found.documents or ()) == list(wanted.documents or ())


@st.composite
def shard_entries(draw, number: int) -> ShardEntry:
    size = draw(st.integers(20, 2**62))
    start = draw(st.integers(0, size))
    part = Extent(start, draw(st.integers(0, size - start)))
    n_rows = draw(st.integers(1, 2**40))
    n_dead = draw(st.integers(0, n_rows))
    sections = dict.fromkeys(draw(st.lists(TEXT, max_size=3)), part)
    dead = draw(TEXT) if n_dead else None
    return ShardEntry(f"s{number}", draw(TEXT), size, n_rows, part, sections, dead, n_dead)


@st.composite
def manifests(draw) -> Manifest:
    return Manifest(
        version=draw(NATURAL),
        collection_id=draw(TEXT),
        name=draw(TEXT),
        schema=Schema(draw(st.integers(1, 65536)), draw(st.sampled_from(METRICS)), draw(FIELDS)),
        index=IndexSettings(M=draw(st.integers(2, 64)), seed=draw(INT64)),
        writer_epoch=draw(NATURAL),
        log_start=draw(NATURAL),
        created_at=draw(st.floats(allow_nan=False, allow_infinity=False)),
        write_id=draw(TEXT),
        id_kind=draw(st.sampled_from([None, "int", "str"])),
        shards=tuple(draw(shard_entries(i)) for i in range(draw(st.integers(0, 3)))),
        dropped=draw(st.booleans()),
        properties=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
    )


@settings(max_examples=80, deadline=None)
@given(manifest=manifests())
def test_manifests(manifest):
    found = decode_manifest(encode_manifest(manifest), "thing")
    assert found == manifest
    assert list(found.schema.fields.items()) == list(manifest.schema.fields.items())


@settings(max_examples=80, deadline=None)
@given(data=st.data(), seq=NATURAL, epoch=NATURAL, write_id=TEXT)
def test_log_records(data, seq, epoch, write_id):
    batches = []
    for _ in range(data.draw(st.integers(0, 3))):
        if data.draw(st.booleans()):
            batches.append(UpsertBatch(data.draw(row_batches())))
        else:
            batches.append(DeleteBatch(data.draw(key_sets(data.draw(st.sampled_from(["int", "str"]))))))
    record = LogRecord(seq, epoch, write_id, "write", tuple(batches))
    found = decode_log_record(encode_log_record(record), "thing")
    assert (found.seq, found.epoch, found.write_id, found.kind) == (seq, epoch, write_id, "write")
    assert [type(batch) for batch in found.batches] == [type(batch) for batch in batches]
    for one, other in zip(found.batches, batches, strict=True):
        if isinstance(other, UpsertBatch):
            same_rows(one.rows, other.rows)
        else:
            assert type(one.keys) is type(other.keys)
            assert list(one.keys) == list(other.keys)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(FIELD_TYPES), n=st.integers(0, 20))
def test_columns(data, kind, n):
    column = data.draw(columns(kind, n))
    found = decode_column(encode_column(column), "thing")
    assert found.type == kind
    assert found.values.dtype == column.values.dtype
    assert found.dictionary == column.dictionary
    assert found.present.tolist() == column.present.tolist()
    assert column_values(found) == column_values(column)


def test_columns_of_nulls_alone():
    for kind in FIELD_TYPES:
        found = decode_column(encode_column(null_column(kind, 9)), "thing")
        assert column_values(found) == [None] * 9


@settings(max_examples=60, deadline=None)
@given(dead=st.lists(st.booleans(), min_size=1, max_size=200))
def test_dead_rows(dead):
    words = np.zeros(-(-len(dead) // 64), dtype=np.uint64)
    for row in np.flatnonzero(dead).tolist():
        words[row >> 6] |= np.uint64(1 << (row & 63))
    assert decode_dead(encode_dead(words, len(dead)), "thing", len(dead)).tolist() == words.tolist()


@settings(max_examples=60, deadline=None)
@given(
    parts=st.dictionaries(
        TEXT, st.tuples(st.booleans(), st.lists(st.binary(max_size=40), max_size=4)), max_size=4
    ),
    inline=st.dictionaries(TEXT, st.binary(max_size=20), max_size=3),
)
def test_shard_files(parts, inline):
    writer = ShardFileWriter()
    for name, (compress, blocks) in parts.items():
        writer.add(name, blocks, compress=compress)
    for name, data in inline.items():
        writer.add_to_head(name, data)
    data, head, extents = writer.finish()
    for file in (
        ShardFile.from_bytes(data, "thing"),
        ShardFile.from_head(data[head.start : head.start + head.length], "thing", head.start),
    ):
        assert set(file.sections) == set(parts) == set(extents)
        for name, content in inline.items():
            assert file.head_section(name) == content
        for name, (_, blocks) in parts.items():
            assert file.n_blocks(name) == len(blocks)
            whole = data[extents[name].start : extents[name].start + extents[name].length]
            assert file.decode_section(name, whole) == blocks
            for i, block in enumerate(blocks):
                at = file.block_extent(name, i)
                assert file.decode_block(name, i, data[at.start : at.start + at.length]) == block


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["int", "str"]))
def test_keys_and_their_hashes(data, kind):
    keys = data.draw(key_sets(kind))
    assert list(decode_keys(encode_keys(keys), kind, len(keys), "thing")) == list(keys)
    assert hash_keys(keys).tolist() == [slow_hash(key) for key in list(keys)]


def slow_hash(key) -> int:
    """The hash of one key, as docs/FORMAT.md words it."""
    if isinstance(key, str):
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    mask = 2**64 - 1
    z = int(key) & mask
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & mask
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def test_floats_keep_their_bits():
    column = column_from_values("float", [-0.0, 5e-324, math.inf, 0.1])
    assert decode_column(encode_column(column), "thing").values.tobytes() == column.values.tobytes()
