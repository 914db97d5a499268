"""Each traversal against its slow twin, against the engine, and stopped against never stopped."""

from __future__ import annotations

import numpy as np
import pytest
from lab_data import D, K, N, graph, passing, points, queries
from naive_walks import Naive, gamma_links

from vstore.lab import expansions
from vstore.lab.driver import finish, run_alone, run_query
from vstore.lab.expand import compile_walk
from vstore.lab.gamma import build_gamma
from vstore.lab.graph import LabGraph
from vstore.lab.index import build_index
from vstore.lab.layouts import inline, separate
from vstore.lab.orders import ORDERS
from vstore.lab.walks import TRAVERSALS, expansion_walk
from vstore.testing.lab_suite import TraversalSuite, small_index
from vstore.traverse import ClusterAcorn
from vstore.traverse.base import WalkParams
from vstore_kernels import bitmap
from vstore_kernels.build_rows import rows_for_build
from vstore_kernels.codes import prepare_query
from vstore_kernels.distance import exact_distances
from vstore_kernels.scan import scan_codes

SHARES = (0.7, 0.3, 0.1, 0.02)
PARAMS = WalkParams(ef=40, n_seeds=32, n_predicted=4)


def exact(g: LabGraph, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of the data set that are the K nearest among node ids, nearest first."""
    distances = exact_distances(query, np.ascontiguousarray(g.index.vectors[rows]), None, g.metric)
    return g.index.rows[rows[np.argsort(distances, kind="stable")[:K]]]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", sorted(expansions.EXPANSIONS))
def test_an_expansion_does_what_its_slow_twin_does(name: str, share: float) -> None:
    g = graph()
    g.show_all()
    allowed = passing(share, seed=3)
    flags = bitmap.unpack(allowed, N)
    kernel = compile_walk(expansions.EXPANSIONS[name])
    for query in queries():
        code = prepare_query(query, g.code_params)
        order, distances = scan_codes(code, g.tables, np.arange(N, dtype=np.int32), N)
        estimates = np.empty(N, np.float32)
        estimates[order] = distances
        seeds = bitmap.indices(allowed)[:7]
        found = finish(expansion_walk(g, code, seeds, allowed, kernel, PARAMS))
        naive = Naive(g.index.neighbors, flags, estimates)
        nodes = naive.search(seeds.tolist(), PARAMS.ef, getattr(naive, name))
        assert found.node_ids.tolist() == nodes
        assert np.array_equal(found.distances, estimates[nodes])
        ours = (found.n_hops, found.n_distances, found.n_lists, found.n_filter_checks)
        assert ours == (naive.n_hops, naive.n_distances, naive.n_lists, naive.n_filter_checks)


def test_the_gamma_graph_is_that_of_its_slow_twin() -> None:
    plain = build_index(points(260, 4), M=4, ef_construction=40, cluster_rows=64, block_shift=5, n_threads=1)
    dense = build_gamma(plain, seed=2)
    order = np.random.default_rng(2).permutation(260).tolist()
    # On the rows that builds compare: whole numbers, whose distances are exact.
    rows = rows_for_build(plain.vectors, 1)
    assert rows.dtype == np.int16
    expected = gamma_links(rows.astype(np.float64), plain.M0, order)
    assert [row[row >= 0].tolist() for row in dense.neighbors] == expected
    assert dense.M0 == 4 * 12


def test_acorn_gamma_finds_what_passes_where_a_share_of_one_in_gamma_does() -> None:
    # One cloud: lists of nearest nodes alone do not lead from one far cluster to another.
    rng = np.random.default_rng(6)
    cloud = rng.standard_normal((N, D)).astype(np.float32)
    dense = build_gamma(build_index(cloud, M=8, ef_construction=60, block_shift=5, n_threads=1))
    g = LabGraph(dense, separate(dense))
    allowed = passing(0.15)
    hits = 0
    for query in rng.standard_normal((8, D)).astype(np.float32):
        trace = run_alone(run_query(g, TRAVERSALS["acorn_gamma"], query, allowed, PARAMS, K))
        hits += len(np.intersect1d(trace.rows, exact(g, query, bitmap.indices(allowed))))
    assert hits >= 0.9 * 8 * K


@pytest.mark.parametrize("share", SHARES)
def test_the_engines_expansion_as_a_plug_in_is_the_engines(share: float) -> None:
    g = graph()
    allowed = passing(share)
    for query in queries():
        ours = run_alone(run_query(g, TRAVERSALS["cluster_acorn"], query, allowed, PARAMS, K))
        theirs = run_alone(run_query(g, ClusterAcorn(), query, allowed, PARAMS, K))
        assert np.array_equal(ours.rows, theirs.rows)
        assert np.array_equal(ours.distances, theirs.distances)
        same = ("n_hops", "n_distances", "n_lists", "n_rescored")
        assert [ours.counters[name] for name in same] == [theirs.counters[name] for name in same]


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_the_exact_scan_is_exact(metric: str) -> None:
    g = graph(metric)
    allowed = passing(0.2)
    for query in queries():
        trace = run_alone(run_query(g, TRAVERSALS["exact"], query, allowed, PARAMS, K))
        assert np.array_equal(trace.rows, exact(g, query, bitmap.indices(allowed)))
        assert trace.counters["n_rescored"] == bitmap.popcount(allowed)


def test_post_filter_is_the_unfiltered_beam_without_what_fails() -> None:
    g = graph()
    allowed = passing(0.5)
    flags = bitmap.unpack(allowed, N)
    for query in queries():
        wide = WalkParams(ef=4 * PARAMS.ef, n_predicted=4)
        g.show_all()
        every = finish(TRAVERSALS["result_filter"].walk(g, query, None, wide))
        found = finish(TRAVERSALS["post_filter"].walk(g, query, allowed, PARAMS))
        assert found.node_ids.tolist() == [node for node in every.node_ids.tolist() if flags[node]]


def test_clusters_score_the_passing_rows_of_the_nearest_clusters_that_have_some() -> None:
    g = graph()
    allowed = passing(0.01)
    flags = bitmap.unpack(allowed, N)
    for query in queries():
        g.show_all()
        found = finish(TRAVERSALS["clusters"].walk(g, query, allowed, WalkParams(ef=N)))
        with_some = [c for c in g.nearest(query).tolist() if flags[g.index.cluster_of == c].any()][:16]
        expected = np.flatnonzero(np.isin(g.index.cluster_of, with_some) & flags)
        assert sorted(found.node_ids.tolist()) == expected.tolist()


def test_racorn_plus_scans_where_few_pass_and_walks_where_many_do() -> None:
    g = graph()
    few, many = passing(0.0007, seed=5), passing(0.1)
    assert 0 < bitmap.popcount(few) <= 0.001 * N
    for query in queries():
        trace = run_alone(run_query(g, TRAVERSALS["racorn1_plus"], query, few, PARAMS, K))
        assert np.array_equal(trace.rows, exact(g, query, bitmap.indices(few)))
        assert trace.counters["n_hops"] == 0
        walked = run_alone(run_query(g, TRAVERSALS["racorn1_plus"], query, many, PARAMS, K))
        plain = run_alone(run_query(g, TRAVERSALS["racorn1"], query, many, PARAMS, K))
        assert np.array_equal(walked.rows, plain.rows)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_an_id_order_changes_numbers_and_not_answers(order: str) -> None:
    plain = graph()
    numbering = ORDERS[order](plain.index)
    assert np.array_equal(np.sort(numbering), np.arange(N))
    index = plain.index.renumbered(numbering)
    index.upper.check(N)
    other = LabGraph(index, inline(index))
    allowed = passing(0.3)
    moved = bitmap.pack(bitmap.unpack(allowed, N)[numbering])
    for query in queries():
        for name in ("result_filter", "exact", "clusters"):
            before = run_alone(run_query(plain, TRAVERSALS[name], query, allowed, PARAMS, K))
            after = run_alone(run_query(other, TRAVERSALS[name], query, moved, PARAMS, K))
            assert np.array_equal(before.rows, after.rows)


@pytest.mark.parametrize("name", sorted(TRAVERSALS))
class TestShipped(TraversalSuite):
    @pytest.fixture
    def traversal(self, name: str):
        return TRAVERSALS[name]

    @pytest.fixture
    def index(self, name: str):
        return build_gamma(small_index()) if name == "acorn_gamma" else small_index()


def test_data_is_what_the_tests_take_it_for() -> None:
    assert graph().index.vectors.shape == (N, D)
