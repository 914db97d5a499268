"""Knows when the last request has gone, so that a server that stops waits for requests and for nothing else.

grpcio waits for connections too, up to 20 seconds for one whose client reads nothing while it asks nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

_SETTLE_S = 0.05
"""The bytes of the last answer leave after its handler."""


class Active:
    """Counts the requests that are served. Belongs to one event loop."""

    def __init__(self) -> None:
        self.n = 0
        self._none = asyncio.Event()
        self._none.set()

    def counted(self, handle: Any) -> Any:
        """Return a handler, coroutine function or asynchronous generator, that is counted while it runs."""
        if inspect.isasyncgenfunction(handle):

            async def generator(request: Any, context: Any) -> AsyncIterator[bytes]:
                self._enter()
                try:
                    async for answer in handle(request, context):
                        yield answer
                finally:
                    self._leave()

            return generator

        async def coroutine(request: Any, context: Any) -> Any:
            self._enter()
            try:
                return await handle(request, context)
            finally:
                self._leave()

        return coroutine

    async def stop(self, server: Any, grace_s: float | None) -> None:
        """Stop a grpc.aio server: refuse new requests, wait for those that run, up to `grace_s`."""
        stopping = asyncio.ensure_future(server.stop(grace_s))
        none = asyncio.ensure_future(self._none.wait())
        await asyncio.wait({stopping, none}, return_when=asyncio.FIRST_COMPLETED)
        none.cancel()
        if not stopping.done():
            await asyncio.wait({stopping}, timeout=_SETTLE_S)
            await server.stop(None)
        await stopping

    def _enter(self) -> None:
        self.n += 1
        self._none.clear()

    def _leave(self) -> None:
        self.n -= 1
        if self.n == 0:
            self._none.set()
