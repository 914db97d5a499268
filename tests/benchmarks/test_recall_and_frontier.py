"""Recall and frontiers: the arithmetic that every figure of the benchmarks goes through."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.datasets.truth import nearest
from benchmarks.frontier import median_qps_at, median_ratio, pareto, qps_at
from benchmarks.recall import recall


def exact_by_hand(points: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    distances = [
        math.fsum((float(a) - float(b)) ** 2 for a, b in zip(point, query, strict=True)) for point in points
    ]
    return sorted(range(len(points)), key=lambda row: (distances[row], row))[:k]


@pytest.mark.parametrize("seed", range(4))
def test_exact_neighbours_are_those_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that there are many ties.
    points = rng.integers(0, 3, (300, 4)).astype(np.float32)
    queries = rng.integers(0, 3, (9, 4)).astype(np.float32)
    found, distances = nearest(points, queries, 12)
    for i, query in enumerate(queries):
        assert found[i].tolist() == exact_by_hand(points, query, 12)
        assert distances[i].tolist() == sorted(distances[i].tolist())


def test_exact_neighbours_far_from_the_origin_are_still_exact() -> None:
    # float32 products cancel here: the shortlist alone would be wrong.
    rng = np.random.default_rng(5)
    points = (rng.standard_normal((2000, 16)) + 3000).astype(np.float32)
    queries = (rng.standard_normal((5, 16)) + 3000).astype(np.float32)
    found, _ = nearest(points, queries, 10)
    for i, query in enumerate(queries):
        assert found[i].tolist() == exact_by_hand(points, query, 10)


def test_exact_neighbours_under_a_filter_all_pass_and_may_be_fewer_than_k() -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((200, 8)).astype(np.float32)
    passing = np.zeros(200, bool)
    passing[[3, 50, 120]] = True
    found, _ = nearest(points, points[:4], 10, passing)
    assert found.shape == (4, 3)
    assert set(found.ravel().tolist()) == {3, 50, 120}
    nothing, _ = nearest(points, points[:4], 10, np.zeros(200, bool))
    assert nothing.shape == (4, 0)


def test_recall_counts_ties_by_distance_and_nothing_twice() -> None:
    points = np.array([[0.0], [1.0], [-1.0], [2.0], [5.0]], np.float32)
    queries = np.array([[0.0]], np.float32)
    truth = np.array([[0, 1]])
    assert recall(points, queries, np.array([[0, 1]]), truth, 2) == 1.0
    # Row 2 is as near as row 1.
    assert recall(points, queries, np.array([[2, 0]]), truth, 2) == 1.0
    assert recall(points, queries, np.array([[0, 0]]), truth, 2) == 0.5
    assert recall(points, queries, np.array([[0, 3]]), truth, 2) == 0.5
    assert recall(points, queries, np.array([[-1, -1]]), truth, 2) == 0.0
    assert recall(points, queries, np.array([[0, 99]]), truth, 2) == 0.5
    # More than k answers are no help: the first k count.
    assert recall(points, queries, np.array([[3, 4, 0, 1]]), truth, 2) == 0.0


def test_recall_counts_no_row_that_fails_the_filter() -> None:
    points = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    queries = np.array([[0.0]], np.float32)
    passing = np.array([False, True, True, True])
    truth = np.array([[1, 2]])
    assert recall(points, queries, np.array([[0, 1]]), truth, 2, passing) == 0.5
    assert recall(points, queries, np.array([[1, 2]]), truth, 2, passing) == 1.0
    # Where fewer than k pass, all of those are all there is.
    assert recall(points, queries, np.array([[1, -1, -1]]), np.array([[1]]), 3, passing) == 1.0


def test_recall_is_the_share_over_all_queries() -> None:
    rng = np.random.default_rng(3)
    points = rng.standard_normal((100, 6)).astype(np.float32)
    queries = rng.standard_normal((7, 6)).astype(np.float32)
    truth, _ = nearest(points, queries, 10)
    found = truth.copy()
    found[:, 7:] = -1
    assert recall(points, queries, found, truth, 10) == pytest.approx(0.7)


def test_the_frontier_holds_no_point_that_another_beats() -> None:
    points = [(0.9, 100.0), (0.95, 80.0), (0.94, 70.0), (0.99, 20.0), (0.9, 90.0)]
    assert pareto(points) == [(0.9, 100.0), (0.95, 80.0), (0.99, 20.0)]


def test_qps_between_two_points_is_log_linear_in_recall() -> None:
    points = [(0.90, 1000.0), (0.96, 10.0)]
    assert qps_at(points, 0.93) == pytest.approx(100.0)
    assert qps_at(points, 0.96) == pytest.approx(10.0)
    # Neither end is extrapolated.
    assert qps_at(points, 0.8) == 1000.0
    assert qps_at(points, 0.97) is None
    assert qps_at([], 0.5) is None


def test_medians_are_over_repeats_and_ratios_within_one() -> None:
    ours = [[(0.99, 100.0)], [(0.99, 300.0)], [(0.99, 200.0)]]
    theirs = [[(0.99, 50.0)], [(0.99, 50.0)], [(0.99, 200.0)]]
    assert median_qps_at(ours, 0.95) == 200.0
    assert median_ratio(ours, theirs, 0.95) == 2.0
    # One repeat of three that reaches the recall is luck.
    assert median_qps_at([[(0.96, 10.0)], [(0.94, 10.0)], [(0.94, 10.0)]], 0.95) is None
    assert median_ratio(ours, [[(0.5, 1.0)]] * 3, 0.95) is None
