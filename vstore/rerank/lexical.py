"""Lexical relevance over the candidates: Okapi BM25, with no model and no dependency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from vstore.errors import InvalidSetting
from vstore.rerank.documents import document_text, query_text
from vstore.rerank.tokens import tokenize
from vstore.settings import require
from vstore.types import Candidate, Float32s


class LexicalReranker:
    """Scores documents by the query's words in them (BM25: Robertson & Zaragoza 2009, section 3.2).

    Word rarity and mean length are those of the documents given, so a score means something only
    beside the others of its call. It knows no meanings: by default its stage blends it, half and half,
    with the vector score, which does.

    Args:
        fields: attributes of type str or list[str] that are read before the document's text.
        k1: how fast repeats of a word stop counting; 0 counts presence alone.
        b: how far long documents are discounted, from 0 (not) to 1.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    name = "lexical"
    rerank_defaults: ClassVar[dict[str, Any]] = {"blend": 0.5}

    def __init__(self, fields: Sequence[str] = (), k1: float = 1.2, b: float = 0.75) -> None:
        if isinstance(fields, str) or not all(isinstance(name, str) for name in fields):
            raise InvalidSetting(f"fields is {fields!r}; it must be a list of attribute names, as ['title']")
        require(0.0 <= k1 <= 10.0, f"k1 is {k1}; it must be from 0 to 10, and 1.2 suits most text")
        require(0.0 <= b <= 1.0, f"b is {b}; it must be from 0 to 1, and 0.75 suits most text")
        self.fields = tuple(fields)
        self.k1 = float(k1)
        self.b = float(b)

    def __repr__(self) -> str:
        return f"LexicalReranker(fields={list(self.fields)!r}, k1={self.k1}, b={self.b})"

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
        n_with = (counts > 0).sum(axis=0)
        rarity = np.log1p((len(documents) - n_with + 0.5) / (n_with + 0.5))
        relative = lengths / max(float(lengths.mean()), 1.0)
        saturated = (
            counts
            * (self.k1 + 1.0)
            / (counts + self.k1 * (1.0 - self.b + self.b * relative)[:, None] + (counts == 0))
        )
        weights = rarity * np.fromiter(terms.values(), dtype=np.float64, count=len(terms))
        total: npt.NDArray[np.float64] = saturated @ weights
        return total
