"""Queries over a store that fails, slows, cuts, flips and tells old news: right answers, or named errors.

And nothing wrong is kept: when the faults stop every answer is right, and each block of the disk tier is the
store's.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

import vstore
from vstore import F, errors
from vstore.query import pipeline, planner
from vstore.shard import sections
from vstore.storage import LocalStore, MemoryStore, open_store
from vstore.storage.wrappers import FaultStore, ForwardingStore, LatencyStore, StoreLatency, seeded_faults
from vstore.storage.wrappers.faults import Fault

N, DIM = 900, 8
INDEX = vstore.IndexSettings(M=4, ef_construction=30, cluster_rows=32, block_rows=64, calibrate=False)
N_STEPS = 60
WAYS = {
    "walks": {"hnsw", "cluster_acorn"},
    "clusters": {"clusters", "exact"},
    "sketches": {"sketches", "exact"},
}
"""How queries are answered on shards of which little is cached, and the plans that say so."""


@pytest.fixture(params=["memory", "folder", "seaweed", "ceph"])
def store(request, tmp_path):
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "folder":
        made = LocalStore(tmp_path / "store")
    else:
        name = "s3" if request.param == "seaweed" else "ceph"
        place = request.getfixturevalue(f"{name}_url")
        made = open_store(place, **request.getfixturevalue(f"{name}_options"))
    yield KeptOpen(made)
    made.close()


class KeptOpen(ForwardingStore):
    """A store that several connections use one after another, each of which closes what it was given."""

    def close(self) -> None:
        pass


def settings(**given):
    return vstore.Settings(n_threads=1, background=False, io_concurrency=4, **given)


def fill(store, sketched_code_bytes: int = 1 << 30) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((N, DIM), dtype=np.float32)
    with (
        pytest.MonkeyPatch.context() as patch,
        vstore.connect(store, settings=settings()) as db,
    ):
        patch.setattr(sections, "SKETCHED_CODE_BYTES", sketched_code_bytes)
        patch.setattr(sections, "SKETCH_BLOCK_ROWS", 16)
        collection = db.create_collection("c", dim=DIM, metric="l2", fields={"n": "int"}, index=INDEX)
        for start in (0, N // 2):
            part = slice(start, start + N // 2)
            collection.upsert(np.arange(N)[part], vectors[part], {"n": np.arange(N)[part] % 100})
            collection.flush()


def questions(plans: set, **asked_for):
    """Return calls of a collection whose answers can be compared; searches, with these arguments, tell
    `plans` how they were answered.
    """

    def answer(collection, query, filter):
        hits = collection.search(query, k=5, filter=filter, **asked_for)
        plans.update(hits.receipt.plan.split(": ")[0].split(" on ")[0].split(" + "))
        return hits.ids, hits.scores.tolist()

    rng = np.random.default_rng(2)
    queries = rng.standard_normal((12, DIM), dtype=np.float32)
    filters = (None, F.n < 50, F.n == 7, F.n.isin([1, 2, 3]))
    asked = [
        lambda c, q=query, f=filter: answer(c, q, f) for query, filter in itertools.product(queries, filters)
    ]
    asked += [lambda c, f=filter: c.count(filter=f) for filter in filters]
    asked += [lambda c, i=i: [(r.id, r.vector.tolist()) for r in c.get([i, i + 400])] for i in range(8)]
    return asked


@pytest.mark.s3
@pytest.mark.parametrize("way", WAYS)
def test_every_answer_is_right_or_a_named_error(store, tmp_path, monkeypatch, way):
    monkeypatch.setattr(pipeline, "SKETCHED_SHARE", 0.0)
    if way == "walks":
        for limit in ("SCAN_ROWS", "SCAN_ROWS_UNFILTERED"):
            monkeypatch.setattr(planner, limit, 0)
    fill(store, 0 if way == "sketches" else 1 << 30)
    plans: set[str] = set()
    # So high a recall is the same answer by every plan, whatever is cached.
    asked = questions(plans, **({"ef": 60} if way == "walks" else {"recall": 0.9999}))
    cold = settings(cache_bytes=400_000, cold_plan="auto" if way == "walks" else "clusters")
    with vstore.connect(store, settings=settings(), read_only=True) as db:
        truth = [ask(db.collection("c")) for ask in asked]
    plans.clear()
    faults = seeded_faults(
        11, error_rate=0.08, lost_rate=0.05, short_rate=0.08, flip_rate=0.12, stale_rate=0.3
    )
    waited: list[float] = []
    slow = LatencyStore(store, StoreLatency(), sleep=waited.append, rng=random.Random(3))
    faulty = FaultStore(slow, faults, seed=5)
    cache = tmp_path / "cache"
    n_right, named = 0, set()
    rng = random.Random(7)
    for turn in range(N_STEPS):
        which = rng.randrange(len(asked))
        try:
            # Every few turns a new process, as it were: empty memory, and the disk tier of the last.
            if turn % 6 == 0:
                db = vstore.connect(faulty, settings=cold, cache_dir=cache, read_only=True)
            collection = db.collection("c")
            if turn % 4 == 0:
                collection.refresh()
            found = asked[which](collection)
        except errors.VstoreError as error:
            named.add(type(error).__name__)
            continue
        assert found == truth[which], which
        n_right += 1
    assert n_right > 5
    assert named <= {"CorruptData", "StoreUnavailable", "ObjectNotFound", "NotAStore"}, named
    for fault in (Fault.ERROR, Fault.SHORT, Fault.FLIP, Fault.STALE):
        assert faulty.n_faults(fault) > 0
    assert waited
    assert plans >= WAYS[way]
    check_what_is_kept(store, cache, asked, truth)


def check_what_is_kept(store, cache, asked, truth) -> None:
    """On a sound store again all answers are right, and what the disk tier holds is the store's."""
    with vstore.connect(store, settings=settings(), cache_dir=cache, read_only=True) as db:
        collection = db.collection("c")
        n_kept = 0
        for live in collection._view().shards:
            shard = live.shard
            session = shard._session()
            session.fetch([session.key("head")])
            file = session.head.file
            keys = [session.key("head"), *(session.key(name) for name in file.sections)]
            for name in file.sections:
                keys += session.keys(name, range(file.n_blocks(name)))
            for key, kept in zip(keys, shard.cache.disk.get_many(keys), strict=True):
                if kept is not None:
                    part = session.range_of(key)
                    assert kept == store.get(part.key, part.start, part.length)
                    n_kept += 1
        assert n_kept > 0
        assert [ask(collection) for ask in asked] == truth
