"""A small shard and filters that the lab's tests share."""

from __future__ import annotations

import functools

import numpy as np

from vstore.lab.graph import LabGraph
from vstore.lab.index import LabIndex, build_index
from vstore.lab.layouts import LAYOUTS
from vstore_kernels import bitmap

N, D, K = 1500, 12, 10


def points(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(77).standard_normal((15, D)) * 3
    return (centers[rng.integers(0, 15, n)] + rng.standard_normal((n, D))).astype(np.float32)


@functools.cache
def index(metric: str = "l2") -> LabIndex:
    return build_index(
        points(N, 1), metric, M=8, ef_construction=60, cluster_rows=64, block_shift=5, n_threads=1
    )


def graph(metric: str = "l2", layout: str = "separate") -> LabGraph:
    return LabGraph(index(metric), LAYOUTS[layout](index(metric)))


def queries(n: int = 8) -> np.ndarray:
    return points(n, 2)


def passing(share: float, seed: int = 0) -> np.ndarray:
    """A bitmap over node ids; none at 0."""
    return bitmap.pack(np.random.default_rng(seed).random(N) < share)
