"""A few queries on one shard: the plans, answers and checks that many, or each alone, would have had."""

from __future__ import annotations

import numpy as np
import pytest
from face_rows import DIM, queries, rows

import vstore
from vstore import F
from vstore.query.batch import on_shard
from vstore.query.few import few_on_shard
from vstore.query.request import check_queries, check_query
from vstore.query.shown import shown_distances
from vstore.serving import checked_search, checked_searches
from vstore.types import Schema
from vstore_kernels import layout
from vstore_kernels.gate import FLOAT32
from vstore_kernels.scan_tile import TILE

N = 3_000
FILTERS = [None, F.bucket < 50, F.bucket < 10, F.bucket == 3, F.one_of <= 2, F.bucket > 1000]


@pytest.fixture(scope="module", params=["l2", "cosine", "dot"])
def held(request):
    index = vstore.IndexSettings(block_rows=128, ef_construction=60, cluster_rows=64)
    with vstore.connect("memory://") as database:
        fields = {"bucket": "int", "one_of": "int"}
        made = database.create_collection("c", dim=DIM, metric=request.param, fields=fields, index=index)
        columns = {"bucket": np.arange(N) % 100, "one_of": np.arange(N)}
        made.upsert(range(N), rows(N, DIM) + np.float32(0.01), columns)
        made.flush()
        made.warm(False)
        made.search(rows(1, DIM)[0], k=N, recall=1.0)
        yield made


@pytest.mark.parametrize("m", [2, TILE - 1, TILE, TILE + 3])
@pytest.mark.parametrize("filter", FILTERS)
def test_what_many_find_a_few_find(held, filter, m):
    view, k = held._view(), 7
    # Some of them are like no row, and have plans of their own.
    asked = np.ascontiguousarray(queries(m, DIM))
    asked[::3] = np.random.default_rng(m).standard_normal((len(asked[::3]), DIM)) * 30
    request = checked_search(held, asked[0], k, filter, 0.95, None).request
    (ready,) = held._resident.ready(view.shards)
    (planned,) = held._resident.planned(view.shards, [ready], request)
    plans, gaps = planned.plans.of_few(asked)
    answers = few_on_shard(ready, planned, plans, asked, k, gaps)
    wanted, wanted_plans = on_shard(ready, planned, asked, k, 1)
    assert all(one is other for one, other in zip(plans, wanted_plans, strict=True))
    for i, (answer, one) in enumerate(zip(answers, wanted.each(), strict=True)):
        assert answer.found == one
        n = len(one.ids)
        scores, distances = shown_distances(wanted.distances[i, :n], view.schema.metric)
        assert (answer.shown[0][:n], answer.shown[1][:n]) == (scores, distances)


def test_one_whose_vectors_lack_has_no_answer(held, monkeypatch):
    view, asked = held._view(), np.ascontiguousarray(queries(4, DIM))
    request = checked_search(held, asked[0], 3, None, 0.95, None).request
    (ready,) = held._resident.ready(view.shards)
    (planned,) = held._resident.planned(view.shards, [ready], request)

    def lacking(shard, step, queries, k, found, gaps):
        found.lacks[:] = [0, layout.LACKS_VECTORS, 0, 0]

    monkeypatch.setattr("vstore.query.few.find", lacking)
    plan = planned.plans.plan(asked[0])
    answers = few_on_shard(ready, planned, [plan] * 4, asked, 3, None)
    assert [answer is None for answer in answers] == [False, True, False, False]


_WRONG = [np.nan, np.inf, -np.inf, 3e38]


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_vectors_are_checked_together_as_each_alone(metric):
    schema = Schema(DIM, metric, {})
    asked = queries(5, DIM).astype(FLOAT32)
    kept = check_queries(asked, schema)
    assert kept is not asked
    assert np.array_equal(kept, [check_query(one, schema) for one in asked])
    for place, value in enumerate(_WRONG):
        wrong = asked.copy()
        wrong[place, place] = value
        # The last is finite, but its square is not: what it is takes a closer look.
        assert check_queries(wrong, schema) is None
    zero = asked.copy()
    zero[2] = 0
    assert (check_queries(zero, schema) is None) == (metric == "cosine")
    assert check_queries(asked[:, 1:], schema) is None
    assert check_queries(asked.astype(np.float64), schema) is None


def test_searches_are_checked_together_as_each_alone(held):
    asked = np.frombuffer(queries(5, DIM).astype(FLOAT32).tobytes(), FLOAT32).reshape(5, DIM)
    together = checked_searches(held, asked, 4, 0.9, 17)
    assert len({one.group for one in together}) == 1
    for one, query in zip(together, asked, strict=True):
        alone = checked_search(held, query, 4, None, 0.9, 17)
        assert one.group == alone.group
        assert np.array_equal(one.request.query, alone.request.query)
        assert one.request.query.flags.writeable
    wrong = asked.copy()
    wrong[1, 1] = np.nan
    assert checked_searches(held, wrong, 4, 0.9, 17) is None
    with pytest.raises(vstore.errors.InvalidSetting):
        checked_searches(held, asked, 0, 0.9, 17)
