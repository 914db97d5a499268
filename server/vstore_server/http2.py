"""One gRPC stream over one socket: the little of HTTP/2 that a client needs for it, and no threads.

grpcio hands every message from thread to thread on its way; a call that waits for its answer anyway needs
none of them. Who is at the other end is any gRPC server. Trailers are not read (they would need a Huffman
decoder): a stream that ends has ended, and why is asked for by an ordinary call. RFC 9113, and gRPC over
HTTP/2.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS, _PADDED = 1, 1, 4, 8
_INITIAL_WINDOW, _ENABLE_PUSH, _FRAME_BYTES = 4, 2, 16_384
_LARGEST_WINDOW = (1 << 31) - 1
_TOP_UP = 1 << 29
_DEFAULT_WINDOW = 65_535
_STREAM = 1


class StreamEnded(ConnectionError):
    """The other end closed the stream or the connection, or sent what this cannot read."""


class MessageStream:
    """A bidirectional gRPC call on a socket of its own, one message at a time, for one thread at a time.

    Any error leaves it unusable: close it.

    Args:
        connected: a connected socket; with TLS, one on which ALPN chose h2. Closed by `close`.
        scheme: "http" or "https".
        authority: the host that was dialled.
        path: of the method.
        metadata: sent with the call, keys in lower case.
        max_message_bytes: the largest message taken.
    """

    def __init__(
        self,
        connected: socket.socket,
        *,
        scheme: str,
        authority: str,
        path: str,
        metadata: Sequence[tuple[str, str]],
        max_message_bytes: int,
    ) -> None:
        self._socket = connected
        self._max_message_bytes = max_message_bytes
        self._held = bytearray()
        self._body = bytearray()
        self._connection_window = self._stream_window = self._initial_window = _DEFAULT_WINDOW
        self._unacknowledged = 0
        self.is_last = False
        """Whether the server takes no further message: it is shutting down."""
        self.was_answered = False
        """Whether the other end answered at least once."""
        self._ended = ""
        headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "vstore-client"),
            *metadata,
        ]
        block = b"".join(map(_header, headers))
        if len(block) > _FRAME_BYTES:
            raise StreamEnded(f"{len(block)} bytes of metadata do not fit one frame")
        self._socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW, _LARGEST_WINDOW))
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW))
            + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        )

    def ask(self, message: bytes, timeout_s: float | None) -> bytes:
        """Send a message and return the next one that arrives.

        Raises:
            StreamEnded: there is no more stream.
            TimeoutError: the time is over.
            OSError: the socket failed.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._socket.settimeout(timeout_s)
        data = b"\0" + struct.pack(">I", len(message)) + message
        if len(data) <= min(_FRAME_BYTES, self._connection_window, self._stream_window):
            self._send(data)
        else:
            self._send_in_parts(data, until_s)
        while True:
            answer = self._message()
            if answer is not None:
                self.was_answered = True
                return answer
            self._receive(until_s)

    def close(self) -> None:
        """Close the socket: the server sees the call cancelled."""
        self._socket.close()

    def _send(self, data: bytes | memoryview) -> None:
        self._connection_window -= len(data)
        self._stream_window -= len(data)
        self._socket.sendall(_frame(_DATA, 0, _STREAM, data))

    def _send_in_parts(self, data: bytes, until_s: float | None) -> None:
        left = memoryview(data)
        while left:
            size = min(len(left), _FRAME_BYTES, self._connection_window, self._stream_window)
            if size <= 0:
                self._receive(until_s)
                continue
            self._send(left[:size])
            left = left[size:]

    def _message(self) -> bytes | None:
        """Take a whole message off the body, or return None where it has not arrived yet."""
        body = self._body
        if len(body) < 5:
            return None
        size = int.from_bytes(body[1:5], "big")
        if body[0] != 0 or size > self._max_message_bytes:
            raise StreamEnded(f"a message of {size} bytes with compression flag {body[0]} cannot be read")
        if len(body) < 5 + size:
            return None
        message = bytes(body[5 : 5 + size])
        del body[: 5 + size]
        return message

    def _receive(self, until_s: float | None) -> None:
        """Wait for bytes and take in every frame that is whole.

        An end is told at the next call: the last answer may have come in the same bytes.
        """
        if self._ended:
            raise StreamEnded(self._ended)
        if until_s is not None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the time is over")
            self._socket.settimeout(left_s)
        data = self._socket.recv(65_536)
        if not data:
            raise StreamEnded("the server closed the connection")
        held = self._held
        held += data
        start = 0
        while len(held) - start >= 9:
            size = int.from_bytes(held[start : start + 3], "big")
            if size > _FRAME_BYTES:
                raise StreamEnded(f"a frame of {size} bytes was not agreed on")
            if len(held) - start < 9 + size:
                break
            stream = int.from_bytes(held[start + 5 : start + 9], "big") & _LARGEST_WINDOW
            payload = bytes(held[start + 9 : start + 9 + size])
            self._take(held[start + 3], held[start + 4], stream, payload)
            start += 9 + size
        del held[:start]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._acknowledge(len(payload))
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            self._body += payload
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if stream == 0:
                self._connection_window += size
            else:
                self._stream_window += size
        elif kind == _GOAWAY:
            # A server that drains still answers what it has.
            self.is_last = True
            if payload[4:8] != b"\0\0\0\0" or int.from_bytes(payload[:4], "big") & _LARGEST_WINDOW < _STREAM:
                self._ended = "the server ended the connection"
        elif kind == _RST_STREAM:
            self._ended = "the server ended the stream"
        if flags & _END_STREAM and kind in (_DATA, _HEADERS):
            self._ended = "the server ended the stream"
        self.is_last = self.is_last or bool(self._ended)

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == _INITIAL_WINDOW:
                self._stream_window += value - self._initial_window
                self._initial_window = value
        self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))

    def _acknowledge(self, size: int) -> None:
        self._unacknowledged += size
        if self._unacknowledged >= _TOP_UP:
            more = struct.pack(">I", self._unacknowledged)
            self._socket.sendall(
                _frame(_WINDOW_UPDATE, 0, 0, more) + _frame(_WINDOW_UPDATE, 0, _STREAM, more)
            )
            self._unacknowledged = 0


def _frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + bytes(payload)


def _header(pair: tuple[str, str]) -> bytes:
    # Never indexed: no table of the other end, and no proxy's, keeps a token.
    return b"\x10" + _text(pair[0]) + _text(pair[1])


def _text(text: str) -> bytes:
    """A string of HPACK (RFC 7541, 5.1 and 5.2), as it is."""
    data = text.encode("ascii")
    size = len(data)
    if size < 127:
        return bytes((size,)) + data
    length, size = bytearray((127,)), size - 127
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes(length) + data
