"""Long documents are read in passages, and a document's score depends on it and the query alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vstore.errors import InvalidSetting
from vstore.rerank import LexicalReranker, Rerank, apply, as_stages
from vstore.rerank.passages import PassageReranker, split
from vstore.testing.reranker_suite import RerankerSuite
from vstore.types import Candidate, Hit

LONG = (
    "One two three. Four five six seven! Eight nine ten eleven twelve thirteen fourteen fifteen sixteen? End."
)


class Seen:
    """Scores a passage by how many letters e it has, and remembers what it was shown."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []

    def score(self, query: Any, documents: Sequence[Candidate]) -> list[float]:
        self.texts = [document.text for document in documents]
        return [float("nan") if not d.text else float(d.text.count("e")) for d in documents]


def test_passages_are_whole_sentences_and_hold_every_word_once() -> None:
    found = split(LONG, 8)
    assert found == [
        "One two three. Four five six seven!",
        "Eight nine ten eleven twelve thirteen fourteen fifteen",
        "sixteen? End.",
    ]
    rng = np.random.default_rng(0)
    for words in (8, 20, 72):
        text = " ".join(f"w{i}{'.' if rng.random() < 0.1 else ''}" for i in range(300))
        passages = split(text, words)
        assert " ".join(passages) == text
        assert max(len(passage.split()) for passage in passages) <= words
    assert split("  \n ", 8) == []


def test_the_best_passage_counts_or_the_mean_of_those_read() -> None:
    document = Candidate(1, LONG, None, {"title": "A title"})
    parts = [f"A title\n{part}" for part in split(LONG, 8)]
    counts = [part.count("e") for part in parts]
    seen = Seen()
    assert PassageReranker(seen, words=8, fields=["title"]).score("q", [document]).tolist() == [max(counts)]
    assert seen.texts == parts
    mean = PassageReranker(seen, words=8, fields=["title"], combine="mean").score("q", [document])
    np.testing.assert_allclose(mean, [np.mean(counts)], rtol=1e-6)


def test_the_querys_words_choose_what_the_model_reads() -> None:
    seen = Seen()
    reranker = PassageReranker(seen, words=8, best=1)
    reranker.score("where is thirteen", [Candidate(1, LONG, None, {}), Candidate(2, "short", None, {})])
    assert seen.texts == [split(LONG, 8)[1], "short"]
    reranker.score({"text": "sixteen"}, [Candidate(1, LONG, None, {})])
    assert seen.texts == [split(LONG, 8)[2]]


def test_a_score_does_not_depend_on_the_other_documents() -> None:
    rng = np.random.default_rng(3)
    words = ["archive", "open", "file", "tree", "sea", "bird"]
    documents = [
        Candidate(i, ". ".join(" ".join(rng.choice(words, 6)) for _ in range(9)) + ".", None, {})
        for i in range(8)
    ]
    reranker = PassageReranker(Seen(), words=12, best=2)
    together = reranker.score("open the archive", documents)
    alone = [reranker.score("open the archive", [document])[0] for document in documents]
    np.testing.assert_array_equal(together, alone)


def test_failures_are_reported_by_document() -> None:
    hits = [Hit(i, 1.0 - i, i, {}, {"text": text}, 1.0 - i, i) for i, text in enumerate([LONG, "", "eee"])]
    ranked, (report,) = apply(as_stages(Rerank(PassageReranker(Seen(), words=8))), "q", hits, 3)
    assert [hit.id for hit in ranked] == [0, 1, 2]
    assert report.n_failed == 1
    assert report.failures[0].startswith("1:")


@pytest.mark.parametrize("settings", [{"words": 7}, {"words": 8.5}, {"best": 0}, {"combine": "sum"}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        PassageReranker(LexicalReranker(), **settings)


class TestPassages(RerankerSuite):
    @pytest.fixture
    def reranker(self) -> PassageReranker:
        return PassageReranker(Seen(), words=8)
