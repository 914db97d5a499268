"""The block cache: one byte limit, least recently used out first, tables that never change under a reader."""

from __future__ import annotations

import threading

import numpy as np

from vstore.cache import CODES, LISTS, Block, BlockCache, BlockKey
from vstore_kernels.search import BlockTables

N, M0, ROW_BYTES, SHIFT = 40, 4, 8, 3


def make_tables():
    return BlockTables(N, M0, ROW_BYTES, SHIFT)


def value(block: int, section: str = "payload"):
    if section == LISTS:
        return np.full((8, M0), -1, dtype=np.int32)
    if section == CODES:
        return np.full((8, ROW_BYTES), block, dtype=np.uint8)
    return f"value {block}"


def entry(block: int, section: str = "payload", size_bytes: int = 10, shard: str = "s") -> Block:
    return Block(BlockKey(shard, section, block), value(block, section), size_bytes)


def test_the_least_recently_used_goes_first():
    cache = BlockCache(30)
    cache.admit([entry(0), entry(1), entry(2)])
    assert cache.get(BlockKey("s", "payload", 0)) == "value 0"
    cache.admit([entry(3)])
    assert cache.get(BlockKey("s", "payload", 1)) is None
    assert [cache.get(BlockKey("s", "payload", b)) for b in (0, 2, 3)] == ["value 0", "value 2", "value 3"]


def test_rows_do_not_push_out_what_guides_the_next_query():
    cache = BlockCache(100)
    cache.tables("s", make_tables)
    cache.admit([entry(block, LISTS) for block in range(5)])
    for block in range(50):
        cache.admit([entry(block)])
    assert all(cache.tables("s", make_tables).has_lists(block) for block in range(5))
    cache.admit([entry(block, CODES) for block in range(5)])
    tables = cache.tables("s", make_tables)
    assert sum(tables.has_lists(b) + tables.has_codes(b) for b in range(5)) >= 7, (
        "rows keep a quarter at most"
    )


def test_the_limit_holds_and_is_counted():
    cache = BlockCache(25)
    for block in range(100):
        cache.admit([entry(block)])
        assert cache.stats().size_bytes <= 25
    stats = cache.stats()
    assert (stats.n_blocks, stats.n_admitted, stats.n_evicted) == (2, 100, 98)


def test_a_block_over_the_limit_is_not_kept_and_evicts_nothing():
    cache = BlockCache(30)
    cache.admit([entry(0), entry(1, size_bytes=31)])
    assert cache.stats().n_blocks == 1
    assert BlockCache(0).get(BlockKey("s", "payload", 0)) is None


def test_admitting_twice_weighs_once():
    cache = BlockCache(100)
    cache.admit([entry(0)])
    cache.admit([entry(0), entry(0)])
    assert cache.stats().size_bytes == 10


def test_published_tables_never_change():
    cache = BlockCache(20)
    before = cache.tables("s", make_tables)
    cache.admit([entry(0, LISTS), entry(1, CODES)])
    middle = cache.tables("s", make_tables)
    cache.admit([entry(2, LISTS)])
    after = cache.tables("s", make_tables)
    assert not before.has_lists(0)
    assert middle.has_lists(0)
    assert middle.has_codes(1)
    assert not after.has_lists(0), "the oldest block was evicted"
    assert after.has_lists(2)
    assert middle.has_lists(0), "whoever holds the older tables keeps its blocks"


def test_dropping_a_shard_forgets_all_of_it():
    cache = BlockCache(1000)
    cache.tables("s", make_tables)
    cache.admit([entry(0, LISTS), entry(0), entry(0, shard="other")])
    cache.drop_shard("s")
    assert cache.stats().size_bytes == 10
    assert not cache.tables("s", make_tables).has_lists(0)
    assert cache.get(BlockKey("other", "payload", 0)) == "value 0"


def test_threads_keep_the_books():
    cache = BlockCache(200)
    cache.tables("s", make_tables)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            block = int(rng.integers(0, 5))
            section = (LISTS, CODES, "payload")[rng.integers(0, 3)]
            cache.admit([entry(block, section, size_bytes=20)])
            tables = cache.tables("s", make_tables)
            assert all(tables.list_table[b] != 0 for b in range(5) if tables.has_lists(b))
            cache.get(BlockKey("s", "payload", block))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats.size_bytes == 20 * stats.n_blocks <= 200
    assert stats.n_admitted - stats.n_evicted == stats.n_blocks
