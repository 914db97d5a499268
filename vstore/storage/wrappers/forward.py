"""The wrapper that changes nothing: a base for those that change one thing."""

from __future__ import annotations

from collections.abc import Sequence

from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.coalesce import Fetch, plan_of


class ForwardingStore:
    """An ObjectStore that hands every call to `inner`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    @property
    def url(self) -> str:
        """The inner store's URL."""
        return self.inner.url

    def plan(self, ranges: Sequence[ByteRange]) -> list[Fetch]:
        """Return the requests that the inner store sends for `ranges`."""
        return plan_of(self.inner, ranges)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range; see ObjectStore.get."""
        return self.inner.get(key, start, length)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range; see ObjectStore.get_many."""
        return self.inner.get_many(ranges)

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole; see ObjectStore.put."""
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists; see ObjectStore.put_if_absent."""
        self.inner.put_if_absent(key, data)

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None."""
        return self.inner.head(key)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted."""
        return self.inner.list(prefix)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects; absent ones are no error."""
        self.inner.delete(keys)

    def close(self) -> None:
        """Close the inner store."""
        self.inner.close()
