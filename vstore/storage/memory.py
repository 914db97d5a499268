"""Objects in a dict of this process: for tests, demos and throw-away collections."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from vstore.errors import CorruptData, ObjectExists, ObjectNotFound
from vstore.storage.base import ByteRange, ObjectInfo
from vstore.storage.keys import check_body, check_key, check_prefix, check_range, past_end

_named: dict[str, MemoryStore] = {}
_named_lock = threading.Lock()


class MemoryStore:
    """An ObjectStore in memory; it lives as long as the object, and costs a copy of what is put."""

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """Return the store of that name, the same for the whole process, made at its first call."""
        with _named_lock:
            if name not in _named:
                _named[name] = cls(name)
            return _named[name]

    @staticmethod
    def forget(name: str) -> None:
        """Let the store of that name go, so that its memory is freed when its last user closes."""
        with _named_lock:
            _named.pop(name, None)

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r}, {len(self._objects)} objects)"

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range; see ObjectStore.get."""
        check_range(key, start, length)
        if length == 0:
            return b""
        data = self._objects.get(key)
        if data is None:
            raise ObjectNotFound(f"{self.url}: there is no object {key!r}")
        if start >= len(data) or (length is not None and start + length > len(data)):
            raise CorruptData(past_end(self.url, key, start, length, len(data)))
        return data[start:] if length is None else data[start : start + length]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range; see ObjectStore.get_many."""
        return [self.get(*asked) for asked in ranges]

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole; see ObjectStore.put."""
        check_body(check_key(key), data)
        with self._lock:
            self._objects[key] = data

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists; see ObjectStore.put_if_absent."""
        check_body(check_key(key), data)
        with self._lock:
            if self._objects.setdefault(key, data) != data:
                raise ObjectExists(f"{self.url}: object {key!r} exists already")

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None."""
        data = self._objects.get(check_key(key))
        return None if data is None else ObjectInfo(key, len(data))

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted."""
        check_prefix(prefix)
        with self._lock:
            found = [ObjectInfo(k, len(v)) for k, v in self._objects.items() if k.startswith(prefix)]
        return sorted(found, key=lambda info: info.key)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects; absent ones are no error."""
        for key in keys:
            check_key(key)
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)

    def close(self) -> None:
        """Do nothing: a named store stays for the next that opens it."""
