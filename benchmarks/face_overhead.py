"""What a search costs above the kernel that answers it, and what a second thread brings.

    python -m benchmarks.face_overhead [--rows 20000] [--dim 64] [--quick]

One query a call through `Collection.search`, k=10, everything resident: microseconds of the whole call and of
the compiled kernel inside it (`answer_rows`; checks and packing are not the kernel's), medians over the
queries; then `search_batch` with one thread and with two. Prints a table, and the same as one line of JSON.
The ratio of the threads needs two cores that are free.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import vstore
from vstore import F
from vstore_kernels import answer

K = 10
FILTERS: dict[str, Any] = {
    "none": lambda: None,
    "90%": lambda: F.bucket < 90,
    "50%": lambda: F.bucket < 50,
    "10%": lambda: F.bucket < 10,
    "1%": lambda: F.bucket == 3,
}


def vectors(n: int, dim: int, seed: int) -> np.ndarray:
    """float32[n, dim] of 10 intrinsic dimensions around 30 clusters."""
    shape = np.random.default_rng(11)
    directions, centers = shape.standard_normal((10, dim)), shape.standard_normal((30, 10)) * 2
    rng = np.random.default_rng(seed)
    latent = centers[rng.integers(0, 30, n)] + rng.standard_normal((n, 10))
    return (latent @ directions + 0.3 * rng.standard_normal((n, dim))).astype(np.float32)


def build(n: int, dim: int) -> Any:
    """A store in memory with one shard of n rows."""
    from vstore.storage.memory import MemoryStore

    store = MemoryStore()
    with vstore.connect(store, settings=vstore.Settings(memtable_rows=n + 1)) as database:
        made = database.create_collection("c", dim=dim, metric="l2", fields={"bucket": "int"})
        made.upsert(np.arange(n), vectors(n, dim, 0), {"bucket": np.arange(n) % 100})
        made.flush()
    return store


def open_resident(store: Any, n_threads: int, n: int, query: np.ndarray) -> vstore.Collection:
    """The collection with everything in memory, exact vectors and payload too."""
    collection = vstore.connect(store, settings=vstore.Settings(n_threads=n_threads)).collection("c")
    collection.warm()
    collection.search(query, k=n, recall=1.0)
    return collection


def one_by_one(collection: vstore.Collection, queries: np.ndarray, make: Callable[[], Any]) -> dict[str, Any]:
    """Median microseconds of a search, of the kernel's call in it, and of the rest."""
    kernel_us = [0.0]
    call = vars(answer)["answer_rows"]

    def timed(*arguments: Any) -> None:
        started = time.perf_counter()
        call(*arguments)
        kernel_us[0] += (time.perf_counter() - started) * 1e6

    whole, inside = [], []
    setattr(answer, "answer_rows", timed)  # noqa: B010 - it is imported there, not exported
    try:
        for _ in range(3):
            for query in queries:
                filter, kernel_us[0] = make(), 0.0
                started = time.perf_counter()
                collection.search(query, k=K, filter=filter)
                whole.append((time.perf_counter() - started) * 1e6)
                inside.append(kernel_us[0])
    finally:
        setattr(answer, "answer_rows", call)  # noqa: B010
    above = [a - b for a, b in zip(whole, inside, strict=True)]
    return {
        "traversal": collection.search(queries[0], k=K, filter=make()).receipt.plans[0]["traversal"],
        "search_us": round(statistics.median(whole), 1),
        "kernel_us": round(statistics.median(inside), 1),
        "above_us": round(statistics.median(above), 1),
        "above_p10_us": round(sorted(above)[len(above) // 10], 1),
    }


def threads(store: Any, n: int, queries: np.ndarray, make: Callable[[], Any]) -> dict[str, Any]:
    """Microseconds a query of `search_batch` with one and two threads, taken in turns: best of seven."""
    handles = {count: open_resident(store, count, n, queries[0]) for count in (1, 2)}
    best = dict.fromkeys(handles, float("inf"))
    for _ in range(7):
        for count, collection in handles.items():
            started = time.perf_counter()
            collection.search_batch(queries, k=K, filter=make())
            best[count] = min(best[count], (time.perf_counter() - started) / len(queries) * 1e6)
    return {
        "batch_1_thread_us": round(best[1], 1),
        "batch_2_threads_us": round(best[2], 1),
        "two_threads": round(best[1] / best[2], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="fewer queries")
    given = parser.parse_args()
    queries = vectors(200 if given.quick else 500, given.dim, 9)
    many = vectors(2_000 if given.quick else 10_000, given.dim, 10)
    store = build(given.rows, given.dim)
    collection = open_resident(store, 1, given.rows, queries[0])
    found: dict[str, Any] = {"rows": given.rows, "dim": given.dim, "k": K, "filters": {}}
    print(
        f"{'filter':>6} {'traversal':>14} {'search':>8} {'kernel':>8} {'above':>7} {'2 threads':>10}   (us)"
    )
    for name, make in FILTERS.items():
        row = one_by_one(collection, queries, make) | threads(store, given.rows, many, make)
        found["filters"][name] = row
        print(
            f"{name:>6} {row['traversal']:>14} {row['search_us']:8.1f} {row['kernel_us']:8.1f} "
            f"{row['above_us']:7.1f} {row['two_threads']:9.2f}x"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
