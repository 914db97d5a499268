"""The client's quick way: calls that wait for their answer go over streams that stay open.

A unary call through grpcio builds and tears down an HTTP/2 stream and crosses threads; on a stream that is
there it is one send and one receive. Whatever goes wrong here is left to the ordinary call, which says what
it was: only calls that may run twice come this way.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any
from urllib.request import getproxies

from vstore_server.auth import is_local
from vstore_server.dial import Dial
from vstore_server.errors import DeadlineExceeded
from vstore_server.http2 import MessageStream
from vstore_server.messages import path_of
from vstore_server.settings import ClientTLS

METHOD = "Calls"
MOST_STREAMS = 64
"""Calls at once that go this way; more take the ordinary one."""
CONNECT_S = 5.0
REST_S = 30.0
"""How long the ordinary way is taken after a stream could not be had."""
GRACE_S = 0.25
"""The server ends an overdue call itself; the client waits so much longer for its word."""


class Express:
    """Streams to one server, each lent to one call at a time. Thread-safe.

    Args:
        dial: where, and with what.
        max_message_bytes: the largest answer taken.
    """

    def __init__(self, dial: Dial, max_message_bytes: int) -> None:
        self._dial = dial
        self._max_message_bytes = max_message_bytes
        self._lock = threading.Lock()
        self._idle: list[MessageStream] = []
        self._n_open = 0
        self._rests_until_s = 0.0
        self._closed = False
        self._possible = _possible(dial)

    def ask(self, request: bytes, timeout_s: float | None) -> bytes | None:
        """Return the answer to a request of METHOD, or None where the ordinary way must be taken.

        Raises:
            DeadlineExceeded: the time is over.
        """
        stream = self._take(timeout_s)
        if stream is None:
            return None
        try:
            answer = stream.ask(request, None if timeout_s is None else timeout_s + GRACE_S)
        except TimeoutError:
            self._drop(stream)
            raise DeadlineExceeded(f"the call took longer than {timeout_s:g} s") from None
        except OSError:
            self._drop(stream)
            if not stream.was_answered:
                # Refused, or no server of this kind: the ordinary call says which.
                self._rests_until_s = time.monotonic() + REST_S
            return None
        except BaseException:
            # An answer may be under way that nobody waits for any more.
            self._drop(stream)
            raise
        with self._lock:
            if not self._closed and not stream.is_last:
                self._idle.append(stream)
                return answer
        self._drop(stream)
        return answer

    def close(self) -> None:
        """End every stream."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for stream in idle:
            stream.close()

    def _take(self, timeout_s: float | None) -> MessageStream | None:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if not self._possible or self._closed or self._n_open >= MOST_STREAMS:
                return None
            if time.monotonic() < self._rests_until_s:
                return None
            self._n_open += 1
        try:
            return self._open(CONNECT_S if timeout_s is None else min(CONNECT_S, timeout_s))
        except OSError:
            with self._lock:
                self._n_open -= 1
                self._rests_until_s = time.monotonic() + REST_S
            return None
        except BaseException:
            with self._lock:
                self._n_open -= 1
            raise

    def _drop(self, stream: MessageStream) -> None:
        stream.close()
        with self._lock:
            self._n_open -= 1

    def _open(self, timeout_s: float) -> MessageStream:
        target = self._dial.target
        if target.startswith("unix:"):
            host, connected = "localhost", socket.socket(socket.AF_UNIX)
            connected.settimeout(timeout_s)
            connect: Any = lambda: connected.connect(target.removeprefix("unix:"))  # noqa: E731
        else:
            host, port = target.rpartition(":")[0].strip("[]"), int(target.rpartition(":")[2])
            connected = socket.create_connection((host, port), timeout_s)
            connect = lambda: connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: E731
        try:
            connect()
            secured = self._secured(connected, host)
            return MessageStream(
                secured,
                scheme="http" if secured is connected else "https",
                authority="localhost" if target.startswith("unix:") else target,
                path=path_of(METHOD),
                metadata=self._dial.metadata,
                max_message_bytes=self._max_message_bytes,
            )
        except BaseException:
            connected.close()
            raise

    def _secured(self, connected: socket.socket, host: str) -> socket.socket:
        tls = self._dial.tls
        if not tls:
            return connected
        chosen = tls if isinstance(tls, ClientTLS) else ClientTLS()
        trusted = None if chosen.ca is None else chosen.ca.decode("ascii")
        context = ssl.create_default_context(cadata=trusted)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        secured = context.wrap_socket(connected, server_hostname=chosen.server_name or host)
        if secured.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server chose no HTTP/2")
        return secured


def _possible(dial: Dial) -> bool:
    """Whether this way reaches what grpcio would: no proxy between, and no certificate to show."""
    if dial.target.startswith("unix-abstract:"):
        return False
    if isinstance(dial.tls, ClientTLS) and dial.tls.certificate is not None:
        return False
    return is_local(dial.target) or not getproxies()
