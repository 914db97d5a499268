"""In how many documents each word stands, and how long documents are: what makes a word rare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vstore.errors import CorruptData
from vstore.format.frame import decoding
from vstore.rerank.tokens import tokenize
from vstore.settings import require

MAX_WORDS = 100_000
"""Words that are kept by default: one or two megabytes."""


@dataclass(frozen=True, slots=True)
class WordCounts:
    """Made by `count_words`, or `of` what `described` returned.

    Raises:
        InvalidSetting: counts that no documents have.
    """

    n_documents: int
    n_tokens: int
    """Of all documents."""
    documents_with: Mapping[str, int]
    """By word; those in the most documents, where not all are kept."""
    n_left_out: int = 0
    """Distinct words that are not kept; none of them is in more documents than any that is."""

    def __post_init__(self) -> None:
        counts = self.documents_with.values()
        require(
            min(self.n_documents, self.n_tokens, self.n_left_out) >= 0
            and all(0 < count <= self.n_documents for count in counts),
            f"counts of {self.n_documents} documents and {self.n_tokens} words do not fit together; "
            "make them with count_words",
        )

    @property
    def mean_length(self) -> float:
        """Tokens of a document."""
        return self.n_tokens / max(self.n_documents, 1)

    def with_word(self, word: str) -> int:
        """Return how many documents have a word; of one that was left out, how many may have it."""
        known = self.documents_with.get(word)
        if known is not None:
            return known
        return min(self.documents_with.values(), default=1) if self.n_left_out else 0

    def described(self) -> dict[str, Any]:
        """Return this as plain values; `of` makes it again."""
        return {
            "n_documents": self.n_documents,
            "n_tokens": self.n_tokens,
            "n_left_out": self.n_left_out,
            "words": list(self.documents_with),
            "counts": list(self.documents_with.values()),
        }

    @classmethod
    def of(cls, described: Mapping[str, Any], where: str) -> WordCounts:
        """Make again what `described` returned, read from `where`.

        Raises:
            CorruptData: it is something else.
        """
        with decoding(where):
            words = [str(word) for word in described["words"]]
            counts = [int(count) for count in described["counts"]]
            totals = (int(described[name]) for name in ("n_documents", "n_tokens", "n_left_out"))
            n_documents, n_tokens, n_left_out = totals
            if len(words) != len(counts) or not all(0 < count <= n_documents for count in counts):
                raise CorruptData(f"{where}: its word counts do not fit together")
            return cls(n_documents, n_tokens, dict(zip(words, counts, strict=True)), n_left_out)


def count_words(texts: Iterable[str | None], max_words: int = MAX_WORDS) -> WordCounts:
    """Return the counts of documents' texts; None is a document without text, which counts for nothing.

    Takes about 100 bytes of memory for each distinct word, and afterwards for each that is kept.

    Args:
        texts: read once.
        max_words: how many distinct words are kept: those in the most documents, and of equals the first
            in the order of their characters.

    Raises:
        InvalidSetting: max_words below 1.
    """
    require(max_words >= 1, f"max_words is {max_words!r}; it must be 1 or more, and {MAX_WORDS} suits most")
    found: Counter[str] = Counter()
    n_documents = n_tokens = 0
    for text in texts:
        if text is None:
            continue
        tokens = tokenize(text)
        n_documents += 1
        n_tokens += len(tokens)
        found.update(set(tokens))
    kept = sorted(found.items(), key=lambda each: (-each[1], each[0]))[:max_words]
    return WordCounts(n_documents, n_tokens, dict(kept), len(found) - len(kept))
