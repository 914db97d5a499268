"""A TCP proxy that makes a near server answer like a far one: what a client sends arrives so much later.

    python -m benchmarks.delay_proxy --upstream 127.0.0.1:8333 --delay-ms 20

Bytes keep their order within a connection, and each arrives the delay after it came, so a request and its
answer take the delay once, however many pieces they come in; requests on other connections are delayed beside
it. It understands no HTTP, so it serves every client alike. The port that it listens on is printed first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections import deque
from types import TracebackType


class Client(asyncio.Protocol):
    """A client's connection: what it sends goes on `delay_s` later, what comes back at once."""

    def __init__(self, host: str, port: int, delay_s: float) -> None:
        self._host, self._port, self._delay_s = host, port, delay_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._upstream: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server for this client."""
        assert isinstance(transport, asyncio.Transport)
        self._own = transport
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream, _ = await self._loop.create_connection(
                lambda: Server(self._own), self._host, self._port
            )
        except OSError:
            self._own.close()
            return
        self._upstream = upstream

    def data_received(self, data: bytes) -> None:
        """Keep a piece until it is due; those of one connection go in their order."""
        self._waiting.append(data)
        self._loop.call_later(self._delay_s, self._send_first)

    def _send_first(self) -> None:
        if self._upstream is None and not self._connecting.done():
            self._loop.call_later(0.001, self._send_first)
        elif self._upstream is not None:
            self._upstream.write(self._waiting.popleft())

    def connection_lost(self, error: Exception | None) -> None:
        """Close the server's side, after what still waits."""
        self._loop.call_later(self._delay_s, self._close)

    def _close(self) -> None:
        if self._upstream is not None:
            self._upstream.close()


class Server(asyncio.Protocol):
    """The server's side of a connection: what it sends goes to the client at once.

    Args:
        client: the other side.
    """

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        """Pass a piece on."""
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Close the client's side."""
        self._client.close()


async def serve(host: str, port: int, delay_s: float) -> None:
    """Listen on a free port, print it, and forward until the process ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(host, port, delay_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


class DelayProxy:
    """The proxy as a process of its own; a context manager.

    Args:
        endpoint_url: "http://host:port" of the server.
        delay_ms: added to every request.
    """

    def __init__(self, endpoint_url: str, delay_ms: float) -> None:
        upstream = endpoint_url.removeprefix("http://")
        command = [sys.executable, "-m", "benchmarks.delay_proxy", "--upstream", upstream]
        self._process = subprocess.Popen(
            [*command, "--delay-ms", str(delay_ms)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError("the delay proxy did not start")
        self.endpoint_url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> DelayProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Run the proxy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay_proxy")
    parser.add_argument("--upstream", required=True, help="host:port")
    parser.add_argument("--delay-ms", type=float, default=20.0)
    asked = parser.parse_args()
    host, _, port = asked.upstream.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(host, int(port), asked.delay_ms / 1e3))


if __name__ == "__main__":
    main()
