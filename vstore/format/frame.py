"""Frames: one small checksummed object, as manifests, log records and dead rows are stored."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import crc32c
import msgpack

from vstore.errors import CorruptData, FormatError, UnsupportedVersion

VERSION: Final = 1
"""The format version that this vstore writes, and the newest that it reads."""

_HEADER: Final = struct.Struct("<8sHHIQI")
_CHECK: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CHECK.size


def checksum(data: bytes | memoryview) -> int:
    """Return the CRC32C (Castagnoli) of `data`."""
    return int(crc32c.crc32c(data))


def encode_frame(magic: bytes, payload: bytes) -> bytes:
    """Return a frame: header, header checksum, payload.

    Args:
        magic: 8 bytes that say what the payload is.
        payload: what is framed; its CRC32C stands in the header.
    """
    header = _HEADER.pack(magic, VERSION, 0, 0, len(payload), checksum(payload))
    return header + _CHECK.pack(checksum(header)) + payload


def decode_frame(data: bytes, magic: bytes, where: str) -> bytes:
    """Return the payload of a frame.

    Raises:
        CorruptData: wrong magic, length or checksum.
        UnsupportedVersion: a newer version, or a flag that this one does not know.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptData(f"{where}: {len(data)} bytes at offset 0; a header has {HEADER_BYTES}: truncated")
    found, version, reserved, flags, length, crc = _HEADER.unpack_from(data)
    if found != magic:
        raise CorruptData(f"{where}: magic {found!r} at offset 0; expected {magic!r}: another kind of object")
    if _CHECK.unpack_from(data, _HEADER.size)[0] != checksum(data[: _HEADER.size]):
        raise CorruptData(f"{where}: the header at offset 0 fails its checksum: damaged")
    if version > VERSION or version == 0:
        raise UnsupportedVersion(
            f"{where}: format version {version}; this vstore reads up to {VERSION}: upgrade it"
        )
    if flags or reserved:
        raise UnsupportedVersion(
            f"{where}: unknown flags {flags:#x}/{reserved:#x} at offset 10: upgrade vstore"
        )
    payload = data[HEADER_BYTES:]
    if len(payload) != length:
        raise CorruptData(f"{where}: {len(payload)} bytes at offset {HEADER_BYTES}; the header says {length}")
    if checksum(payload) != crc:
        raise CorruptData(f"{where}: the payload at offset {HEADER_BYTES} fails its checksum: damaged")
    return payload


def pack(value: Any) -> bytes:
    """Return msgpack bytes: str as UTF-8, bytes as bin."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes, where: str) -> Any:
    """Return the msgpack value that `data` is; lengths are bounded by the data's own.

    Raises:
        CorruptData: it is none, or more than one.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise CorruptData(f"{where}: msgpack does not decode: {error}") from error


def natural(value: Any) -> int:
    """Return `value`, a whole number from 0 to 2^63 - 1.

    Raises:
        ValueError: it is none; neither is a bool, nor a float without a fraction.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{str(value)[:80]!r} stands where a whole number belongs")
    return value


def text(value: Any) -> str:
    """Return `value`, a str.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]!r} stands where text belongs")
    return value


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Turn a missing key, wrong type or wrong shape met while decoding into CorruptData."""
    try:
        yield
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CorruptData(f"{where}: a part is missing or of the wrong kind: {error!r}") from error
