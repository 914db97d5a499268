"""What a query may take: its deadline, its reads, and the caller's change of mind."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from vstore.cancel import checking, current_check
from vstore.errors import QueryCancelled, QueryLimitExceeded, QueryTimeout
from vstore.settings import QueryLimits
from vstore.storage.base import ByteRange, ObjectStore
from vstore.storage.wrappers.forward import ForwardingStore

T = TypeVar("T")


@contextmanager
def watching(limits: QueryLimits) -> Iterator[None]:
    """Have the work of the block end at the limits' deadline, and where they are cancelled.

    Not with `partial`: who asks for what was found until then has it from the steps of a search that reads.

    Raises: QueryTimeout, QueryCancelled; and what an outer check raises.
    """
    if limits.partial or (limits.cancel is None and limits.deadline_ms is None):
        yield
        return
    started, outer = time.monotonic(), current_check()

    def check() -> None:
        if outer is not None:
            outer()
        left_s(limits, started)

    with checking(check):
        yield


def left_s(limits: QueryLimits, started: float) -> float | None:
    """Return the seconds left to a query that began at a `time.monotonic()`; None without a deadline.

    Raises: QueryTimeout, QueryCancelled.
    """
    if limits.cancel is not None and limits.cancel.cancelled:
        raise QueryCancelled("the query was cancelled; what it had read is in the cache")
    if limits.deadline_ms is None:
        return None
    left = limits.deadline_ms / 1e3 - (time.monotonic() - started)
    if left <= 0:
        raise QueryTimeout(
            f"the query took longer than deadline_ms={limits.deadline_ms:g}: raise it, "
            "warm the collection, or ask for partial=True"
        )
    return left


class WatchedStore(ForwardingStore):
    """A store as one query sees it: reads end at the query's deadline, and are refused beyond its limits.

    A read that is waited for in vain goes on in its thread, and what it brings is thrown away.

    Args:
        inner: the store.
        limits: of the query; its time begins now.

    Raises (every read): QueryTimeout, QueryCancelled, QueryLimitExceeded.
    """

    def __init__(self, inner: ObjectStore, limits: QueryLimits) -> None:
        super().__init__(inner)
        self._limits = limits
        self._started = time.monotonic()
        self._n_requests = 0
        self._n_bytes = 0

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range."""
        self._spend(1, length or 0)
        return self._waited(lambda: self.inner.get(key, start, length))

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range."""
        requests = self.plan(ranges)
        self._spend(len(requests), sum(request.range.length or 0 for request in requests))
        return self._waited(lambda: self.inner.get_many(ranges))

    def _spend(self, n_requests: int, n_bytes: int) -> None:
        limits = self._limits
        self._check()
        for name, wanted, limit in (
            ("max_requests", self._n_requests + n_requests, limits.max_requests),
            ("max_bytes", self._n_bytes + n_bytes, limits.max_bytes),
        ):
            if limit is not None and wanted > limit:
                raise QueryLimitExceeded(
                    f"the next read would make {wanted} of {name}={limit}: raise the limit, "
                    "warm the collection, or ask for partial=True"
                )
        self._n_requests += n_requests
        self._n_bytes += n_bytes

    def _check(self) -> float | None:
        """Return the seconds that are left, None without a deadline."""
        return left_s(self._limits, self._started)

    def _waited(self, read: Callable[[], T]) -> T:
        limits = self._limits
        if limits.deadline_ms is None and limits.cancel is None:
            return read()
        pool = ThreadPoolExecutor(1, thread_name_prefix="vstore-watched")
        done: Future[T] = pool.submit(contextvars.copy_context().run, read)
        pool.shutdown(wait=False)
        waited: list[Future[Any]] = [done]
        if limits.cancel is not None:
            waited.append(limits.cancel.future)
        while not done.done():
            left = self._check()
            wait(waited, timeout=left, return_when=FIRST_COMPLETED)
        return done.result()
