"""Makes the golden objects of format version 1: run once, for the first release of the version, never again.

python tests/golden/make_v1.py
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np

from vstore.format.columns import column_from_values
from vstore.format.dead_rows import encode_dead
from vstore.format.log_record import DeleteBatch, LogRecord, UpsertBatch, encode_log_record
from vstore.format.manifest import Manifest
from vstore.format.manifest_codec import encode_manifest
from vstore.format.rows import RowBatch
from vstore.settings import IndexSettings
from vstore.shard.builder import ShardBuilder
from vstore.types import Schema

HERE = Path(__file__).parent / "v1"
FIELDS = {
    "year": "int",
    "price": "float",
    "public": "bool",
    "topic": "str",
    "taken": "datetime",
    "tags": "list[str]",
    "codes": "list[int]",
}
N, DIM = 70, 5


def rows() -> RowBatch:
    """70 rows of every type of field, some absent: the same on every machine."""
    grid = (np.arange(N * DIM, dtype=np.float32).reshape(N, DIM) * 7 % 23) / 4 - 2
    columns = {
        "year": [2000 + i if i % 3 else None for i in range(N)],
        "price": [i / 4 if i % 5 else None for i in range(N)],
        "public": [i % 2 == 0 if i % 7 else None for i in range(N)],
        "topic": [("bird", "tree", "böe")[i % 3] if i % 4 else None for i in range(N)],
        "taken": [dt.datetime(2020, 1, 1, i % 24, tzinfo=dt.UTC) if i % 6 else None for i in range(N)],
        "tags": [["a", "b", "ü"][: i % 4] if i % 9 else None for i in range(N)],
        "codes": [list(range(i % 3)) if i % 8 else None for i in range(N)],
    }
    return RowBatch(
        tuple(f"key-{i}" for i in range(N)),
        "str",
        grid,
        {name: column_from_values(FIELDS[name], values, name) for name, values in columns.items()},
        [{"text": f"document {i}"} if i % 2 else None for i in range(N)],
    )


def main() -> None:
    schema = Schema(DIM, "cosine", FIELDS)
    index = IndexSettings(M=4, ef_construction=40, cluster_rows=16, block_rows=64)
    entry, shard = ShardBuilder(1)(rows(), schema, index, shard_id="s1", key="data/c/id/shards/s1.shard")
    dead = np.array([0b1011, 1], dtype=np.uint64)
    manifest = Manifest(
        version=3,
        collection_id="id",
        name="c",
        schema=schema,
        index=index,
        writer_epoch=2,
        log_start=5,
        created_at=1.7e9,
        write_id="w",
        id_kind="str",
        shards=(entry,),
        properties={"fences": "1 4"},
    )
    record = LogRecord(5, 2, "w", "write", (UpsertBatch(rows()), DeleteBatch(("key-1", "gone"))))
    objects = {
        "shard": shard,
        "manifest": encode_manifest(manifest),
        "log": encode_log_record(record),
        "fence": encode_log_record(LogRecord(4, 2, "f", "fence")),
        "deletes-int": encode_log_record(
            LogRecord(6, 2, "d", "write", (DeleteBatch(np.array([-1, 2**62], dtype=np.int64)),))
        ),
        "dead": encode_dead(dead, N),
    }
    HERE.mkdir()
    for name, data in objects.items():
        (HERE / name).write_bytes(data)


if __name__ == "__main__":
    main()
