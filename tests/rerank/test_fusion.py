"""Fused signals against the obvious way, attributes as signals, and the boost of RAGStack-Lambda."""

from __future__ import annotations

import datetime
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vstore
from vstore.errors import InvalidSetting
from vstore.rerank import LexicalReranker, apply, as_stages
from vstore.rerank.boost import AdaptiveBoost
from vstore.rerank.fusion import FirstStage, FusionReranker, Popularity, Recency, fuse
from vstore.types import Candidate, Hit

NAN = math.nan
values = st.lists(st.one_of(st.just(NAN), st.floats(-50, 50)), min_size=6, max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, min_size=1, max_size=4), st.integers(0, 1000))
def test_reciprocal_rank_is_the_obvious_sum(rows: list[list[float]], seed: int) -> None:
    weights = np.random.default_rng(seed).uniform(0.1, 2, len(rows))
    got = fuse(np.array(rows), weights, "rrf")
    for i in range(6):
        wanted, known = 0.0, False
        for row, weight in zip(rows, weights, strict=True):
            if not math.isnan(row[i]):
                better = sum(x > row[i] for x in row if not math.isnan(x))
                equal = sum(x == row[i] for x in row if not math.isnan(x))
                wanted += weight / (60 + better + (equal + 1) / 2)
                known = True
        assert got[i] == pytest.approx(wanted) if known else math.isnan(got[i])


def test_scales_are_common_and_what_is_unknown_is_in_the_middle() -> None:
    signals = np.array([[0.0, 5.0, 10.0], [3.0, NAN, 1.0]])
    np.testing.assert_allclose(fuse(signals, np.array([1.0, 2.0]), "min_max"), [2.0, 1.5, 1.0])
    z = fuse(signals, np.array([1.0, 2.0]), "z_score")
    np.testing.assert_allclose(z, [2.0 - math.sqrt(1.5), 0.0, math.sqrt(1.5) - 2.0], atol=1e-12)
    assert math.isnan(fuse(np.array([[1.0, NAN]]), np.array([1.0]), "min_max")[1])


def test_attributes_are_signals() -> None:
    def candidate(i: int, **attributes: Any) -> Candidate:
        return Candidate(i, None, None, attributes, 0.5, i)

    now = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    recency = Recency("taken", 30.0, clock=now.timestamp)
    dates = [now, now - datetime.timedelta(days=30), now.replace(year=2030, tzinfo=None), None, True]
    got = recency.score("q", [candidate(i, taken=date) for i, date in enumerate(dates)])
    np.testing.assert_allclose(got, [1.0, 0.5, 1.0, NAN, NAN])
    clicks = [candidate(0, clicks=0), candidate(1, clicks=99), candidate(2), candidate(3, clicks=-4)]
    np.testing.assert_allclose(Popularity("clicks").score("q", clicks), [0.0, math.log(100), NAN, NAN])
    assert FirstStage().score("q", clicks).tolist() == [0.5] * 4


def test_fusion_is_a_re_ranker() -> None:
    words = ["nothing of it", "an open archive", "archive"]
    hits = [Hit(i, 1 - i / 10, 0.0, {"n": i * 10}, {"text": t}, 1 - i / 10, i) for i, t in enumerate(words)]
    fusion = FusionReranker(
        {"vector": (FirstStage(), 1.0), "words": (LexicalReranker(), 3.0), "n": (Popularity("n"), 0.0)}
    )
    ranked, (report,) = apply(as_stages(fusion), "open archive", hits, 3)
    assert [hit.id for hit in ranked] == [1, 2, 0]
    assert "vector, words" in report.model
    assert fusion.signals("open archive", []).shape == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "empty"),
        (({"a": FirstStage()},), r"\(signal, weight\)"),
        (({"a": (FirstStage(), -1.0)},), "weight of signal 'a' is -1.0"),
        (({"a": (FirstStage(), 0.0)},), "every weight is 0"),
        (({"a": (3, 1.0)},), "int"),
        (({"a": (FirstStage(), 1.0)}, "sum"), "how is 'sum'"),
    ],
)
def test_fusion_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        FusionReranker(*arguments)
    with pytest.raises(InvalidSetting, match="half_life_days"):
        Recency("taken", 0.0)


# The boost.


def hits(*scores: float, start: int = 0) -> list[Hit]:
    return [Hit(start + i, s, 1 - s, {}, None, s, i) for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("filtered", "unfiltered", "wanted"),
    [
        ([0.8], [0.84], 0.84 / 0.8 * 1.05),
        ([0.8], [0.7], 1.02),
        ([0.3], [0.9], 1.25),
        ([], [0.9], 1.25),
        ([0.5], [], 1.25),
        ([-0.5], [0.5], 1.25),
        ([-0.5], [-0.2], 1.25),
        ([0.0], [0.2], 1.25),
    ],
)
def test_the_factor_is_that_of_its_formula(
    filtered: list[float], unfiltered: list[float], wanted: float
) -> None:
    assert AdaptiveBoost().factor(filtered, unfiltered) == pytest.approx(wanted)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-2, 2), max_size=6), st.lists(st.floats(-2, 2), max_size=6), st.integers(1, 8))
def test_a_boost_never_lowers_and_keeps_the_filtered_order(f: list[float], u: list[float], k: int) -> None:
    f, u = sorted(f, reverse=True), sorted(u, reverse=True)
    boost = AdaptiveBoost()
    factor = boost.factor(f, u)
    assert 1.02 <= factor <= 1.25
    merged = boost.merge(hits(*f), hits(*u, start=3), k)
    assert len(merged) == min(k, len(set(range(len(f))) | set(range(3, 3 + len(u)))))
    assert all(a.score >= b.score for a, b in itertools.pairwise(merged))
    for hit in merged:
        if hit.id < len(f):
            assert hit.score >= hit.first_score
    ids = [hit.id for hit in merged if hit.id < len(f)]
    places = [f[i] for i in ids]
    assert places == sorted(places, reverse=True)


def test_limits_of_the_boost() -> None:
    with pytest.raises(InvalidSetting, match="1 <= least"):
        AdaptiveBoost(least=0.5)


def test_filtered_and_unfiltered_scores_of_the_same_vector_are_equal() -> None:
    rng = np.random.default_rng(0)
    with vstore.connect("memory://") as db:
        for metric in ("cosine", "l2", "dot"):
            rows = db.create_collection(metric, dim=24, metric=metric, fields={"topic": "int"})
            vectors = rng.standard_normal((1500, 24)).astype(np.float32)
            rows.upsert(range(1500), vectors, {"topic": [i % 5 for i in range(1500)]})
            rows.flush(progress=False)
            rows.upsert(range(1500, 1600), vectors[:100] * 1.1, {"topic": [i % 5 for i in range(100)]})
            for query in rng.standard_normal((5, 24)).astype(np.float32):
                everything = {hit.id: hit.score for hit in rows.search(query, 1600, recall=1.0)}
                for topic in range(5):
                    found = rows.search(query, 20, {"topic": topic})
                    assert len(found) == 20
                    np.testing.assert_allclose(
                        found.scores, [everything[i] for i in found.ids], rtol=1e-6, atol=1e-6
                    )
            merged = AdaptiveBoost().search(rows, query, 10, {"topic": 1})
            assert len({hit.id for hit in merged}) == 10
