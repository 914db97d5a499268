"""An HTTP proxy that delays each request by a draw of its own from a log-normal: a far server on loopback.

    python benchmarks/lab_proxy.py UPSTREAM_PORT MEDIAN_MS SIGMA SEED

Prints the port that it listens on. A process of its own, so that it shares no interpreter with the client. It
understands what a reader of S3 sends: requests without bodies, answered with a Content-Length.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys

HOST = "127.0.0.1"


async def head_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve(port: int, median_ms: float, sigma: float, seed: int) -> None:
    rng = random.Random(seed)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(HOST, port)
        try:
            while request := await head_of(reader):
                if median_ms:
                    await asyncio.sleep(median_ms / 1000 * math.exp(rng.gauss(0, sigma)))
                up_writer.write(request)
                head = await head_of(up_reader)
                writer.write(head)
                if not request.startswith(b"HEAD"):
                    writer.write(await up_reader.readexactly(content_length(head)))
                await writer.drain()
        finally:
            writer.close()
            up_writer.close()

    server = await asyncio.start_server(talk, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
