"""The ObjectStore protocol: all that vstore asks of a place that keeps bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable


class ByteRange(NamedTuple):
    """A part of one object: `length` bytes from `start`, or all of it where `length` is None."""

    key: str
    start: int = 0
    length: int | None = None


class SparseRange(ByteRange):
    """A part that is one of very many: joined with the next only over a small gap, for most of what lies
    between is not wanted, whatever the store's settings are.
    """

    __slots__ = ()
    gap_bytes: ClassVar[int] = 4 << 10


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's key, relative to the store's root, and its size."""

    key: str
    size_bytes: int


@runtime_checkable
class ObjectStore(Protocol):
    """Objects under string keys, "/"-separated, relative to the store's root.

    Objects are written whole and are never empty (boto/botocore issue 3755: an empty PUT wedges
    older botocore). Only `put_if_absent` is a commit: it creates the object or raises, atomically.
    Every method is safe to call from several threads.

    Raises (every method): AccessDenied, BucketNotFound, StoreUnavailable.
    """

    @property
    def url(self) -> str:
        """What `vstore.connect` was given: for messages, without credentials."""
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start`, or all from `start` on where `length` is None.

        Raises:
            ObjectNotFound: there is no such object.
            CorruptData: the object ends before the range does.
        """
        ...

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, in order, fetched in one parallel round.

        Raises: as `get`; the first error wins and nothing is returned.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole, replacing what was there. Durable on return."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object, or raise; durable on return.

        An answer that was lost on the way is settled by reading the object back: if it holds
        exactly `data`, the put was this one. So `data` must carry something unique to the writer.

        Raises:
            ObjectExists: the key has an object that this call did not write.
        """
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None where there is no such object."""
        ...

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return every object whose key begins with `prefix`, sorted by key (bytewise)."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects; a key without an object is no error."""
        ...

    def close(self) -> None:
        """Release threads and connections."""
        ...


@runtime_checkable
class Peeking(Protocol):
    """A store that can say whether it holds anything without listing all of it."""

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """Return one object whose key begins with `prefix`, or None where there is none."""
        ...
