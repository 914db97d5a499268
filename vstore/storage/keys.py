"""What a key, a prefix, a range and a body may be: one rule for all stores, so that data can move."""

from __future__ import annotations

import re

from vstore.errors import InvalidInput

MAX_KEY_BYTES = 800
"""S3 allows 1024 bytes; the rest is for the prefix that the user chose."""
MAX_SEGMENT_BYTES = 200
"""File systems allow 255 bytes a name."""

# A leading "." would hide temporary files among keys, and admit "." and "..".
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*")
_PREFIX = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.=+-]*/)*([A-Za-z0-9_][A-Za-z0-9_.=+-]*)?")
_ALPHABET = "letters, digits and _ . = + - (not first: . = + -), in parts joined by single slashes"


def check_key(key: str) -> str:
    """Return `key`, or raise.

    Raises:
        InvalidInput: an empty, absolute, too long or otherwise unportable key.
    """
    if not isinstance(key, str) or not key:
        raise InvalidInput(f"the key is {key!r}; it must be a non-empty string")
    if len(key) > MAX_KEY_BYTES:
        raise InvalidInput(f"the key {key[:40]!r}... has {len(key)} characters; the limit is {MAX_KEY_BYTES}")
    for segment in key.split("/"):
        if not _SEGMENT.fullmatch(segment):
            raise InvalidInput(f"the key {key!r} has the part {segment!r}; a key is made of {_ALPHABET}")
        if len(segment) > MAX_SEGMENT_BYTES:
            raise InvalidInput(
                f"a part of the key {key[:40]!r}... has {len(segment)} characters; "
                f"the limit is {MAX_SEGMENT_BYTES}"
            )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix`, or raise; it is any beginning of a valid key, also "".

    Raises:
        InvalidInput: no key can begin so.
    """
    if not isinstance(prefix, str) or len(prefix) > MAX_KEY_BYTES or not _PREFIX.fullmatch(prefix):
        raise InvalidInput(f"no key can begin with {prefix!r}; a key is made of {_ALPHABET}")
    return prefix


def check_body(key: str, data: bytes) -> bytes:
    """Return `data`, or raise.

    Raises:
        InvalidInput: no bytes, or none at all.
    """
    if not isinstance(data, bytes):
        raise InvalidInput(f"the body of {key!r} is a {type(data).__name__}; it must be bytes")
    if not data:
        raise InvalidInput(f"the body of {key!r} is empty; an object holds at least one byte")
    return data


def check_range(key: str, start: int, length: int | None) -> None:
    """Return, or raise.

    Raises:
        InvalidInput: a bad key, or a negative start or length.
    """
    check_key(key)
    if start < 0 or (length is not None and length < 0):
        raise InvalidInput(
            f"the range of {key!r} starts at {start} with length {length}; neither is negative"
        )


def past_end(where: str, key: str, start: int, length: int | None, size_bytes: int | None) -> str:
    """Return the message for a range that its object does not reach (CorruptData)."""
    size = "fewer" if size_bytes is None else str(size_bytes)
    wanted = f"at least {start + 1}" if length is None else f"at least {start + length}"
    return (
        f"{where}: object {key!r} has {size} bytes, but {wanted} are needed (read from offset {start}); "
        "it was cut short or replaced, so restore it from a copy"
    )
