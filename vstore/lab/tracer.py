"""Traces of a collection's own queries, to be served again through other caches and from other stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vstore.cache import BlockKey
from vstore.lab.driver import QueryTrace
from vstore.lab.layouts import Placement
from vstore.lab.trace import Trace
from vstore.query.recording import RecordedRound
from vstore.storage.base import ByteRange
from vstore.types import Hits

if TYPE_CHECKING:
    from vstore.collection import Collection

_APART: Final = 1 << 42
"""Bytes from the start of one shard's object to the next one's: no request spans two."""
_COUNTERS: Final = ("n_distances", "n_hops", "n_filter_checks", "n_rescored", "n_skipped")
_DECISIONS: Final = ("ef", "n_seeds", "n_candidates", "n_matching")


class Tracer:
    """Searches a collection and keeps what every query did. Not thread-safe.

    A traced query sees what it has asked for and nothing else (`Collection.record`), so that its rounds do
    not depend on the cache. Queries that are not traced pay nothing.

    Args:
        collection: an embedded one.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._queries: list[QueryTrace] = []
        self._units: dict[BlockKey, int] = {}
        self._shards: dict[str, int] = {}
        self._starts: list[int] = []
        self._sizes: list[int] = []

    def search(
        self, query: Any, k: int = 10, filter: Any = None, *, recall: float = 0.95, ef: int | None = None
    ) -> Hits:
        """As `Collection.search`, without re-ranking; what it did is added to the trace."""
        hits, rounds = self._collection.record(query, k, filter, recall=recall, ef=ef)
        plans = hits.receipt.plans
        names = dict.fromkeys(str(plan["traversal"]) for plan in plans)
        trace = QueryTrace(len(self._queries), " + ".join(names))
        for each in rounds:
            units = [self._unit(*block) for block in each.blocks]
            trace.rounds.append(np.sort(np.array(units, np.int64)))
            trace.stages.append(each.stage)
            trace.live.append(_live(each))
        trace.keys = [hit.id for hit in hits]
        trace.distances = np.array([hit.distance for hit in hits], np.float32)
        trace.counters = {name: int(getattr(hits.receipt, name)) for name in _COUNTERS}
        for number, plan in enumerate(plans):
            where = f"shard {number}: " if len(plans) > 1 else ""
            trace.decisions |= {where + name: int(plan[name]) for name in _DECISIONS if name in plan}
        self._queries.append(trace)
        return hits

    @property
    def trace(self) -> Trace:
        """What was searched so far; its `placement` says where every block that was asked for lies."""
        sizes = np.array(self._sizes, np.int64)
        placement = Placement({}, np.array(self._starts, np.int64), sizes, tuple(self._units))
        return Trace(tuple(self._queries), sizes, placement)

    def _unit(self, key: BlockKey, part: ByteRange) -> int:
        unit = self._units.setdefault(key, len(self._units))
        if unit == len(self._sizes):
            shard = self._shards.setdefault(key.shard_id, len(self._shards))
            self._starts.append(shard * _APART + part.start)
            self._sizes.append(part.length or 0)
        return unit


def _live(recorded: RecordedRound) -> dict[str, int]:
    return {
        "n_hits": recorded.n_hits,
        "n_requests": recorded.n_requests,
        "bytes_fetched": recorded.bytes_fetched,
    }
