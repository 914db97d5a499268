"""What every model that reads query and document together shares: cache, engine, failures, counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vstore.rerank import work as recorder
from vstore.rerank.documents import check_fields, encodable
from vstore.rerank.engine import Engine, Pair
from vstore.rerank.score_cache import ScoreCache, digest
from vstore.types import Candidate, Float32s

__all__ = ["PairReranker", "check_fields", "encodable"]


class PairReranker:
    """A re-ranker that scores each (query, document) pair on its own.

    A subclass sets `name`, `fields`, `_engine` and `_cache`, and says with `_query` what it takes from a
    query, with `_parts` what from a document, and with `_pairs` what of both the engine gets.
    """

    name: str
    fields: tuple[str, ...]
    _engine: Engine
    _cache: ScoreCache

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], larger is better; NaN for a document that could not be read or scored.

        Equal pairs are scored once, and those scored before come from the cache.

        Args:
            query: a query document, of what the model reads.
            documents: n candidates.

        Raises:
            InvalidInput: the query has nothing that the model reads.
            RerankError: the model failed on every document.
        """
        work = recorder.current()
        asked = self._query(query)
        prefix = digest(*asked)
        scores = np.full(len(documents), np.nan, dtype=np.float32)
        waiting: dict[bytes, list[int]] = {}
        parts: list[tuple[str | None, Any]] = []
        for row, document in enumerate(documents):
            text, image = self._parts(document)
            if text is None and image is None:
                work.failures[row] = self._lacks()
                continue
            key = prefix + digest(text, image)
            known = self._cache.get(key)
            if known is not None:
                scores[row] = known
                work.n_cached += 1
            elif key in waiting:
                waiting[key].append(row)
                work.n_cached += 1
            else:
                waiting[key] = [row]
                parts.append((text, image))
        made = self._pairs(asked, parts)
        self._engine.run([pair for pair in made if isinstance(pair, Pair)], work)
        for (key, rows), pair in zip(waiting.items(), made, strict=True):
            error = pair.error if isinstance(pair, Pair) else pair
            if error is not None:
                work.failures.update({row: f"{type(error).__name__}: {error}" for row in rows})
            elif isinstance(pair, Pair):
                scores[rows] = pair.score
                if pair.score == pair.score:
                    self._cache.put(key, pair.score)
        return scores

    def forget(self) -> None:
        """Drop the remembered scores, as a measurement must."""
        self._cache.clear()

    def _query(self, query: Any) -> tuple[str | None, Any]:
        raise NotImplementedError

    def _parts(self, document: Candidate) -> tuple[str | None, Any]:
        raise NotImplementedError

    def _pairs(
        self, query: tuple[str | None, Any], parts: Sequence[tuple[str | None, Any]]
    ) -> list[Pair | Exception]:
        raise NotImplementedError

    def _lacks(self) -> str:
        return "has no text or image"
