"""Make a near store answer like a far one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from vstore.settings import Sleep, require, system_sleep
from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.wrappers.forward import ForwardingStore


@dataclass(frozen=True, slots=True)
class StoreLatency:
    """How long requests take: log-normal around the medians, and bytes at a bandwidth.

    Raises:
        InvalidSetting: a negative time, or no bandwidth or concurrency.
    """

    get_ms: float = 20.0
    put_ms: float = 40.0
    list_ms: float = 40.0
    sigma: float = 0.4
    """Standard deviation of the logarithm; 0: always the median."""
    bytes_per_s: float = math.inf
    """Of one connection."""
    concurrency: int = 32
    """Requests of a `get_many` that are in flight at once."""

    def __post_init__(self) -> None:
        require(
            min(self.get_ms, self.put_ms, self.list_ms, self.sigma) >= 0,
            f"{self}: get_ms, put_ms, list_ms and sigma must be 0 or more",
        )
        require(self.bytes_per_s > 0, f"bytes_per_s is {self.bytes_per_s}; it must be above 0")
        require(self.concurrency >= 1, f"concurrency is {self.concurrency}; it must be 1 or more")


class LatencyStore(ForwardingStore):
    """Sleeps once for each call, as long as its requests would have taken.

    Args:
        inner: the store.
        latency: how long requests take.
        sleep: waits; inject one that adds up to simulate without waiting.
        rng: draws the times; default: seeded with 0.
    """

    def __init__(
        self,
        inner: ObjectStore,
        latency: StoreLatency | None = None,
        sleep: Sleep = system_sleep,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(inner)
        self._latency = latency or StoreLatency()
        self._sleep = sleep
        self._rng = rng or random.Random(0)

    def _request_s(self, median_ms: float, n_bytes: int) -> float:
        spread = math.exp(self._rng.gauss(0.0, self._latency.sigma))
        return median_ms / 1000 * spread + n_bytes / self._latency.bytes_per_s

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range, later."""
        data = self.inner.get(key, start, length)
        if length != 0:
            self._sleep(self._request_s(self._latency.get_ms, len(data)))
        return data

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, after the time that the inner store's requests would take."""
        bodies = self.inner.get_many(ranges)
        # The moment at which each connection is free: a request takes the one that is free first.
        free = [0.0] * self._latency.concurrency
        for fetch in self.plan(ranges):
            size = len(bodies[fetch.parts[0]]) if fetch.range.length is None else fetch.range.length
            first = free.index(min(free))
            free[first] += self._request_s(self._latency.get_ms, size)
        if max(free) > 0:
            self._sleep(max(free))
        return bodies

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole, later."""
        self._sleep(self._request_s(self._latency.put_ms, len(data)))
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists, later."""
        self._sleep(self._request_s(self._latency.put_ms, len(data)))
        self.inner.put_if_absent(key, data)

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None, later."""
        self._sleep(self._request_s(self._latency.get_ms, 0))
        return self.inner.head(key)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted, later."""
        self._sleep(self._request_s(self._latency.list_ms, 0))
        return self.inner.list(prefix)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects, later."""
        self._sleep(self._request_s(self._latency.put_ms, 0))
        self.inner.delete(keys)
