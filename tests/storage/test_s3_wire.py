"""Answers over a socket as servers give them, well and badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from urllib3.exceptions import ProtocolError

from vstore.storage.s3_wire import Wire

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def serving(*connections: Sequence[Sequence[bytes]]) -> Iterator[Wire]:
    """Return a wire to a server that answers each connection's requests so, in pieces, then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)

    def serve() -> None:
        for answers in connections:
            peer = listener.accept()[0]
            with peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pieces in answers:
                    received = b""
                    while not received.endswith(b"\r\n\r\n"):
                        received += peer.recv(4096)
                    for piece in pieces:
                        peer.sendall(piece)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    wire = Wire(
        urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}"),
        n_connections=2,
        connect_timeout_s=10,
        read_timeout_s=10,
    )
    try:
        yield wire
    finally:
        wire.close()
        server.join(30)
        listener.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"Content-Length: 5\r\nX-A:  b \r\n\r\nhello"],
        [OK[:9], OK[9:] + b"content-length: 5\r", b"\nx-a: b\r\n\r", b"\nhe", b"llo"],
        [OK + b"x-a: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nll", b"o\r\n0\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\nx-b: c\r\n\r\n" + OK + b"x-a: b\r\nContent-Length: 5\r\n\r\nhello"],
    ],
)
def test_connections_are_used_again(pieces: Sequence[bytes]) -> None:
    with serving([pieces, pieces]) as wire:
        for _ in range(2):
            status, headers, body = wire.get("/a?b=c", {"Range": "bytes=0-4"})
            assert (status, headers["x-a"], body) == (200, "b", b"hello")
            assert "x-b" not in headers


@pytest.mark.parametrize(
    "pieces",
    [
        [OK + b"\r\nhel", b"lo"],
        [OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
        [OK + b"Content-Length: 5\r\n\r\nhello" + OK + b"Content-Length: 3\r\nx-a: b\r\n\r\nbad"],
        [OK + b"Content-Length: 5\r\n\r\nhello\0bad"],
    ],
)
def test_connections_that_ended_or_said_too_much_are_not(pieces: Sequence[bytes]) -> None:
    with serving([pieces], [pieces]) as wire:
        for _ in range(2):
            status, headers, body = wire.get("/a", {})
            assert (status, body) == (200, b"hello")
            assert "x-a" not in headers


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_answers_without_a_body_end_with_their_headers(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\n\r\n"
    with serving([[answer], [answer]]) as wire:
        assert [wire.get("/a", {}).body for _ in range(2)] == [b"", b""]


def test_a_body_that_is_not_wanted_is_not_read() -> None:
    with serving([[OK + b"Content-Length: 1000000000000\r\n\r\nhel"]]) as wire:
        status, headers, body = wire.get("/a", {}, but_not=200)
        assert (status, headers["content-length"], body) == (200, "1000000000000", None)


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [OK],
        [OK + b"Content-Length: 5\r\n\r\nhell"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n"],
        [OK + b"Content-Length: five\r\n\r\nhello"],
        [OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"],
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [OK + b"x: " + b"y" * (1 << 20)],
    ],
)
def test_what_is_no_answer_is_an_error(pieces: Sequence[bytes]) -> None:
    with serving([pieces]) as wire, pytest.raises(ProtocolError):
        wire.get("/a", {})
