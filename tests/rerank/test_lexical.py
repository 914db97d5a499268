"""Lexical relevance: the tokenizer, and BM25 against a sum written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.errors import InvalidInput, InvalidSetting
from vstore.rerank import LexicalReranker, apply, as_stages, document_text
from vstore.rerank.tokens import tokenize
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
