"""Sketches against a slow twin that reads their bytes by docs/FORMAT.md, and against exact distances."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest
from face_rows import queries, rows

from vstore.errors import CorruptData
from vstore.shard.sketches import Sketcher, decode_sketches, encode_sketches
from vstore.shard.space import to_space
from vstore.traverse.base import Sketches
from vstore.traverse.sketches import candidates, score_sketches
from vstore_kernels.clusters import cluster_order
from vstore_kernels.distance import exact_distances
from vstore_kernels.rotation import rotate

N, DIM = 1_000, 24


def sketched(metric):
    """Rows in cluster order, and a shard of them as far as sketches go."""
    vectors = rows(N, DIM)
    space = to_space(vectors, metric)
    order = cluster_order(space, 32, 0, 1)
    vectors = np.ascontiguousarray(vectors[order.order])
    sketcher = Sketcher(vectors, order.centroids, order.offsets, metric)
    head = SimpleNamespace(sketch_params=sketcher.params, dim=DIM, n=N)
    stored = list(sketcher.blocks())
    held = [decode_sketches(data, block, head, "here") for block, data in enumerate(stored)]
    view = SimpleNamespace(
        metric=metric, centroids=order.centroids, cluster_offsets=order.offsets, sketches=held.__getitem__
    )
    return vectors, view, sketcher.params, stored, head


def twin(stored, view, query, rows_wanted):
    """The estimates as the page on the format says, a row and a component at a time, in float64."""
    if view.metric == "cosine":
        query = query / np.linalg.norm(query)
    centroids = view.centroids[:, :DIM]
    turned = rotate(np.ascontiguousarray(query[None], np.float32))[0].astype(np.float64)
    found = []
    for row in rows_wanted:
        block, at = divmod(int(row), 128)
        data, m = stored[block], min(128, N - block * 128)
        least_bias, bias_unit, least_step, step_unit = struct.unpack_from("<4f", data)
        (bias,) = struct.unpack_from("<H", data, 16 + 2 * at)
        (step,) = struct.unpack_from("<H", data, 16 + 2 * m + 2 * at)
        own = data[16 + 4 * m + 8 * at :][:8]
        inner = sum(
            (0.5 if own[j >> 3] >> (j & 7) & 1 else -0.5) * component for j, component in enumerate(turned)
        )
        cluster = next(c for c in range(len(centroids)) if view.cluster_offsets[c + 1] > row)
        gap = query.astype(np.float64) - centroids[cluster]
        base = -(query.astype(np.float64) @ centroids[cluster]) if view.metric == "dot" else gap @ gap
        estimate = base + least_bias + bias * bias_unit + (least_step + step * step_unit) * inner
        found.append(estimate / 2 if view.metric == "cosine" else estimate)
    return np.array(found)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_estimates_are_those_of_a_slow_twin_and_near_the_truth(metric):
    vectors, view, params, stored, _ = sketched(metric)
    some = np.unique(np.random.default_rng(3).integers(0, N, 200)).astype(np.int32)
    blocks = np.unique(some >> 7).astype(np.int32)
    errors = []
    for query in queries(8, DIM):
        estimates, spreads = score_sketches(view, params, query, some, blocks)
        scale = np.abs(estimates).max()
        assert np.allclose(estimates, twin(stored, view, query, some), atol=1e-4 * scale)
        exact = exact_distances(query, np.ascontiguousarray(vectors[some]), None, metric)
        errors.append((estimates - exact) / spreads)
    spread = np.concatenate(errors)
    assert abs(spread.mean()) < 0.2
    assert 0.5 < spread.std() < 1.5


def test_rows_of_some_blocks_alone_are_scored_as_among_all():
    _, view, params, _, _ = sketched("l2")
    some = np.array([130, 140, 255, 900, N - 1], np.int32)
    every = np.arange(-(-N // 128), dtype=np.int32)
    for query in queries(3, DIM):
        few = score_sketches(view, params, query, some, np.unique(some >> 7).astype(np.int32))
        assert np.array_equal(few, score_sketches(view, params, query, some, every))


def test_a_block_keeps_its_bits_and_its_numbers_but_for_a_step_of_16_bits():
    rng = np.random.default_rng(1)
    head = SimpleNamespace(sketch_params=SimpleNamespace(block_rows=64), dim=100, n=70)
    for block, m in ((0, 64), (1, 6)):
        bits = rng.integers(0, 256, (m, 16)).astype(np.uint8)
        bias, step = rng.standard_normal((2, m)).astype(np.float32)
        again = decode_sketches(encode_sketches(Sketches(bits, bias, step)), block, head, "here")
        assert np.array_equal(again.bits, bits)
        assert np.abs(again.bias - bias).max() <= np.ptp(bias) / 65_535
        assert np.abs(again.step - step).max() <= np.ptp(step) / 65_535
    same = Sketches(bits, np.full(6, 3, np.float32), np.zeros(6, np.float32))
    again = decode_sketches(encode_sketches(same), 1, head, "here")
    assert np.array_equal(again.bias, same.bias)
    assert np.array_equal(again.step, same.step)


def test_bytes_that_are_no_block_are_refused():
    _, _, _, stored, head = sketched("l2")
    for wrong in (stored[0][:-1], stored[0] + b"0", b"", stored[-1]):
        with pytest.raises(CorruptData, match="bytes; sketches of 128 rows"):
            decode_sketches(wrong, 0, head, "here")
    with pytest.raises(CorruptData, match="not finite"):
        decode_sketches(struct.pack("<f", np.nan) + stored[0][4:], 0, head, "here")


def test_candidates_come_by_estimate_and_are_more_where_estimates_are_worse():
    rng = np.random.default_rng(2)
    estimates = rng.random(500).astype(np.float32)
    few, many, more = (
        candidates(estimates, np.full(500, spread, np.float32), 10, reach)
        for spread, reach in ((0.001, 1.0), (0.1, 1.0), (0.1, 2.0))
    )
    assert 20 <= len(few) < len(many) < len(more) < 500
    assert np.array_equal(more, np.argsort(estimates)[: len(more)])
    assert np.array_equal(candidates(estimates[:7], estimates[:7], 10, 1.0), np.argsort(estimates[:7]))
