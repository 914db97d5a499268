"""The benchmark of cache policies records what queries want, and replays it alike each time."""

from __future__ import annotations

import numpy as np
from face_rows import queries, rows

from benchmarks import cache_policies


def test_what_is_recorded_is_what_a_search_reads_and_replays_alike():
    points = rows(1_500)
    groups = np.arange(1_500) % 8
    store = cache_policies.build(points, groups, block_rows=128)
    traces = cache_policies.recorded(store, queries(24), np.arange(24) % 8, 8, 2, 0)
    again = cache_policies.recorded(store, queries(24), np.arange(24) % 8, 8, 2, 0)
    assert traces == again
    assert len(traces) == 24
    assert all(len({key for key, _ in trace}) == len(trace) > 3 for trace in traces)
    assert {"codes", "vectors", "head"} <= {key.section for trace in traces for key, _ in trace}
    total = sum({key: size for trace in traces for key, size in trace}.values())
    for name in cache_policies.POLICIES:
        hits, by_bytes, misses = cache_policies.replay(traces, total, name)
        assert misses * 24 == len({key for trace in traces for key, _ in trace}), "each is read once"
        assert 0 < hits < 1
        assert 0 < by_bytes < 1
        tight = cache_policies.replay(traces, total // 8, name)
        assert tight[0] < hits
