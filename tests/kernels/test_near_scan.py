from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import clustered

from tests import naive
from vstore_kernels import bitmap, clusters, codes, rescore, search
from vstore_kernels.near_scan import QUIET, NearScan

N, D = 600, 16


def world(bits: int = 8):
    vectors = clustered(N, D)
    order = clusters.cluster_order(vectors, 40, 0, 1)
    vectors = np.ascontiguousarray(vectors[order.order])
    params = codes.train_codes(vectors, "l2", bits)
    tables = search.BlockTables(N, 4, params.row_bytes, 5)
    encoded = codes.encode(vectors, params)
    tables.set_all_codes(encoded)
    return vectors, order, params, encoded, tables


WORLDS = {bits: world(bits) for bits in codes.BITS}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(codes.BITS),
    st.sampled_from([None, 0.05, 0.3, 0.9]),
    st.integers(1, 400),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_agrees_with_the_slow_twin(bits, share, budget, k, seed) -> None:
    vectors, order, params, encoded, tables = WORLDS[bits]
    rng = np.random.default_rng(seed)
    query = vectors[seed] + np.float32(0.1)
    flags = np.ones(N, bool) if share is None else rng.random(N) < share
    code = codes.prepare_query(query, params)
    near = clusters.nearest_clusters(query, order.centroids, "l2")
    scan = NearScan(code, tables, None if share is None else bitmap.pack(flags), budget, N, k)
    scan.run(order.offsets[near], order.offsets[near + 1])
    nodes, found = scan.results()
    assert (np.diff(found) >= 0).all()
    expected, n_scanned = naive.near_scan(
        codes.estimate(code, encoded).tolist(),
        codes.error_std(code, encoded).tolist(),
        [[x for x in range(order.offsets[c], order.offsets[c + 1]) if flags[x]] for c in near],
        budget,
        k,
        float(rescore.SIGMAS),
        QUIET[0] / QUIET[1],
    )
    assert scan.n_scanned == n_scanned
    # Sums in float32 and float64 may fall on either side of the bound.
    assert len(set(nodes.tolist()) ^ set(expected)) <= 1
    assert scan.n_scanned == flags.sum() or scan.n_scanned >= budget


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 10), st.lists(st.integers(1, 9), max_size=9), st.integers(0, 99))
def test_cut_in_pieces_it_is_the_same(budget, k, pieces, seed) -> None:
    vectors, order, params, _, tables = WORLDS[4]
    query = vectors[seed]
    code = codes.prepare_query(query, params)
    near = clusters.nearest_clusters(query, order.centroids, "l2")
    starts, stops = order.offsets[near], order.offsets[near + 1]
    whole = NearScan(code, tables, None, budget, 50, k)
    done = whole.run(starts, stops)
    cut = NearScan(code, tables, None, budget, 50, k)
    at = 0
    for piece in [*pieces, len(near)]:
        at += cut.run(starts[at : at + piece], stops[at : at + piece])
        if cut.satisfied:
            break
        assert cut.least > cut.n_scanned or at == len(near)
    assert at == done
    assert cut.n_scanned == whole.n_scanned
    for mine, other in zip(cut.results(), whole.results(), strict=True):
        assert mine.tolist() == other.tolist()


def test_where_order_says_nothing_it_goes_on() -> None:
    vectors, order, params, _, tables = WORLDS[8]
    code = codes.prepare_query(vectors[5], params)
    near = clusters.nearest_clusters(vectors[5], order.centroids, "l2")
    good, bad = NearScan(code, tables, None, 80, 50, 10), NearScan(code, tables, None, 80, 50, 10)
    good.run(order.offsets[near], order.offsets[near + 1])
    far_first = near[::-1]
    bad.run(order.offsets[far_first], order.offsets[far_first + 1])
    assert bad.n_scanned > 2 * good.n_scanned


def test_bad_input_is_named() -> None:
    vectors, order, params, _, tables = WORLDS[8]
    code = codes.prepare_query(vectors[0], params)
    with pytest.raises(ValueError, match="k 11, top 10"):
        NearScan(code, tables, None, 5, 10, 11)
    with pytest.raises(ValueError, match="bitmap of 2 words"):
        NearScan(code, tables, np.zeros(2, np.uint64), 5, 10, 10)
    scan = NearScan(code, tables, None, 5, 10, 10)
    with pytest.raises(ValueError, match="2 starts and 1 stops"):
        scan.run(order.offsets[:2], order.offsets[1:2])
    with pytest.raises(ValueError, match="within 600 rows"):
        scan.run(np.array([0]), np.array([N + 1]))
