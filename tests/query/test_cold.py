"""Where nothing is cached a shard is searched by whole clusters: another plan, so its recall is tested here.

Budget: at least 0.95 on average over the queries of each cell, against exact search.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cold_cells import recall_of_cell
from face_rows import DIM, queries, rows

import vstore
from vstore import F
from vstore.query import pipeline
from vstore.query.planner import Plan, few_plan
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore.traverse.base import WalkParams
from vstore.traverse.clusters import choose_blocks, reach_of
from vstore_kernels.tables import BlockTables

N, K, N_QUERIES = 12_000, 10, 20
PIVOT = 17


@pytest.fixture(scope="module", params=["l2", "cosine", "dot"])
def world(request):
    """A store of two shards; near and far rank rows by distance from a pivot, even at random."""
    vectors = rows(N)
    order = np.argsort(np.linalg.norm(vectors - queries(200)[PIVOT], axis=1))
    near = np.empty(N, np.int64)
    near[order] = np.arange(N)
    columns = {"near": near, "far": N - 1 - near, "even": np.random.default_rng(5).permutation(N)}
    store = MemoryStore()
    with vstore.connect(store, settings=vstore.Settings(n_threads=2, memtable_rows=N)) as database:
        index = vstore.IndexSettings(block_rows=128, cluster_rows=64, ef_construction=60)
        made = database.create_collection(
            "c", dim=DIM, metric=request.param, fields=dict.fromkeys(columns, "int"), index=index
        )
        for part in (slice(0, N // 2), slice(N // 2, N)):
            made.upsert(
                np.arange(N)[part], vectors[part], {name: values[part] for name, values in columns.items()}
            )
            made.flush()
    candidates = queries(200)
    asked = candidates[np.argsort(np.linalg.norm(candidates - candidates[PIVOT], axis=1))[:N_QUERIES]]
    return store, asked


def cold(store, **settings):
    counted = CountingStore(store)
    chosen = vstore.Settings(n_threads=1, cold_plan="clusters", **settings)
    return vstore.connect(counted, settings=chosen).collection("c"), counted


@pytest.fixture
def no_row_is_one_of_few(monkeypatch):
    monkeypatch.setattr(pipeline, "FEW_ROWS", 0)


@pytest.mark.usefixtures("no_row_is_one_of_few")
@pytest.mark.parametrize("field", ["near", "far", "even"])
@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.001])
def test_recall_in_three_rounds(world, field, share):
    store, asked = world
    filter = None if share == 1 else F[field] < N * share
    assert recall_of_cell(store, asked, filter, K, lambda: cold(store), "clusters") >= 0.95


def test_exact_vectors_are_read_where_they_cost_less_than_codes():
    plan = Plan("clusters", 10, 0, 10, 0.1, 0.5, 60, "why")
    assert few_plan(plan, 1_000_000, 1_000_000) is plan
    few = few_plan(plan, 1_000_000, 2_500_000)
    assert (few.traversal, few.n_matching) == ("exact", 60)
    assert "all 60 matching rows cost 1.0 MB" in few.reason
    assert "codes 2.5" in few.reason


def test_a_request_counts_as_the_gap_that_is_read_rather_than_asking_twice(monkeypatch):
    monkeypatch.setattr(pipeline, "JOINED_BYTES", 64 << 10)
    head = SimpleNamespace(vector_block_rows=8, dim=512)  # blocks of 16 KiB: four of them are joined over
    assert pipeline.vector_reads(np.array([], np.int32), head) == 0
    assert pipeline.vector_reads(np.array([0, 7, 9], np.int32), head) == (2 * 16 + 64) << 10
    # Blocks 0 and 5 are one range of six, block 11 is another.
    assert pipeline.vector_reads(np.array([3, 40, 88], np.int32), head) == (7 * 16 + 2 * 64) << 10


def test_with_everything_cached_the_plan_is_the_warm_one(world):
    store, asked = world
    collection, _ = cold(store)
    collection.warm()
    warm = vstore.connect(store, settings=vstore.Settings(n_threads=1)).collection("c")
    warm.warm()
    for filter in (None, F.even < N // 10):
        for query in asked[:5]:
            ours, theirs = (c.search(query, k=K, filter=filter) for c in (collection, warm))
            assert ours.ids == theirs.ids
            assert np.array_equal(ours.scores, theirs.scores)
            assert ours.receipt.plan == theirs.receipt.plan


def test_few_bytes_still_give_k_hits_and_an_ef_still_walks(world):
    store, asked = world
    for query in asked[:5]:
        collection, _ = cold(store, cold_bytes=1)
        assert len(collection.search(query, k=K, filter=F.far < 50)) == K
        collection, _ = cold(store)
        assert "clusters" not in collection.search(query, k=K, ef=40).receipt.plan
        assert "clusters" not in collection.explain(query, k=K, recall=1.0).plan
        assert "clusters" in collection.explain(query, k=K).plan


def test_nothing_that_passes_is_no_answer(world):
    store, asked = world
    collection, _ = cold(store)
    assert len(collection.search(asked[0], filter=F.far < 0)) == 0
    assert len(collection.search(asked[0], k=50, filter=F.far < 3)) == 3


class Line:
    """Clusters of 100 rows, ten units apart on a line; blocks of 64 rows."""

    n = 1_000
    metric = "l2"
    centroids = np.arange(0, 100, 10, dtype=np.float32).reshape(-1, 1)
    cluster_offsets = np.arange(0, 1_001, 100, dtype=np.int64)

    def __init__(self):
        self.tables = BlockTables(self.n, 4, 8, 6)


def test_nearest_clusters_first_and_resident_blocks_cost_nothing():
    graph, query = Line(), np.array([1.0], np.float32)
    chosen = choose_blocks(graph, query, None, WalkParams(10, k=10))
    # 200 rows are met in the second cluster, 9 units away; the reach of either rule ends before the third.
    assert chosen.blocks.tolist() == [0, 1]
    assert (chosen.n_clusters, chosen.cut) == (1, False)
    apart = WalkParams(10, k=10, apart=True)
    assert choose_blocks(graph, query, None, apart).blocks.tolist() == [0, 1, 2, 3]
    short = WalkParams(10, k=10, apart=True, code_bytes=3 * 64 * 8)
    assert choose_blocks(graph, query, None, short).blocks.tolist() == [0, 1, 2, 3]


def test_reach_grows_with_recall():
    reaches = [reach_of(recall) for recall in (0.8, 0.95, 0.99, 1.0)]
    assert reaches[1] == pytest.approx(1)
    assert reaches == sorted(reaches)
