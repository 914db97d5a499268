"""Lexical relevance: the tokenizer, and BM25 against a sum written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vstore
from vstore.errors import CorruptData, InvalidInput, InvalidSetting
from vstore.rerank import LexicalReranker, apply, as_stages, document_text
from vstore.rerank.tokens import tokenize
from vstore.rerank.word_counts import WordCounts, count_words
from vstore.testing.reranker_suite import WORDS
from vstore.types import Candidate, Hit


def candidates(*texts: str | None) -> list[Candidate]:
    return [Candidate(i, text, None, {}) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("?! _ __ -", []),
        ("Open the Archive", ["open", "the", "archive"]),
        ("ZipFile", ["zip", "file", "zipfile"]),
        ("ZipFile.namelist()", ["zip", "file", "zipfile", "namelist"]),
        ("HTTPServer", ["http", "server", "httpserver"]),
        ("getHTTPResponse", ["get", "http", "response", "gethttpresponse"]),
        ("open_all_files", ["open", "all", "file", "openallfile"]),
        ("__init__", ["init"]),
        ("sha256", ["sha", "256", "sha256"]),
        ("the bodies of classes", ["the", "body", "of", "classe"]),
        ("class gas is us bus", ["class", "gas", "is", "us", "bus"]),
        ("ÉCOLE Straße", ["école", "strasse"]),
        ("ﬁle \uff11\uff12", ["file", "12"]),
        ("東京都", ["東京", "京都"]),
        ("本 Python入門", ["本", "python", "入門"]),
        ("Привет мир", ["привет", "мир"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_tokens_of_any_text(text: str) -> None:
    assert all(token and token == token.strip() and "_" not in token for token in tokenize(text))


def test_a_name_is_found_by_its_parts_and_whole() -> None:
    for query in ("zip file", "zipfile", "ZipFile", "zip_file", "zipFiles"):
        assert set(tokenize(query)) & set(tokenize("class ZipFile"))


def bm25(query: str, texts: list[str], k1: float, b: float) -> list[float]:
    documents = [tokenize(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for tokens in documents:
        score, counts = 0.0, Counter(tokens)
        for term in tokenize(query):
            n_with = sum(term in other for other in documents)
            rarity = math.log(1 + (len(documents) - n_with + 0.5) / (n_with + 0.5))
            if counts[term]:
                saturation = counts[term] + k1 * (1 - b + b * len(tokens) / max(mean, 1))
                score += rarity * counts[term] * (k1 + 1) / saturation
        scores.append(score)
    return scores


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS[:8]), max_size=12).map(" ".join), min_size=1, max_size=8),
    query=st.lists(st.sampled_from(WORDS[:10]), min_size=1, max_size=6).map(" ".join),
    k1=st.sampled_from([0.0, 1.2, 3.0]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
)
def test_bm25_is_the_sum_written_out(texts: list[str], query: str, k1: float, b: float) -> None:
    texts = [text or "other" for text in texts]
    got = LexicalReranker(k1=k1, b=b).score(query, candidates(*texts))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, bm25(query, texts, k1, b), rtol=1e-5, atol=1e-6)


def test_rare_words_and_short_documents_count_more() -> None:
    texts = ("open socket", "open file", "open archive", "old archive", "open " + "x " * 40)
    got = LexicalReranker().score("open archive", candidates(*texts))
    assert got.argmax() == 2
    assert got[3] > got[0] == got[1] > got[4] > 0


def test_no_text_is_nan_and_no_common_word_is_zero() -> None:
    got = LexicalReranker().score("archive", candidates("socket", None, "archive"))
    assert got[0] == 0
    assert np.isnan(got[1])
    assert LexicalReranker().score("?!", candidates("socket", "archive")).tolist() == [0, 0]


def test_fields_are_read_before_the_text() -> None:
    document = Candidate(
        1, "body", None, {"title": "The title", "tags": ["a", None, "b"], "n": 3, "no": None}
    )
    assert document_text(document, ["title", "tags", "n", "no", "absent"]) == "The title\na b\nbody"
    assert document_text(Candidate(1, None, None, {"n": 3}), ["n"]) is None
    documents = [
        Candidate(i, "text", None, {"title": title}) for i, title in enumerate(["socket", "archive"])
    ]
    assert LexicalReranker(["title"]).score("archive", documents).argmax() == 1
    assert LexicalReranker().score("archive", documents).tolist() == [0, 0]
    only_title = [Candidate(0, None, None, {"title": "archive"})]
    assert LexicalReranker(["title"]).score("archive", only_title)[0] > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LexicalReranker("title"), r"fields is 'title'.*\['title'\]"),
        (lambda: LexicalReranker([3]), r"fields is \[3\]"),
        (lambda: LexicalReranker(k1=-1), "k1 is -1"),
        (lambda: LexicalReranker(b=2), "b is 2"),
    ],
)
def test_settings_have_limits(make, message) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()


def test_an_image_alone_is_no_query_for_it() -> None:
    with pytest.raises(InvalidInput, match="LexicalReranker reads text"):
        LexicalReranker().score(b"png", candidates("a"))


def test_its_stage_blends_half_of_the_vector_score() -> None:
    texts = ["archive", "nothing", "archive of things"]
    hits = [
        Hit(i, s, 1 - s, {}, {"text": t}, s, i)
        for i, (t, s) in enumerate(zip(texts, (0.9, 0.8, 0.1), strict=True))
    ]
    ranked, _ = apply(as_stages(LexicalReranker()), "archive", hits, 3)
    assert [hit.id for hit in ranked] == [0, 1, 2]
    assert ranked[0].score == 1.0
    assert ranked[1].score == pytest.approx(0.5 * 0.7 / 0.8)


def notes_of(texts: list[str | None]) -> vstore.Collection:
    notes = vstore.connect("memory://").create_collection("notes", dim=2, fields={"title": "str", "n": "int"})
    rows = [{"title": f"title {i}", "n": i} for i in range(len(texts))]
    notes.upsert(list(range(len(texts))), [[1.0, i] for i in range(len(texts))], rows, texts)
    return notes


def test_rarity_and_mean_length_are_those_of_the_collection() -> None:
    texts = ["open archive", "open socket", "open file of an archive", "the old socket", None]
    reranker = LexicalReranker.of(notes_of(texts))
    assert reranker.counts == count_words(texts)
    assert reranker.counts is not None
    assert reranker.counts.documents_with["open"] == 3
    assert reranker.counts.n_documents == 4
    kept = [text for text in texts if text is not None]
    np.testing.assert_allclose(
        reranker.score("open archive", candidates(*kept)), bm25("open archive", kept, 1.2, 0.75), rtol=1e-5
    )
    # A document's score is its own, whatever is scored beside it.
    alone = [reranker.score("open archive", candidates(text))[0] for text in kept]
    np.testing.assert_array_equal(alone, reranker.score("open archive", candidates(*kept)))
    assert LexicalReranker().score("open archive", candidates("open")) != alone[1]


def test_fields_and_filter_say_what_is_counted_and_later_rows_are_not() -> None:
    notes = notes_of(["archive", "socket", "file"])
    reranker = LexicalReranker.of(notes, ["title"], filter={"n": {"$lt": 2}})
    assert reranker.counts is not None
    assert dict(reranker.counts.documents_with) == {"title": 2, "0": 1, "1": 1, "archive": 1, "socket": 1}
    assert reranker.counts.mean_length == 3
    before = reranker.score("archive", candidates("archive"))
    notes.upsert([9], [[1, 9]], None, ["archive archive archive"])
    assert reranker.score("archive", candidates("archive")) == before
    seen: list[tuple[int, int]] = []
    LexicalReranker.of(notes, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_words_that_are_left_out_count_as_common_as_the_rarest_that_is_kept() -> None:
    texts = ["a b", "a b", "a c", "a d"]
    counts = count_words(texts, max_words=2)
    assert dict(counts.documents_with) == {"a": 4, "b": 2}
    assert counts.n_left_out == 2
    assert [counts.with_word(word) for word in ("a", "b", "c", "nowhere")] == [4, 2, 2, 2]
    assert count_words(texts).with_word("nowhere") == 0
    assert count_words(reversed(texts)) == count_words(texts)


def test_counts_of_nothing_score_nothing_and_wrong_ones_are_refused() -> None:
    empty = count_words([])
    assert LexicalReranker(counts=empty).score("archive", candidates("archive")).tolist() == [
        pytest.approx(math.log(2) * 2.2 / (1 + 1.2 * (0.25 + 0.75)))
    ]
    with pytest.raises(InvalidSetting, match="max_words is 0"):
        count_words([], max_words=0)
    with pytest.raises(InvalidSetting, match="counts is a dict"):
        LexicalReranker(counts={})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="do not fit together"):
        WordCounts(1, 1, {"a": 2})


def test_counts_are_made_again_from_plain_values_or_refused() -> None:
    counts = count_words(["a b", "b c"], max_words=2)
    assert WordCounts.of(counts.described(), "here") == counts
    for wrong in ({"counts": [1]}, {"counts": [0, 1]}, {"n_documents": 1}, {"words": None}):
        with pytest.raises(CorruptData, match="here"):
            WordCounts.of({**counts.described(), **wrong}, "here")
