"""What a server asks of a collection beside its face: searches checked first, and answered together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vstore.collection import Collection
from vstore.filters import FilterLike
from vstore.ingest.view import CollectionView
from vstore.query.alone import RowsOfOne
from vstore.query.request import SearchRequest, check_queries
from vstore.query.together import search_together
from vstore.shard.reader import Shard
from vstore.types import Float32s, Hits

MOST_US = 2_000.0
"""So long may an answer from memory keep an event loop from its sockets, by the planner's estimate."""


@dataclass(slots=True, eq=False)
class CheckedSearch:
    """A search whose arguments hold, and the state of the collection that it was checked against."""

    collection: Collection
    view: CollectionView[Shard]
    request: SearchRequest

    @property
    def group(self) -> tuple[Any, ...]:
        """What is equal for searches that can be answered together, while they are alive."""
        request = self.request
        return id(self.view), id(request.filter), request.k, request.recall, request.ef


def checked_search(
    collection: Collection, query: Any, k: Any, filter: FilterLike, recall: Any, ef: Any
) -> CheckedSearch:
    """Return a search, with its arguments checked as `Collection.search` checks them.

    Raises: what `Collection.search` raises for bad arguments.
    """
    view = collection._view()
    return CheckedSearch(collection, view, collection._request(view, query, k, filter, recall, ef))


def checked_searches(
    collection: Collection, queries: Float32s, k: Any, recall: Any, ef: Any
) -> list[CheckedSearch] | None:
    """Return searches without a filter that differ in the vector alone, as `checked_search` returns each.

    None where a vector must be looked at closely, and may be at fault: then check each by itself.

    Args:
        collection: what they are of.
        queries: float32[m, d], at least one.
        k, recall, ef: as `Collection.search` takes them.

    Raises: what `Collection.search` raises for bad arguments.
    """
    view = collection._view()
    kept = check_queries(queries, view.schema)
    if kept is None:
        return None
    _, k, filter, recall, ef = collection._request(view, kept[0], k, None, recall, ef)
    return [CheckedSearch(collection, view, SearchRequest(one, k, filter, recall, ef)) for one in kept]


def answer_from_memory(searches: Sequence[CheckedSearch], most_us: float = MOST_US) -> Sequence[Hits | None]:
    """Answer searches of one group, at least one, without waiting for anything.

    Args:
        searches: with equal `group`.
        most_us: the longest that one of them may take, by the planner's estimate.

    Returns:
        Hits, as `Collection.search` gives them, or None for each that needs a read or too long.
    """
    first = searches[0]
    requests = [search.request for search in searches]
    collection = first.collection
    answers = search_together(first.view, requests, collection._engine, collection._resident, most_us)
    return [None] * len(requests) if answers is None else answers


def receipt_parts(hits: Hits) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the receipt's fields that all of its kind share, and those of this answer alone, by name.

    The shared ones are the same map each time, to be changed by nobody: what is made of it can be kept.
    None where it has no kind.

    Args:
        hits: as `answer_from_memory` gave them; what was changed since is not seen.
    """
    rows = hits._rows
    return rows.receipt_parts() if type(rows) is RowsOfOne else None
