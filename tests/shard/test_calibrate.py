"""Calibration: measured on rows that the graph lacks, deterministic, stored, and kept by what it promises."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from face_rows import queries, rows

from vstore.errors import CorruptData, InvalidSetting
from vstore.format.rows import RowBatch
from vstore.query.planner import ShardPlans
from vstore.query.policy import policy
from vstore.settings import IndexSettings
from vstore.shard import threads
from vstore.shard.builder import ShardBuilder
from vstore.shard.calibration import costs, n_held_out
from vstore.shard.calibration.codec import decode_calibration, encode_calibration
from vstore.shard.calibration.curves import KS, LOSSES, OVERSAMPLING, Calibration, Coarse, Curve
from vstore.shard.head import decode_head
from vstore.types import Schema
from vstore_kernels import bitmap, codes

N, DIM = 8_000, 24


def batch(n: int = N, dim: int = DIM) -> RowBatch:
    return RowBatch(np.arange(n, dtype=np.int64), "int", rows(n, dim), {})


def build(n: int = N, n_threads: int = 2, metric: str = "l2", **index):
    settings = IndexSettings(ef_construction=60, cluster_rows=128, **index)
    made = ShardBuilder(n_threads)(batch(n), Schema(DIM, metric, {}), settings, shard_id="s", key="s")
    entry, data = made
    return decode_head(data[entry.head.start : entry.head.start + entry.head.length], "s"), data


@pytest.fixture(scope="module")
def head():
    return build()[0]


def test_the_result_does_not_depend_on_the_threads(monkeypatch):
    one, data = build(n_threads=1)
    monkeypatch.setattr(threads, "THREADS_FROM", 0)
    other, again = build(n_threads=2)
    assert data == again
    assert one.calibration is not None
    assert encode_calibration(one.calibration) == encode_calibration(other.calibration)


def test_curves_climb_until_nothing_is_left_to_find(head):
    calibration = head.calibration
    assert calibration.n_queries == n_held_out(N)
    (own,) = calibration.of("hnsw")
    assert (np.diff(own.ef) > 0).all()
    assert own.recall[0, 0] < own.recall[-1, 0]
    assert own.recall[-1, 0] > 0.98
    # A beam narrower than k holds at most ef of the k, and costs grow with it.
    assert (own.recall <= np.minimum(own.ef[:, None] / np.array(KS), 1) + 1e-6).all()
    assert (np.diff(own.counts[:, 0]) > 0).all()
    assert calibration.lost.shape == (len(LOSSES), len(KS), len(OVERSAMPLING))
    # More candidates never lose more.
    assert (np.diff(calibration.lost, axis=2) <= 1e-6).all()


def test_what_is_stored_reads_back(head):
    stored = encode_calibration(head.calibration)
    again = decode_calibration(stored, "s")
    assert encode_calibration(again) == stored


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_every_metric_is_calibrated(metric):
    calibration = build(metric=metric)[0].calibration
    assert calibration is not None
    assert calibration.of("hnsw")[0].recall[-1, 0] > 0.9


def test_small_shards_and_those_asked_not_to_have_none():
    assert build(n=2_000)[0].calibration is None
    assert build(calibrate=False)[0].calibration is None
    assert n_held_out(2_000) == 0


def test_damaged_calibrations_are_refused(head):
    (own,) = head.calibration.of("hnsw")
    bad = [
        dataclasses.replace(own, ef=own.ef[::-1].copy()),
        dataclasses.replace(own, recall=own.recall + 2),
        dataclasses.replace(own, counts=own.counts[:-1]),
        dataclasses.replace(own, share=0.0),
        dataclasses.replace(own, n_seeds=own.n_seeds * 0),
        dataclasses.replace(own, walk="far"),
    ]
    for curve in bad:
        broken = dataclasses.replace(head.calibration, curves=(curve,))
        with pytest.raises(CorruptData):
            decode_calibration(encode_calibration(broken), "s")


def curve(walk: str = "hnsw", share: float = 1.0, top: float = 1.0) -> Curve:
    ef = np.array([10, 20, 40, 80, 160], np.int32)
    recall = np.outer(np.array([0.6, 0.8, 0.9, 0.95, top]), [1.0, 0.9, 0.8]).astype(np.float32)
    counts = np.outer(ef, [20.0, 1.0, 30.0, 2.0]).astype(np.float32)
    return Curve(walk, share, ef, ef * 4, recall, counts)


def calibration(*curves: Curve) -> Calibration:
    lost = np.zeros((len(LOSSES), len(KS), len(OVERSAMPLING)), np.float32)
    return Calibration(100, curves, lost, row_bytes=128, centroid_bytes=1 << 16, novel_beyond=0.5)


def test_widths_lie_on_lines_between_rungs_and_end_where_the_measurement_does():
    own = curve()
    assert own.width(0.6, 10) == 10
    assert own.width(0.3, 10) == 10
    assert own.width(0.7, 10) == pytest.approx(15)
    assert own.width(0.925, 10) == pytest.approx(60)
    assert own.width(0.7, 3) == own.width(1 - 0.3 / 4, 10)
    assert own.width(0.7, 10) < own.width(0.7, 30) < own.width(0.7, 50)
    assert own.width(0.7, 300) == pytest.approx(3 * own.width(0.7, 100))
    assert curve(top=0.96).width(0.99, 10) is None


def test_more_recall_never_means_a_narrower_search(head):
    for k in (1, 10, 37, 100, 400):
        plans = [
            policy(head.calibration, k, recall / 1000, None, False).unfiltered(10**9)
            for recall in range(500, 1000, 7)
        ]
        widths = [plan.ef for plan in plans]
        assert widths == sorted(widths)
        assert all(plan.traversal == "hnsw" and plan.ef >= max(k, plan.n_candidates) for plan in plans)


def test_where_no_measurement_suffices_the_scan_answers():
    weak = calibration(curve(), *(curve(walk, 0.2, top=0.9) for walk in ("none", "far", "islands")))
    known = policy(weak, 10, 0.99, None, False)
    assert known.filtered(10**8, 0.2, 0.0).traversal == "scan"
    assert known.filtered(10**8, 0.2, 1.0).traversal == "result_filter"
    enough = policy(
        calibration(curve(), *(curve(walk, 0.2) for walk in ("none", "far", "islands"))), 10, 0.9, None, False
    )
    assert enough.filtered(10**8, 0.2, 0.0).traversal == "cluster_acorn"
    assert enough.filtered(100, 0.2, 0.0).traversal == "scan"
    assert "scan" in enough.filtered(10**8, 0.2, 0.0).reason


def test_the_cheapest_of_the_ways_is_taken(head):
    known = policy(head.calibration, 10, 0.95, None, False)
    for n_matching in (10, 500, 3_000, N):
        for correlation in (0.0, 0.05, 0.2, 0.5, 1.0, 3.0):
            share = n_matching / N
            ways = known.ways(n_matching, share, correlation)
            assert known.filtered(n_matching, share, correlation).cost_ns == min(way.cost_ns for way in ways)


def test_strange_queries_are_told_apart(head):
    coarse = Coarse(head.centroids, head.metric)
    usual = queries(300)
    assert (coarse.novelty(usual) > head.calibration.novel_beyond).mean() < 0.15
    far = usual + 40 * np.random.default_rng(0).standard_normal(DIM).astype(np.float32)
    assert (coarse.novelty(far) > head.calibration.novel_beyond).all()
    plans = ShardPlans(head, 10, 0.95, None, None)
    assert plans.fixed is not None or plans.plan(far[0]).ef >= plans.plan(usual[0]).ef


def test_splitting_a_batch_equals_planning_each_query(head):
    flags = np.zeros(N, np.bool_)
    flags[: N // 2] = True
    asked = np.ascontiguousarray(queries(40))
    for passing in (None, bitmap.pack(flags)):
        plans = ShardPlans(head, 10, 0.95, None, passing)
        seen = np.zeros(len(asked), int)
        for plan, part in plans.split(asked):
            seen[part] += 1
            # Many together may scan where one alone would not.
            alone = {plans.plan(asked[i]).traversal for i in part.tolist()}
            assert alone == {plan.traversal} or plan.traversal == "scan"
        for plan, part in plans.split(asked[: costs.MANY - 1]):
            assert all(plans.plan(asked[i]) == plan for i in part.tolist())
        assert (seen == 1).all()


@pytest.mark.parametrize("bits", sorted(codes.BITS))
def test_every_width_of_codes_is_calibrated(bits):
    made, _ = build(n=5_000, codes=bits)
    assert made.code_params.bits == bits
    assert made.calibration.row_bytes == made.code_params.row_bytes


def test_auto_takes_the_narrowest_codes_that_find_enough():
    loose, _ = build(codes="auto", codes_recall=0.01)
    assert loose.code_params.bits == min(codes.BITS)
    strict, _ = build(codes="auto", codes_recall=1.0)
    tried = dict(strict.calibration.code_recall)
    assert strict.code_params.bits == max(tried)
    middle, _ = build(codes="auto", codes_recall=0.9)
    reached = dict(middle.calibration.code_recall)
    assert reached[middle.code_params.bits] >= 0.9
    assert all(recall < 0.9 for bits, recall in reached.items() if bits < middle.code_params.bits)


def test_settings_are_checked():
    for wrong in (
        dict(codes=3),
        dict(codes="wide"),
        dict(codes=True),
        dict(codes_recall=0),
        dict(calibrate=1),
    ):
        with pytest.raises(InvalidSetting):
            IndexSettings(**wrong)
