"""Counts the requests that a store repeats, for the query that waits for them: receipts say what was paid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REPEATED: ContextVar[list[int] | None] = ContextVar("vstore_repeated_requests", default=None)


@contextmanager
def counted_retries() -> Iterator[list[int]]:
    """Yield a list that gets an entry for each repeat in this context: how many requests it sent again.

    Threads that read for the context must run in a copy of it (`contextvars.copy_context().run`).
    """
    repeated: list[int] = []
    token = _REPEATED.set(repeated)
    try:
        yield repeated
    finally:
        _REPEATED.reset(token)


def count_retry(n_requests: int = 1) -> None:
    """Say that requests are sent again."""
    repeated = _REPEATED.get()
    if repeated is not None:
        # Appending is atomic: many threads read for one query.
        repeated.append(n_requests)
