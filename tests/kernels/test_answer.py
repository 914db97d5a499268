from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import Shard, clustered, run

from tests import naive
from vstore_kernels import acorn, bitmap, clusters, codes, distance, layout, near_scan, rescore, scan, search
from vstore_kernels.answer import AnswerScratch, Asked, OneAnswer, ResidentShard, answer, answer_one
from vstore_kernels.jit import DISABLE_JIT
from vstore_kernels.scan_tile import TILE, TILE_BEAM

pytestmark = pytest.mark.skipif(DISABLE_JIT, reason="the same code, too slow as plain Python")

N, D, VECTOR_SHIFT = 700, 20, 5
MODES = (*layout.MODES, layout.SCAN, layout.CLUSTERS)


@functools.cache
def shard(metric: str, bits: int) -> tuple[Shard, ResidentShard]:
    vectors = clustered(N, D)
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    own = Shard.of(vectors, M=8, ef=40, block_shift=5, rows=40)
    own.params = codes.train_codes(own.vectors, metric, bits)
    own.codes = codes.encode(own.vectors, own.params)
    own.upper_codes = np.ascontiguousarray(own.codes[own.upper.nodes])
    own.tables = search.BlockTables.of_arrays(own.neighbors, own.codes, 5)
    if metric == "dot":
        # Clusters of dot products live in the augmented space.
        centroids = np.column_stack([own.order.centroids, np.ones(len(own.order.centroids), np.float32)])
        own.order = clusters.ClusterOrder(own.order.order, own.order.offsets, np.ascontiguousarray(centroids))
    return own, ResidentShard(
        own.tables,
        own.upper,
        own.upper_codes,
        own.order.centroids,
        own.order.offsets,
        own.params,
        vector_table(own),
        VECTOR_SHIFT,
    )


def vector_table(own: Shard) -> np.ndarray:
    rows = 1 << VECTOR_SHIFT
    return own.vectors.ctypes.data + np.arange(-(-N // rows), dtype=np.int64) * (rows * D * 4)


def ask(
    resident: ResidentShard,
    queries,
    passing,
    mode,
    *,
    ef=24,
    n_seeds=30,
    n_candidates=20,
    k=5,
    n_matching=None,
    scratch=None,
):
    m = len(queries)
    out = (
        np.full((m, k), -1, np.int32),
        np.full((m, k), np.inf, np.float32),
        np.zeros((m, layout.N_COUNTERS), np.int64),
        np.full(m, 9, np.uint8),
    )
    if n_matching is None:
        n_matching = resident.n if passing is None else bitmap.popcount(passing)
    answer(
        resident,
        queries,
        passing,
        mode,
        ef=ef,
        n_seeds=n_seeds,
        n_candidates=n_candidates,
        k=k,
        n_matching=n_matching,
        scratch=scratch or AnswerScratch(),
        out_ids=out[0],
        out_distances=out[1],
        counters=out[2],
        status=out[3],
    )
    return out


def stepwise(own: Shard, query, passing, mode, metric, ef, n_seeds, n_candidates, k):
    """The same answer by the resumable search, call by call."""
    code = codes.prepare_query(query, own.params)
    width = max(ef, n_candidates)
    if mode == layout.SCAN:
        ids = np.arange(N, dtype=np.int32) if passing is None else bitmap.indices(passing)
        nodes, estimates = scan.scan_codes(code, own.tables, ids, width, k)
        n_distances = len(ids)
    elif mode == layout.CLUSTERS:
        order = clusters.nearest_clusters(query, own.order.centroids, metric)
        run_of = near_scan.NearScan(code, own.tables, passing, n_seeds, width, k)
        run_of.run(own.order.offsets[order], own.order.offsets[order + 1])
        nodes, estimates = run_of.results()
        n_distances = len(order) + run_of.n_scanned
    else:
        counters = np.zeros(layout.N_COUNTERS, np.int64)
        if mode == layout.ACORN:
            passing = bitmap.full(N) if passing is None else passing
            order = clusters.nearest_clusters(query, own.order.centroids, metric)
            seeds = acorn.pick_seeds(order, own.order.offsets, passing, n_seeds)
            n_distances = len(order)
        else:
            seeds = np.array([search.descend(code, own.upper_codes, own.upper, counters)], np.int32)
            n_distances = int(counters[layout.N_DISTANCES])
        nodes, estimates, counters = run(
            search.SearchScratch(), own.tables, code, seeds, width, mode, passing
        )
        n_distances += int(counters[layout.N_DISTANCES])
    nodes, estimates = nodes[:n_candidates], estimates[:n_candidates]
    kept, spreads = rescore.undecided(code, own.tables, nodes, estimates, k)
    vectors = np.ascontiguousarray(own.vectors[nodes[kept]])
    places, distances, n_rescored = rescore.rescore(query, vectors, metric, estimates[kept], spreads, k)
    return nodes[kept][places], distances, n_distances, n_rescored, len(nodes) - n_rescored


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(layout.METRICS),
    st.sampled_from(codes.BITS),
    st.sampled_from(MODES),
    st.sampled_from([None, 0.05, 0.3, 0.9]),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_one_call_answers_as_the_resumable_search_does(metric, bits, mode, share, ef, k, seed) -> None:
    if share is None and mode == layout.HNSW_RESULT_FILTER:
        mode = layout.HNSW
    if share is not None and mode == layout.HNSW:
        mode = layout.ACORN
    own, resident = shard(metric, bits)
    rng = np.random.default_rng(seed)
    queries = (own.vectors[rng.integers(0, N, 3)] + 0.1 * rng.standard_normal((3, D))).astype(np.float32)
    passing = None if share is None else bitmap.pack(rng.random(N) < share)
    n_candidates = max(k, ef)
    got = ask(resident, queries, passing, mode, ef=ef, n_candidates=n_candidates, k=k)
    for i, query in enumerate(queries):
        ids, distances, *counted = stepwise(own, query, passing, mode, metric, ef, 30, n_candidates, k)
        expected_matching = N if passing is None else bitmap.popcount(passing)
        if len(ids) < min(k, expected_matching):
            assert got[3][i] == layout.TOO_FEW
            continue
        assert got[3][i] == layout.ANSWERED
        assert got[0][i, : len(ids)].tolist() == ids.tolist()
        assert got[1][i, : len(ids)].tolist() == distances.tolist()
        places = [layout.N_DISTANCES, layout.N_RESCORED, layout.N_SKIPPED]
        assert got[2][i, places].tolist() == counted


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(codes.BITS),
    st.sampled_from(MODES),
    st.sampled_from([None, 0.004, 0.3]),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_one_query_is_answered_as_among_many(bits, mode, share, calls, seed) -> None:
    """By one scratch in calls of changing size, with calls for several queries between."""
    if share is None and mode == layout.HNSW_RESULT_FILTER:
        mode = layout.HNSW
    if share is not None and mode == layout.HNSW:
        mode = layout.ACORN
    own, resident = shard("l2", bits)
    rng = np.random.default_rng(seed)
    passing = None if share is None else bitmap.pack(rng.random(N) < share)
    n_matching = N if passing is None else bitmap.popcount(passing)
    scratch = AnswerScratch()
    for ef, n_candidates, k in (*calls, calls[0]):
        wish = {"ef": ef, "n_seeds": 30, "n_candidates": n_candidates, "k": k, "n_matching": n_matching}
        asked = Asked(N, passing, mode, **wish)
        queries = (own.vectors[rng.integers(0, N, 3)] + np.float32(0.1)).astype(np.float32)
        many = ask(resident, queries, passing, mode, **wish, scratch=scratch)
        for i in (0, 1, 2, 1):
            one = answer_one(resident, queries[i], asked, scratch)
            n = len(one.ids)
            assert one.status == many[3][i]
            assert one.ids == many[0][i, :n].tolist()
            assert (many[0][i, n:] == -1).all()
            assert one.distances == many[1][i, :n].tolist()
            assert one.counters == many[2][i].tolist()
    assert isinstance(one, OneAnswer)


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("metric", layout.METRICS)
@pytest.mark.parametrize("bits", codes.BITS)
def test_without_candidates_the_beam_comes_as_it_was_estimated(bits, metric, share) -> None:
    own, resident = shard(metric, bits)
    flags = np.ones(N, np.bool_) if share is None else np.random.default_rng(3).random(N) < share
    passing = None if share is None else bitmap.pack(flags)
    queries = np.ascontiguousarray(own.vectors[:5] + np.float32(0.05))
    walk = layout.HNSW if share is None else layout.HNSW_RESULT_FILTER
    rows = np.flatnonzero(flags).tolist()
    # As many seeds, or places in the beam, as there are rows: nothing is left out.
    for mode in (layout.SCAN, layout.CLUSTERS, walk):
        ids, distances, counters, status = ask(
            resident, queries, passing, mode, ef=N if mode == walk else 9, n_seeds=N, n_candidates=0, k=7
        )
        assert status.tolist() == [layout.ANSWERED] * 5
        assert not counters[:, layout.N_RESCORED].any()
        for i, query in enumerate(queries):
            code = codes.prepare_query(query, own.params)
            estimates = codes.estimate(code, own.codes, np.arange(N, dtype=np.int32))
            twin = naive.by_estimates(estimates.tolist(), rows, 7)
            assert distances[i].tolist() == pytest.approx([gap for _, gap in twin], rel=1e-5, abs=1e-5)
            assert estimates[ids[i]].tolist() == pytest.approx(distances[i].tolist(), rel=1e-5, abs=1e-5)
            assert flags[ids[i]].all()
            assert len(set(ids[i].tolist())) == 7


def test_one_query_of_a_wrong_kind_is_refused() -> None:
    own, resident = shard("l2", 8)
    wish = {"ef": 9, "n_seeds": 1, "n_candidates": 9, "k": 5, "n_matching": N}
    asked = Asked(N, None, layout.SCAN, **wish)
    with pytest.raises(TypeError, match="float64"):
        answer_one(resident, own.vectors[0].astype(np.float64), asked, AnswerScratch())
    with pytest.raises(ValueError, match="not C-contiguous"):
        answer_one(resident, np.ones(2 * D, np.float32)[::2], asked, AnswerScratch())
    with pytest.raises(ValueError, match="3 dimensions"):
        answer_one(resident, np.ones(3, np.float32), asked, AnswerScratch())
    with pytest.raises(ValueError, match="for a shard of 64 rows"):
        answer_one(resident, own.vectors[0], Asked(64, None, layout.SCAN, **wish), AnswerScratch())
    with pytest.raises(ValueError, match="k is 0"):
        Asked(N, None, layout.SCAN, **(wish | {"k": 0}))


@pytest.mark.parametrize("n_candidates", [12, 300, TILE_BEAM + 1])
@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("bits", codes.BITS)
def test_queries_scanned_together_find_what_each_finds_alone(bits, share, n_candidates) -> None:
    own, resident = shard("l2", bits)
    queries = np.ascontiguousarray(own.vectors[: 2 * TILE + 3] + np.float32(0.05))
    passing = None if share is None else bitmap.pack(np.random.default_rng(3).random(N) < share)
    together = ask(resident, queries, passing, layout.SCAN, n_candidates=n_candidates, k=10)
    for i in range(len(queries)):
        alone = ask(resident, queries[i : i + 1], passing, layout.SCAN, n_candidates=n_candidates, k=10)
        for many, one in zip(together, alone, strict=True):
            assert many[i].tolist() == one[0].tolist()


def test_scratch_serves_calls_of_every_size() -> None:
    own, resident = shard("l2", 4)
    scratch = AnswerScratch()
    queries = np.ascontiguousarray(own.vectors[:20])
    expected = ask(resident, queries, None, layout.SCAN, k=5)[0].tolist()
    for m, k in ((20, 5), (1, 5), (20, 2), (3, 9), (20, 5)):
        for mode in (layout.SCAN, layout.HNSW, layout.CLUSTERS):
            ids = ask(resident, queries[:m], None, mode, k=k, scratch=scratch)[0]
            if mode == layout.SCAN and k <= 5:
                assert ids.tolist() == [row[:k] for row in expected[:m]]


def test_scratch_serves_plans_and_shards_by_turns() -> None:
    """What one needs is larger, or of another size, than what another left; some fit as they are."""
    shards = [shard("l2", 4), shard("cosine", 8)]
    calls = [
        (own, resident, mode, m, ef, k)
        for own, resident in shards
        for mode, m, ef, k in (
            (layout.HNSW, 8, 24, 5),
            (layout.HNSW, 3, 40, 5),
            (layout.SCAN, 8, 24, 3),
            (layout.SCAN, 1, 64, 9),
            (layout.CLUSTERS, 4, 30, 5),
        )
    ]
    scratch = AnswerScratch()
    for number in np.random.default_rng(3).integers(0, len(calls), 60).tolist():
        own, resident, mode, m, ef, k = calls[number]
        queries = np.ascontiguousarray(own.vectors[:m])
        found = ask(resident, queries, None, mode, ef=ef, k=k, scratch=scratch)
        for a, b in zip(found, ask(resident, queries, None, mode, ef=ef, k=k), strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("metric", layout.METRICS)
def test_a_scan_with_every_candidate_is_exact(metric: str) -> None:
    own, resident = shard(metric, 4)
    queries = np.ascontiguousarray(own.vectors[:20])
    ids, distances, counters, _ = ask(resident, queries, None, layout.SCAN, n_candidates=200, k=10)
    agreed = 0
    for i, query in enumerate(queries):
        exact = distance.exact_distances(query, own.vectors, None, metric)
        agreed += len(set(ids[i].tolist()) & set(np.argsort(exact, kind="stable")[:10].tolist()))
        assert distances[i].tolist() == exact[ids[i]].tolist()
    # The error bound holds but for once in a thousand.
    assert agreed >= 198
    assert (counters[:, layout.N_SKIPPED] > 0).all()


def test_an_absent_vector_is_told_and_nothing_written() -> None:
    own, _ = shard("l2", 8)
    table = vector_table(own)
    table[:] = 0
    blind = ResidentShard(
        own.tables,
        own.upper,
        own.upper_codes,
        own.order.centroids,
        own.order.offsets,
        own.params,
        table,
        VECTOR_SHIFT,
    )
    ids, distances, counters, status = ask(blind, own.vectors[:2], None, layout.HNSW)
    assert status.tolist() == [layout.LACKS_VECTORS] * 2
    assert (ids == -1).all()
    assert np.isinf(distances).all()
    assert not counters.any()


def test_fewer_rows_than_asked_for() -> None:
    own, resident = shard("l2", 4)
    passing = bitmap.empty(N)
    bitmap.set_bits(passing, np.array([3, 99, 500]))
    ids, _, _, status = ask(resident, own.vectors[:1], passing, layout.SCAN, k=5)
    assert status.tolist() == [layout.ANSWERED]
    assert sorted(ids[0].tolist()) == [-1, -1, 3, 99, 500]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_the_undecided_are_those_of_the_slow_twin(m: int, k: int, seed: int) -> None:
    own, _ = shard("l2", 2)
    rng = np.random.default_rng(seed)
    code = codes.prepare_query(own.vectors[seed], own.params)
    ids = rng.choice(N, m, replace=False).astype(np.int32)
    estimates = codes.estimate(code, own.codes, ids)
    order = np.argsort(estimates, kind="stable")
    ids, estimates = ids[order], estimates[order]
    kept, spreads = rescore.undecided(code, own.tables, ids, estimates, k)
    errors = codes.error_std(code, own.codes, ids)
    expected = naive.undecided(estimates.tolist(), errors.tolist(), k, float(rescore.SIGMAS))
    # Sums in float32 and float64 may fall on either side of the bound.
    assert len(set(kept.tolist()) ^ set(expected)) <= 1
    assert spreads.tolist() == errors[kept].tolist()


def test_wrong_input_is_refused() -> None:
    own, resident = shard("l2", 8)
    queries = own.vectors[:2]
    passing = bitmap.full(N)
    with pytest.raises(ValueError, match="HNSW takes none"):
        ask(resident, queries, passing, layout.HNSW)
    with pytest.raises(ValueError, match="use HNSW without one"):
        ask(resident, queries, None, layout.HNSW_RESULT_FILTER)
    with pytest.raises(ValueError, match="mode is 7"):
        ask(resident, queries, None, 7)
    with pytest.raises(ValueError, match="k is 0"):
        ask(resident, queries, None, layout.HNSW, k=0)
    with pytest.raises(ValueError, match="3 dimensions; the shard has 20"):
        ask(resident, np.ones((1, 3), np.float32), None, layout.HNSW)
    with pytest.raises(TypeError, match="float64"):
        ask(resident, queries.astype(np.float64), None, layout.HNSW)
    with pytest.raises(ValueError, match="not resident"):
        ResidentShard(
            own.empty_tables(),
            own.upper,
            own.upper_codes,
            own.order.centroids,
            own.order.offsets,
            own.params,
            vector_table(own),
            VECTOR_SHIFT,
        )
    with pytest.raises(ValueError, match="do not cover"):
        ResidentShard(
            own.tables,
            own.upper,
            own.upper_codes,
            own.order.centroids,
            own.order.offsets,
            own.params,
            vector_table(own)[:2],
            VECTOR_SHIFT,
        )
    with pytest.raises(ValueError, match="k is 0"):
        rescore.rescore(queries[0], queries, "l2", np.zeros(2, np.float32), np.zeros(2, np.float32), 0)
