"""After a merge: which clusters the old shards had in memory, and where in the new ones such rows lie.

A cluster of the new shard is hot where the old cluster nearest to it was: near rows are near in both. So
nothing is read of the old shard, which may be deleted by now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vstore.cache import BlockCache, BlockKey
from vstore.query.warming import Warming, guide_keys
from vstore.shard import sections
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.types import Bools, Float32s, Int64s

HOT_SHARE: Final = 0.5
"""A cluster is hot where at least this share of its rows lies in resident blocks of codes or lists."""


@dataclass(frozen=True, slots=True)
class HotClusters:
    """What a shard had in memory.

    `centroids` is float32[K, d'] of its clusters and `hot` bool[K] which of them were there; `whole` names
    the sections of one piece; `stored_bytes` is what its head and all of its resident lists, codes and whole
    sections weigh stored.
    """

    centroids: Float32s
    hot: Bools
    n_rows: int
    whole: frozenset[str]
    stored_bytes: int


def hot_clusters(shard: Shard, cache: BlockCache) -> HotClusters | None:
    """Return what of a shard is in memory, or None where not even its head is."""
    session = ShardSession(shard, cache)
    if session.missing([session.key(sections.HEAD)]):
        return None
    head = session.head
    resident = cache.resident(shard.shard_id)
    n_blocks = len(session.tables.list_table)
    guides: set[BlockKey] = set()
    for key in resident:
        if key.section in sections.TABLED:
            blocks = range(n_blocks) if key.block == sections.WHOLE else (key.block,)
            guides.update(session.keys(key.section, blocks))
    there = np.zeros(n_blocks, dtype=bool)
    there[[key.block for key in guides]] = True
    rows_there = np.concatenate([[0], np.cumsum(np.repeat(there, head.block_rows)[: head.n])])
    n_rows = np.diff(head.cluster_offsets)
    n_there = rows_there[head.cluster_offsets[1:]] - rows_there[head.cluster_offsets[:-1]]
    hot = (n_there >= HOT_SHARE * n_rows) & (n_rows > 0)
    apart = sections.TABLED | {sections.HEAD, sections.VECTORS, sections.PAYLOAD}
    whole = {key.section for key in resident if key.block == sections.WHOLE and key.section not in apart}
    weighed = [*guides, session.key(sections.HEAD), *(session.key(section) for section in whole)]
    stored_bytes = sum(session.range_of(key).length or 0 for key in weighed)
    return HotClusters(head.centroids, hot, head.n, frozenset(whole), stored_bytes)


def successor_keys(warming: Warming, shard: Shard, hot: Sequence[HotClusters]) -> list[BlockKey]:
    """Return the blocks of a new shard that hold what was hot, the hottest clusters first.

    Args:
        warming: opens the shard.
        shard: the new one.
        hot: of the shards that it was made of.
    """
    session = warming.head(shard)
    if session is None:
        return []
    head = session.head
    whole = frozenset[str]().union(*(found.whole for found in hot))
    keys = [session.key(section) for section in sorted(whole & set(shard.entry.sections))]
    n_hot, distances = np.zeros(len(head.centroids)), np.zeros(len(head.centroids))
    for found in hot:
        nearest, apart = _nearest(head.centroids, found.centroids)
        n_hot += found.hot[nearest] * found.n_rows
        distances += apart
    hottest = np.lexsort((distances, -n_hot))[: int((n_hot > 0).sum())]
    blocks: dict[int, None] = {}
    for cluster in hottest.tolist():
        first, last = head.cluster_offsets[cluster], head.cluster_offsets[cluster + 1] - 1
        blocks.update(dict.fromkeys(range(int(first) // head.block_rows, int(last) // head.block_rows + 1)))
    return keys + guide_keys(session, np.array(list(blocks), dtype=np.int32))


def _nearest(points: Float32s, centroids: Float32s) -> tuple[Int64s, Float32s]:
    """Return the index of the centroid nearest to each point, and its squared Euclidean distance."""
    squares = (points * points).sum(1)[:, None] + (centroids * centroids).sum(1) - 2 * (points @ centroids.T)
    return np.argmin(squares, axis=1), squares.min(1)
