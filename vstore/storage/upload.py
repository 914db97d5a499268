"""Objects larger than one wants in memory: written piece by piece, there only when they are whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from vstore.storage.base import ObjectStore

Sink = Callable[[bytes], object]
"""Takes the next bytes of an object."""


@runtime_checkable
class UploadsPieces(Protocol):
    """A store that takes an object in pieces, and holds few of them in memory at once."""

    def upload(self, key: str) -> AbstractContextManager[Sink]:
        """Return a context whose value takes the object's bytes in order.

        The object is there, whole and durable, when the context ends; where it ends by an exception, nothing
        is, and what was sent is given up.

        Raises: as `put`.
        """
        ...


@contextmanager
def open_upload(store: ObjectStore, key: str) -> Iterator[Sink]:
    """Yield what takes the bytes of an object; a store that takes no pieces gets it by one put."""
    if isinstance(store, UploadsPieces):
        with store.upload(key) as sink:
            yield sink
        return
    pieces: list[bytes] = []
    yield pieces.append
    store.put(key, b"".join(pieces))
