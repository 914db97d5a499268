"""GETs over kept connections with little processor time: a cold query has hundreds of them.

urllib3 opens a connection, and verifies its certificate where there is TLS; requests are written to its
socket and answers are parsed here, for an HTTP client's own work is most of what a small range costs.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError, SSLError

from vstore.storage.s3_pools import SOCKET_OPTIONS, ca_bundle

_log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 1 << 16
_MOST_HEAD_BYTES: Final = 1 << 16
_MOST_SIZE_DIGITS: Final = 16


class Answer(NamedTuple):
    """Status, headers by lower-case name, and body of an answer; the body is None where it was not wanted."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class Wire:
    """Connections to one host. Thread-safe: a connection serves one thread at a time.

    Args:
        place: scheme and host of the URLs, of which `netloc` is sent as Host.
        n_connections: kept open at most while none is in use.
        connect_timeout_s: for a new connection.
        read_timeout_s: for each wait within an answer.
    """

    def __init__(
        self, place: SplitResult, *, n_connections: int, connect_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._place = place
        self._n_connections = n_connections
        self._connect_timeout_s, self._read_timeout_s = connect_timeout_s, read_timeout_s
        self._idle: list[HTTPConnection] = []
        self._context: ssl.SSLContext | None = None
        if place.scheme == "https":
            # Made once: reading the authorities' certificates takes longer than a handshake.
            self._context = ssl.create_default_context(cafile=ca_bundle())

    def get(self, target: str, headers: Mapping[str, str], *, but_not: int = 0) -> Answer:
        """Send one GET and return the answer; of one with status `but_not` the body is not read.

        Raises:
            HTTPError (urllib3's): there is no connection, no answer, or not all of it.
        """
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {target} HTTP/1.1\r\nHost: {self._place.netloc}\r\n{fields}\r\n".encode("latin-1")
        connection = self._connection()
        is_kept = False
        try:
            assert connection.sock is not None
            answer, is_kept = _exchange(connection.sock, request, but_not)
        except OSError as error:
            raise ProtocolError(f"the connection broke: {error!r}", error) from error
        finally:
            if is_kept and len(self._idle) < self._n_connections:
                self._idle.append(connection)
            else:
                connection.close()
        if _log.isEnabledFor(logging.DEBUG):
            # Without the query, which is the signature.
            _log.debug("GET %s%s: %d", self._place.netloc, target.partition("?")[0], answer.status)
        return answer

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> HTTPConnection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.is_connected:
                return connection
            connection.close()
        host, port = self._place.hostname or "", self._place.port
        connection = (
            HTTPConnection(host, port, timeout=self._connect_timeout_s, socket_options=SOCKET_OPTIONS)
            if self._context is None
            else HTTPSConnection(
                host,
                port,
                timeout=self._connect_timeout_s,
                socket_options=SOCKET_OPTIONS,
                ssl_context=self._context,
            )
        )
        try:
            connection.connect()
        except ssl.SSLError as error:
            connection.close()
            raise SSLError(error) from error
        except OSError as error:
            connection.close()
            raise ProtocolError(f"no connection: {error!r}", error) from error
        assert connection.sock is not None
        connection.sock.settimeout(self._read_timeout_s)
        return connection


def _exchange(sock: socket.socket, request: bytes, but_not: int) -> tuple[Answer, bool]:
    """Return the answer to a request, and whether the connection serves further ones."""
    sock.sendall(request)
    received = bytearray()
    end = -1
    while end < 0:
        if len(received) > _MOST_HEAD_BYTES:
            raise ProtocolError(f"the headers have more than {_MOST_HEAD_BYTES} bytes")
        _receive(sock, received)
        end = received.find(b"\r\n\r\n")
    version, status, headers = parse_head(bytes(received[:end]))
    del received[: end + 4]
    if status == but_not:
        return Answer(status, headers, None), False
    is_kept = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if status in (204, 304):
        return Answer(status, headers, b""), is_kept and not received
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return Answer(status, headers, _chunked(sock, received)), is_kept and not received
    size = headers.get("content-length")
    if size is None:
        return Answer(status, headers, _until_closed(sock, received)), False
    if not size.isdecimal() or len(size) > _MOST_SIZE_DIGITS:
        raise ProtocolError(f"Content-Length is {size!r}")
    body = _exactly(sock, received, int(size))
    return Answer(status, headers, body), is_kept and not received


def parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    """Return version, status and headers by lower-case name of an answer's first lines.

    Raises:
        ProtocolError: it is no such head, or an interim one (status below 200).
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not code.isdecimal() or code < "200":
        raise ProtocolError(f"the answer begins with {first[:40]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return version, int(code), headers


def _receive(sock: socket.socket, received: bytearray) -> None:
    piece = sock.recv(_PIECE_BYTES)
    if not piece:
        raise ProtocolError(f"the connection was closed after {len(received)} bytes")
    received += piece


def _exactly(sock: socket.socket, received: bytearray, size: int) -> bytes:
    """Return the next `size` bytes, and take those that came already off `received`."""
    if len(received) >= size:
        body = bytes(received[:size])
        del received[:size]
        return body
    room = bytearray(size)
    at = len(received)
    room[:at] = received
    received.clear()
    rest = memoryview(room)
    while at < size:
        n = sock.recv_into(rest[at:])
        if not n:
            raise ProtocolError(f"the body has {at} bytes instead of {size}")
        at += n
    return bytes(room)


def _chunked(sock: socket.socket, received: bytearray) -> bytes:
    parts = []
    while True:
        line = _line(sock, received).partition(b";")[0].strip()
        try:
            size = int(line[:_MOST_SIZE_DIGITS], 16)
        except ValueError:
            raise ProtocolError(f"a chunk begins with {line[:20]!r}") from None
        if size <= 0:
            break
        parts.append(_exactly(sock, received, size))
        _line(sock, received)
    while _line(sock, received):
        pass
    return b"".join(parts)


def _line(sock: socket.socket, received: bytearray) -> bytes:
    while (end := received.find(b"\r\n")) < 0:
        if len(received) > _MOST_HEAD_BYTES:
            raise ProtocolError(f"a line has more than {_MOST_HEAD_BYTES} bytes")
        _receive(sock, received)
    line = bytes(received[:end])
    del received[: end + 2]
    return line


def _until_closed(sock: socket.socket, received: bytearray) -> bytes:
    while piece := sock.recv(_PIECE_BYTES):
        received += piece
    body = bytes(received)
    received.clear()
    return body
