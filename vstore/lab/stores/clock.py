"""A discrete-event clock, and a store that answers on it."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from vstore.lab.stores.model import StoreModel

Action = Callable[[], None]


class Clock:
    """Virtual time in milliseconds. Actions run in order of time; those of one moment in order of arrival."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._due: list[tuple[float, int, Action]] = []
        self._number = itertools.count()

    def at(self, when_ms: float, action: Action) -> None:
        """Run `action` at a moment; one that has passed counts as now."""
        heapq.heappush(self._due, (max(when_ms, self.now_ms), next(self._number), action))

    def run(self) -> None:
        """Run until nothing is due."""
        while self._due:
            self.now_ms, _, action = heapq.heappop(self._due)
            action()


@dataclass(frozen=True, slots=True)
class _Request:
    latency_ms: float
    size_bytes: int
    ended: Action


class SimulatedStore:
    """Serves reads of a store model on a clock: first come, first served.

    Args:
        model: the store.
        clock: its time.
        rng: draws the latencies, in the order in which requests are submitted.
    """

    def __init__(self, model: StoreModel, clock: Clock, rng: np.random.Generator) -> None:
        self.model = model
        self._clock = clock
        self._rng = rng
        self._waiting: deque[_Request] = deque()
        self._n_in_flight = 0
        self._link_free_ms = 0.0
        self._processor_free_ms = 0.0
        # Until when the rate limit has given its turns away.
        self._turns_ms = -math.inf

    def read(self, sizes_bytes: Sequence[int], done: Action) -> None:
        """Submit requests now, all at once; `done` runs when the last byte of the last of them is there."""
        if not sizes_bytes:
            self._clock.at(self._clock.now_ms, done)
            return
        left = [len(sizes_bytes)]

        def ended() -> None:
            left[0] -= 1
            if left[0] == 0:
                done()

        drawn = self.model.latency.draw(self._rng, len(sizes_bytes)).tolist()
        for latency_ms, size in zip(drawn, sizes_bytes, strict=True):
            self._waiting.append(_Request(latency_ms, size, ended))
        self._send()

    def _send(self) -> None:
        """Send what waits for a connection, as far as there are free ones."""
        while self._waiting and self._n_in_flight < self.model.concurrency:
            request = self._waiting.popleft()
            self._n_in_flight += 1
            turn_ms = self._turn()
            if turn_ms > self._clock.now_ms:
                self._clock.at(turn_ms, lambda request=request: self._depart(request))  # type: ignore[misc]
            else:
                self._depart(request)

    def _turn(self) -> float:
        """Return when the rate limit lets the next request go."""
        now_ms = self._clock.now_ms
        if math.isinf(self.model.requests_per_s):
            return now_ms
        gap_ms = 1000 / self.model.requests_per_s
        self._turns_ms = max(self._turns_ms, now_ms) + gap_ms
        return max(now_ms, self._turns_ms - self.model.burst_requests * gap_ms)

    def _work(self, work_ms: float) -> float:
        """Return when the client's processor has done a piece of work that came now."""
        self._processor_free_ms = max(self._clock.now_ms, self._processor_free_ms) + work_ms
        return self._processor_free_ms

    def _depart(self, request: _Request) -> None:
        sent_ms = self._work(self.model.send_ms) if self.model.send_ms else self._clock.now_ms
        self._clock.at(sent_ms + request.latency_ms, lambda: self._receive(request))

    def _receive(self, request: _Request) -> None:
        """Bring a body over the link, its first byte being there."""
        now_ms = self._clock.now_ms
        link_ms = request.size_bytes / self.model.link_bytes_per_s * 1000
        self._link_free_ms = max(now_ms, self._link_free_ms) + link_ms
        alone_ms = now_ms + request.size_bytes / self.model.bytes_per_s * 1000
        self._clock.at(max(alone_ms, self._link_free_ms), lambda: self._arrive(request))

    def _arrive(self, request: _Request) -> None:
        if self.model.receive_ms:
            self._clock.at(self._work(self.model.receive_ms), lambda: self._end(request))
        else:
            self._end(request)

    def _end(self, request: _Request) -> None:
        self._n_in_flight -= 1
        request.ended()
        self._send()


def run_clients(
    store: SimulatedStore, clock: Clock, clients: Sequence[Generator[Sequence[int], None, None]]
) -> None:
    """Run clients side by side to their ends; each yields the sizes of a round of reads and waits for it."""

    def resume(client: Generator[Sequence[int], None, None]) -> None:
        for sizes in client:
            if sizes:
                store.read(sizes, lambda: resume(client))
                return

    for client in clients:
        clock.at(clock.now_ms, lambda client=client: resume(client))  # type: ignore[misc]
    clock.run()
