"""Ask again where a store was unavailable."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from vstore.errors import StoreUnavailable
from vstore.settings import Sleep, require, system_sleep
from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.retries import count_retry
from vstore.storage.wrappers.forward import ForwardingStore

Answer = TypeVar("Answer")


class RetryStore(ForwardingStore):
    """Repeats a call that raised StoreUnavailable, after a jittered, doubling wait; other errors pass.

    Repeating a put_if_absent is safe: a store accepts the same bytes again. S3Store already has botocore's
    retries, and needs this for longer outages only.

    Args:
        inner: the store.
        n_retries: further attempts, after the first.
        first_wait_s: the longest first wait; a wait is uniform between nothing and its longest.
        longest_wait_s: no wait is longer.
        sleep: waits.
        rng: draws the jitter.

    Raises:
        InvalidSetting: a negative argument.
    """

    def __init__(
        self,
        inner: ObjectStore,
        n_retries: int = 5,
        first_wait_s: float = 0.05,
        longest_wait_s: float = 5.0,
        sleep: Sleep = system_sleep,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(inner)
        require(n_retries >= 0, f"n_retries is {n_retries}; it must be 0 or more")
        require(
            0 <= first_wait_s <= longest_wait_s,
            f"first_wait_s is {first_wait_s} and longest_wait_s {longest_wait_s}; 0 <= first <= longest",
        )
        self._n_retries = n_retries
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._sleep = sleep
        self._rng = rng or random.Random()

    def _again(self, call: Callable[[], Answer], n_requests: Callable[[], int] = lambda: 1) -> Answer:
        for attempt in range(self._n_retries):
            try:
                return call()
            except StoreUnavailable:
                longest = min(self._longest_wait_s, self._first_wait_s * 2.0**attempt)
                count_retry(n_requests())
                self._sleep(self._rng.uniform(0, longest))
        return call()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range."""
        return self._again(lambda: self.inner.get(key, start, length))

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range; all are read again where one failed."""
        return self._again(lambda: self.inner.get_many(ranges), lambda: len(self.plan(ranges)))

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole."""
        self._again(lambda: self.inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists."""
        self._again(lambda: self.inner.put_if_absent(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None."""
        return self._again(lambda: self.inner.head(key))

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted."""
        return self._again(lambda: self.inner.list(prefix))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        self._again(lambda: self.inner.delete(keys))
