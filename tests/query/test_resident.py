"""What the kernel answers from memory is what the pipeline answers: hits, scores, counters, in every plan."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from face_rows import DIM, build_store, queries, rows

import vstore
from vstore import F
from vstore.query import answers, batch
from vstore.storage.memory import MemoryStore
from vstore_kernels import layout
from vstore_kernels.answer import OneAnswer

N = 4_000
FILTERS = {
    "all": None,
    "most": F.bucket < 93,
    "half": F.bucket < 50,
    "tenth": F.bucket < 10,
    "few": F.bucket == 3,
    "three": F.one_of <= 2,
    "none": F.bucket > 1000,
    "cut": (F.bucket < 60) & ~(F.one_of > 2_000),
}
TRAVERSALS = ("planned", "scan", "near_scan", "result_filter", "cluster_acorn")
READS = ("n_cache_hits", "timings_ms")
"""The kernel's own reads of blocks are not counted, and it has other stages."""


def build(metric: str, text: bool = False) -> MemoryStore:
    """Two shards with deleted rows, and a memtable."""
    store = MemoryStore()
    settings = vstore.Settings(n_threads=1, memtable_rows=N)
    with vstore.connect(store, settings=settings) as database:
        made = database.create_collection(
            "c", dim=DIM, metric=metric, fields={"bucket": "int", "one_of": "int"}, index=small_index()
        )
        keys = [f"row {i}" for i in range(N)] if text else list(range(N))
        vectors = rows(N, DIM) + np.float32(0.01)
        columns = {"bucket": np.arange(N) % 100, "one_of": np.arange(N)}

        def write(start: int, stop: int) -> None:
            part = {name: column[start:stop] for name, column in columns.items()}
            made.upsert(keys[start:stop], vectors[start:stop], part)

        write(0, 2_500)
        made.flush()
        write(2_500, N - 300)
        made.flush()
        made.delete(keys[100:N:17])
        write(N - 300, N)
    return store


def small_index() -> vstore.IndexSettings:
    return vstore.IndexSettings(block_rows=128, ef_construction=60, cluster_rows=64)


@pytest.fixture(scope="module", params=["l2", "cosine", "dot"])
def store(request):
    return build(request.param)


@pytest.fixture
def force(monkeypatch):
    """A function that makes every plan use one traversal."""
    import dataclasses

    from vstore.query import planner

    plan = planner.choose

    def forced(name: str) -> None:
        if name != "planned":
            monkeypatch.setattr(
                planner, "choose", lambda **known: dataclasses.replace(plan(**known), traversal=name)
            )

    return forced


@pytest.fixture
def by_pipeline(monkeypatch):
    """A function that runs a search as if nothing were resident."""

    def run(search):
        with monkeypatch.context() as patched:
            patched.setattr("vstore.query.resident.ResidentShards.ready", lambda self, shards: None)
            return search()

    return run


def only_by_kernel(monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("the pipeline was asked")

    monkeypatch.setattr("vstore.collection.rank", refuse)
    monkeypatch.setattr(batch, "rank", refuse)


def counters(receipt: vstore.Receipt) -> dict:
    return {name: value for name, value in receipt.as_dict().items() if name not in READS}


def open_warm(store, **settings) -> vstore.Collection:
    collection = vstore.connect(store, settings=vstore.Settings(n_threads=2, **settings)).collection("c")
    collection.warm()
    return collection


def make_resident(collection: vstore.Collection) -> None:
    """Read every exact vector and all payload too."""
    collection.search(queries(1)[0], k=N, recall=1.0)
    collection.get(list(range(N)))


@pytest.mark.parametrize("traversal", ["scan", "near_scan"])
def test_scans_need_no_lists(store, traversal, force, by_pipeline, monkeypatch):
    """A scan's kernel runs over codes alone; a walk is the pipeline's until it has read the lists."""
    force(traversal)
    collection = vstore.connect(store, settings=vstore.Settings(n_threads=1)).collection("c")
    make_resident(collection)
    asked = queries(8)
    for name in ("all", "half", "few"):
        collection.search(asked[0], filter=FILTERS[name])
    sections = {
        key.section
        for live in collection._view().shards
        for key in collection._engine.cache.resident(live.shard.shard_id)
    }
    assert "codes" in sections
    assert not sections & {"lists", "upper"}
    for name in ("all", "half", "few"):
        for query in asked:
            expected = by_pipeline(lambda q=query, f=FILTERS[name]: collection.search(q, filter=f))
            with monkeypatch.context() as patched:
                only_by_kernel(patched)
                hits = collection.search(query, filter=FILTERS[name])
            assert hits.hits == expected.hits
            assert counters(hits.receipt) == counters(expected.receipt)
    force("cluster_acorn")
    half = FILTERS["half"]
    assert collection.search(asked[0], k=11, filter=half).receipt.n_requests > 0
    for query in asked:
        expected = by_pipeline(lambda q=query: collection.search(q, k=11, filter=half))
    collection.warm()
    for query in asked:
        expected = by_pipeline(lambda q=query: collection.search(q, k=11, filter=half))
        with monkeypatch.context() as patched:
            only_by_kernel(patched)
            assert collection.search(query, k=11, filter=half).hits == expected.hits


@pytest.mark.parametrize("traversal", TRAVERSALS)
@pytest.mark.parametrize("name", FILTERS)
def test_kernel_and_pipeline_agree(store, name, traversal, force, by_pipeline, monkeypatch):
    filter = FILTERS[name]
    force(traversal)
    collection = open_warm(store)
    make_resident(collection)
    for query in queries(8):
        for k, ef in ((10, None), (1, None), (60, 20), (10, 200)):
            expected = by_pipeline(
                lambda q=query, k=k, ef=ef: collection.search(q, k=k, filter=filter, ef=ef)
            )
            with monkeypatch.context() as patched:
                only_by_kernel(patched)
                hits = collection.search(query, k=k, filter=filter, ef=ef)
            assert hits.ids == expected.ids
            assert hits.hits == expected.hits
            assert np.array_equal(hits.scores, expected.scores)
            assert counters(hits.receipt) == counters(expected.receipt)
            assert hits.receipt.n_requests == 0


def test_hnsw_agrees_too(by_pipeline, monkeypatch):
    for metric in ("l2", "cosine", "dot"):
        collection = open_warm(build_store(n=3_000, metric=metric))
        make_resident(collection)
        for query in queries(20):
            expected = by_pipeline(lambda search=collection.search, q=query: search(q))
            with monkeypatch.context() as patched:
                only_by_kernel(patched)
                hits = collection.search(query)
            assert expected.receipt.plan.startswith("hnsw")
            assert (hits.hits, counters(hits.receipt)) == (expected.hits, counters(expected.receipt))


@pytest.mark.parametrize("name", FILTERS)
def test_a_batch_is_its_searches(store, name, by_pipeline):
    collection = open_warm(store)
    make_resident(collection)
    searched = queries(75)
    for k in (10, 400):
        found = collection.search_batch(searched, k=k, filter=FILTERS[name])
        assert found.ids.shape == found.scores.shape == (75, k)
        piped = by_pipeline(lambda k=k: collection.search_batch(searched, k=k, filter=FILTERS[name]))
        assert np.array_equal(found.ids, piped.ids)
        assert np.array_equal(found.scores, piped.scores)
        for i in (0, 1, 40, 74):
            one = collection.search(searched[i], k=k, filter=FILTERS[name])
            assert found.ids[i, : len(one)].tolist() == one.ids
            assert found.scores[i, : len(one)].tolist() == one.scores.tolist()
            assert (found.ids[i, len(one) :] == -1).all()
            assert np.isneginf(found.scores[i, len(one) :]).all()
            assert counters(found.receipts[i]) == counters(one.receipt)


def test_text_ids(by_pipeline):
    collection = open_warm(build("l2", text=True))
    collection.search(queries(1)[0], k=N, recall=1.0)
    found = collection.search_batch(queries(9), k=3_990)
    one = collection.search(queries(9)[4], k=3_990)
    assert found.ids[4, : len(one)].tolist() == one.ids
    assert found.ids[4, -1] is None
    assert all(isinstance(key, str) for key in one.ids)


def test_status_too_few_scans_the_rest(store, force, by_pipeline, monkeypatch):
    """A graph that leads nowhere: one walk in three finds too little, and a scan finds all."""
    from vstore.query import resident

    call = resident.answer

    def lame(shard, queries, passing, mode, **rest):
        call(shard, queries, passing, mode, **rest)
        if mode != resident.layout.SCAN:
            rest["status"][::3] = resident.layout.TOO_FEW

    force("cluster_acorn")
    # All queries in one kernel call, so that it is one in three of them.
    monkeypatch.setattr("vstore.query.batch.LEAST_SLICE", 30)
    collection = open_warm(store)
    make_resident(collection)
    whole = collection.search_batch(queries(30), filter=FILTERS["half"])
    monkeypatch.setattr(resident, "answer", lame)
    scanned = collection.search_batch(queries(30), filter=FILTERS["half"])
    monkeypatch.setattr(resident, "answer", call)
    force("scan")
    other = vstore.connect(store).collection("c").search_batch(queries(30), filter=FILTERS["half"])
    assert np.array_equal(scanned.ids[::3], other.ids[::3])
    assert np.array_equal(scanned.ids[1::3], whole.ids[1::3])
    n_walked = [receipt.n_distances for receipt in whole.receipts]
    assert all(scanned.receipts[i].n_distances > n_walked[i] for i in range(0, 30, 3))


def test_one_query_with_status_too_few_scans_the_rest(store, force, monkeypatch):
    from vstore.query import resident

    call = resident.answer_one

    def lame(shard, query, asked, scratch):
        found = call(shard, query, asked, scratch)
        scans = asked.wanted[-1] == layout.SCAN
        return found if scans else found._replace(status=layout.TOO_FEW)

    force("cluster_acorn")
    collection = open_warm(store)
    make_resident(collection)
    walked = collection.search(queries(1)[0], filter=FILTERS["half"]).receipt.n_distances
    monkeypatch.setattr(resident, "answer_one", lame)
    scanned = collection.search(queries(1)[0], filter=FILTERS["half"])
    monkeypatch.setattr(resident, "answer_one", call)
    force("scan")
    other = vstore.connect(store).collection("c").search(queries(1)[0], filter=FILTERS["half"])
    assert scanned.ids == other.ids
    assert scanned.receipt.n_distances > walked


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_the_answer_of_one_shard_alone_is_what_merging_makes_of_it(metric, monkeypatch):
    collection = open_warm(build_store(n=3_000, metric=metric))
    make_resident(collection)
    for name in ("all", "half", "few", "none"):
        for query in queries(6):
            alone = collection.search(query, filter=FILTERS[name])
            with monkeypatch.context() as patched:
                patched.setattr(answers, "hits_of_one", lambda *_: None)
                merged = collection.search(query, filter=FILTERS[name])
            assert (alone.ids, alone.scores.tolist()) == (merged.ids, merged.scores.tolist())
            assert alone.columns() == merged.columns()
            assert alone.hits == merged.hits
            known, other = alone.receipt.as_dict(), merged.receipt.as_dict()
            assert known.pop("timings_ms").keys() == other.pop("timings_ms").keys()
            assert known == other


@pytest.mark.parametrize("cache_bytes", [0, 40_000, 400_000, 1 << 20, 1 << 30])
def test_whatever_is_resident_the_answer_is_the_same(store, cache_bytes):
    expected = vstore.connect(store, settings=vstore.Settings(n_threads=1)).collection("c")
    collection = vstore.connect(store, settings=vstore.Settings(n_threads=2, cache_bytes=cache_bytes))
    collection = collection.collection("c")
    for name, filter in FILTERS.items():
        for query in queries(12):
            hits, other = collection.search(query, filter=filter), expected.search(query, filter=filter)
            assert (hits.hits, hits.receipt.n_distances) == (other.hits, other.receipt.n_distances), name
        found = collection.search_batch(queries(12), filter=filter)
        assert found.ids[11, : len(other)].tolist() == other.ids


def test_nothing_that_was_read_is_left_out_of_the_receipt():
    from vstore.storage.wrappers.counting import CountingStore

    counted = CountingStore(build_store(n=3_000))
    collection = open_warm(counted)
    for query in queries(40):
        before = counted.snapshot()
        receipt = collection.search(query).receipt
        seen = counted.delta(before)
        assert (receipt.n_requests, receipt.bytes_fetched) == (seen.n_requests, seen.bytes_fetched)
    before = counted.snapshot()
    found = collection.search_batch(queries(60))
    seen = counted.delta(before)
    assert sum(receipt.n_requests for receipt in found.receipts) == seen.n_requests


def test_writes_are_seen_at_once(store):
    collection = open_warm(store)
    make_resident(collection)
    query = queries(1)[0]
    first = collection.search(query, filter=FILTERS["half"])
    kept = [collection.get(first.ids[:1])[0], first[0].attributes]
    collection.delete(first.ids[:1])
    assert collection.search(query, filter=FILTERS["half"]).ids == [
        *first.ids[1:],
        collection.search(query, k=11, filter=FILTERS["half"]).ids[9],
    ]
    collection.upsert(first.ids[:1], kept[0].vector[None], [kept[1]])
    again = collection.search(query, filter=FILTERS["half"])
    assert again.ids == first.ids
    assert collection.search_batch(query[None], filter=FILTERS["half"]).ids[0].tolist() == first.ids


def test_receipts_and_hits_do_not_follow_the_caller(by_pipeline):
    collection = open_warm(build_store(n=3_000))
    make_resident(collection)
    query = queries(1)[0]
    expected = by_pipeline(lambda: collection.search(query, filter=FILTERS["half"]))
    mine = query.copy()
    hits = collection.search(mine, filter=FILTERS["half"])
    found = collection.search_batch(mine[None], filter=FILTERS["half"])
    mine[:] = 0
    assert counters(hits.receipt) == counters(found.receipts[0]) == counters(expected.receipt)
    hits.scores[:] = 7
    assert hits.hits == expected.hits


def test_threads_and_evictions_change_no_answer():
    store = build_store(n=4_000)
    expected = vstore.connect(store).collection("c").search_batch(queries(64), filter=FILTERS["half"])
    collection = vstore.connect(store, settings=vstore.Settings(cache_bytes=700_000)).collection("c")
    right: list[bool] = []
    searched = queries(64)

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(64).tolist():
            found = collection.search(searched[i], filter=FILTERS["half"])
            right.append(found.ids == expected.ids[i].tolist())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 256


def test_what_lacks_vectors_is_tried_less_often(monkeypatch):
    collection = open_warm(build_store(n=3_000))
    make_resident(collection)
    expected = collection.search(queries(1)[0]).ids
    tried = []

    def find_nothing(shard, step, query, k):
        tried.append(1)
        return OneAnswer(layout.LACKS_VECTORS, [], [], [0] * layout.N_COUNTERS)

    with monkeypatch.context() as patched:
        patched.setattr(answers, "find_one", find_nothing)
        assert all(collection.search(queries(1)[0]).ids == expected for _ in range(80))
        assert len(tried) == 8 + 72 // 8
    find = answers.find_one
    monkeypatch.setattr(answers, "find_one", lambda *given: tried.append(1) or find(*given))
    tried.clear()
    assert all(collection.search(queries(1)[0]).ids == expected for _ in range(30))
    assert len(tried) >= 30 - 8, "once the vectors are there, every search takes the kernel again"


def test_an_empty_collection_and_one_of_a_memtable_alone():
    database = vstore.connect("memory://")
    made = database.create_collection("c", dim=DIM, metric="l2", fields={"bucket": "int"})
    assert len(made.search(queries(1)[0])) == 0
    assert made.search_batch(queries(3), k=4).ids.tolist() == [[-1] * 4] * 3
    assert made.search_batch(np.empty((0, DIM), np.float32)).ids.shape == (0, 10)
    made.upsert([5, 6], rows(2), {"bucket": [1, 2]})
    assert made.search(rows(2)[1], filter=F.bucket == 2).ids == [6]
    found = made.search_batch(rows(2), k=3)
    assert sorted(found.ids[0].tolist()) == [-1, 5, 6]
    assert found.receipts[0].plan == made.search(rows(2)[0], k=3).receipt.plan
