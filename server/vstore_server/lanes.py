"""Bounded work: so many threads, so many waiting, and turns that go round among tenants.

Kernels hold no GIL, so threads run them side by side; what exceeds threads and queue is refused at once
with a hint, rather than kept in memory until nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vstore_server.errors import ServerBusy, ServerUnavailable

T = TypeVar("T")
_WEIGHT = 0.1
"""Of the newest job in the running mean of how long jobs take."""


class Lane:
    """A pool of threads behind a fair queue. Methods but `run`'s job belong to one event loop.

    A tenant that waits has its turn after every other waiting tenant had one, however many requests
    the others queued; and no tenant may fill more than half of the queue.
    """

    def __init__(self, name: str, n_threads: int, max_waiting: int) -> None:
        self.name = name
        self._n_free = n_threads
        self.n_threads = n_threads
        self._max_waiting = max_waiting
        self._n_waiting = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix=f"vstore-{name}")
        self._mean_s = 0.005
        self._closed = False
        self.n_refused = 0
        """Requests turned away because the queue was full."""

    @property
    def n_waiting(self) -> int:
        """Requests that have no thread yet."""
        return self._n_waiting

    @property
    def n_running(self) -> int:
        """Requests that have a thread."""
        return self.n_threads - self._n_free

    async def run(self, tenant: str, job: Callable[[], T]) -> T:
        """Run the job on a thread when it is the tenant's turn, and return what it returns.

        Cancelled while it waits, the job never runs. Cancelled while it runs, its thread stays taken
        until it ends by itself.

        Raises:
            ServerBusy: the queue is full, or the tenant's half of it.
            ServerUnavailable: the lane is closed.
        """
        await self._turn(tenant)
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            future: Future[T] = self._pool.submit(job)
        except RuntimeError:
            self._release()
            raise ServerUnavailable("the server is shutting down; ask another, or come back") from None

        def finished(_: Future[T]) -> None:
            loop.call_soon_threadsafe(self._finished, time.perf_counter() - started)

        future.add_done_callback(finished)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Refuse new work and wait for what runs."""
        self._closed = True
        for queue in self._waiting.values():
            for future in queue:
                if not future.done():
                    future.set_exception(ServerUnavailable("the server is shutting down"))
        await asyncio.to_thread(self._pool.shutdown, wait=True)

    def retry_after_s(self) -> float:
        """Return about when a thread should be free for one more."""
        return max(0.01, self._mean_s * (self._n_waiting + 1) / self.n_threads)

    async def _turn(self, tenant: str) -> None:
        if self._closed:
            raise ServerUnavailable("the server is shutting down; ask another, or come back")
        if self._n_free > 0 and self._n_waiting == 0:
            self._n_free -= 1
            return
        held = len(self._waiting.get(tenant, ()))
        if self._n_waiting >= self._max_waiting or held >= max(1, self._max_waiting // 2):
            raise self._busy(held)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(future)
        self._n_waiting += 1
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                # The turn came in the moment in which the caller left.
                self._release()
            else:
                self._forget(tenant, future)
            raise

    def _busy(self, held: int) -> ServerBusy:
        self.n_refused += 1
        return busy(self.name, self._n_waiting, held, self._max_waiting, self.retry_after_s())

    def _forget(self, tenant: str, future: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and future in queue:
            queue.remove(future)
            self._n_waiting -= 1
            if not queue:
                del self._waiting[tenant]

    def _finished(self, took_s: float) -> None:
        self._mean_s += _WEIGHT * (took_s - self._mean_s)
        self._release()

    def _release(self) -> None:
        while self._waiting:
            tenant, queue = next(iter(self._waiting.items()))
            future = queue.popleft()
            self._n_waiting -= 1
            if queue:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            if not future.done():
                future.set_result(None)
                return
        self._n_free += 1


def busy(name: str, n_waiting: int, held: int, max_waiting: int, delay_s: float) -> ServerBusy:
    """Return the error of a full queue, with the time to come back."""
    error = ServerBusy(
        f"{n_waiting} {name} requests wait (yours: {held}; limit {max_waiting}, half of "
        f"it for one tenant); come back in {delay_s * 1e3:.0f} ms"
    )
    error.retry_after_s = delay_s
    return error
