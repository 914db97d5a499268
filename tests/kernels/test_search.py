from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import Shard, clustered, examples, run, whole_numbers

from tests import naive
from vstore_kernels import acorn, bitmap, codes, layout, search
from vstore_kernels.jit import DISABLE_JIT
from vstore_kernels.packs import pack

N = 120 if DISABLE_JIT else 400
MODES = st.sampled_from(layout.MODES)


@functools.cache
def shard() -> Shard:
    """Its distances are exact in float32, so kernels and twins see the same ones."""
    return Shard.of(whole_numbers(N, 4), M=4, ef=24, block_shift=4, rows=24)


def some(data: st.DataObject, n: int) -> np.ndarray:
    share = data.draw(st.sampled_from([0.02, 0.1, 0.3, 0.6, 0.95]))
    flags = np.random.default_rng(data.draw(st.integers(0, 999))).random(n) < share
    flags[data.draw(st.integers(0, n - 1))] = True
    return flags


def query_code(seed: int) -> codes.QueryCode:
    return codes.prepare_query(whole_numbers(4, 4, seed)[1], shard().params)


def seeds_for(mode: int, flags: np.ndarray, code: codes.QueryCode, n_seeds: int) -> np.ndarray:
    own = shard()
    if mode != layout.ACORN:
        return np.array([search.descend(code, own.upper_codes, own.upper)], np.int32)
    order = np.arange(len(own.order.centroids), dtype=np.int32)
    return acorn.pick_seeds(order, own.order.offsets, bitmap.pack(flags), n_seeds)


@settings(max_examples=examples(100), deadline=None)
@given(MODES, st.integers(1, 60), st.integers(0, 99), st.integers(1, 40), st.data())
def test_walks_agree_with_the_slow_twins(
    mode: int, ef: int, seed: int, n_seeds: int, data: st.DataObject
) -> None:
    own, code, flags = shard(), query_code(seed), some(data, N)
    seeds = seeds_for(mode, flags, code, n_seeds)
    nodes, distances, counters = run(
        search.SearchScratch(), own.tables, code, seeds, ef, mode, bitmap.pack(flags)
    )
    asked: list[int] = []
    estimates = codes.estimate(code, own.codes)

    def distance(node: int) -> float:
        asked.append(node)
        return float(estimates[node])

    twins = {
        layout.HNSW: lambda *a: naive.walk(*a[:-1]),
        layout.ACORN: naive.walk,
        layout.HNSW_RESULT_FILTER: naive.walk_result_filter,
    }
    expected = twins[mode](distance, own.neighbors, seeds.tolist(), ef, flags.tolist())
    assert list(zip(distances.tolist(), nodes.tolist(), strict=True)) == expected
    assert counters[layout.N_DISTANCES] == len(asked)
    if mode != layout.HNSW:
        assert flags[nodes].all()


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 999))
def test_descent_agrees_with_the_slow_twin(seed: int) -> None:
    own, code = shard(), query_code(seed)
    estimates = codes.estimate(code, own.upper_codes)
    rank = naive.descend(lambda r: float(estimates[r]), own.upper)
    counters = np.zeros(layout.N_COUNTERS, np.int64)
    assert search.descend(code, own.upper_codes, own.upper, counters) == own.upper.nodes[rank]
    assert counters[layout.N_DISTANCES] >= 1


@settings(max_examples=examples(120), deadline=None)
@given(MODES, st.integers(1, 60), st.integers(1, 9), st.integers(0, 99), st.data())
def test_a_stopped_search_ends_as_a_resident_one(
    mode: int, ef: int, lookahead: int, seed: int, data: st.DataObject
) -> None:
    own, code, flags = shard(), query_code(seed), some(data, N)
    passing = bitmap.pack(flags)
    seeds = seeds_for(mode, flags, code, 20)
    expected = run(search.SearchScratch(), own.tables, code, seeds, ef, mode, passing)
    scratch, tables = search.SearchScratch(), own.empty_tables()
    # Some blocks are there from the start; some answers bring all that is wanted, some the least allowed.
    rng = np.random.default_rng(seed)
    for block in rng.permutation(tables.list_table.size)[: rng.integers(0, 4)]:
        tables.set_lists(block, own.neighbors[own.rows_of(block)].copy())
    n_stops = 0
    search.begin(scratch, tables, seeds, ef, mode)
    while search.step(scratch, tables, code, passing, lookahead) == layout.NEEDS:
        n_stops += 1
        assert n_stops < 10_000
        lists, wanted = scratch.needs_lists.tolist(), scratch.needs_codes.tolist()
        assert lists or wanted
        assert len(set(lists)) == len(lists)
        assert len(set(wanted)) == len(wanted)
        keep = data.draw(st.sampled_from([1, 2, 1000]))
        tables = tables.copy()
        for block in lists[:keep]:
            assert not tables.has_lists(block)
            tables.set_lists(block, own.neighbors[own.rows_of(block)].copy())
        for block in wanted[:keep]:
            assert not tables.has_codes(block)
            tables.set_codes(block, own.codes[own.rows_of(block)].copy())
    nodes, distances = search.results(scratch)
    assert np.array_equal(nodes, expected[0])
    assert np.array_equal(distances, expected[1])
    assert scratch.counters[layout.N_STOPS] == n_stops
    counters = scratch.counters.copy()
    counters[layout.N_STOPS] = 0
    assert counters.tolist() == expected[2].tolist()


def test_one_round_brings_what_the_frontier_wants() -> None:
    own, code = shard(), query_code(5)
    seeds = seeds_for(layout.HNSW, np.ones(N, np.bool_), code, 1)

    def rounds(lookahead: int) -> int:
        scratch, tables = search.SearchScratch(), own.empty_tables()
        tables.set_all_codes(own.codes)
        search.begin(scratch, tables, seeds, 40, layout.HNSW)
        while search.step(scratch, tables, code, None, lookahead) == layout.NEEDS:
            for block in scratch.needs_lists.tolist():
                tables.set_lists(block, own.neighbors[own.rows_of(block)].copy())
        return int(scratch.counters[layout.N_STOPS])

    assert rounds(8) < 0.75 * rounds(1)


def test_a_scratch_serves_one_search_after_another() -> None:
    other = Shard.of(clustered(90, 6), M=4, ef=20, block_shift=5, rows=20)
    scratch = search.SearchScratch()
    for seed in range(6):
        for own in (shard(), other):
            code = codes.prepare_query(own.vectors[seed], own.params)
            seeds = np.array([search.descend(code, own.upper_codes, own.upper)])
            for mode in (layout.HNSW, layout.HNSW_RESULT_FILTER):
                passing = bitmap.full(own.n)
                used = run(scratch, own.tables, code, seeds, 10 + seed, mode, passing)
                fresh = run(search.SearchScratch(), own.tables, code, seeds, 10 + seed, mode, passing)
                for a, b in zip(used, fresh, strict=True):
                    assert np.array_equal(a, b)


def test_a_class_that_changes_the_scratch_is_packed_anew() -> None:
    class Wider(search.SearchScratch):
        def fit(self, tables: search.BlockTables, n_seeds: int, ef: int, mode: int) -> None:
            self.buffer, self.failing = np.empty(5000, np.int32), np.empty(5000, np.int32)
            super().fit(tables, n_seeds, ef, mode)

    own, code, scratch = shard(), query_code(1), Wider()
    for seed in range(2):
        run(scratch, own.tables, code, np.array([seed]), 20, layout.HNSW)
        assert scratch.words.tolist() == pack(scratch.arrays).tolist()


def test_stamps_survive_the_end_of_their_range() -> None:
    own, code = shard(), query_code(1)
    seeds = seeds_for(layout.HNSW, np.ones(N, np.bool_), code, 1)
    scratch = search.SearchScratch()
    expected = run(scratch, own.tables, code, seeds, 20, layout.HNSW)
    scratch.epoch = 0xFFFFFFFE
    for _ in range(3):
        assert np.array_equal(run(scratch, own.tables, code, seeds, 20, layout.HNSW)[0], expected[0])
    assert scratch.epoch == 2


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 60), st.integers(0, 99), st.data())
def test_seeds_agree_with_the_slow_twin(n_seeds: int, seed: int, data: st.DataObject) -> None:
    flags, offsets = some(data, N), shard().order.offsets
    order = np.random.default_rng(seed).permutation(offsets.size - 1).astype(np.int32)
    expected = naive.pick_seeds(order.tolist(), offsets.tolist(), flags.tolist(), n_seeds)
    assert acorn.pick_seeds(order, offsets, bitmap.pack(flags), n_seeds).tolist() == expected
    everything = naive.pick_seeds(order.tolist(), offsets.tolist(), [True] * N, n_seeds)
    assert acorn.pick_seeds(order, offsets, None, n_seeds).tolist() == everything


def test_failing_and_repeated_seeds_are_dropped() -> None:
    own, code = shard(), query_code(2)
    flags = np.zeros(N, np.bool_)
    flags[[3, 70]] = True
    nodes, _, _ = run(
        search.SearchScratch(), own.tables, code, np.array([1, 3, 3, 9]), 10, layout.ACORN, bitmap.pack(flags)
    )
    assert 3 in nodes.tolist()
    assert flags[nodes].all()
    assert len(set(nodes.tolist())) == nodes.size
    nobody = run(search.SearchScratch(), own.tables, code, np.array([1]), 10, layout.ACORN, bitmap.empty(N))
    assert nobody[0].size == 0


def test_tables_know_what_is_resident() -> None:
    own = shard()
    tables = own.empty_tables()
    assert not tables.resident
    tables.set_all_codes(own.codes)
    assert tables.codes_resident
    assert not tables.resident
    tables.set_all_lists(own.neighbors)
    assert tables.resident
    copy = tables.copy()
    copy.clear_lists(0)
    copy.clear_codes(1)
    assert (copy.resident, copy.codes_resident, copy.has_lists(0), copy.has_codes(1)) == (False,) * 4
    assert tables.resident
    copy.set_lists(0, own.neighbors[own.rows_of(0)].copy())
    copy.set_codes(1, own.codes[own.rows_of(1)].copy())
    assert copy.resident


def test_wrong_input_is_refused() -> None:
    own, code = shard(), query_code(0)
    scratch, tables = search.SearchScratch(), own.tables
    one = np.array([0])
    with pytest.raises(ValueError, match="seeds is empty"):
        search.begin(scratch, tables, one[:0], 5, layout.HNSW)
    with pytest.raises(ValueError, match="ef is 0"):
        search.begin(scratch, tables, one, 0, layout.HNSW)
    with pytest.raises(ValueError, match="mode is 9"):
        search.begin(scratch, tables, one, 5, 9)
    with pytest.raises(ValueError, match=f"{N}; node ids"):
        search.begin(scratch, tables, np.array([N]), 5, layout.HNSW)
    search.begin(scratch, tables, one, 5, layout.ACORN)
    with pytest.raises(ValueError, match="needs the bitmap"):
        search.step(scratch, tables, code, None)
    with pytest.raises(ValueError, match="does not cover"):
        search.step(scratch, tables, code, bitmap.empty(64))
    with pytest.raises(ValueError, match="lookahead is 0"):
        search.step(scratch, tables, code, bitmap.full(N), 0)
    with pytest.raises(ValueError, match="began on"):
        search.step(scratch, search.BlockTables(N + 1, 8, tables.row_bytes), code, bitmap.full(N))
    with pytest.raises(ValueError, match="block 0 has shape"):
        own.empty_tables().set_lists(0, own.neighbors)
    with pytest.raises(ValueError, match="a neighbour is"):
        own.empty_tables().set_lists(0, np.full((16, 8), N, np.int32))
    with pytest.raises(ValueError, match="is not one of"):
        own.empty_tables().set_codes(99, own.codes[:16].copy())
