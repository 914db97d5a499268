"""The conformance suite of re-rankers: subclass it, override one fixture, run pytest.

    from vstore.testing.reranker_suite import RerankerSuite

    class TestMyReranker(RerankerSuite):
        @pytest.fixture
        def reranker(self, my_model):   # what is slow to load belongs in a session's fixture
            return MyReranker(my_model)

pytest then collects every test below for that re-ranker. docs/RERANKING.md says what each rule is for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vstore.rerank import apply, as_stages
from vstore.rerank.callables import name_of
from vstore.rerank.scores import as_scores
from vstore.types import Candidate, Float32s, Hit, Reranker

# fmt: off
WORDS = [
    "archive", "member", "file", "open", "read", "write", "list", "compress", "stream", "buffer",
    "socket", "thread", "lock", "queue", "parse", "token", "matrix", "vector", "graph", "node",
    "edge", "path", "index", "search", "filter", "score", "rank", "date", "time", "zone", "locale",
]
# fmt: on


def documents_of(n: int, seed: int = 0, longest: int = 60) -> list[Candidate]:
    """Return n candidates with texts of 1 to `longest` words and a few attributes."""
    rng = np.random.default_rng(seed)
    return [
        Candidate(
            id=i,
            text=" ".join(rng.choice(WORDS, size=int(rng.integers(1, longest + 1)))),
            image=None,
            attributes={"title": str(rng.choice(WORDS)), "lines": i, "tags": ["a", "b"], "year": None},
        )
        for i in range(n)
    ]


class RerankerSuite:
    """What the stage relies on. Override the fixture `reranker`; the attributes say what it claims."""

    query: Any = "open an archive and list its members"
    """A query document that the re-ranker can read."""
    pointwise = True
    """A document's score does not depend on the other documents of the call."""
    tolerance = 1e-3
    """How far scores may differ between batches, absolutely and relatively."""
    relevant: tuple[str, str] | None = None
    """(a text that answers `query`, one that does not), for a re-ranker that has learned anything."""

    @pytest.fixture
    def reranker(self) -> Reranker:
        """Return the re-ranker."""
        raise NotImplementedError("override the fixture `reranker`: return the re-ranker")

    def documents(self, n: int, seed: int = 0) -> list[Candidate]:
        """Return n documents that the re-ranker can read; override for one that reads images."""
        return documents_of(n, seed)

    def scores(self, reranker: Reranker, documents: Sequence[Candidate]) -> Float32s:
        """Return the scores as the stage takes them, checked."""
        checked = as_scores(reranker.score(self.query, documents), len(documents), name_of(reranker))
        return checked.astype(np.float32)

    def close(self, got: Float32s, wanted: Float32s) -> None:
        """Assert that scores are the same but for rounding; NaN equals NaN."""
        np.testing.assert_allclose(got, wanted, rtol=self.tolerance, atol=self.tolerance)

    # ---- the protocol

    def test_is_a_reranker_with_a_name(self, reranker: Reranker) -> None:
        """It has `score`, is an object and not a class, and reports can name it."""
        assert isinstance(reranker, Reranker)
        assert not isinstance(reranker, type)
        assert name_of(reranker)

    @pytest.mark.parametrize("n", [1, 2, 7, 33])
    def test_one_score_for_each_document(self, reranker: Reranker, n: int) -> None:
        """N documents give N finite scores."""
        assert np.isfinite(self.scores(reranker, self.documents(n))).all()

    def test_no_documents_no_scores(self, reranker: Reranker) -> None:
        """An empty answer is no error."""
        assert self.scores(reranker, []).shape == (0,)

    def test_the_same_call_gives_the_same_scores(self, reranker: Reranker) -> None:
        """Nothing random is left: models are in evaluation mode."""
        documents = self.documents(12)
        self.close(self.scores(reranker, documents), self.scores(reranker, documents))

    # ---- batches

    def test_batched_is_one_by_one(self, reranker: Reranker) -> None:
        """Padding, buckets and neighbours do not change a score."""
        if not self.pointwise:
            pytest.skip("its scores depend on the other documents of the call, and it says so")
        documents = self.documents(17, seed=1)
        alone = np.concatenate([self.scores(reranker, [document]) for document in documents])
        self.close(self.scores(reranker, documents), alone)

    def test_scores_come_in_the_order_given(self, reranker: Reranker) -> None:
        """Sorting by length inside does not show outside."""
        documents = self.documents(23, seed=2)
        shuffled = np.random.default_rng(3).permutation(len(documents))
        wanted = self.scores(reranker, documents)[shuffled]
        self.close(self.scores(reranker, [documents[i] for i in shuffled]), wanted)

    def test_equal_documents_have_equal_scores(self, reranker: Reranker) -> None:
        """Also where they fall into different batches."""
        one, other = self.documents(2, seed=4)
        got = self.scores(reranker, [one, other, replace(one, id=99), *self.documents(20, seed=5), one])
        self.close(got[[2, -1]], got[[0, 0]])

    def test_threads_do_not_disturb_each_other(self, reranker: Reranker) -> None:
        """Searches of several threads share one re-ranker."""
        parts = [self.documents(6, seed=10 + i) for i in range(6)]
        wanted = [self.scores(reranker, part) for part in parts]
        with ThreadPoolExecutor(4) as pool:
            for got, expected in zip(
                pool.map(lambda part: self.scores(reranker, part), parts), wanted, strict=True
            ):
                self.close(got, expected)

    # ---- what may be stored

    def test_a_document_with_nothing_does_not_sink_the_others(self, reranker: Reranker) -> None:
        """It may score it or answer NaN; the rest have their scores."""
        documents = self.documents(9, seed=6)
        nothing = Candidate(id=100, text=None, image=None, attributes={})
        got = self.scores(reranker, [*documents[:4], nothing, *documents[4:]])
        rest = np.delete(got, 4)
        assert np.isfinite(rest).all()
        if self.pointwise:
            self.close(rest, self.scores(reranker, documents))

    def test_nothing_at_all_is_no_error(self, reranker: Reranker) -> None:
        """Not one document that it could read."""
        nothing = [Candidate(id=i, text=None, image=None, attributes={}) for i in range(3)]
        assert self.scores(reranker, nothing).shape == (3,)

    @pytest.mark.parametrize(
        "text",
        [
            "x",
            "?!",
            "\x00\x01",
            "\ud800",
            "日本語の文書",
            "🙂" * 30,
            "a" * 20_000,
            "word " * 5_000,
            "\n\t x \r\n",
        ],
        ids=["letter", "signs", "controls", "surrogate", "japanese", "emoji", "long word", "long", "space"],
    )
    def test_odd_text_is_text(self, reranker: Reranker, text: str) -> None:
        """Beside ordinary documents; it may be NaN, and nothing else suffers."""
        ordinary = self.documents(2, seed=7)
        got = self.scores(reranker, [ordinary[0], replace(ordinary[1], id=100, text=text), ordinary[1]])
        assert np.isfinite(got[[0, 2]]).all()

    def test_documents_are_left_as_they_were(self, reranker: Reranker) -> None:
        """The hits' attributes are the caller's."""
        documents = self.documents(5, seed=8)
        before = copy.deepcopy(documents)
        reranker.score(self.query, documents)
        assert documents == before

    def test_a_query_in_a_dict_is_the_query(self, reranker: Reranker) -> None:
        """{"text": query} scores as the text does."""
        if not isinstance(self.query, str):
            pytest.skip("the query is no plain text")
        documents = self.documents(5, seed=9)
        in_dict = as_scores(reranker.score({"text": self.query}, documents), 5, name_of(reranker))
        self.close(in_dict.astype(np.float32), self.scores(reranker, documents))

    # ---- in its place

    def test_the_stage_takes_it(self, reranker: Reranker) -> None:
        """Applied to hits, it re-orders them by its scores and loses none."""
        documents = self.documents(15, seed=11)
        hits = [
            Hit(d.id, 1.0 - i / 20, i / 20, d.attributes, {"text": d.text}, 1.0 - i / 20, i)
            for i, d in enumerate(documents)
        ]
        ranked, reports = apply(as_stages(reranker, 10), self.query, hits, 15)
        assert sorted(hit.id for hit in ranked) == list(range(15))
        assert all((hit.first_rank, hit.first_score) == (hit.id, 1.0 - int(hit.id) / 20) for hit in ranked)
        assert reports[0].n_scored + reports[0].n_failed == 15
        assert reports[0].model == name_of(reranker)

    def test_prefers_what_answers_the_query(self, reranker: Reranker) -> None:
        """The relevant text has the larger score."""
        if self.relevant is None:
            pytest.skip("it claims no knowledge of texts; set `relevant`")
        good, bad = (Candidate(i, text, None, {}) for i, text in enumerate(self.relevant))
        got = self.scores(reranker, [bad, good])
        assert got[1] > got[0]
