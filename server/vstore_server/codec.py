"""msgpack, strictly: bytes are scanned against limits before one object is made of them.

A decoder alone bounds no memory: 64 MiB of one-byte empty lists become gigabytes of Python objects.
So a compiled scan walks the headers first, counts items and nesting, and only then does msgpack decode.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
from numba import njit

from vstore.errors import InvalidInput
from vstore.settings import require
from vstore_server.errors import LimitExceeded, MalformedMessage

Message = dict[str, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int64": np.dtype("<i8"),
    "bool": np.dtype("?"),
}
"""The element types of arrays on the wire; all little-endian."""

SMALL_BYTES = 64 << 10
"""A message of so many bytes becomes a few megabytes of objects at most."""

_KEPT_BYTES = 1 << 20
_OWN = threading.local()

_OK, _TRUNCATED, _TRAILING, _DEEP, _MANY, _LONG, _RESERVED, _EXTENSION = range(8)
_REASONS = {
    _TRUNCATED: "it ends inside a value",
    _TRAILING: "bytes follow the message",
    _RESERVED: "it has the byte 0xc1, which msgpack never writes",
    _EXTENSION: "it has an extension that is no timestamp",
}
_MAX_NESTING = 256
"""msgpack's own decoder stops at 512 and its encoder at 511."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask; the server tells its clients on `Connect`.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    message_bytes: int = 64 << 20
    """The largest message, in either direction."""
    depth: int = _MAX_NESTING
    """Nesting of maps and lists; a level of a filter takes two."""
    items: int = 4_000_000
    """Values in a message; the elements of an array are no values."""
    text_bytes: int = 16 << 20
    """One string. Binary data has the limit of the message alone."""
    k: int = 10_000
    ef: int = 100_000
    rerank_depth: int = 1_000
    batch_queries: int = 10_000
    batch_answers: int = 2_000_000
    """Queries times k of one batch."""
    rerank_stages: int = 8
    filter_depth: int = 64
    """Levels of a filter: of $and, $or, $not and lists of values."""
    filter_values: int = 100_000
    """Values and operators of a filter."""
    list_items: int = 10_000
    """Items of one list attribute of one row."""
    upsert_rows: int = 50_000
    ids: int = 50_000
    """Ids of one `Get` or `Delete`."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"limit {name} is {value!r}; it must be a whole number of 1 or more",
            )
        require(self.depth <= _MAX_NESTING, f"limit depth is {self.depth}; it must be at most {_MAX_NESTING}")
        require(
            4096 <= self.message_bytes <= 1 << 30,
            f"limit message_bytes is {self.message_bytes}; it must be from 4 KiB to 1 GiB",
        )


def prepare() -> None:
    """Compile the scan, or load it from numba's cache, so that no request waits for that."""
    _scan(np.frombuffer(b"\xc0", dtype=np.uint8), 1, 1, 1)


def encode(message: Message) -> bytes:
    """Return the message as msgpack. Arrays become {"dtype", "shape", "data"}, datetimes timestamps.

    Raises:
        InvalidInput: a value that msgpack cannot hold.
    """
    try:
        # A packer's room costs more than a small message; two threads must not share one.
        packer = _OWN.packer
    except AttributeError:
        packer = _OWN.packer = msgpack.Packer(use_bin_type=True, datetime=True, default=_default)
    try:
        data: bytes = packer.pack(message)
    except (TypeError, ValueError, OverflowError) as error:
        del _OWN.packer
        raise InvalidInput(f"a value cannot be sent: {error}") from None
    if len(data) > _KEPT_BYTES:
        # It keeps as much room as its largest message took.
        del _OWN.packer
    return data


def decode(data: bytes, limits: Limits) -> Message:
    """Return the message of `data`.

    Raises:
        MalformedMessage: not msgpack, not a map, or with bytes behind it.
        LimitExceeded: larger, deeper or of more values than the limits allow.
    """
    if len(data) > limits.message_bytes:
        raise LimitExceeded(
            f"the message has {len(data)} bytes; at most {limits.message_bytes} are allowed: send less"
        )
    status, offset = _scan(np.frombuffer(data, dtype=np.uint8), limits.depth, limits.items, limits.text_bytes)
    if status != _OK:
        raise _refusal(int(status), int(offset), limits)
    return _unpacked(data)


def decode_small(data: bytes) -> Message:
    """As `decode`, for a message that is too small to become much, whatever its bytes say: not scanned.

    Raises:
        MalformedMessage: not msgpack, not a map, or with bytes behind it.
    """
    if len(data) > SMALL_BYTES:
        raise LimitExceeded(f"the message has {len(data)} bytes; small ones have at most {SMALL_BYTES}")
    return _unpacked(data)


def _unpacked(data: bytes) -> Message:
    try:
        message = msgpack.unpackb(
            data, raw=False, timestamp=3, strict_map_key=True, ext_hook=_refuse_extension
        )
    except (ValueError, OverflowError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"the message is no valid msgpack: {error}") from None
    if not isinstance(message, dict):
        raise MalformedMessage(f"the message is a {type(message).__name__}; it must be a map of fields")
    return message


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"it has an extension of type {code}, which is no timestamp")


def pack_array(array: npt.NDArray[Any]) -> Message:
    """Return an array as its wire form: dtype, shape and little-endian C-order bytes."""
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            data = np.ascontiguousarray(array, dtype=dtype)
            return {"dtype": name, "shape": list(array.shape), "data": data.tobytes()}
    raise InvalidInput(f"an array of {array.dtype} cannot be sent; the wire has {', '.join(DTYPES)}")


def unpack_array(value: Any, where: str) -> npt.NDArray[Any]:
    """Return the array of a wire form; read-only, over the message's own bytes.

    Raises:
        MalformedMessage: a part is missing or ill-typed, or the bytes are not the shape's.
    """
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data"}:
        raise MalformedMessage(f"{where} must be an array: a map of dtype, shape and data")
    name, shape, data = value["dtype"], value["shape"], value["data"]
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise MalformedMessage(f"{where} has dtype {str(name)[:40]!r}; the wire has {', '.join(DTYPES)}")
    whole = isinstance(shape, list) and 1 <= len(shape) <= 2
    if not whole or not all(type(length) is int and 0 <= length < 1 << 40 for length in shape):
        raise MalformedMessage(f"{where} has no shape of one or two lengths")
    n_bytes = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != n_bytes:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
        raise MalformedMessage(f"{where} has {found}; its shape {shape} of {name} needs {n_bytes} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def is_array(value: Any) -> bool:
    """Whether a decoded value has an array's form."""
    return isinstance(value, dict) and value.keys() == {"dtype", "shape", "data"}


def _default(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return pack_array(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no form on the wire")


def _refusal(status: int, offset: int, limits: Limits) -> InvalidInput:
    if status == _DEEP:
        return LimitExceeded(f"the message nests deeper than {limits.depth} levels at byte {offset}")
    if status == _MANY:
        return LimitExceeded(f"the message has more than {limits.items} values; send less at once")
    if status == _LONG:
        return LimitExceeded(f"a string at byte {offset} is longer than {limits.text_bytes} bytes")
    return MalformedMessage(f"the message is no valid msgpack: {_REASONS[status]} (byte {offset})")


@njit(cache=True, nogil=True, fastmath=False, boundscheck=False)
def _big_endian(data, start, n_bytes):  # type: ignore[no-untyped-def]
    value = 0
    for i in range(n_bytes):
        value = (value << 8) | int(data[start + i])
    return value


@njit(cache=True, nogil=True, fastmath=False, boundscheck=False)
def _header(data, offset):  # type: ignore[no-untyped-def]
    """Return (kind, header bytes, length): kind 0 scalar, 1 text, 2 binary, 3 list, 4 map, 5 extension,
    -1 reserved, -2 cut off. A scalar's length is its body; a list's and map's its items.
    """
    byte = int(data[offset])
    if byte < 0x80 or byte >= 0xE0:
        return 0, 1, 0
    if byte < 0x90:
        return 4, 1, 2 * (byte & 0x0F)
    if byte < 0xA0:
        return 3, 1, byte & 0x0F
    if byte < 0xC0:
        return 1, 1, byte & 0x1F
    if byte == 0xC1:
        return -1, 1, 0
    if byte == 0xC0 or byte == 0xC2 or byte == 0xC3:
        return 0, 1, 0
    if byte == 0xCA:
        return 0, 1, np.int64(4)
    if byte == 0xCB:
        return 0, 1, np.int64(8)
    if byte >= 0xCC and byte <= 0xCF:
        return 0, 1, 1 << (byte - 0xCC)
    if byte >= 0xD0 and byte <= 0xD3:
        return 0, 1, 1 << (byte - 0xD0)
    if byte >= 0xD4 and byte <= 0xD8:
        return 5, 2, 1 << (byte - 0xD4)
    kind, width = 2, 1
    if byte <= 0xC6:
        width = 1 << (byte - 0xC4)
    elif byte <= 0xC9:
        kind, width = 5, 1 << (byte - 0xC7)
    elif byte <= 0xDB:
        kind, width = 1, 1 << (byte - 0xD9)
    elif byte <= 0xDD:
        kind, width = 3, 2 << (byte - 0xDC)
    else:
        kind, width = 4, 2 << (byte - 0xDE)
    if offset + 1 + width > len(data):
        return -2, 1, 0
    length = _big_endian(data, offset + 1, width)
    if kind == 4:
        length *= 2
    return kind, 1 + width + (1 if kind == 5 else 0), length


@njit(cache=True, nogil=True, fastmath=False, boundscheck=False)
def _scan(data, max_depth, max_items, max_text):  # type: ignore[no-untyped-def]
    """Return (status, byte offset) of one msgpack value that must fill uint8[n] `data`; allocates
    max_depth words, whatever the bytes say.
    """
    left = np.zeros(max_depth + 1, dtype=np.int64)
    depth, offset, n_items, size = 0, 0, 1, len(data)
    left[0] = 1
    while left[depth] > 0:
        if offset >= size:
            return _TRUNCATED, offset
        kind, header, length = _header(data, offset)
        if kind == -1:
            return _RESERVED, offset
        if kind == -2 or offset + header > size:
            return _TRUNCATED, offset
        left[depth] -= 1
        if kind >= 3 and kind <= 4:
            n_items += length
            if n_items > max_items:
                return _MANY, offset
            # Each value has a byte at least.
            if length > size - offset - header:
                return _TRUNCATED, offset
            if depth == max_depth:
                return _DEEP, offset
            depth += 1
            left[depth] = length
            offset += header
        else:
            if length > size - offset - header:
                return _TRUNCATED, offset
            if kind == 1 and length > max_text:
                return _LONG, offset
            if kind == 5 and (
                data[offset + header - 1] != 0xFF or (length != 4 and length != 8 and length != 12)
            ):
                return _EXTENSION, offset
            offset += header + length
        while depth > 0 and left[depth] == 0:
            depth -= 1
    if offset != size:
        return _TRAILING, offset
    return _OK, offset
