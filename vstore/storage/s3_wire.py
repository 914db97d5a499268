"""GETs over kept connections with little processor time: a cold query has hundreds of them.

urllib3 opens a connection, and verifies its certificate where there is TLS; a request is a few lines to its
socket, and httptools (llhttp, Node's parser in C) parses the answer, for what an HTTP client in Python does
around that is most of what a small range costs.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult

from httptools import HttpParserError, HttpResponseParser
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError, SSLError

from vstore.storage.s3_pools import SOCKET_OPTIONS, ca_bundle

_log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 1 << 18
_MOST_HEAD_BYTES: Final = 1 << 16


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


class _Reading:
    """What httptools tells of one answer, interim answers before it forgotten."""

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.is_done = self.is_kept = False

    def take(self, piece: bytes) -> None:
        """Parse what was received.

        Raises:
            ProtocolError: it is no answer; what follows one only ends its connection.
        """
        try:
            self.parser.feed_data(piece)
        except HttpParserError as error:
            if not self.is_done:
                raise ProtocolError(f"no answer of HTTP: {error!r}", error) from error
            self.is_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_done:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").rstrip()

    def on_headers_complete(self) -> None:
        if not self.is_done:
            self.status = self.parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        if not self.is_done:
            self.parts.append(part)

    def on_message_begin(self) -> None:
        # Whatever follows an answer was not asked for.
        self.is_kept = False

    def on_message_complete(self) -> None:
        if self.status < 200:
            self.status = 0
            self.headers.clear()
        elif not self.is_done:
            self.is_done, self.is_kept = True, self.parser.should_keep_alive()

    @property
    def ends_with_connection(self) -> bool:
        """Whether the answer has headers, but none that says where its body ends."""
        return self.status >= 200 and not {"content-length", "transfer-encoding"} & self.headers.keys()


def _exchange(sock: socket.socket, request: bytes, but_not: int) -> tuple[Answer, bool]:
    """Return the answer to a request, and whether the connection serves further ones."""
    sock.sendall(request)
    reading = _Reading()
    try:
        return _answer(sock, reading, but_not), reading.is_kept
    finally:
        # The parser holds its callbacks: the ring would keep bodies until the next collection of garbage.
        del reading.parser


def _answer(sock: socket.socket, reading: _Reading, but_not: int) -> Answer:
    n_received = 0
    while not reading.is_done:
        piece = sock.recv(_PIECE_BYTES)
        if not piece:
            if reading.ends_with_connection:
                break
            raise ProtocolError(f"the answer ended after {n_received} bytes, too early")
        n_received += len(piece)
        reading.take(piece)
        if not reading.status and n_received > _MOST_HEAD_BYTES:
            raise ProtocolError(f"the headers have more than {_MOST_HEAD_BYTES} bytes")
        if but_not and reading.status == but_not:
            return Answer(but_not, reading.headers, None)
    return Answer(reading.status, reading.headers, b"".join(reading.parts))
