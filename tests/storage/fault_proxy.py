"""An HTTP proxy in front of an S3 server that loses answers, by script."""

from __future__ import annotations

import http.client
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PASS = "pass"
DOWN = "down"
"""503, and the server never saw the request."""
BUSY = "busy"
"""409 ConditionalRequestConflict, and the server never saw the request (AWS gives it)."""
LOST_500 = "lost 500"
"""The server did it; the client gets a 500."""
LOST_CUT = "lost cut"
"""The server did it; the client's connection is closed without an answer."""
HALF = "half"
"""The server did it; the client gets the headers and half of the body."""
EXPIRED = "expired"
"""403 as AWS answers to an old presigned URL; the server never saw the request."""
DENIED = "denied"
"""403, as to credentials that were revoked; the server never saw the request."""
MOVED = "moved"
"""301 as AWS answers for a bucket of another region; the server never saw the request."""
FLAT = "flat"
"""The server did it; the client gets 200 for what should be 206."""
OTHER_RANGE = "other range"
"""The server did it; the headers tell of another range."""
UNTOLD = "untold"
"""The server did it; the client gets half of the body, with that length."""
ERRORS = {
    DOWN: (503, "SlowDown", "injected"),
    BUSY: (409, "ConditionalRequestConflict", "injected"),
    EXPIRED: (403, "AccessDenied", "Request has expired"),
    DENIED: (403, "AccessDenied", "injected"),
    MOVED: (301, "PermanentRedirect", "injected"),
}


UNSENT_HEADERS = {"transfer-encoding", "connection", "content-length", "date", "server"}


class FaultProxy:
    """Forwards to `endpoint_url`; `script[method]` is the list of what happens to the next requests."""

    def __init__(self, endpoint_url: str, tls: ssl.SSLContext | None = None) -> None:
        self.script: dict[str, list[str]] = {}
        self.seen: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": urlsplit(endpoint_url).netloc})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.endpoint_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def next_step(self, method: str) -> str:
        """Return what happens to this request, and note it."""
        with self._lock:
            steps = self.script.get(method, [])
            step = steps.pop(0) if steps else PASS
            self.seen.append((method, step))
        return step

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy
    upstream: str

    def log_message(self, *args: object) -> None:
        pass

    def forward(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        step = self.proxy.next_step(self.command)
        if step in ERRORS:
            return self.error(*ERRORS[step])
        answer, payload = self.ask(data)
        if step == LOST_500:
            return self.error(500, "InternalError", "injected")
        if step == LOST_CUT:
            self.close_connection = True
            return None
        if step == UNTOLD:
            payload = payload[: len(payload) // 2]
        self.send_response(200 if step == FLAT else answer.status)
        for name, value in answer.getheaders():
            if step == OTHER_RANGE and name.lower() == "content-range":
                self.send_header(name, f"bytes 7-{6 + len(payload)}/1000000")
            elif name.lower() not in UNSENT_HEADERS:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(payload)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if step == HALF:
            payload = payload[: len(payload) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(payload)
        return None

    def ask(self, data: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            # SigV4 covers Host: the client's own goes through, and the server checks against that.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def error(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815
