"""The curve of a cluster scan is counted, not searched: searches must find what it counts."""

from __future__ import annotations

import numpy as np
import pytest
from face_rows import rows

from vstore.shard.calibration import inverted
from vstore.shard.calibration.curves import CLUSTERS, KS
from vstore.shard.calibration.guide import Guide
from vstore.shard.calibration.truth import TruthMaker
from vstore_kernels import acorn, clusters, codes
from vstore_kernels.build import build_hnsw

N, DIM = 5_000, 16


@pytest.fixture(scope="module")
def guide():
    vectors = rows(N, DIM)
    order = clusters.cluster_order(vectors, 100, 0, 2)
    vectors = np.ascontiguousarray(vectors[order.order])
    graph = build_hnsw(vectors, M=8, ef_construction=40, seed=0, n_threads=2)
    params = codes.train_codes(vectors, "l2", 8)
    encoded = codes.encode(vectors, params)
    return Guide(vectors, vectors, "l2", graph, params, encoded, order.centroids, order.offsets)


@pytest.fixture(scope="module")
def questions(guide):
    held_out = np.arange(0, N, 50, dtype=np.int32)
    return TruthMaker(guide, held_out, 0, 2).filtered(
        [("none", 0.2), ("far", 0.2), ("islands", 0.2)], n_queries=24
    )


@pytest.mark.parametrize("kind", ["none", "far", "islands"])
def test_counted_recall_is_found_recall(guide, questions, kind):
    asked = questions[kind, 0.2]
    ladder = inverted.budgets(N)
    for question in asked[::5]:
        counted = inverted.seen(inverted.Reading(guide), question, ladder)
        order = clusters.nearest_clusters(question.query, guide.centroids, "l2")
        for at, budget in enumerate(ladder.tolist()):
            scanned = acorn.pick_seeds(order, guide.cluster_offsets, question.passing, budget)
            assert counted[at].tolist() == question.found(np.sort(scanned)).tolist()


def test_a_curve_climbs_to_all_rows(guide, questions):
    curve = inverted.climb(guide, "far", 0.2, questions["far", 0.2], confidence=2.0)
    assert curve.walk == CLUSTERS["far"]
    assert (np.diff(curve.ef) > 0).all()
    assert (np.diff(curve.recall, axis=0) >= 0).all()
    assert (curve.recall[-1] == 1).all()
    assert curve.recall.shape == (len(curve.ef), len(KS))
    assert (curve.recall[0] < 0.5).all()
    assert curve.ef[-1] == max(question.n_passing for question in questions["far", 0.2])


def test_budgets_reach_all_rows_and_no_more():
    for n in (1, 31, 32, 33, 1_000, 123_456):
        ladder = inverted.budgets(n)
        assert ladder[-1] == n
        assert (np.diff(ladder) > 0).all()


def test_few_near_clusters_hold_the_answer_under_an_even_filter(guide, questions):
    curve = inverted.climb(guide, "none", 0.2, questions["none", 0.2], confidence=1.0)
    least = curve.width(0.95, 10)
    assert least is not None
    assert least < 0.5 * curve.ef[-1]
