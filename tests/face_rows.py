"""A store with one shard of seeded clustered rows: what several rooms' tests search."""

from __future__ import annotations

import numpy as np

import vstore
from vstore.storage.memory import MemoryStore

DIM = 24


def rows(n: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """float32[n, dim] of 10 intrinsic dimensions around 30 clusters."""
    shape = np.random.default_rng(11)
    directions, centers = shape.standard_normal((10, dim)), shape.standard_normal((30, 10)) * 2
    rng = np.random.default_rng(seed)
    latent = centers[rng.integers(0, 30, n)] + rng.standard_normal((n, 10))
    return (latent @ directions + 0.3 * rng.standard_normal((n, dim))).astype(np.float32)


def queries(n: int, dim: int = DIM) -> np.ndarray:
    """float32[n, dim] of the rows' distribution, none of them a row."""
    return rows(n, dim, seed=99)


def build_store(
    n: int, dim: int = DIM, block_rows: int = 128, metric: str = "l2", calibrate: bool = True
) -> MemoryStore:
    """A store with the collection "c": one shard, keys 0 to n - 1, field bucket = key % 100."""
    store = MemoryStore()
    with vstore.connect(store, settings=vstore.Settings(n_threads=2, memtable_rows=n + 1)) as database:
        index = vstore.IndexSettings(
            block_rows=block_rows, ef_construction=80, cluster_rows=64, calibrate=calibrate
        )
        made = database.create_collection("c", dim=dim, metric=metric, fields={"bucket": "int"}, index=index)
        made.upsert(np.arange(n), rows(n, dim), {"bucket": np.arange(n) % 100})
        made.flush()
    return store
