"""The block cache at the boundary between kernels and storage.

`blocks` holds decoded blocks of shards in memory under one byte limit, and publishes the block
tables through which kernels read them; `rows` is the part of those for exact vectors and payload;
`disk` keeps stored blocks in a folder. Imports kernels and nothing above `vstore.types`.
"""

from vstore.cache.blocks import CODES, LISTS, Block, BlockCache, BlockKey, CacheStats
from vstore.cache.disk import DiskTier
from vstore.cache.rows import RowTables

__all__ = ["CODES", "LISTS", "Block", "BlockCache", "BlockKey", "CacheStats", "DiskTier", "RowTables"]
