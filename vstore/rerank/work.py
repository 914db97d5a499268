"""What a model did for one call, on its way from the model to the stage's report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


class DeadlinePassed(Exception):
    """The stage's deadline passed while a model worked; the stage catches it."""


@dataclass(slots=True)
class Work:
    """The work of one call of a model. A model adds to `current()`; what it does not say stays 0.

    `n_tokens` are tokens that carry something and `n_padded_tokens` those of the batches with padding.
    `wait_ms` is the wait for the device, `decode_ms` the reading and scaling of images (over threads),
    `forward_ms` this call's part of the batches' time. `n_queries_merged` is the greatest number of
    calls that shared a batch with this one, itself counted. `failures` has the reason, by the position
    of the document in the call. `deadline_s` is a time of `time.perf_counter`, None for no limit.
    """

    n_pairs: int = 0
    n_cached: int = 0
    n_batches: int = 0
    n_tokens: int = 0
    n_padded_tokens: int = 0
    n_queries_merged: int = 0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    forward_ms: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)
    deadline_s: float | None = None

    @property
    def padding_share(self) -> float:
        """Padding / all tokens of the batches; 0 where nothing was counted."""
        return 1.0 - self.n_tokens / self.n_padded_tokens if self.n_padded_tokens else 0.0

    def left_s(self, now_s: float | None = None) -> float | None:
        """Return the seconds until the deadline, 0 where it passed, or None where there is none."""
        if self.deadline_s is None:
            return None
        return max(self.deadline_s - (time.perf_counter() if now_s is None else now_s), 0.0)


_CURRENT: ContextVar[Work | None] = ContextVar("vstore_rerank_work", default=None)


def current() -> Work:
    """Return the record of the call that runs; one that nobody reads outside a stage."""
    work = _CURRENT.get()
    return Work() if work is None else work


@contextmanager
def recording(work: Work) -> Iterator[Work]:
    """Make `work` the current one in this thread, until the block ends."""
    token = _CURRENT.set(work)
    try:
        yield work
    finally:
        _CURRENT.reset(token)
