"""grpc.health.v1, which every orchestrator speaks, in the few bytes of protobuf that it takes."""

from __future__ import annotations

from vstore_server.errors import MalformedMessage

PATH = "grpc.health.v1.Health"
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
MAX_REQUEST_BYTES = 1024


def decode_request(data: bytes) -> str:
    """Return the service that a HealthCheckRequest names: field 1, a string; "" where it is absent.

    Raises:
        MalformedMessage: no such message.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise MalformedMessage(f"a health request has {len(data)} bytes; at most {MAX_REQUEST_BYTES}")
    if not data:
        return ""
    if data[0] != 0x0A:
        raise MalformedMessage("a health request has one field: 1, a string")
    length, offset = _varint(data, 1)
    if offset + length != len(data):
        raise MalformedMessage("the health request's length does not fit its bytes")
    try:
        return data[offset:].decode()
    except UnicodeDecodeError:
        raise MalformedMessage("the health request's service is no UTF-8") from None


def encode_response(status: int) -> bytes:
    """Return a HealthCheckResponse: field 1, an enum; absent for UNKNOWN."""
    return bytes((0x08, status)) if status else b""


def encode_request(service: str) -> bytes:
    """Return a HealthCheckRequest for a name of fewer than 128 bytes."""
    name = service.encode()
    if len(name) > 127:
        raise MalformedMessage(f"the service's name has {len(name)} bytes; at most 127")
    return b"\x0a" + bytes((len(name),)) + name if name else b""


def decode_response(data: bytes) -> int:
    """Return the status of a HealthCheckResponse.

    Raises:
        MalformedMessage: no such message.
    """
    if not data:
        return UNKNOWN
    if len(data) != 2 or data[0] != 0x08:
        raise MalformedMessage("a health response has one field: 1, an enum")
    return data[1]


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for place in range(3):
        if offset >= len(data):
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, offset
    raise MalformedMessage("the health request's length is no varint")
