"""A column as sections of a shard: blocks of rows, summaries of their zones, and Bloom filters."""

from __future__ import annotations

import numpy as np

from vstore.format.column_codec import encode_column
from vstore.format.columns import Column, take_column
from vstore.format.shard_file import ShardFileWriter
from vstore.format.zones import HASHED, bloom_blocks, encode_zones, summarize
from vstore.shard import sections
from vstore.shard.head import zone_starts
from vstore.types import Int64s


def add_column(
    writer: ShardFileWriter, name: str, column: Column, block_rows: int, cluster_offsets: Int64s
) -> None:
    """Add a field's column to a shard file, and, where it has several blocks, what spares reading them.

    Args:
        writer: is added to.
        name: the field.
        column: its n rows, by node id.
        block_rows: rows of a block.
        cluster_offsets: int64[K + 1], the first row of each cluster, and n.
    """
    blocks = []
    for start in range(0, column.n, block_rows):
        index = np.arange(start, min(start + block_rows, column.n), dtype=np.int64)
        blocks.append(encode_column(take_column(column, index)))
    n_bytes = writer.add(sections.column_section(name), blocks)
    if len(blocks) == 1:
        return
    zones = summarize(column, zone_starts(cluster_offsets, block_rows))
    writer.add(sections.zones_section(name), [encode_zones(zones)])
    if zones.values is None and column.type in HASHED:
        blooms = list(bloom_blocks(column, block_rows))
        if sum(map(len, blooms)) <= sections.BLOOM_SHARE * n_bytes:
            writer.add(sections.bloom_section(name), blooms, compress=False)
