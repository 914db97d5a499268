"""The gRPC-lite server of vstore, and its clients.

import vstore

db = vstore.connect("vstore://127.0.0.1:8765", token="vst_...")
hits = db.collection("photos").search(query, k=10)

`vstore serve ./data` serves; `vstore.aio.connect` is the asynchronous client; docs/PROTOCOL.md
is the authority on the bytes, docs/SERVER.md on running one.
"""

from vstore_server import aio, errors
from vstore_server.auth import Token, Tokens, TokensFile, load_tokens
from vstore_server.background import BackgroundServer
from vstore_server.certificates import TLSFiles
from vstore_server.client import RemoteCollection, RemoteDatabase, connect
from vstore_server.codec import Limits
from vstore_server.server import Server
from vstore_server.settings import ClientTLS, ServerSettings, ServerTLS
from vstore_server.tracing import Tracing

__all__ = [
    "BackgroundServer",
    "ClientTLS",
    "Limits",
    "RemoteCollection",
    "RemoteDatabase",
    "Server",
    "ServerSettings",
    "ServerTLS",
    "TLSFiles",
    "Token",
    "Tokens",
    "TokensFile",
    "Tracing",
    "aio",
    "connect",
    "errors",
    "load_tokens",
]
