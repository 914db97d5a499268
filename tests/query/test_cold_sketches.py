"""Where nothing is cached and too many codes would be read, sketches say which exact vectors to read.

Budget: a recall of at least 0.95 on average over the queries of each cell, against exact search.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from cold_cells import recall_of_cell
from face_rows import DIM, queries, rows

import vstore
from vstore import F
from vstore.errors import CorruptData
from vstore.query import pipeline
from vstore.query.pipeline import n_within
from vstore.query.planner import Plan, sketched_plan
from vstore.shard import sections
from vstore.storage.base import SparseRange
from vstore.storage.coalesce import plan_coalesce, split_fetches
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore.storage.wrappers.forward import ForwardingStore
from vstore.traverse import sketches
from vstore.traverse.base import WalkParams
from vstore.traverse.sketches import SHARE, choose_sketches
from vstore_kernels import bitmap

N, K, N_QUERIES = 8_000, 10, 20
PIVOT = 17
COLD_BYTES = 200_000


class Joining(ForwardingStore):
    """Reads near ranges as one request, as S3 does."""

    def plan(self, ranges):
        return plan_coalesce(ranges, 64 << 10, 8 << 20)

    def get_many(self, ranges):
        fetches = self.plan(ranges)
        return split_fetches(ranges, fetches, [self.inner.get(*fetch.range) for fetch in fetches])


def build(metric, sketched_code_bytes):
    """A store of one shard; near and far rank rows by distance from a pivot, even at random."""
    vectors = rows(N)
    order = np.argsort(np.linalg.norm(vectors - queries(200)[PIVOT], axis=1))
    near = np.empty(N, np.int64)
    near[order] = np.arange(N)
    columns = {"near": near, "far": N - 1 - near, "even": np.random.default_rng(5).permutation(N)}
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "SKETCHED_CODE_BYTES", sketched_code_bytes)
        patch.setattr(sections, "SKETCH_BLOCK_ROWS", 16)
        # Everything is a fortieth of what it is at a million rows, blocks of exact vectors too.
        patch.setattr(sections, "vector_block_rows", lambda dim: 8)
        with vstore.connect(store, settings=vstore.Settings(n_threads=2, memtable_rows=N + 1)) as database:
            index = vstore.IndexSettings(block_rows=128, cluster_rows=64, ef_construction=60, codes=4)
            made = database.create_collection(
                "c", dim=DIM, metric=metric, fields=dict.fromkeys(columns, "int"), index=index
            )
            made.upsert(np.arange(N), vectors, columns)
            made.flush()
    return store


@pytest.fixture(scope="module", params=["l2", "cosine", "dot"])
def world(request):
    candidates = queries(200)
    asked = candidates[np.argsort(np.linalg.norm(candidates - candidates[PIVOT], axis=1))[:N_QUERIES]]
    return build(request.param, 0), asked


@pytest.fixture(scope="module")
def plain():
    return build("l2", 1 << 30)


@pytest.fixture(autouse=True)
def sketches_are_read_in_the_place_of_almost_any_codes(monkeypatch):
    monkeypatch.setattr(pipeline, "SKETCHED_SHARE", 0.01)
    # A fortieth, too.
    monkeypatch.setattr(pipeline, "JOINED_BYTES", (64 << 10) // 40)


def cold(store, **settings):
    counted = CountingStore(Joining(store))
    chosen = vstore.Settings(
        **{"n_threads": 1, "cold_plan": "clusters", "cold_bytes": COLD_BYTES, "hydrate_bytes": 0, **settings}
    )
    return vstore.connect(counted, settings=chosen).collection("c"), counted


@pytest.mark.parametrize(("field", "share"), [("far", 0.5), ("far", 0.2), ("far", 0.1), ("even", 0.05)])
def test_recall_rounds_and_bytes(world, field, share):
    store, asked = world
    filter = F[field] < N * share
    assert recall_of_cell(store, asked, filter, K, lambda: cold(store), "sketches") >= 0.95


def test_of_few_rows_the_exact_vectors_are_read_and_no_codes(world):
    store, asked = world
    assert recall_of_cell(store, asked, F.even < 12, K, lambda: cold(store), "exact") == 1.0


def test_an_answer_is_the_same_from_the_cache_and_reads_nothing(world):
    store, asked = world
    collection, _ = cold(store)
    for query in asked[:5]:
        first, again = (collection.search(query, k=K, filter=F.far < N // 5) for _ in range(2))
        assert again.receipt.n_requests == 0
        assert (again.ids, again.receipt.plan) == (first.ids, first.receipt.plan)
    collection.warm()
    assert "sketches" not in collection.search(asked[0], k=K, filter=F.far < N // 5).receipt.plan


def test_a_shard_without_sketches_is_searched_by_its_codes(plain, world):
    _, asked = world
    for query in asked[:5]:
        collection, _ = cold(plain)
        receipt = collection.search(query, k=K, filter=F.far < N // 5).receipt
        assert receipt.plan.startswith("clusters: ")


def test_sketches_are_for_more_codes_than_a_limit():
    plan = Plan("clusters", 10, 0, 10, 0.1, 0.5, 100, "why")
    assert sketched_plan(plan, 1_000, 1_000) is plan
    other = sketched_plan(plan, 2_000_000, 1_000)
    assert (other.traversal, other.n_candidates) == ("sketches", 10)
    assert "2.0 MB of codes" in other.reason


def test_few_bytes_still_give_k_hits_and_explain_says_the_plan(world):
    store, asked = world
    for query in asked[:5]:
        collection, _ = cold(store, cold_bytes=1)
        assert len(collection.search(query, k=K, filter=F.far < N // 5)) == K
        collection, _ = cold(store)
        assert "sketches" in collection.explain(query, k=K, filter=F.far < N // 5).plan


@pytest.fixture
def quarter(world):
    """The session of a cold shard, and a quarter of its rows."""
    collection, _ = cold(world[0])
    shard = collection._loaded.shown.shards[0].shard
    session = shard._session()
    session.fetch([session.key(sections.HEAD)])
    keys = np.array(shard.keys(np.arange(N)))
    return session, bitmap.pack(np.random.default_rng(5).permutation(N)[keys] < N // 4)


def test_what_is_read_of_sketches_has_a_bound_and_reaches_the_nearest_clusters_first(
    world, quarter, monkeypatch
):
    monkeypatch.setattr(sketches, "BLOCKS_OF_PASSING", ((1_000, 1), (1_000, 1)))
    _, asked = world
    session, passing = quarter
    sketched = session.sketch_params
    sizes = []
    for code_bytes in (1, 20_000, 60_000, 1 << 30):
        params = WalkParams(100, k=K, apart=True, code_bytes=code_bytes)
        blocks = choose_sketches(session, sketched, asked[0], passing, params)
        ranges = [session.range_of(key) for key in session.keys(sections.SKETCHES, blocks)]
        n_bytes = sum(fetch.range.length for fetch in plan_coalesce(ranges, 64 << 10, 8 << 20))
        assert (np.diff(blocks) > 0).all()
        # A block of 16 rows has 16 bytes of scales beside the rows' own.
        assert code_bytes == 1 or n_bytes <= SHARE * code_bytes * 208 / 192
        sizes.append(len(blocks))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] == -(-N // 16)


def test_an_answer_is_looked_for_in_so_many_blocks_more_for_more_answers_and_recall(
    world, quarter, monkeypatch
):
    monkeypatch.setattr(sketches, "BLOCKS", (20, 40))
    monkeypatch.setattr(sketches, "FILLED", 0)
    _, asked = world
    session, passing = quarter

    def n_blocks(**given):
        params = WalkParams(100, **{"k": K, "apart": True, "code_bytes": 1 << 30, **given})
        return len(choose_sketches(session, session.sketch_params, asked[0], passing, params))

    assert (n_blocks(), n_blocks(apart=False), n_blocks(reach=2.0), n_blocks(k=5 * K)) == (40, 20, 80, 200)
    monkeypatch.setattr(sketches, "BLOCKS_OF_PASSING", ((1, 1), (1, 0.5)))
    n_passing = len(np.unique(bitmap.indices(passing) // 16))
    assert n_blocks() == math.ceil(math.sqrt(n_passing))
    assert n_blocks(k=N) == n_passing


def test_gaps_are_joined_over_what_a_store_joins_sparse_ranges_over():
    assert SparseRange.gap_bytes == sketches.GAP_BYTES


def test_exact_vectors_and_the_gaps_between_them_fit_into_a_share(monkeypatch):
    monkeypatch.setattr(pipeline, "JOINED_BYTES", 64 << 10)
    head = SimpleNamespace(vector_block_rows=8, dim=512)  # blocks of 16 KiB: four of them are joined over
    rows = np.array([0, 8, 48, 800, 1], np.int32)  # of blocks 0, 1, 6, 100, 0
    blocks_read = [n_within(rows, head, n << 14, 1) for n in (1, 2, 6, 7, 8)]
    assert blocks_read == [2, 2, 2, 3, 5]
    assert n_within(rows, head, 0, 2) == 4


def test_damage_is_named_is_not_cached_and_is_found_by_verify(world):
    store, asked = world
    spoiled = MemoryStore()
    for info in store.list():
        spoiled.put(info.key, store.get(info.key))
    with vstore.connect(spoiled) as database:
        assert database.verify("c").ok
        entry = database.collection("c")._loaded.shown.shards[0].shard.entry
    part = entry.sections[sections.SKETCHES]
    data = bytearray(spoiled.get(entry.key))
    for at in range(part.start + 20, part.start + part.length, 100):
        data[at] ^= 1
    spoiled.put(entry.key, bytes(data))
    collection, _ = cold(spoiled)
    with pytest.raises(CorruptData, match=r"section 'sketches' .* fails its checksum"):
        collection.search(asked[0], k=K, filter=F.far < N // 5)
    with vstore.connect(spoiled) as database:
        problems = database.verify("c").problems
    assert problems
    assert all("sketches" in str(problem) for problem in problems)


def test_a_merge_sketches_its_rows_anew(world, monkeypatch):
    store, _ = world
    own = MemoryStore()
    for info in store.list():
        own.put(info.key, store.get(info.key))
    monkeypatch.setattr(sections, "SKETCHED_CODE_BYTES", 0)
    with vstore.connect(own, settings=vstore.Settings(n_threads=2)) as database:
        collection = database.collection("c")
        collection.delete(list(range(0, N, 3)))
        collection.compact(progress=False)
    with vstore.connect(own) as database:
        (live,) = database.collection("c")._loaded.shown.shards
        assert live.shard.n == N - len(range(0, N, 3))
        assert sections.SKETCHES in live.shard.entry.sections
        assert database.verify("c").ok
