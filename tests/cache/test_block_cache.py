"""The block cache: one byte limit, least recently used out first, tables that never change under a reader."""

from __future__ import annotations

import threading

import numpy as np

from vstore.cache import CODES, LISTS, Block, BlockCache, BlockKey, RowTables
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


def whole_cache(limit_bytes: int) -> BlockCache:
    """A cache with every list (16 int32 a block) and code (64 bytes a block) of one shard of 40 rows."""
    cache = BlockCache(limit_bytes)
    cache.tables("s", make_tables)
    for section, size_bytes in ((LISTS, 8 * M0 * 4), (CODES, 8 * ROW_BYTES)):
        cache.admit([entry(block, section, size_bytes) for block in range(5)])
    return cache


WHOLE_BYTES = N * (M0 * 4 + ROW_BYTES)


def test_all_lists_and_codes_move_into_one_array_each():
    cache = whole_cache(2 * WHOLE_BYTES)
    tables = cache.tables("s", make_tables)
    assert tables.resident
    assert np.diff(tables.list_table).tolist() == [8 * M0 * 4] * 4
    assert np.diff(tables.code_table).tolist() == [8 * ROW_BYTES] * 4
    stats = cache.stats()
    assert (stats.size_bytes, stats.n_blocks, stats.n_admitted, stats.n_evicted) == (WHOLE_BYTES, 10, 10, 0)
    cache.admit([entry(2, LISTS, 8 * M0 * 4)])
    assert cache.stats() == stats, "a block that came late is there already"


def test_what_does_not_fit_twice_stays_in_blocks():
    cache = whole_cache(2 * WHOLE_BYTES - 1)
    assert cache.tables("s", make_tables).resident
    assert cache.get_many([BlockKey("s", LISTS, -1), BlockKey("s", CODES, -1)]) == [None, None]
    held = cache.get_many([BlockKey("s", LISTS, 0), BlockKey("s", CODES, 4)])
    assert all(value is not None for value in held)


def attach(cache: BlockCache, value: object) -> None:
    tables, rows = cache.tables("s", make_tables), cache.row_tables("s", lambda: RowTables(4, 2))
    cache.attach(value, [BlockKey("s", "upper", -1)], tables, rows)


def test_what_is_attached_goes_with_the_first_block_of_the_shard():
    cache = BlockCache(100)
    value = object()
    attach(cache, value)
    assert cache.attached("s") is None, "its guide is not resident"
    cache.admit([entry(-1, "upper"), vectors(0), entry(0, "column:a"), entry(1, "column:a", shard="other")])
    attach(cache, value)
    assert cache.attached("s") is value
    cache.admit([vectors(1)])
    assert cache.attached("s") is value, "what comes among the rows changes nothing"
    cache.admit([entry(0, "column:b", size_bytes=2)])
    assert cache.attached("s") is value
    cache.admit([entry(1, CODES)])
    assert cache.attached("s") is None, "the tables have changed"
    attach(cache, value)
    cache.drop_shard("s")
    assert cache.attached("s") is None


def test_what_is_attached_keeps_its_guides_in_use():
    cache = BlockCache(30)
    cache.admit([entry(-1, "upper"), entry(0, "column:a", shard="other")])
    attach(cache, "it")
    assert cache.attached("s") == "it"
    cache.admit([entry(1, "column:a", shard="other"), entry(2, "column:a", shard="other")])
    assert cache.attached("s") == "it"
    cache.admit([entry(block, "column:a", shard="other") for block in range(3, 6)])
    assert cache.attached("s") is None


def test_attaching_to_tables_of_the_past_keeps_nothing():
    cache = BlockCache(1000)
    cache.admit([entry(-1, "upper")])
    tables, rows = cache.tables("s", make_tables), cache.row_tables("s", lambda: RowTables(4, 2))
    cache.admit([entry(0, LISTS)])
    cache.attach("it", [BlockKey("s", "upper", -1)], tables, rows)
    assert cache.attached("s") is None


def test_a_whole_array_is_evicted_whole_and_who_reads_keeps_it():
    limit_bytes = 2 * WHOLE_BYTES
    cache = whole_cache(limit_bytes)
    cache.tables("other", make_tables)
    held = cache.tables("s", make_tables)
    cache.admit([entry(0, "column:a", WHOLE_BYTES + 1)])
    tables = cache.tables("s", make_tables)
    assert [tables.has_lists(b) for b in range(5)] == [False] * 5, "lists came first"
    assert [tables.has_codes(b) for b in range(5)] == [True] * 5
    assert held.resident
    assert cache.stats().n_evicted == 5
    cache.admit([entry(block, LISTS, 8 * M0 * 4) for block in range(5)])
    stats = cache.stats()
    assert stats.size_bytes <= limit_bytes
    assert stats.n_admitted - stats.n_evicted == stats.n_blocks
    cache.drop_shard("s")
    assert cache.get(BlockKey("s", CODES, -1)) is None
    assert not cache.tables("s", make_tables).has_codes(0)


def vectors(block: int, size_bytes: int = 32) -> Block:
    return Block(BlockKey("s", "vectors", block), np.full((2, 4), block, dtype=np.float32), size_bytes)


def test_row_tables_know_what_is_resident_before_and_after():
    cache = BlockCache(100)
    cache.admit([vectors(1), entry(0)])
    first = cache.row_tables("s", lambda: RowTables(4, 2))
    assert (first.vector_table != 0).tolist() == [False, True, False, False]
    assert first.payload == ["value 0", None]
    cache.admit([vectors(3)])
    assert cache.row_tables("s", lambda: RowTables(4, 2)) is first, "what comes is written in place"
    assert first.vector_table[3] != 0
    cache.admit([vectors(0)])
    later = cache.row_tables("s", lambda: RowTables(4, 2))
    assert later is not first, "what goes, goes from a copy"
    assert later.vector_table[1] == 0
    assert later.vector_table[0] != 0
    assert first.vector_table[1] != 0
    assert cache.evicts


def test_use_keeps_rows():
    cache = BlockCache(64)
    cache.row_tables("s", lambda: RowTables(4, 2))
    cache.admit([vectors(0), vectors(1)])
    cache.use([BlockKey("s", "vectors", 0), BlockKey("s", "vectors", 9)])
    cache.admit([vectors(2)])
    assert (cache.row_tables("s", lambda: RowTables(4, 2)).vector_table != 0).tolist()[:3] == [
        True,
        False,
        True,
    ]
