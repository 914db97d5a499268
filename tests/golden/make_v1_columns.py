"""Makes a golden shard whose columns have several blocks, zones and Bloom filters: run once, never again.

python tests/golden/make_v1_columns.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vstore.format.columns import column_from_values
from vstore.format.manifest import Manifest
from vstore.format.manifest_codec import encode_manifest
from vstore.format.rows import RowBatch
from vstore.settings import IndexSettings
from vstore.shard.builder import ShardBuilder
from vstore.types import Schema

HERE = Path(__file__).parent / "v1_columns"
FIELDS = {"user": "int", "name": "str", "topic": "str", "price": "float", "tags": "list[str]"}
N, DIM, BLOCK_ROWS = 300, 3, 64


def rows() -> RowBatch:
    """300 rows; users and names are all different, topics are few: the same on every machine."""
    grid = (np.arange(N * DIM, dtype=np.float32).reshape(N, DIM) * 7 % 23) / 4 - 2
    users = [i * 0x9E3779B97F4A7C15 % (1 << 62) for i in range(N)]
    columns = {
        "user": users,
        "name": [f"name-{user:016x}-of-more-than-thirty-two" for user in users],
        "topic": [("bird", "tree", "böe")[i % 3] if i % 4 else None for i in range(N)],
        "price": [i / 4 if i % 5 else None for i in range(N)],
        "tags": [["a", "b", f"ü{i}"][: i % 4] if i % 9 else None for i in range(N)],
    }
    return RowBatch(
        np.arange(N, dtype=np.int64),
        "int",
        grid,
        {name: column_from_values(FIELDS[name], values, name) for name, values in columns.items()},
    )


def main() -> None:
    schema = Schema(DIM, "l2", FIELDS)
    index = IndexSettings(M=4, ef_construction=40, cluster_rows=32, block_rows=64)
    entry, shard = ShardBuilder(1, BLOCK_ROWS)(
        rows(), schema, index, shard_id="s1", key="data/c/id/shards/s1.shard"
    )
    manifest = Manifest(
        version=2,
        collection_id="id",
        name="c",
        schema=schema,
        index=index,
        writer_epoch=1,
        log_start=1,
        created_at=1.7e9,
        write_id="w",
        id_kind="int",
        shards=(entry,),
    )
    HERE.mkdir()
    (HERE / "shard").write_bytes(shard)
    (HERE / "manifest").write_bytes(encode_manifest(manifest))


if __name__ == "__main__":
    main()
