"""Requests that differ from an earlier one in the query's vector alone: what is beside it is read once.

A caller asks the same of many vectors: the bytes before and behind the vector are the same, and so mean the
same. Equal bytes are the whole proof; whatever is not equal is read as any request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vstore.types import Float32s
from vstore_server.codec import Message
from vstore_server.plain import PlainSearch

MOST_KINDS = 4
"""Kinds of requests that one stream is known for."""
_FLOAT32 = np.dtype("<f4")


class Kind(NamedTuple):
    """A plain search but for its vector: the bytes around that, and what they say."""

    before: bytes
    behind: bytes
    size: int
    search: PlainSearch
    timeout_s: float | None

    def fits(self, data: bytes) -> bool:
        """Whether a request is of this kind."""
        return len(data) == self.size and data.startswith(self.before) and data.endswith(self.behind)

    def search_of(self, data: bytes) -> PlainSearch:
        """Return a request of this kind."""
        _, _, k, recall, ef, at_least = search = self.search
        vector = np.frombuffer(data[len(self.before) : self.size - len(self.behind)], _FLOAT32)
        return PlainSearch(search.collection, vector, k, recall, ef, at_least)

    def vectors_of(self, requests: Iterable[bytes]) -> Float32s:
        """float32[m, d], the vectors of requests of this kind, at least one."""
        start, end = len(self.before), self.size - len(self.behind)
        joined = b"".join([data[start:end] for data in requests])
        return np.frombuffer(joined, _FLOAT32).reshape(-1, (end - start) // _FLOAT32.itemsize)


class Kinds:
    """The kinds of requests that came lately over one stream; the last is tried first."""

    def __init__(self) -> None:
        self._known: list[Kind] = []

    def find(self, data: bytes) -> tuple[PlainSearch, float | None] | None:
        """Return a request as a plain search with its own vector, and its timeout; None for a new kind."""
        kind = self.kind_of(data)
        return None if kind is None else (kind.search_of(data), kind.timeout_s)

    def kind_of(self, data: bytes) -> Kind | None:
        """Return the kind of a request; None for a new one."""
        for place, kind in enumerate(self._known):
            if kind.fits(data):
                if place:
                    self._known.insert(0, self._known.pop(place))
                return kind
        return None

    def learn(self, data: bytes, message: Message, search: PlainSearch, timeout_s: float | None) -> None:
        """Remember what a request said, for those that are equal but for the vector.

        Args:
            data: the request.
            message: it, decoded.
            search: it, read.
            timeout_s: the deadline that it had.
        """
        vector: bytes = message["query"]["data"]
        start = data.find(vector)
        if not vector or data.find(vector, start + 1) >= 0:
            # Which of the places is the vector's nobody knows.
            return
        end = start + len(vector)
        self._known.insert(0, Kind(data[:start], data[end:], len(data), search, timeout_s))
        del self._known[MOST_KINDS:]
