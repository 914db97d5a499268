"""Lexical relevance: Okapi BM25, with no model and no dependency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from vstore.errors import InvalidSetting
from vstore.progress import Report, progress_of
from vstore.rerank.documents import document_text, query_text
from vstore.rerank.tokens import tokenize
from vstore.rerank.word_counts import MAX_WORDS, WordCounts, count_words
from vstore.settings import require
from vstore.types import Candidate, Float32s, Record

REPORT_EVERY = 1000
"""Rows between two reports of progress."""


class ReadsRows(Protocol):
    """What `LexicalReranker.of` asks of a collection, embedded or a server's."""

    def scan(self, filter: Any = None) -> Iterable[Record]:
        """Yield the rows that pass."""
        ...

    def count(self, filter: Any = None) -> int:
        """Return how many there are."""
        ...


class LexicalReranker:
    """Scores documents by the query's words in them (BM25: Robertson & Zaragoza 2009, section 3.2).

    Word rarity and mean length are those of `counts`: of a collection, where `of` made it. Without them they
    are those of the documents given, so that a score means something only beside the others of its call, and
    a word that all candidates share counts for little, however rare it is elsewhere. It knows no meanings: by
    default its stage blends it, half and half, with the vector score, which does.

    Args:
        fields: attributes of type str or list[str] that are read before the document's text.
        k1: how fast repeats of a word stop counting; 0 counts presence alone.
        b: how far long documents are discounted, from 0 (not) to 1.
        counts: of the words of a collection.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    name = "lexical"
    rerank_defaults: ClassVar[dict[str, Any]] = {"blend": 0.5}

    def __init__(
        self,
        fields: Sequence[str] = (),
        k1: float = 1.2,
        b: float = 0.75,
        counts: WordCounts | None = None,
    ) -> None:
        if isinstance(fields, str) or not all(isinstance(name, str) for name in fields):
            raise InvalidSetting(f"fields is {fields!r}; it must be a list of attribute names, as ['title']")
        require(0.0 <= k1 <= 10.0, f"k1 is {k1}; it must be from 0 to 10, and 1.2 suits most text")
        require(0.0 <= b <= 1.0, f"b is {b}; it must be from 0 to 1, and 0.75 suits most text")
        self.fields = tuple(fields)
        self.k1 = float(k1)
        self.b = float(b)
        if counts is not None and not isinstance(counts, WordCounts):
            raise InvalidSetting(
                f"counts is a {type(counts).__name__}; make it with count_words, or use LexicalReranker.of"
            )
        self.counts = counts

    @classmethod
    def of(
        cls,
        collection: ReadsRows,
        fields: Sequence[str] = (),
        k1: float = 1.2,
        b: float = 0.75,
        *,
        filter: Any = None,
        max_words: int = MAX_WORDS,
        progress: bool | Report | None = None,
    ) -> LexicalReranker:
        """Make one whose word rarity and mean length are those of a collection's documents, as they are now.

        Reads every row once. What is written later changes nothing here until another is made, and a
        thousandth more rows hardly would. The same rows give the same scores, in whatever order they lie.

        Args:
            collection: embedded, or of a client.
            fields, k1, b: as of the class; the fields' words are counted with the text's.
            filter: counts the rows that pass alone.
            max_words: as of `count_words`.
            progress: as of `vstore.progress.progress_of`.

        Raises:
            InvalidSetting: a value outside its limits.
            StorageError, VstoreError: as `scan`.
        """
        made = cls(fields, k1, b)

        def texts(report: Report, n: int) -> Iterator[str | None]:
            for i, record in enumerate(collection.scan(filter)):
                if i % REPORT_EVERY == 0:
                    report(i, n)
                text = (record.document or {}).get("text")
                kept = text if isinstance(text, str) else None
                yield document_text(Candidate(record.id, kept, None, record.attributes), made.fields)

        n = collection.count(filter) if progress else 0
        with progress_of(progress, "counting words") as report:
            made.counts = count_words(texts(report, n), max_words)
            report(n, n)
        return made

    def __repr__(self) -> str:
        counted = "" if self.counts is None else f", counts of {self.counts.n_documents} documents"
        return f"LexicalReranker(fields={list(self.fields)!r}, k1={self.k1}, b={self.b}{counted})"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], 0 or more: 0 shares no word with the query; NaN has no text.

        Args:
            query: a text, or a dict with one.
            documents: n candidates.

        Raises:
            InvalidInput: the query has no text.
        """
        terms = Counter(tokenize(query_text(query, "LexicalReranker")))
        texts = [document_text(document, self.fields) for document in documents]
        readable = [i for i, text in enumerate(texts) if text is not None]
        scores = np.full(len(texts), np.nan, dtype=np.float32)
        if readable:
            scores[readable] = self._bm25(terms, [tokenize(texts[i] or "") for i in readable])
        return scores

    def _bm25(self, terms: Counter[str], documents: list[list[str]]) -> npt.NDArray[np.float64]:
        lengths = np.array([len(tokens) for tokens in documents], dtype=np.float64)
        counts = np.zeros((len(documents), len(terms)))
        columns = {term: column for column, term in enumerate(terms)}
        for row, tokens in enumerate(documents):
            for token in tokens:
                column = columns.get(token)
                if column is not None:
                    counts[row, column] += 1.0
        known = self.counts
        if known is None:
            n_with, n = (counts > 0).sum(axis=0), len(documents)
            mean_length = float(lengths.mean())
        else:
            n_with, n = np.array([known.with_word(term) for term in terms]), known.n_documents
            mean_length = known.mean_length
        rarity = np.log1p((n - n_with + 0.5) / (n_with + 0.5))
        relative = lengths / max(mean_length, 1.0)
        saturated = (
            counts
            * (self.k1 + 1.0)
            / (counts + self.k1 * (1.0 - self.b + self.b * relative)[:, None] + (counts == 0))
        )
        weights = rarity * np.fromiter(terms.values(), dtype=np.float64, count=len(terms))
        total: npt.NDArray[np.float64] = saturated @ weights
        return total
