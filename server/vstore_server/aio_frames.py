"""The asynchronous client's quick way: what its tasks ask in the same moment goes in one message.

A message of grpcio costs either end more than a search does, so callers share them: one stream of `Frames`,
many calls under way on it, each answered as soon as the server can. Whatever goes wrong here is left to the
ordinary call, which says what it was: only calls that may run twice come this way.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from vstore_server.dial import Dial
from vstore_server.errors import DeadlineExceeded, MalformedMessage
from vstore_server.express import GRACE_S, REST_S
from vstore_server.frames import METHOD, MOST_CALLS, MOST_UNDER_WAY, pack_requests, unpack_answers
from vstore_server.messages import path_of

_Future = asyncio.Future["bytes | None"]


class AsyncFrames:
    """One stream of one channel that many calls share. Belongs to one event loop.

    Args:
        channel: of grpc.aio.
        dial: whose metadata the stream carries.
    """

    def __init__(self, channel: Any, dial: Dial) -> None:
        self._stub = channel.stream_stream(path_of(METHOD))
        self._metadata = dial.metadata
        self._futures: dict[int, _Future] = {}
        self._until_s: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        """One for all calls, which all have the same time; it is that of the one that was first when it was
        set."""
        self._numbers: list[int] = []
        self._requests: list[bytes] = []
        self._given_up: list[int] = []
        self._next = 0
        self._changed = asyncio.Event()
        self._carrying: asyncio.Task[None] | None = None
        self._stream: Any = None
        self._rests_until_s = 0.0
        self._closed = False
        self.is_known = True
        """Whether the server has such streams, as far as its version tells."""

    async def ask(self, request: bytes, timeout_s: float | None) -> bytes | None:
        """Return the answer to a request, or None where the ordinary way must be taken.

        Raises:
            DeadlineExceeded: the time is over.
        """
        if not self.is_known or self._closed or len(self._futures) >= MOST_UNDER_WAY:
            return None
        if self._rests_until_s and time.monotonic() < self._rests_until_s:
            return None
        loop = asyncio.get_running_loop()
        number = self._next = self._next + 1
        future: _Future = loop.create_future()
        self._futures[number] = future
        self._numbers.append(number)
        self._requests.append(request)
        self._changed.set()
        if self._carrying is None:
            self._carrying = loop.create_task(self._carry())
        if timeout_s is not None:
            # The server ends an overdue call itself; this is for one that does not answer at all.
            self._until_s[number] = until_s = loop.time() + timeout_s + GRACE_S
            if self._timer is None:
                self._timer = loop.call_at(until_s, self._look_at_times, loop)
        try:
            return await future
        except TimeoutError:
            self._give_up(number)
            raise DeadlineExceeded(f"the call took longer than {timeout_s:g} s") from None
        except asyncio.CancelledError:
            self._give_up(number)
            raise
        finally:
            self._futures.pop(number, None)
            self._until_s.pop(number, None)

    async def close(self) -> None:
        """End the stream, and what waits for it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._carrying is not None:
            if self._stream is None:
                self._carrying.cancel()
            else:
                # Its reader ends with it; one that is cancelled leaves grpcio something to tell the loop,
                # which may be closed by then.
                self._stream.cancel()
            await asyncio.wait((self._carrying,))

    def _look_at_times(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls whose time is over, and look again when the next one's is."""
        now_s, self._timer = loop.time(), None
        for number, until_s in self._until_s.items():
            if until_s <= now_s and number in self._futures:
                _overdue(self._futures[number])
        left = [until_s for until_s in self._until_s.values() if until_s > now_s]
        if left:
            self._timer = loop.call_at(min(left), self._look_at_times, loop)

    def _give_up(self, number: int) -> None:
        """Have the server told that nobody waits for a call any more."""
        if number in self._numbers:
            at = self._numbers.index(number)
            del self._numbers[at], self._requests[at]
        else:
            self._given_up.append(number)
            self._changed.set()

    async def _carry(self) -> None:
        """Carry calls and answers over one stream until it ends; nothing is left waiting then."""
        stream = self._stream = self._stub(metadata=self._metadata)
        writer = asyncio.ensure_future(self._write(stream))
        was_answered = False
        try:
            while (data := await stream.read()) is not grpc.aio.EOF:
                was_answered = True
                for number, answer in zip(*unpack_answers(data), strict=True):
                    future = self._futures.get(number)
                    if future is not None and not future.done():
                        future.set_result(answer)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, MalformedMessage):
            pass
        finally:
            writer.cancel()
            stream.cancel()
            self._carrying = self._stream = None
            self._numbers, self._requests, self._given_up = [], [], []
            if not was_answered:
                # Refused, or no server of this kind: the ordinary call says which.
                self._rests_until_s = time.monotonic() + REST_S
            for future in self._futures.values():
                if not future.done():
                    future.set_result(None)
            self._futures = {}

    async def _write(self, stream: Any) -> None:
        """Send what was asked since the last message, whenever something was."""
        try:
            while True:
                await self._changed.wait()
                numbers, self._numbers = self._numbers[:MOST_CALLS], self._numbers[MOST_CALLS:]
                requests, self._requests = self._requests[:MOST_CALLS], self._requests[MOST_CALLS:]
                given_up, self._given_up = self._given_up, []
                if not self._numbers:
                    self._changed.clear()
                if numbers or given_up:
                    await stream.write(pack_requests(numbers, requests, given_up))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader hears of it, too.
            stream.cancel()


def _overdue(future: _Future) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
