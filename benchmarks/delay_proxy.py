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
from types import TracebackType

PIECE_BYTES = 1 << 18


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction until its end."""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(ConnectionError, OSError):
        writer.write_eof()


async def forward_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Copy one direction until its end, each piece `delay_s` after it came."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            due, piece = await waiting.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    sender = asyncio.create_task(send())
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            waiting.put_nowait((loop.time() + delay_s, piece))
    waiting.put_nowait((loop.time() + delay_s, b""))
    with contextlib.suppress(ConnectionError, OSError):
        await sender


async def serve(host: str, port: int, delay_s: float) -> None:
    """Listen on a free port, print it, and forward until the process ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(forward_later(reader, up_writer, delay_s), forward(up_reader, writer))
        finally:
            for each in (up_writer, writer):
                each.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
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
