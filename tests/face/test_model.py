"""Random histories of writes, checked after every step against a dict and exact search."""

from __future__ import annotations

import numpy as np
import pytest
from face_data import clustered

import vstore
from vstore import F
from vstore.storage.memory import MemoryStore

DIM = 6
POOL = clustered(400, DIM, 3)
QUERIES = clustered(3, DIM, 4)


class Model:
    """What the collection should hold."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[np.ndarray, int]] = {}

    def nearest(self, query: np.ndarray, below: int | None, k: int) -> list[int]:
        keys = [key for key, (_, value) in self.rows.items() if below is None or value < below]
        if not keys:
            return []
        distances = np.array([np.linalg.norm(self.rows[key][0] - query) for key in keys])
        return [keys[i] for i in np.argsort(distances, kind="stable")[:k]]


@pytest.mark.parametrize("seed", range(8))
def test_a_random_history(seed: int):
    rng = np.random.default_rng(seed)
    store, model = MemoryStore(), Model()
    settings = vstore.Settings(n_threads=1, memtable_rows=int(rng.integers(40, 400)), cache_bytes=200_000)
    database = vstore.connect(store, settings=settings)
    collection = database.create_collection("c", dim=DIM, metric="l2", fields={"v": "int"})
    for _ in range(30):
        step = rng.choice(["upsert", "upsert", "upsert", "delete", "where", "flush", "compact", "reopen"])
        if step == "upsert":
            keys = rng.permutation(300)[: rng.integers(1, 60)]
            rows = POOL[rng.integers(0, len(POOL), len(keys))]
            values = rng.integers(0, 100, len(keys))
            assert collection.upsert(keys, rows, {"v": values}) == len(keys)
            model.rows.update({int(k): (r, int(v)) for k, r, v in zip(keys, rows, values, strict=True)})
        elif step == "delete":
            keys = rng.permutation(300)[:20].tolist()
            assert collection.delete(ids=keys) == sum(model.rows.pop(key, None) is not None for key in keys)
        elif step == "where":
            low = int(rng.integers(0, 100))
            dead = [key for key, (_, v) in model.rows.items() if low <= v < low + 10]
            assert collection.delete(filter=(F.v >= low) & (F.v < low + 10)) == len(dead)
            for key in dead:
                del model.rows[key]
        elif step == "flush":
            collection.flush()
        elif step == "compact":
            collection.compact()
        else:
            database = vstore.connect(store, settings=settings)
            collection = database.collection("c")
        check(collection, model, rng)


def check(collection: vstore.Collection, model: Model, rng: np.random.Generator) -> None:
    assert collection.count() == len(model.rows)
    below = int(rng.integers(0, 120))
    assert collection.count(F.v < below) == sum(v < below for _, v in model.rows.values())
    for query in QUERIES:
        for limit in (None, below):
            filter = None if limit is None else F.v < limit
            found = collection.search(query, k=7, filter=filter, recall=1.0)
            wanted = model.nearest(query, limit, 7)
            distances = [float(np.linalg.norm(model.rows[key][0] - query)) for key in wanted]
            assert [hit.distance for hit in found] == pytest.approx(distances, abs=1e-4)
            assert all(hit.attributes == {"v": model.rows[hit.id][1]} for hit in found)
    keys = rng.integers(0, 300, 5).tolist()
    for key, record in zip(keys, collection.get(keys), strict=True):
        assert (record is None) == (key not in model.rows)
        if record is not None:
            assert np.array_equal(record.vector, model.rows[key][0])
