"""The stage: what it accepts, where every document ends up, and what it reports."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.errors import InvalidInput, InvalidSetting, MissingDependency, RerankError
from vstore.rerank import LexicalReranker, Rerank, apply, as_stages, depth_of
from vstore.rerank.scores import as_scores, blend, normalize, order
from vstore.types import Hit

NAN = math.nan


def hits_of(n: int, document: Any = "text") -> list[Hit]:
    return [
        Hit(
            i,
            1 - i / 1000,
            i / 1000,
            {"n": i},
            {"text": f"{document} {i}"} if document else None,
            1 - i / 1000,
            i,
        )
        for i in range(n)
    ]


def fixed(scores: list[Any]) -> Any:
    return lambda query, documents: scores[: len(documents)]


def backwards(query: Any, documents: Any) -> list[float]:
    return [float(d.id) for d in documents]


def ids(hits: list[Hit]) -> list[Any]:
    return [hit.id for hit in hits]


# What it accepts.


class Object:
    def score(self, query: Any, documents: Any) -> list[float]:
        return backwards(query, documents)


def test_a_function_an_object_a_rerank_and_a_list_do_the_same() -> None:
    for rerank in (backwards, Object(), Rerank(backwards), [Object()], (Rerank(Object()),)):
        ranked, reports = apply(as_stages(rerank, 5), "q", hits_of(5), 5)
        assert ids(ranked) == [4, 3, 2, 1, 0]
        assert len(reports) == 1
    assert [as_stages(r)[0].name for r in (backwards, Object(), LexicalReranker())] == [
        "backwards",
        "Object",
        "lexical",
    ]


def test_none_and_an_empty_list_do_nothing() -> None:
    for rerank in (None, [], ()):
        assert as_stages(rerank) == ()
        assert apply(as_stages(rerank), None, hits_of(5), 3) == (hits_of(3), [])
    assert depth_of((), 7) == 7


async def asynchronous(query: Any, documents: Any) -> list[float]:
    return []


class Asynchronous:
    async def score(self, query: Any, documents: Any) -> list[float]:
        return []


class BadHints(Object):
    rerank_defaults: ClassVar = {"blind": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_stages(3), "int.*score"),
        (lambda: as_stages("cross-encoder"), "'cross-encoder' cannot be made.*pass the object"),
        (lambda: as_stages("lexcal"), "did you mean 'lexical'"),
        (lambda: as_stages([[backwards]]), "list"),
        (lambda: as_stages(Rerank), "class Rerank"),
        (lambda: Rerank(LexicalReranker), r"LexicalReranker\(\.\.\.\)"),
        (lambda: Rerank(lambda documents: []), r"\(query, documents\)"),
        (lambda: Rerank(asynchronous), "async"),
        (lambda: Rerank(Asynchronous()), "async"),
        (lambda: Rerank(None), "NoneType"),
        (lambda: Rerank(backwards, 0), "depth is 0.*from 1 to"),
        (lambda: Rerank(backwards, -5), "depth is -5"),
        (lambda: Rerank(backwards, True), "depth is True"),
        (lambda: Rerank(backwards, 2.5), r"depth is 2\.5"),
        (lambda: Rerank(backwards, 10**9), "depth is 1000000000"),
        (lambda: Rerank(backwards, blend=1.5), r"blend is 1\.5"),
        (lambda: Rerank(backwards, blend=NAN), "blend is nan"),
        (lambda: Rerank(backwards, blend="half"), "blend is 'half'"),
        (lambda: Rerank(backwards, normalize="minmax"), "did you mean 'min_max'"),
        (lambda: Rerank(backwards, needs="texts"), "did you mean 'text'"),
        (lambda: Rerank(backwards, on_error="ignore"), "on_error is 'ignore'"),
        (lambda: Rerank(BadHints()), "did you mean 'blend'"),
        (lambda: as_stages(None, 10), "rerank_depth is 10.*pass rerank="),
        (lambda: as_stages(backwards, 0), "rerank_depth is 0"),
        (lambda: as_stages(Rerank(backwards, 20), 30), "rerank_depth is 30.*depth is 20"),
        (lambda: as_stages([Rerank(backwards, 20), Rerank(backwards, 30)]), "depth 30.*has 20"),
        (lambda: as_stages([backwards, Rerank(backwards, 30)], 20), "depth 30.*has 20"),
    ],
)
def test_what_is_refused_is_refused_at_construction(make: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()


def test_depths_fall() -> None:
    assert [s.depth for s in as_stages([backwards, backwards, backwards])] == [50, 25, 13]
    assert [s.depth for s in as_stages([backwards, Rerank(backwards, 30)], 200)] == [200, 30]
    assert [s.depth for s in as_stages(Rerank(backwards, np.int64(20)), 20)] == [20]
    assert depth_of(as_stages(backwards), 10) == 50
    assert depth_of(as_stages(backwards), 80) == 80


def test_a_model_may_say_how_it_is_used_and_the_caller_decides() -> None:
    assert Rerank(LexicalReranker()).blend == 0.5
    assert Rerank(LexicalReranker(), blend=0.0).blend == 0.0
    assert Rerank(backwards) == Rerank(backwards, None, 0.0, "min_max", "nothing")


@pytest.mark.parametrize(
    "query", ["text", b"png", Path("query.png"), {"text": "t"}, {"text": "t", "image": b"x"}]
)
def test_queries_arrive_as_they_were_given(query: Any) -> None:
    seen = []
    apply(as_stages(lambda q, d: seen.append(q) or [0.0] * len(d)), query, hits_of(2), 2)
    assert seen == [query]
    assert seen[0] is query


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "pass query_document="),
        ("", "empty"),
        ("  \n", "empty"),
        (b"", "empty"),
        ({}, "empty"),
        ({"text": ""}, "empty"),
        ({"txt": "t"}, "did you mean 'text'"),
        ({"text": 3}, "int.*str"),
        (3, "int"),
        ([0.1, 0.2], "list"),
        (np.zeros(3), "ndarray"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(query: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        apply(as_stages(backwards), query, hits_of(2), 2)
    with pytest.raises(InvalidInput):
        apply(as_stages(backwards), query, [], 2)


# Where documents end up.


def test_hits_beyond_the_depth_stay_behind_as_they_were() -> None:
    hits = hits_of(10)
    ranked, reports = apply(as_stages(backwards, 4), "q", hits, 10)
    assert ids(ranked) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], "the depth is at least k"
    ranked, reports = apply(as_stages(backwards, 4), "q", hits, 2)
    assert ids(ranked) == [3, 2]
    assert (reports[0].n_scored, reports[0].n_moved, reports[0].n_failed) == (4, 4, 0)
    cascade = [Rerank(backwards, 8), Rerank(lambda q, d: [-float(c.id) for c in d], 3)]
    ranked, reports = apply(as_stages(cascade), "q", hits, 3)
    assert ids(ranked) == [5, 6, 7]
    assert [r.n_scored for r in reports] == [8, 3]
    assert [hit.score for hit in ranked] == [-5.0, -6.0, -7.0]


def test_first_scores_and_ranks_stay_and_the_input_is_not_modified() -> None:
    hits = hits_of(6)
    before = copy.deepcopy(hits)
    ranked, _ = apply(as_stages(backwards), "q", hits, 6)
    assert hits == before
    for hit in ranked:
        assert (hit.first_score, hit.first_rank, hit.distance) == (1 - hit.id / 1000, hit.id, hit.id / 1000)
        assert hit.score == hit.id


def test_ties_keep_their_order() -> None:
    ranked, reports = apply(as_stages(fixed([1, 2, 1, 2, 1])), "q", hits_of(5), 5)
    assert ids(ranked) == [1, 3, 0, 2, 4]
    _, reports = apply(as_stages(fixed([3.0] * 5)), "q", hits_of(5), 5)
    assert reports[0].n_moved == 0


def test_what_was_not_scored_keeps_its_place_and_is_reported() -> None:
    ranked, (report,) = apply(as_stages(fixed([1.0, NAN, 3.0, None, 5.0])), "q", hits_of(5), 5)
    assert ids(ranked) == [4, 1, 2, 3, 0]
    assert [math.isnan(hit.score) for hit in ranked] == [False, True, False, True, False]
    assert (report.n_scored, report.n_failed, report.n_moved) == (3, 2, 2)
    assert report.failures == ["1: the model gave it no score", "3: the model gave it no score"]


@pytest.mark.parametrize("document", [None, {}, {"text": ""}, {"text": " \n"}, {"image": b""}])
def test_a_missing_document_does_not_sink_a_model_that_expects_text(document: Any) -> None:
    hits = hits_of(5)
    hits[1].document = document
    asked = []

    def by_text(query: Any, documents: Any) -> list[float]:
        asked.append(len(documents))
        return [float(d.text.split()[1]) for d in documents]

    ranked, (report,) = apply(as_stages(by_text), "q", hits, 5)
    assert asked == [5, 4]
    assert ids(ranked) == [4, 1, 3, 2, 0]
    assert report.failures == ["1: no text or image was stored"]
    asked.clear()
    ranked, _ = apply(as_stages(Rerank(by_text, needs="text")), "q", hits, 5)
    assert asked == [4]
    assert ids(ranked) == [4, 1, 3, 2, 0]


def test_a_model_may_score_attributes_alone() -> None:
    ranked, (report,) = apply(
        as_stages(lambda q, d: [c.attributes["n"] for c in d]), "q", hits_of(4, document=None), 4
    )
    assert ids(ranked) == [3, 2, 1, 0]
    assert report.n_failed == 0


def test_needs_decides_what_the_model_sees() -> None:
    hits = hits_of(4)
    hits[0].document = None
    hits[1].document = {"image": b"png"}
    hits[2].document = {"text": "t", "image": "a.png"}
    seen: list[int] = []

    def model(query: Any, documents: Any) -> list[float]:
        seen[:] = [d.id for d in documents]
        return [1.0] * len(documents)

    for needs, wanted in (
        ("nothing", [0, 1, 2, 3]),
        ("document", [1, 2, 3]),
        ("text", [2, 3]),
        ("image", [1, 2]),
    ):
        _, (report,) = apply(as_stages(Rerank(model, needs=needs)), "q", hits, 4)
        assert seen == wanted
        assert report.n_failed == 4 - len(wanted)
    assert report.failures == ["0: no text or image was stored", "3: no image was stored"]


def test_nothing_to_rerank_calls_no_model() -> None:
    def never(query: Any, documents: Any) -> list[float]:
        raise AssertionError("called")

    ranked, (report,) = apply(as_stages(never), "q", [], 5)
    assert ranked == []
    assert (report.n_scored, report.n_failed, report.n_moved) == (0, 0, 0)
    _, (report,) = apply(as_stages(Rerank(never, needs="text")), "q", hits_of(3, document=None), 3)
    assert report.n_failed == 3


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.one_of(st.just(NAN), st.floats(-1e6, 1e6), st.integers(0, 3).map(float)), max_size=30),
    k=st.integers(1, 35),
    depth=st.integers(1, 35),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_order_against_the_obvious_way(scores: list[float], k: int, depth: int, weight: float) -> None:
    n = len(scores)
    ranked, (report,) = apply(as_stages(Rerank(fixed(scores), depth, blend=weight)), "q", hits_of(n), n or 1)
    assert sorted(ids(ranked)) == list(range(n))
    kept = [i for i in range(n) if math.isnan(scores[i])]
    assert all(ranked[i].id == i and math.isnan(ranked[i].score) for i in kept)
    scored = [hit for i, hit in enumerate(ranked) if i not in kept]
    assert all(
        a.score > b.score or (a.score == b.score and a.id < b.id) for a, b in itertools.pairwise(scored)
    )
    assert report.n_moved == sum(hit.id != i for i, hit in enumerate(ranked))
    if weight == 0.0:
        assert all(hit.score == scores[hit.id] for hit in scored)
    if weight == 1.0:
        assert ids(ranked) == list(range(n))
    shorter, _ = apply(as_stages(Rerank(fixed(scores), depth)), "q", hits_of(n), k)
    window = max(depth, k)
    again, _ = apply(as_stages(Rerank(fixed(scores), window)), "q", hits_of(min(n, window)), window)
    assert ids(shorter) == ids(again)[:k]


# When a model breaks its contract.


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, 2.0], r"gave 2 scores for 3 documents; expected shape \(3,\)"),
        ([1.0] * 4, "gave 4 scores for 3 documents"),
        ([[1.0], [2.0], [3.0]], r"shape \(3, 1\) for 3 documents"),
        (1.0, r"shape \(\) for 3 documents"),
        ([], "gave 0 scores for 3"),
        (None, "shape"),
        (["high", "low", "mid"], "not 3 numbers"),
        ([1.0, math.inf, 2.0], "inf for document 1 of 3"),
        ([1.0, 2.0, -math.inf], "-inf for document 2 of 3"),
        ({"a": 1}, "dict"),
        ((x for x in (1.0, 2.0, 3.0)), "generator"),
    ],
)
def test_a_broken_contract_names_model_numbers_and_remedy(answer: Any, message: str) -> None:
    def broken(query: Any, documents: Any) -> Any:
        return answer

    with pytest.raises(RerankError, match=f"(?s)broken.*{message}"):
        apply(as_stages(broken), "q", hits_of(3), 3)


def test_torch_tensors_are_scores() -> None:
    torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        tensor = torch.tensor([1, 3, 2], dtype=dtype)
        assert as_scores(tensor, 3, "m").tolist() == [1.0, 3.0, 2.0]
    assert as_scores(torch.ones(2, requires_grad=True), 2, "m").tolist() == [1.0, 1.0]


def test_a_model_that_raises_is_named_and_its_error_kept() -> None:
    def explodes(query: Any, documents: Any) -> Any:
        raise RuntimeError("out of memory")

    with pytest.raises(
        RerankError, match=r"explodes failed on 3 documents: RuntimeError: out of memory.*keep"
    ) as info:
        apply(as_stages(explodes), "q", hits_of(3), 3)
    assert isinstance(info.value.__cause__, RuntimeError)
    ranked, (report,) = apply(as_stages(Rerank(explodes, on_error="keep")), "q", hits_of(3), 3)
    assert ranked == hits_of(3)
    assert (report.n_scored, report.n_failed) == (0, 3)
    assert "out of memory" in report.failures[0]


@pytest.mark.parametrize("error", [InvalidInput("reads text"), MissingDependency("pip install x")])
def test_errors_of_ours_pass_through(error: Exception) -> None:
    def model(query: Any, documents: Any) -> Any:
        raise error

    with pytest.raises(type(error)) as info:
        apply(as_stages(Rerank(model, on_error="keep")), "q", hits_of(3), 3)
    assert info.value is error


def test_an_interrupt_is_not_an_error_of_the_model() -> None:
    def model(query: Any, documents: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(as_stages(Rerank(model, on_error="keep")), "q", hits_of(3), 3)


# The arithmetic.


def test_blend_is_a_weighted_sum_on_a_common_scale() -> None:
    scores, first = np.array([10.0, NAN, 20.0, 30.0]), np.array([0.9, 5.0, 0.8, 0.5])
    np.testing.assert_allclose(blend(scores, first, 0.25, "min_max"), [0.25, NAN, 0.375 + 0.1875, 0.75])
    np.testing.assert_allclose(blend(scores, first, 0.0, "min_max"), scores)
    z = blend(scores, first, 0.5, "z_score")
    assert math.isnan(z[1])
    assert abs(np.nanmean(z)) < 1e-12


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20),
    st.sampled_from(["min_max", "z_score"]),
)
def test_normalize_is_finite_and_keeps_the_order(values: list[float], how: Any) -> None:
    scores = np.array(values, dtype=np.float64)
    result = normalize(scores, how)
    assert result.shape == scores.shape
    assert np.isfinite(result).all()
    assert (np.diff(result[np.argsort(scores, kind="stable")]) >= 0).all()
    if how == "min_max" and len(values):
        assert result.min() >= 0.0
        assert result.max() <= 1.0


def test_order_of_nothing() -> None:
    assert order(np.empty(0)).tolist() == []
    assert order(np.array([NAN, NAN])).tolist() == [0, 1]
