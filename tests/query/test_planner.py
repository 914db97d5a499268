"""The planner: what is known exactly decides, and every plan says why."""

from __future__ import annotations

import pytest

from vstore.query import planner

CASES = [
    ("recall 1 is exact", dict(n_matching=10**6, filtered=False, recall=1.0), "exact"),
    ("recall 1 under a filter too", dict(n_matching=50_000, filtered=True, recall=1.0), "exact"),
    (
        "an ef of the caller's overrides recall",
        dict(n_matching=10**6, filtered=False, recall=1.0, ef=50),
        "hnsw",
    ),
    ("no filter", dict(n_matching=10**6, filtered=False), "hnsw"),
    ("a small shard", dict(n_matching=2_000, filtered=False, n_rows=2_000), "scan"),
    ("few rows pass", dict(n_matching=8_000, filtered=True), "scan"),
    ("nothing passes", dict(n_matching=0, filtered=True), "scan"),
    ("nearly all pass", dict(n_matching=900_000, filtered=True), "result_filter"),
    ("some pass", dict(n_matching=100_000, filtered=True), "cluster_acorn"),
]


@pytest.mark.parametrize(("known", "traversal"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_which_traversal(known, traversal):
    plan = planner.choose(**{"n_rows": 10**6, "k": 10, "recall": 0.95, "ef": None, **known})
    assert plan.traversal == traversal
    assert plan.reason
    assert plan.as_dict()["traversal"] == traversal


def test_more_recall_never_means_a_narrower_search():
    widths = [planner.width_for(recall / 1000, 10, None) for recall in range(1, 1001)]
    assert widths == sorted(widths)
    assert planner.width_for(0.95, 10, ef=3) == 10
    assert planner.width_for(0.95, 10, ef=777) == 777
    assert planner.width_for(0.95, 500, None) >= 500


def test_candidates_cover_k_and_never_exceed_what_matches():
    for k in (1, 10, 100, 5000):
        plan = planner.choose(n_rows=10**6, n_matching=10**5, filtered=True, k=k, recall=0.95, ef=None)
        assert plan.n_candidates >= k
        assert plan.ef >= k
        assert plan.n_seeds >= k
    few = planner.choose(n_rows=10**6, n_matching=7, filtered=True, k=10, recall=0.95, ef=None)
    assert few.n_candidates == 7
