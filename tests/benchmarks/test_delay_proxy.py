"""The delay proxy changes nothing but the time at which bytes arrive."""

from __future__ import annotations

import socket
import threading
import time

import pytest

pytest.importorskip("benchmarks.delay_proxy")

from benchmarks.delay_proxy import DelayProxy

DELAY_MS = 50.0


@pytest.fixture
def echo():
    """A server that answers every line with itself, in capitals."""
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def answer(connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(line.upper())

    def serve():
        while not stop.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    stop.set()
    listening.close()


def test_bytes_come_whole_in_order_and_late(echo):
    with DelayProxy(echo, DELAY_MS) as proxy:
        port = int(proxy.endpoint_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as one, one.makefile("rb") as lines:
            started = time.perf_counter()
            one.sendall(b"first\n")
            assert lines.readline() == b"FIRST\n"
            assert (time.perf_counter() - started) * 1e3 >= DELAY_MS
            long = b"x" * 300_000
            one.sendall(long + b"\nlast\n")
            assert lines.readline() == long.upper() + b"\n"
            assert lines.readline() == b"LAST\n"
