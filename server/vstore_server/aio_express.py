"""The asynchronous client's quick way: as `express`, over streams of its channel.

A unary call makes an HTTP/2 stream and ends it; on one that is there a call is a message each way, which
costs a server of grpcio less than half.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from vstore_server.dial import Dial
from vstore_server.errors import DeadlineExceeded
from vstore_server.express import GRACE_S, METHOD, MOST_STREAMS, REST_S
from vstore_server.messages import path_of


class AsyncExpress:
    """Streams of one channel, each lent to one call at a time. Belongs to one event loop.

    Args:
        channel: of grpc.aio.
        dial: whose metadata every stream carries.
    """

    def __init__(self, channel: Any, dial: Dial) -> None:
        self._stub = channel.stream_stream(path_of(METHOD))
        self._metadata = dial.metadata
        self._idle: list[Any] = []
        self._n_open = 0
        self._was_answered = False
        self._rests_until_s = 0.0
        self._closed = False

    async def ask(self, request: bytes, timeout_s: float | None) -> bytes | None:
        """Return the answer to a request of METHOD, or None where the ordinary way must be taken.

        Raises:
            DeadlineExceeded: the time is over.
        """
        stream = self._take()
        if stream is None:
            return None
        try:
            async with asyncio.timeout(None if timeout_s is None else timeout_s + GRACE_S):
                await stream.write(request)
                answer = await stream.read()
        except TimeoutError:
            self._drop(stream)
            raise DeadlineExceeded(f"the call took longer than {timeout_s:g} s") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            answer = grpc.aio.EOF
        except BaseException:
            # An answer may be under way that nobody waits for any more.
            self._drop(stream)
            raise
        if answer is grpc.aio.EOF:
            self._drop(stream)
            if not self._was_answered:
                # Refused, or no server of this kind: the ordinary call says which.
                self._rests_until_s = time.monotonic() + REST_S
            return None
        self._was_answered = True
        if self._closed:
            self._drop(stream)
        else:
            self._idle.append(stream)
        data: bytes = answer
        return data

    def close(self) -> None:
        """End every stream that no call has."""
        self._closed = True
        while self._idle:
            self._drop(self._idle.pop())

    def _take(self) -> Any:
        while self._idle:
            stream = self._idle.pop()
            if not stream.done():
                return stream
            self._drop(stream)
        if self._closed or self._n_open >= MOST_STREAMS or time.monotonic() < self._rests_until_s:
            return None
        self._n_open += 1
        return self._stub(metadata=self._metadata)

    def _drop(self, stream: Any) -> None:
        stream.cancel()
        self._n_open -= 1
