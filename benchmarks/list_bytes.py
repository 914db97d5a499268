"""Bytes per edge of the neighbour lists: python -m benchmarks.list_bytes --dataset clustered --rows 300000

Builds the graph as a shard does, encodes its lists in blocks of 1,024 rows, and compresses these as the shard
file would.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import zstandard

from benchmarks.datasets import load
from vstore_kernels import build, clusters, lists

BLOCK_ROWS = 1024


def measure(space: np.ndarray, M: int, ef_construction: int, n_threads: int) -> dict[str, float]:
    started = time.perf_counter()
    order = clusters.cluster_order(space, n_threads=n_threads)
    space = np.ascontiguousarray(space[order.order])
    clustered = time.perf_counter()
    graph = build.build_hnsw(space, M, ef_construction, n_threads=n_threads)
    built = time.perf_counter()
    compressor = zstandard.ZstdCompressor(level=3)
    encoded = compressed = 0
    for start in range(0, len(space), BLOCK_ROWS):
        block = lists.encode_lists(graph.neighbors[start : start + BLOCK_ROWS], start).tobytes()
        encoded += len(block)
        compressed += len(compressor.compress(block))
    edges = int((graph.neighbors >= 0).sum())
    return {
        "rows": len(space),
        "edges_per_node": edges / len(space),
        "bytes_per_edge": encoded / edges,
        "bytes_per_edge_zstd": compressed / edges,
        "clusters_s": clustered - started,
        "graph_s": built - clustered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="clustered", help="fashion, clustered or sentences")
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the clustered set")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows = arguments.rows if arguments.dataset == "clustered" else None
    data = load(arguments.dataset, rows)
    space = np.ascontiguousarray(data.points, dtype=np.float32)
    print(json.dumps(measure(space, 16, 200, arguments.threads), indent=2))


if __name__ == "__main__":
    main()
