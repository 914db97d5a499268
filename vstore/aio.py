"""The asynchronous client: `db = await vstore.aio.connect("vstore://host:port")`.

Its database and collections have the methods of `vstore.Database` and `vstore.Collection`, awaited; `scan`
and `upsert_stream` are asynchronous iterators. Cancelling a task cancels its request on the server.
"""

from __future__ import annotations

from typing import Any

from vstore.errors import InvalidSetting
from vstore.remote import SCHEME, server_module


async def connect(url: str, **options: Any) -> Any:
    """Connect to a server on the running event loop; return a `vstore_server.aio.AsyncDatabase`.

    Args:
        url: "vstore://host:port". An embedded store has no asynchronous face: it computes.
        options: token, tls, timeout_s, n_retries, insecure, as `vstore.connect` takes them for a server.

    Raises:
        InvalidSetting: another url, or an option.
        MissingDependency: grpcio is not installed.
        ServerUnavailable, Unauthenticated, ProtocolError: the server's first answer.
    """
    if not url.startswith(SCHEME):
        raise InvalidSetting(f"url is {url!r}; vstore.aio talks to servers: write {SCHEME}host:port")
    return await server_module("aio").connect(url, **options)
