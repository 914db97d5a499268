"""One collection object, read and written by 16 threads, with flushes and merges behind them."""

from __future__ import annotations

import os
import threading

import numpy as np

import vstore
from vstore import F

N_THREADS = 16
N_STEPS = int(os.environ.get("VSTORE_THREAD_STEPS", "25"))
DIM = 4


def test_sixteen_threads_against_the_model(tmp_path):
    settings = vstore.Settings(memtable_rows=300, n_threads=1, retention_s=3600.0)
    index = vstore.IndexSettings(M=4, ef_construction=20)
    failures: list[BaseException] = []
    models: list[dict[int, int]] = [{} for _ in range(N_THREADS)]
    with vstore.connect(tmp_path, settings=settings) as db:
        collection = db.create_collection(
            "c", dim=DIM, metric="l2", fields={"t": "int", "v": "int"}, index=index
        )

        def work(number: int) -> None:
            rng = np.random.default_rng(number)
            model = models[number]
            for step in range(N_STEPS):
                keys = (rng.permutation(60)[:8] * N_THREADS + number).tolist()
                if step % 3 == 2:
                    gone = sum(model.pop(key, None) is not None for key in keys)
                    assert collection.delete(ids=keys) == gone
                else:
                    vectors = [[key, number, step, 1] for key in keys]
                    collection.upsert(keys, vectors, {"t": [number] * 8, "v": [step] * 8})
                    model.update(dict.fromkeys(keys, step))
                mine = F.t == number
                assert collection.count(mine) == len(model)
                hits = collection.search(rng.standard_normal(DIM), k=1_000, filter=mine, recall=1.0)
                assert {hit.id: hit.attributes["v"] for hit in hits} == model
                for key, record in zip(keys, collection.get(keys), strict=True):
                    assert (None if record is None else record.attributes["v"]) == model.get(key)

        def run(number: int) -> None:
            try:
                work(number)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(N_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]
    model = {key: step for part in models for key, step in part.items()}
    with vstore.connect(tmp_path, read_only=True) as db:
        assert len(db.snapshots("c")) > 2, "shards were built behind the threads"
        hits = db.collection("c").search(np.zeros(DIM), k=10_000, recall=1.0)
        assert {hit.id: hit.attributes["v"] for hit in hits} == model
        assert db.verify("c").ok
