"""An HTTP proxy in front of an S3 server that loses answers, by script."""

from __future__ import annotations

import http.client
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


class FaultProxy:
    """Forwards to `endpoint_url`; `script[method]` is the list of what happens to the next requests."""

    def __init__(self, endpoint_url: str) -> None:
        upstream = urlsplit(endpoint_url).netloc
        self.script: dict[str, list[str]] = {}
        self.seen: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def forward(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy._lock:
                    steps = proxy.script.get(self.command, [])
                    step = steps.pop(0) if steps else PASS
                    proxy.seen.append((self.command, step))
                if step in (DOWN, BUSY):
                    code, status = ("SlowDown", 503) if step == DOWN else ("ConditionalRequestConflict", 409)
                    return self.error(status, code)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection",)}
                connection = http.client.HTTPConnection(upstream, timeout=30)
                try:
                    # SigV4 covers Host: the client's own goes through, and the server checks against that.
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in headers.items():
                        connection.putheader(name, value)
                    connection.endheaders(data)
                    answer = connection.getresponse()
                    payload = answer.read()
                finally:
                    connection.close()
                if step == LOST_500:
                    return self.error(500, "InternalError")
                if step == LOST_CUT:
                    self.close_connection = True
                    return None
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in (
                        "transfer-encoding",
                        "connection",
                        "content-length",
                        "date",
                        "server",
                    ):
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

            def error(self, status: int, code: str) -> None:
                text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
