"""Hard negatives: what the collection's own search puts near a query, under its filter, and is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vstore.errors import InvalidInput
from vstore.rerank.documents import candidate_of
from vstore.rerank.score_cache import digest
from vstore.rerank.train.queries import Searched, TrainQuery
from vstore.types import Candidate, Hit, Key


@dataclass(frozen=True, slots=True)
class Mined:
    """One query with its documents. `doubtful` ids are neither positive nor safely negative."""

    query: TrainQuery
    positives: tuple[Candidate, ...]
    negatives: tuple[Candidate, ...]
    """Hardest first."""
    ranked: tuple[Candidate, ...]
    """The first stage's hits, best first, whatever they are."""
    doubtful: frozenset[Key]


def mine(
    collection: Searched,
    queries: Sequence[TrainQuery],
    *,
    depth: int = 100,
    guard: float | None = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> list[Mined]:
    """Return for each query its positives, and the hits of its own filtered search that are none.

    Left out of the negatives: documents equal in text and image to a positive, and hits that score above
    `guard` of the way from the lowest hit to the best positive among the hits, for they may be answers that
    nobody labelled (a positive-aware limit as in Moreira et al. 2024, free of the metric's scale). Without a
    positive among the hits there is nothing to compare with, and all are kept.

    Args:
        collection: searched through its public face.
        queries: with positives.
        depth: hits of each search.
        guard: above 0 and at most 1; None keeps every hit.
        progress: called with (queries done, of all).

    Raises:
        InvalidInput: a positive that the collection does not have. One that fails the query's own filter is
            taken as it is labelled.
    """
    found = []
    for position, query in enumerate(queries):
        ids = list(dict.fromkeys(query.positives))
        records = collection.get(ids)
        missing = [key for key, record in zip(ids, records, strict=True) if record is None]
        if missing:
            raise InvalidInput(
                f"query {position} names the positive {missing[0]!r}, which the collection does not have"
            )
        hits = collection.search(query.vector, k=depth, filter=query.filter)
        positives = tuple(_candidate(record) for record in records)
        found.append(_sorted_out(query, positives, hits, guard))
        if progress is not None:
            progress(position + 1, len(queries))
    return found


def _sorted_out(
    query: TrainQuery, positives: tuple[Candidate, ...], hits: Sequence[Hit], guard: float | None
) -> Mined:
    ranked = tuple(candidate_of(hit) for hit in hits)
    known = {candidate.id for candidate in positives}
    contents = {digest(each.text, each.image) for each in positives}
    best = max((hit.score for hit in hits if hit.id in known), default=None)
    limit = float("inf")
    if guard is not None and best is not None:
        low = min(hit.score for hit in hits)
        limit = low + guard * (best - low)
    negatives, doubtful = [], set()
    for hit, candidate in zip(hits, ranked, strict=True):
        if candidate.id in known:
            continue
        if hit.score > limit or digest(candidate.text, candidate.image) in contents:
            doubtful.add(candidate.id)
        else:
            negatives.append(candidate)
    return Mined(query, positives, tuple(negatives), ranked, frozenset(doubtful))


def _candidate(record: Any) -> Candidate:
    hit = Hit(record.id, 0.0, 0.0, record.attributes, record.document, float("nan"), -1)
    return candidate_of(hit)
