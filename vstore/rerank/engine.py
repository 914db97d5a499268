"""Batches across concurrent queries: one model, one queue, buckets by token count, a bounded queue.

A call hands in its pairs with their token counts and waits. A worker forms each batch around the
longest pair of the call that has waited longest, so that every call moves on with every batch and none
starves, and fills it with pairs of like length of any call. While the device works on one batch, threads
decode the images of the next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.cancel import check_cancelled, wait_s
from vstore.errors import RerankError
from vstore.rerank.work import DeadlinePassed, Work
from vstore.settings import require
from vstore.types import Float32s

IDLE_S = 5.0
"""A worker without work for so long ends; the next call starts another."""

Forward = Callable[[list[Any]], npt.ArrayLike]
Decode = Callable[[Any], Any]


@dataclass(slots=True, eq=False)
class Pair:
    """One (query, document) pair: what the model needs of it, and afterwards its score or why not."""

    n_tokens: int
    payload: Any
    score: float = float("nan")
    error: BaseException | None = None
    refused: bool = False
    """Decoding failed: the fault is the document's."""


@dataclass(slots=True, eq=False)
class _Call:
    pairs: list[Pair]
    work: Work
    submitted_s: float
    n_open: int
    pending: list[Pair] = field(default_factory=list)
    started: bool = False


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How batches are formed.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    tokens: int = 8192
    """Tokens of a batch, padding included; a longer pair goes alone."""
    pairs: int = 64
    alike: float = 0.75
    """A batch holds no pair shorter than this share of its longest, once it has `small_tokens`."""
    small_tokens: int = 512
    """Batches under so many tokens take shorter pairs too: padding costs less than another batch."""
    pads: bool = True
    """Whether the model pads a batch to its longest pair; where not, only the sum of tokens counts."""
    pending_pairs: int = 4096
    """The queue's bound: a call that finds it full waits, first come first served."""

    def __post_init__(self) -> None:
        limits = {"batch_tokens": self.tokens, "batch_size": self.pairs, "pending_pairs": self.pending_pairs}
        for name, value in limits.items():
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"{name} is {value!r}; it must be a whole number of 1 or more",
            )


def choose(calls: Sequence[Sequence[Pair]], limits: BatchLimits, n_workers: int = 1) -> list[Pair]:
    """Return the pairs of the next batch, longest first; `calls` are pending pairs, oldest call first.

    The batch always holds the longest pair of the oldest call, and nothing longer. Of several workers each
    takes its share of what is pending, down to a quarter of a batch, so that the last ones end together
    (guided self-scheduling: Polychronopoulos & Kuck 1987).
    """
    oldest = next((call for call in calls if call), None)
    if oldest is None:
        return []
    anchor = max(oldest, key=lambda pair: pair.n_tokens)
    others = [
        (-pair.n_tokens, age, pair)
        for age, call in enumerate(calls)
        for pair in call
        if pair is not anchor and pair.n_tokens <= anchor.n_tokens
    ]
    others.sort(key=lambda each: each[:2])
    most = limits.tokens
    if n_workers > 1:
        share = -(-sum(pair.n_tokens for call in calls for pair in call) // n_workers)
        if share >= limits.tokens // 4:
            most = min(most, share)
    batch = [anchor]
    longest = max(anchor.n_tokens, 1)
    total = longest
    for _, _, pair in others:
        total += longest if limits.pads else pair.n_tokens
        if len(batch) == limits.pairs or total > most:
            break
        if limits.pads and pair.n_tokens < limits.alike * longest and total > limits.small_tokens:
            break
        batch.append(pair)
    return batch


class Engine:
    """Scores pairs of many threads. Made by a model; `run` is safe to call from any thread.

    Args:
        name: the model's, for messages and the threads' names.
        forward: payloads (decoded, where there is `decode`) of a batch -> one finite number each.
        limits: of the batches and the queue.
        decode: payload -> what `forward` takes; runs on threads, and what it raises fails its pair alone.
        n_decode_threads: of them.
        n_workers: batches in `forward` at once; 2 where it divides a batch over threads of its own, so that
            none waits for the last of a batch. One is right for a device.
        is_out_of_memory: whether an error of `forward` means that the batch was too large.
    """

    def __init__(
        self,
        name: str,
        forward: Forward,
        limits: BatchLimits,
        *,
        decode: Decode | None = None,
        n_decode_threads: int = 4,
        n_workers: int = 1,
        is_out_of_memory: Callable[[BaseException], bool] = lambda error: isinstance(error, MemoryError),
    ) -> None:
        self.name = name
        self.limits = limits
        self._forward = forward
        self._decode = decode
        self._n_decode_threads = n_decode_threads
        self._n_workers = n_workers
        self._is_out_of_memory = is_out_of_memory
        self._changed = threading.Condition()
        self._calls: list[_Call] = []
        self._owner: dict[int, _Call] = {}
        self._waiting: deque[object] = deque()
        self._n_pending = 0
        self._workers: set[threading.Thread] = set()

    def run(self, pairs: Sequence[Pair], work: Work) -> None:
        """Score pairs in place, and say in `work` what it took; a pair that failed has its `error`.

        Raises:
            DeadlinePassed: `work.deadline_s` came first; what was not begun is dropped.
            RerankError: the model failed on every pair.
        """
        if not pairs:
            return
        call = _Call(list(pairs), work, time.perf_counter(), len(pairs), pending=list(pairs))
        with self._changed:
            self._admit(call)
            try:
                while call.n_open:
                    if not self._changed.wait(wait_s(work.left_s())) and call.n_open:
                        check_cancelled()
                        if work.left_s() == 0.0:
                            raise DeadlinePassed
            except BaseException:
                self._drop(call)
                raise
        faults = [pair.error for pair in call.pairs if pair.error is not None and not pair.refused]
        if len(faults) == len(call.pairs):
            fault = faults[0]
            raise RerankError(
                f"{self.name} failed on all {len(faults)} documents: {type(fault).__name__}: {fault}"
            ) from fault

    # Called with the lock held.

    def _admit(self, call: _Call) -> None:
        ticket = object()
        self._waiting.append(ticket)
        try:
            while self._waiting[0] is not ticket or (
                self._n_pending and self._n_pending + len(call.pairs) > self.limits.pending_pairs
            ):
                if not self._changed.wait(wait_s(call.work.left_s())):
                    check_cancelled()
                    if call.work.left_s() == 0.0:
                        raise DeadlinePassed
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()
        self._n_pending += len(call.pairs)
        self._calls.append(call)
        for pair in call.pairs:
            self._owner[id(pair)] = call
        if len(self._workers) < self._n_workers:
            worker = threading.Thread(target=self._work, name=f"rerank {self.name}", daemon=True)
            self._workers.add(worker)
            worker.start()
        self._changed.notify_all()

    def _drop(self, call: _Call) -> None:
        self._n_pending -= len(call.pending)
        call.n_open = 0
        call.pending.clear()
        self._forget(call)

    def _forget(self, call: _Call) -> None:
        if call in self._calls:
            self._calls.remove(call)
        for pair in call.pairs:
            self._owner.pop(id(pair), None)
        self._changed.notify_all()

    def _take(self, wait: bool) -> list[Pair]:
        while True:
            batch = choose([call.pending for call in self._calls], self.limits, self._n_workers)
            if batch or not wait:
                break
            if not self._changed.wait(IDLE_S) and not self._calls:
                self._workers.discard(threading.current_thread())
                return []
        now_s = time.perf_counter()
        for pair in batch:
            call = self._owner[id(pair)]
            call.pending.remove(pair)
            self._n_pending -= 1
            if not call.started:
                call.started = True
                call.work.wait_ms = (now_s - call.submitted_s) * 1e3
        if batch:
            self._changed.notify_all()
        return batch

    # The worker.

    def _work(self) -> None:
        pool = ThreadPoolExecutor(self._n_decode_threads) if self._decode is not None else None
        ahead: tuple[list[Pair], list[Future[Any]]] | None = None
        try:
            while True:
                with self._changed:
                    batch = self._take(wait=ahead is None)
                if not batch and ahead is None:
                    return
                if pool is None:
                    self._finish(batch, [pair.payload for pair in batch])
                    continue
                begun = [pool.submit(self._decoded, pair) for pair in batch]
                if ahead is not None:
                    self._finish(ahead[0], [future.result() for future in ahead[1]])
                ahead = (batch, begun) if batch else None
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            if pool is not None:
                pool.shutdown(wait=False)

    def _give_up(self, error: BaseException) -> None:
        # Nobody may wait for a worker that is gone.
        with self._changed:
            self._workers.discard(threading.current_thread())
            for call in tuple(self._calls):
                for pair in call.pairs:
                    if pair.score != pair.score:
                        pair.error = pair.error or error
                self._drop(call)

    def _decoded(self, pair: Pair) -> Any:
        assert self._decode is not None
        started_s = time.perf_counter()
        decoded: Any = None
        try:
            decoded = self._decode(pair.payload)
        except Exception as error:  # Whatever a broken document makes a codec raise is that document's.
            pair.error = error
            pair.refused = True
        with self._changed:
            call = self._owner.get(id(pair))
            if call is not None:
                call.work.decode_ms += (time.perf_counter() - started_s) * 1e3
        return decoded

    def _finish(self, batch: list[Pair], payloads: list[Any]) -> None:
        good = [(pair, payload) for pair, payload in zip(batch, payloads, strict=True) if pair.error is None]
        if good:
            self._score([pair for pair, _ in good], [payload for _, payload in good])
        with self._changed:
            for pair in batch:
                call = self._owner.get(id(pair))
                if call is not None:
                    call.n_open -= 1
                    if not call.n_open:
                        self._forget(call)
            self._changed.notify_all()

    def _score(self, pairs: list[Pair], payloads: list[Any]) -> None:
        started_s = time.perf_counter()
        try:
            scores = self._checked(self._forward(payloads), len(pairs))
        except Exception as error:
            if len(pairs) == 1:
                pairs[0].error = error
                return
            failure = error
        else:
            for pair, score in zip(pairs, scores.tolist(), strict=True):
                pair.score = score
            self._account(pairs, (time.perf_counter() - started_s) * 1e3)
            return
        half = len(pairs) // 2
        if self._is_out_of_memory(failure):
            # The next batches are small enough from the start.
            smaller = max(half * max(pair.n_tokens for pair in pairs), 1)
            if smaller < self.limits.tokens:
                self.limits = replace(self.limits, tokens=smaller)
        del failure
        # One pair that a model falls over must not sink the rest.
        self._score(pairs[:half], payloads[:half])
        self._score(pairs[half:], payloads[half:])

    def _checked(self, values: npt.ArrayLike, n: int) -> Float32s:
        scores = np.asarray(values, dtype=np.float32)
        if scores.shape != (n,):
            raise RerankError(f"{self.name} gave scores of shape {scores.shape} for a batch of {n} pairs")
        return scores

    def _account(self, pairs: list[Pair], spent_ms: float) -> None:
        longest = max(pair.n_tokens for pair in pairs)
        total = max(sum(pair.n_tokens for pair in pairs), 1)
        with self._changed:
            calls = {id(call): call for pair in pairs if (call := self._owner.get(id(pair))) is not None}
            for call in calls.values():
                call.work.n_batches += 1
                call.work.n_queries_merged = max(call.work.n_queries_merged, len(calls))
            for pair in pairs:
                owner = self._owner.get(id(pair))
                if owner is not None:
                    owner.work.n_pairs += 1
                    owner.work.n_tokens += pair.n_tokens
                    owner.work.n_padded_tokens += longest if self.limits.pads else pair.n_tokens
                    owner.work.forward_ms += spent_ms * pair.n_tokens / total
