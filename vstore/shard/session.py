"""One query's hold on one shard: the blocks that it uses, pinned from first use to its end.

A session answers a traversal's questions (it is a GraphView) from what is resident, says which
blocks are missing, and takes them in when they were read. It never reads by itself: whoever drives
the rounds does. Blocks that the cache would not keep, or has since evicted, stay in the session.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import numpy as np

from vstore.cache import Block, BlockCache, BlockKey, RowTables
from vstore.errors import FormatError
from vstore.shard import sections
from vstore.shard.head import ShardHead
from vstore.shard.reader import Shard
from vstore.storage.base import ByteRange
from vstore.traverse.base import Found, Sketches, SketchParams, UpperGraph, Wants
from vstore.types import Float32s, Int32s, Int64s, Metric
from vstore_kernels import layout
from vstore_kernels.codes import CodeParams
from vstore_kernels.search import BlockTables


class ShardSession:
    """Blocks of one shard for one query. Not thread-safe: one query, one thread at a time.

    Args:
        shard: the shard.
        cache: where resident blocks are found and fetched ones are offered.
        evict: whether what is fetched may push others out of the cache.
    """

    def __init__(self, shard: Shard, cache: BlockCache, *, evict: bool = True) -> None:
        self.shard = shard
        self._evict = evict
        self.n_cache_hits = 0
        self._cache = cache
        self._held: dict[BlockKey, Any] = {}
        self._met: set[BlockKey] = set()
        """Lists and codes that this query found or fetched: each is a hit, or used, at most once."""
        self._tables: BlockTables | None = None
        self._tables_are_own = False

    def key(self, section: str, block: int = sections.WHOLE) -> BlockKey:
        """Return the cache key of a block of this shard."""
        return BlockKey(self.shard.shard_id, section, block)

    def keys(self, section: str, blocks: Iterable[int]) -> list[BlockKey]:
        """Return the cache keys of blocks of one section."""
        return [BlockKey(self.shard.shard_id, section, int(block)) for block in blocks]

    def wanted(self, wants: Wants) -> list[BlockKey]:
        """Return the keys that a traversal's wants stand for."""
        keys = self.keys(sections.LISTS, wants.lists) + self.keys(sections.CODES, wants.codes)
        keys += self.keys(sections.SKETCHES, wants.sketches)
        if wants.upper:
            keys.append(self.key(sections.UPPER))
        return keys

    def missing(self, keys: Sequence[BlockKey]) -> list[BlockKey]:
        """Return those of the keys that are not resident; the others are pinned from here on."""
        tables, held = self._tables, self._held
        lacking: list[BlockKey] = []
        sought: list[BlockKey] = []
        tabled: list[BlockKey] = []
        for key in keys:
            section, block = key.section, key.block
            if section == sections.LISTS or section == sections.CODES:
                tables = tables or self.tables
                resident = tables.has_lists(block) if section == sections.LISTS else tables.has_codes(block)
                (tabled if resident else lacking).append(key)
            elif key not in held:
                sought.append(key)
        if tabled:
            self._meet(tabled)
        for key, value in zip(sought, self._cache.get_many(sought) if sought else (), strict=True):
            if value is None:
                lacking.append(key)
            else:
                held[key] = value
                self.n_cache_hits += 1
        return lacking

    def ahead(self, missing: Sequence[BlockKey]) -> list[BlockKey]:
        """Return what the cache's prefetch would read beside the missing blocks, as far as it exists."""
        keys = self._cache.ahead(missing)
        if not keys or self.key(sections.HEAD) not in self._held:
            return []
        known, tables = set(missing), self.tables
        found: list[BlockKey] = []
        for key in keys:
            section, block = key.section, key.block
            inside = section in sections.TABLED and 0 <= block < len(tables.list_table)
            if not inside or key.shard_id != self.shard.shard_id or key in known:
                continue
            if not (tables.has_lists(block) if section == sections.LISTS else tables.has_codes(block)):
                known.add(key)
                found.append(key)
        return found

    def used(self, found: Found) -> None:
        """Tell the cache which lists and codes a walk read: kernels find them without asking it."""
        if found.blocks is not None:
            shift = self.tables.block_shift
            lists = layout.blocks_of(found.node_ids, shift)
            self._meet(self.keys(sections.LISTS, lists) + self.keys(sections.CODES, found.blocks))

    def _meet(self, resident: Sequence[BlockKey]) -> None:
        fresh = [key for key in resident if key not in self._met]
        self.n_cache_hits += len(fresh)
        self._met.update(fresh)
        self._cache.use(fresh)

    def range_of(self, key: BlockKey) -> ByteRange:
        """Return the part of the shard's object that holds a block."""
        return self.shard.range_of(key, self._held.get(self.key(sections.HEAD)))

    def receive(
        self,
        keys: Sequence[BlockKey],
        stored: Sequence[bytes],
        doubtful: Container[BlockKey] = (),
        again: Callable[[ShardSession, BlockKey], bytes] | None = None,
    ) -> None:
        """Decode the blocks that were read, pin them, and offer them to the cache.

        Args:
            keys: the blocks.
            stored: the bytes of each.
            doubtful: those whose bytes come from where they may have been damaged.
            again: reads one of the doubtful from the store.

        Raises:
            CorruptData: a block fails its checksum or does not decode; nothing of it is cached.
        """
        fetched: list[Block] = []
        # The head carries the checksums of all others, so it comes first when both were read.
        for position in sorted(range(len(keys)), key=lambda i: keys[i].section != sections.HEAD):
            key = keys[position]
            head = self._held.get(self.key(sections.HEAD))
            try:
                block = self.shard.decode(key, stored[position], head)
            except FormatError:
                if again is None or key not in doubtful:
                    raise
                block = self.shard.decode(key, again(self, key), head)
            fetched.append(block)
            if key.section in sections.TABLED:
                self._met.add(key)
            if key.section == sections.LISTS:
                self._own_tables().set_lists(key.block, block.value)
            elif key.section == sections.CODES:
                self._own_tables().set_codes(key.block, block.value)
            else:
                self._held[key] = block.value
        self._cache.admit(fetched, evict=self._evict)

    def fetch(self, keys: Sequence[BlockKey]) -> int:
        """Read those of the keys that are not resident, in one round; return the bytes read.

        A query's reads go through the rounds that its shards share; this is for everything else.
        """
        from vstore.shard.fetch import ReadMeter, fetch

        head = [self.key(sections.HEAD)]
        if self.missing(head) and any(key.block != sections.WHOLE for key in keys):
            return self.fetch(head) + self.fetch(keys)
        missing = self.missing(keys)
        meter = ReadMeter()
        if missing:
            fetch(self.shard.store, self._cache.disk, [(self, missing)], meter)
        return meter.bytes_fetched

    def get(self, section: str, block: int = sections.WHOLE) -> Any:
        """Return a pinned block; it must have been asked for and received."""
        return self._held[self.key(section, block)]

    def vector_rows(self, node_ids: Int32s | Int64s) -> Float32s:
        """Return float32[m, dim]: exact vectors of rows whose vector blocks are pinned."""
        block_rows = self.head.vector_block_rows
        shard_id, held = self.shard.shard_id, self._held
        out = np.empty((len(node_ids), self.shard.schema.dim), dtype=np.float32)
        blocks = {
            block: held[BlockKey(shard_id, sections.VECTORS, block)]
            for block in set((node_ids // block_rows).tolist())
        }
        for i, node_id in enumerate(node_ids.tolist()):
            block, row = divmod(node_id, block_rows)
            out[i] = blocks[block][row]
        return out

    @property
    def head(self) -> ShardHead:
        """The shard's head; every pipeline's first round pins it."""
        head: ShardHead = self.get(sections.HEAD)
        return head

    @property
    def tables(self) -> BlockTables:
        """Resident lists and codes: the cache's, or this query's own once it fetched any."""
        if self._tables is None:
            self._tables = self._cache.tables(self.shard.shard_id, self.head.empty_tables)
        return self._tables

    @property
    def codes_known(self) -> bool:
        """Whether every list and code of the shard is resident, so that a walk needs no rounds."""
        return self.tables.resident

    @property
    def row_tables(self) -> RowTables:
        """Resident vectors and payload, as the cache publishes them."""
        file = self.head.file
        n_vectors, n_payload = file.n_blocks(sections.VECTORS), file.n_blocks(sections.PAYLOAD)
        return self._cache.row_tables(self.shard.shard_id, lambda: RowTables(n_vectors, n_payload))

    def _own_tables(self) -> BlockTables:
        if not self._tables_are_own:
            self._tables = self.tables.copy()
            self._tables_are_own = True
        return self.tables

    @property
    def n(self) -> int:
        """Rows of the shard."""
        return self.shard.n

    @property
    def metric(self) -> Metric:
        """The collection's metric."""
        return self.shard.schema.metric

    @property
    def code_params(self) -> CodeParams:
        """How vectors became codes."""
        return self.head.code_params

    @property
    def centroids(self) -> Float32s:
        """float32[K, d'] centroids in the space of the shard."""
        return self.head.centroids

    @property
    def cluster_offsets(self) -> Int64s:
        """int64[K + 1] first node id of each cluster."""
        return self.head.cluster_offsets

    @property
    def upper(self) -> UpperGraph:
        """The upper levels; asked for by Wants(upper=True)."""
        upper: UpperGraph = self.get(sections.UPPER)
        return upper

    @property
    def sketch_params(self) -> SketchParams | None:
        """How the rows are sketched, None where they are not."""
        return self.head.sketch_params

    def sketches(self, block: int) -> Sketches:
        """Return a block of sketches; asked for by Wants(sketches=...)."""
        found: Sketches = self.get(sections.SKETCHES, block)
        return found

    def release(self, section: str) -> None:
        """Unpin the blocks of one section, so that a long scan holds a bounded number at once."""
        for key in [key for key in self._held if key.section == section]:
            del self._held[key]
