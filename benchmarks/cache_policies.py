"""Hit rates of cache policies: python -m benchmarks.cache_policies --dataset fashion --rows 20000

One shard answers filtered queries whose subject shifts: in each phase they are near, and filtered to, other
clusters of the data; one in five is from anywhere and unfiltered. What each query wants is recorded once,
with a cache that keeps nothing, and replayed against each policy at shares of all bytes that were ever
wanted. Counts, no times.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import vstore
from benchmarks.datasets import load
from vstore import F
from vstore.cache import BlockKey
from vstore.cache.blocks import ROWS, ROWS_SHARE
from vstore.cache.policies import LRU, S3FIFO, AdmitSecond, KeepFirst, PinHubs, Residency
from vstore.storage.memory import MemoryStore
from vstore_kernels import clusters

Trace = list[tuple[BlockKey, int]]
POLICIES: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
    "lru": (LRU, None),
    "s3_fifo": (S3FIFO, None),
    "pin_hubs": (PinHubs, None),
    "lru, admission second": (LRU, AdmitSecond),
    "none": (KeepFirst, None),
}


class Recorder:
    """An admission that keeps nothing and notes every block that a query reads, each once a query."""

    def __init__(self) -> None:
        self.trace: Trace = []

    def admits(self, key: BlockKey, size_bytes: int, room_bytes: int) -> bool:
        self.trace.append((key, size_bytes))
        return False


def build(points: np.ndarray, groups: np.ndarray, block_rows: int) -> MemoryStore:
    """Return a store with one shard of the points; `group` is the cluster that a row is in."""
    store = MemoryStore()
    with vstore.connect(store, settings=vstore.Settings(memtable_rows=len(points) + 1, n_threads=2)) as db:
        index = vstore.IndexSettings(block_rows=block_rows, ef_construction=100, calibrate=False)
        made = db.create_collection(
            "c", dim=points.shape[1], metric="l2", fields={"group": "int"}, index=index
        )
        made.upsert(np.arange(len(points)), points, {"group": groups}, progress=False)
        made.flush(progress=False)
    return store


def recorded(
    store: MemoryStore, queries: np.ndarray, near: np.ndarray, n_groups: int, phases: int, seed: int
) -> list[Trace]:
    """Return what each query read: of each phase a quarter of the groups, overlapping with the phase
    before."""
    recorder, rng = Recorder(), np.random.default_rng(seed)
    settings = vstore.Settings(n_threads=1, cache_admission=lambda: recorder, hydrate_bytes=0)
    collection = vstore.connect(store, settings=settings).collection("c")
    traces: list[Trace] = []
    per_phase = len(queries) // phases
    for phase in range(phases):
        subject = (np.arange(n_groups // 4) + phase * (n_groups // 8)) % n_groups
        inside = np.flatnonzero(np.isin(near, subject))
        for _ in range(per_phase):
            recorder.trace = []
            if rng.random() < 0.2:
                collection.search(queries[rng.integers(len(queries))], k=10)
            else:
                wanted = rng.choice(subject, max(1, len(subject) // 2), replace=False).tolist()
                collection.search(queries[rng.choice(inside)], k=10, filter=F.group.isin(wanted))
            traces.append(recorder.trace)
    return traces


def replay(traces: list[Trace], limit_bytes: int, name: str) -> tuple[float, float, float]:
    """Return the share of hits, of bytes that hit, and the blocks a query that had to be read."""
    eviction, admission = POLICIES[name]
    cache = Residency(
        limit_bytes,
        eviction,
        None if admission is None else admission(),
        lesser=lambda key: key.section in ROWS,
        lesser_share=ROWS_SHARE,
    )
    hit_bytes = all_bytes = 0
    for trace in traces:
        for key, size_bytes in trace:
            all_bytes += size_bytes
            if cache.request(key, size_bytes):
                hit_bytes += size_bytes
    counts = cache.counts
    asked = counts.n_hits + counts.n_misses
    return counts.n_hits / asked, hit_bytes / all_bytes, counts.n_misses / len(traces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="fashion", help="fashion, clustered or sentences")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--phases", type=int, default=4)
    parser.add_argument("--block-rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load(arguments.dataset, arguments.rows)
    queries = data.queries[: arguments.queries]
    order = clusters.cluster_order(data.points, cluster_rows=len(data.points) // 32)
    n_groups = len(order.offsets) - 1
    groups = np.empty(len(data.points), np.int64)
    groups[order.order] = np.repeat(np.arange(n_groups), np.diff(order.offsets))
    distances = (order.centroids**2).sum(1) - 2 * queries @ order.centroids[:, : queries.shape[1]].T
    store = build(data.points, groups, arguments.block_rows)
    traces = recorded(store, queries, distances.argmin(1), n_groups, arguments.phases, arguments.seed)
    sizes = {key: size for trace in traces for key, size in trace}
    wanted = sum(map(len, traces))
    print(
        f"{len(traces)} queries, {wanted} blocks wanted, {len(sizes)} distinct, {sum(sizes.values()):,} bytes"
    )
    print("| limit | policy | hits | hits by bytes | blocks read a query |\n| --- | --- | --- | --- | --- |")
    for share in (0.1, 0.2, 0.4):
        for name in POLICIES:
            hits, by_bytes, misses = replay(traces, int(share * sum(sizes.values())), name)
            print(f"| {share:.0%} | {name} | {hits:.1%} | {by_bytes:.1%} | {misses:.1f} |")


if __name__ == "__main__":
    main()
