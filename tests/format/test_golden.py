"""Objects written by the first release of each format version still read as they were written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vstore.cache import BlockCache
from vstore.format.columns import column_values
from vstore.format.dead_rows import decode_dead
from vstore.format.log_record import decode_log_record
from vstore.format.manifest_codec import decode_manifest
from vstore.format.shard_file import ShardFile
from vstore.shard.reader import Shard
from vstore.storage.memory import MemoryStore

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

from make_v1 import FIELDS, N, rows  # noqa: E402 - the folder is no package


def read(name: str) -> bytes:
    return (GOLDEN / "v1" / name).read_bytes()


def same_rows(found, wanted) -> None:
    assert list(found.keys) == list(wanted.keys)
    assert np.array_equal(found.vectors, wanted.vectors)
    for name in FIELDS:
        assert column_values(found.columns[name]) == column_values(wanted.columns[name])
    assert list(found.documents) == list(wanted.documents)


def test_manifest():
    manifest = decode_manifest(read("manifest"), "golden")
    assert (manifest.version, manifest.name, manifest.writer_epoch, manifest.log_start) == (3, "c", 2, 5)
    assert dict(manifest.schema.fields) == FIELDS
    assert list(manifest.schema.fields) == list(FIELDS)
    assert manifest.shards[0].n_rows == N
    assert manifest.properties == {"fences": "1 4"}


def test_log_records():
    record = decode_log_record(read("log"), "golden")
    assert (record.seq, record.epoch, record.write_id, record.kind) == (5, 2, "w", "write")
    same_rows(record.batches[0].rows, rows())
    assert record.batches[1].keys == ("key-1", "gone")
    assert decode_log_record(read("fence"), "golden").kind == "fence"
    deletes = decode_log_record(read("deletes-int"), "golden")
    assert deletes.batches[0].keys.tolist() == [-1, 2**62]


def test_dead_rows():
    assert decode_dead(read("dead"), "golden", N).tolist() == [0b1011, 1]


def test_a_shard():
    manifest = decode_manifest(read("manifest"), "golden")
    store = MemoryStore()
    store.put(manifest.shards[0].key, read("shard"))
    shard = Shard(manifest.shards[0], manifest.schema, "str", store, BlockCache(1 << 20))
    wanted = rows()
    node_ids = shard.lookup(wanted.keys)
    assert sorted(node_ids.tolist()) == list(range(N))
    same_rows(shard.rows(node_ids), wanted)
    assert shard.lookup(("nobody",)).tolist() == [-1]
    assert set(ShardFile.from_bytes(read("shard"), "golden").sections) == set(manifest.shards[0].sections)


def test_golden_objects_are_never_made_again():
    sizes = {path.name: path.stat().st_size for path in (GOLDEN / "v1").iterdir()}
    assert set(sizes) == {"shard", "manifest", "log", "fence", "deletes-int", "dead"}
    with pytest.raises(FileExistsError):
        (GOLDEN / "v1").mkdir()
