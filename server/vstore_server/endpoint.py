"""A few HTTP pages beside the gRPC port: /metrics for Prometheus, /livez and /readyz for orchestrators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from vstore.errors import InvalidSetting
from vstore_server.metrics import CONTENT_TYPE, Registry

MAX_HEAD_BYTES = 8192
TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
_TEXT = "text/plain; charset=utf-8"


class Endpoint:
    """Answers GET and HEAD requests, one a connection. Belongs to one event loop.

    Args:
        registry: what /metrics shows.
        is_ready: whether /readyz answers 200; /livez does while the loop runs at all.
    """

    def __init__(self, registry: Registry, is_ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self._n_connections = 0

    async def start(self, listen: str) -> str:
        """Listen on host:port and return the address.

        Raises:
            InvalidSetting: it cannot be listened on.
        """
        host, _, port = listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=MAX_HEAD_BYTES
            )
        except OSError:
            raise InvalidSetting(
                f"cannot listen on {listen} for metrics: it is taken, forbidden, or no address of this host"
            ) from None
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), TIMEOUT_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._n_connections += 1
        try:
            if self._n_connections <= MAX_CONNECTIONS:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
                writer.write(await self._answer(head))
                await asyncio.wait_for(writer.drain(), TIMEOUT_S)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # A client that sends no request, or too long a one, gets no answer.
            pass
        finally:
            self._n_connections -= 1
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        if len(parts) != 3 or parts[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "only GET and HEAD\n")
        path = parts[1].split(b"?", 1)[0]
        if path == b"/metrics":
            response = _response("200 OK", await asyncio.to_thread(self._registry.text), CONTENT_TYPE)
        elif path == b"/livez":
            response = _response("200 OK", "alive\n")
        elif path == b"/readyz":
            ready = self._is_ready()
            status = "200 OK" if ready else "503 Service Unavailable"
            response = _response(status, "ready\n" if ready else "draining\n")
        else:
            response = _response("404 Not Found", "there are /metrics, /livez and /readyz\n")
        return response.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n" if parts[0] == b"HEAD" else response


def _response(status: str, body: str, content_type: str = _TEXT) -> bytes:
    data = body.encode()
    head = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(data)}",
        "Connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data
