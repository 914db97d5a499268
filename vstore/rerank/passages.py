"""Long documents read in passages: a document's score is that of its best passage, or the mean of several.

Cross-encoders are trained on passages and cut what is longer. Dai & Callan 2019 ("Deeper text understanding
for IR with contextual neural language modeling") score windows of a document, its title before each, and
take the best (MaxP); Hofstätter et al. 2021 ("Intra-document cascading") let a cheap model choose the few
windows that the dear one reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from vstore.rerank import scores as arithmetic
from vstore.rerank import work as recorder
from vstore.rerank.callables import as_reranker, name_of
from vstore.rerank.documents import check_fields, document_text, query_parts
from vstore.rerank.lexical import LexicalReranker
from vstore.settings import require
from vstore.types import Candidate, Float32s

Combine = Literal["max", "mean"]
COMBINES: tuple[Combine, ...] = ("max", "mean")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")


class PassageReranker:
    """Gives another re-ranker the passages of each document instead of its whole text.

    Passages are whole sentences up to `words` words; a longer sentence is cut. Which `best` of them the model
    reads is decided by the query's words in them (BM25 over the document's own passages, so that a document's
    score does not depend on the others). An image goes along with each passage.

    Args:
        model: a re-ranker, a callable, or a registered name. Its scores must compare between documents.
        words: of a passage, at most; published windows have 50 to 150.
        best: passages of a document that the model reads at most; None for all.
        combine: "max" is the best passage's score, "mean" that of all that were read.
        fields: attributes of type str or list[str], as a title, put before each passage.

    Raises:
        InvalidSetting: a value outside its limits, or a model that is no re-ranker.
    """

    def __init__(
        self,
        model: Any,
        *,
        words: int = 72,
        best: int | None = None,
        combine: Combine = "max",
        fields: Sequence[str] = (),
    ) -> None:
        require(
            isinstance(words, int) and not isinstance(words, bool) and words >= 8,
            f"words is {words!r}; it must be a whole number of 8 or more, and 50 to 150 suit most models",
        )
        require(
            best is None or (isinstance(best, int) and not isinstance(best, bool) and best >= 1),
            f"best is {best!r}; it must be a whole number of 1 or more, or None for all passages",
        )
        require(combine in COMBINES, f"combine is {combine!r}; it must be one of {', '.join(COMBINES)}")
        self.model = as_reranker(model)
        self.words, self.best, self.combine = words, best, combine
        self.fields = check_fields(fields)
        read = "all" if best is None else f"the {best} best"
        self.name = f"{name_of(self.model)}, {combine} of {read} passages of {words} words"
        self._lexical = LexicalReranker()

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], larger is better; NaN for a document none of whose passages has a score.

        Args:
            query: what the model reads.
            documents: n candidates.

        Raises:
            RerankError: the model broke its contract; or as the model.
        """
        asked, _ = query_parts(query)
        owners: list[int] = []
        passages: list[Candidate] = []
        for row, document in enumerate(documents):
            made = self._passages(asked, document)
            owners += [row] * len(made)
            passages += made
        work = recorder.current()
        found = arithmetic.as_scores(self.model.score(query, passages), len(passages), name_of(self.model))
        # The model counted passages; whoever reads the report counts documents.
        reasons = {owners[i]: reason for i, reason in work.failures.items() if i < len(owners)}
        scores = np.full(len(documents), np.nan, dtype=np.float32)
        owner_of = np.array(owners, dtype=np.int64)
        for row in range(len(documents)):
            own = found[owner_of == row]
            own = own[~np.isnan(own)]
            if len(own):
                scores[row] = own.max() if self.combine == "max" else own.mean()
        work.failures = {row: reason for row, reason in reasons.items() if np.isnan(scores[row])}
        return scores

    def forget(self) -> None:
        """Drop the scores that the model remembers, as a measurement must."""
        forget = getattr(self.model, "forget", None)
        if callable(forget):
            forget()

    def _passages(self, query: str | None, document: Candidate) -> list[Candidate]:
        """Return what the model reads of a document, at least one candidate."""
        heading = document_text(replace(document, text=None), self.fields)
        parts = split(document.text or "", self.words)
        if self.best is not None and len(parts) > self.best:
            chosen = list(range(self.best))
            if query is not None:
                relevance = self._lexical.score(query, [replace(document, text=part) for part in parts])
                chosen = sorted(np.argsort(-relevance, kind="stable")[: self.best].tolist())
            parts = [parts[i] for i in chosen]
        texts = ["\n".join(filter(None, (heading, part))) or None for part in parts] or [heading]
        return [replace(document, text=text) for text in texts]


def split(text: str, words: int) -> list[str]:
    """Return a text's passages: whole sentences, in order, each passage of at most `words` words.

    A sentence that is longer is cut at words. Blank text has no passages.
    """
    passages: list[str] = []
    current: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        given = sentence.split()
        for start in range(0, len(given), words):
            piece = given[start : start + words]
            if current and len(current) + len(piece) > words:
                passages.append(" ".join(current))
                current = []
            current += piece
    if current:
        passages.append(" ".join(current))
    return passages
