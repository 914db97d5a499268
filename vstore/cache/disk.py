"""The disk tier: stored blocks of shards in a folder, shared by processes, under one byte limit.

Kept are the bytes as the store holds them, compressed; the shard's own checksums are checked when a
block is decoded, so a damaged file is found, dropped and read again from the store. Shards never
change, so a file is never stale. Files are written beside their place and renamed into it: a process
that dies leaves a leftover, never half a block.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from vstore.cache.blocks import BlockKey
from vstore.errors import InvalidSetting

log = logging.getLogger(__name__)

FOLDER: Final = "vstore-blocks-1"
"""Ours inside the folder that the user named; the number is the layout's version."""
LEFTOVER: Final = ".tmp"
LEFTOVER_AGE_S: Final = 300.0
"""A file that is being written is younger than this; an older one belongs to nobody any more."""
KEEP_SHARE: Final = 0.9
"""Eviction goes down to this share of the limit, so that it is not needed again at once."""


class DiskTier:
    """Blocks as files. Thread-safe, and safe to share between processes.

    A folder that cannot be written turns the tier off with one warning: it only saves reads.

    Args:
        folder: made where it does not exist.
        limit_bytes: the most that the files may take; other processes' files count too.

    Raises:
        InvalidSetting: the folder is a file, or a negative limit.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise InvalidSetting(f"disk_cache_bytes is {limit_bytes}; it must be 0 or more")
        root = Path(folder).expanduser()
        if root.exists() and not root.is_dir():
            raise InvalidSetting(f"cache_dir {str(folder)!r} is a file; give a folder, or leave it out")
        self._root = root / FOLDER
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._writable = True
        self._size_bytes: int | None = None

    @property
    def writable(self) -> bool:
        """Whether blocks are still written: False after the folder failed once."""
        return self._writable

    def get_many(self, keys: Sequence[BlockKey]) -> list[bytes | None]:
        """Return the stored bytes of each block, None where the tier does not hold it."""
        found: list[bytes | None] = []
        for key in keys:
            path = self._path(key)
            try:
                found.append(path.read_bytes())
            except OSError:
                found.append(None)
                continue
            # The time of last use decides eviction; a folder that cannot be touched still serves.
            with contextlib.suppress(OSError):
                os.utime(path)
        return found

    def put_many(self, blocks: Sequence[tuple[BlockKey, bytes]]) -> None:
        """Keep the stored bytes of blocks, evicting the least recently used where the limit asks for it."""
        if not self._writable:
            return
        try:
            kept = [(key, data) for key, data in blocks if len(data) <= self._limit_bytes]
            with self._lock:
                if self._size_bytes is None:
                    self._size_bytes = sum(size for _, size, _ in self._files())
                self._size_bytes += sum(len(data) for _, data in kept)
            for key, data in kept:
                self._write(self._path(key), data)
            with self._lock:
                if self._size_bytes > self._limit_bytes:
                    self._evict()
        except OSError as error:
            self._writable = False
            log.warning("the block cache in %s is off: %s", self._root, error)

    def drop(self, key: BlockKey) -> None:
        """Forget a block whose bytes turned out to be damaged."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: BlockKey) -> Path:
        # Section names hold field names, which may be anything: a digest is a safe file name.
        section = hashlib.blake2b(key.section.encode(), digest_size=8).hexdigest()
        return self._root / key.shard_id / f"{section}.{key.block}"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=LEFTOVER)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _evict(self) -> None:
        """Delete the least recently used files, of this process and others, down to the kept share."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        newest_s = files[-1][0] if files else 0.0
        for used_s, size, path in files:
            if total <= KEEP_SHARE * self._limit_bytes:
                break
            if path.endswith(LEFTOVER) and newest_s - used_s < LEFTOVER_AGE_S:
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        self._size_bytes = total

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yield (time of last use, bytes, path) of every file, leftovers included."""
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    yield status.st_mtime, status.st_size, path
