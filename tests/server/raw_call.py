"""A request as any gRPC client would send it."""

from __future__ import annotations

import grpc

from vstore_server.messages import path_of


def raw(server, method, data, metadata=()):
    """Send bytes as any gRPC client would; return bytes, or (status, error class, details)."""
    with grpc.insecure_channel(server.address) as channel:
        try:
            return channel.unary_unary(path_of(method))(data, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            return error.code().name, trailing.get("vstore-error"), error.details()
