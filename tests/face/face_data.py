"""Seeded rows for the tests of the face."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

FIELDS = {
    "year": "int",
    "topic": "str",
    "tags": "list[str]",
    "price": "float",
    "taken": "datetime",
    "public": "bool",
    "codes": "list[int]",
}
TOPICS = ("bird", "tree", "stone", "river")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def clustered(n: int, dim: int, seed: int, n_clusters: int = 24) -> np.ndarray:
    """float32[n, dim] of low intrinsic dimension around clusters, one distribution for all seeds."""
    shape = np.random.default_rng(7)
    directions = shape.standard_normal((8, dim))
    centers = shape.standard_normal((n_clusters, 8)) * 2
    rng = np.random.default_rng(seed)
    latent = centers[rng.integers(0, n_clusters, n)] + rng.standard_normal((n, 8))
    return (latent @ directions + 0.2 * rng.standard_normal((n, dim))).astype(np.float32)


def attributes(n: int, seed: int) -> list[dict[str, Any]]:
    """n rows of every field; some fields absent."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        row: dict[str, Any] = {
            "year": int(rng.integers(1990, 2030)),
            "topic": TOPICS[rng.integers(0, 4)],
            "tags": [TOPICS[j] for j in rng.permutation(4)[: rng.integers(0, 3)]],
            "price": float(rng.uniform(0, 100)),
            "taken": START + dt.timedelta(hours=int(rng.integers(0, 10_000))),
            "public": bool(rng.integers(0, 2)),
            "codes": rng.integers(0, 9, rng.integers(0, 4)).tolist(),
        }
        if i % 7 == 0:
            del row[list(FIELDS)[int(rng.integers(0, len(FIELDS)))]]
        rows.append(row)
    return rows


def exact_distances(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """float64[q, n]: the metric's own distances, in plain numpy."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "dot":
        return -(q @ x.T)
    if metric == "cosine":
        return 1 - (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)[None, :]
    return np.sqrt(np.maximum(((q[:, None] - x[None]) ** 2).sum(-1), 0))


def recall(distances: np.ndarray, found: list[int], matching: np.ndarray, k: int) -> float:
    """Recall@k by distance, ties counted as found: the share of answers as near as the true k-th."""
    true = np.sort(distances[matching])[:k]
    if not len(true):
        return 1.0
    limit = true[-1] + 1e-5 * max(1.0, abs(true[-1]))
    return float(np.sum(distances[found] <= limit) / len(true))
