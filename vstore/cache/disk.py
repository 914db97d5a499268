"""The disk tier: stored blocks of shards in a folder, shared by processes, under one byte limit.

Kept are the bytes as the store holds them, compressed; the shard's own checksums are checked when a
block is decoded, so a damaged file is found, dropped and read again from the store. Shards never
change, so a file is never stale. Files are written beside their place and renamed into it: a process
that dies leaves a leftover, never half a block.

Processes agree on the bytes in use by a ledger file, locked while blocks are written. It is raised before a
block is written, so a process that dies leaves it too high, never too low; whoever evicts, or begins to
write, counts the files anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows: processes that share a folder may overshoot its limit together.
    fcntl = None  # type: ignore[assignment]

from vstore.cache.blocks import BlockKey
from vstore.cache.policies.admission import AdmitAll
from vstore.cache.policies.base import Admission
from vstore.errors import InvalidSetting

log = logging.getLogger(__name__)

FOLDER: Final = "vstore-blocks-1"
"""Ours inside the folder that the user named; the number is the layout's version."""
LEFTOVER: Final = ".tmp"
LEFTOVER_AGE_S: Final = 300.0
"""A file that is being written is younger than this; an older one belongs to nobody any more."""
KEEP_SHARE: Final = 0.9
"""Eviction goes down to this share of the limit, so that it is not needed again at once."""
LEDGER: Final = "ledger"
LEDGER_BYTES: Final = 20


@dataclass(slots=True)
class DiskStats:
    """Totals of this process since the tier was opened; `size_bytes` is of all processes, as last seen.

    `n_refused` blocks were offered and not kept, `n_dropped` were damaged, `n_failures` are errors of the
    file system, the first of which turned writing off.
    """

    limit_bytes: int = 0
    size_bytes: int = 0
    n_hits: int = 0
    n_misses: int = 0
    n_admitted: int = 0
    n_refused: int = 0
    n_evicted: int = 0
    n_dropped: int = 0
    n_failures: int = 0


class DiskTier:
    """Blocks as files. Thread-safe, and safe to share between processes.

    A folder that cannot be written turns the tier off with one warning: it only saves reads, so no search
    fails for it. What it holds still serves where it can be read.

    Args:
        folder: made where it does not exist.
        limit_bytes: the most that the files may take; other processes' files count too.
        admission: says which blocks are kept; None keeps all. Eviction goes by last use, which files tell
            processes.

    Raises:
        InvalidSetting: the folder is a file, or a negative limit.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limit_bytes: int,
        admission: Admission[BlockKey] | None = None,
    ) -> None:
        if limit_bytes < 0:
            raise InvalidSetting(f"disk_cache_bytes is {limit_bytes}; it must be 0 or more")
        root = Path(folder).expanduser()
        if os.path.isfile(root):
            raise InvalidSetting(f"cache_dir {str(folder)!r} is a file; give a folder, or leave it out")
        self._root = root / FOLDER
        self._limit_bytes = limit_bytes
        self._admission: Admission[BlockKey] = AdmitAll() if admission is None else admission
        self._lock = threading.Lock()
        self._writable = True
        self._counted = False
        self._stats = DiskStats(limit_bytes)
        self._stats_lock = threading.Lock()

    @property
    def writable(self) -> bool:
        """Whether blocks are still written: False after the folder failed once."""
        return self._writable

    def stats(self) -> DiskStats:
        """Return what this process has seen of the tier."""
        with self._stats_lock:
            return replace(self._stats)

    def get_many(self, keys: Sequence[BlockKey]) -> list[bytes | None]:
        """Return the stored bytes of each block, None where the tier does not hold it."""
        found: list[bytes | None] = []
        for key in keys:
            path = self._path(key)
            try:
                found.append(path.read_bytes())
            except FileNotFoundError:
                found.append(None)
                continue
            except OSError:
                found.append(None)
                self._tell(n_failures=1)
                continue
            # The time of last use decides eviction; a folder that cannot be touched still serves.
            with contextlib.suppress(OSError):
                os.utime(path)
        n_misses = found.count(None)
        self._tell(n_hits=len(found) - n_misses, n_misses=n_misses)
        return found

    def has_many(self, keys: Sequence[BlockKey]) -> list[bool]:
        """Return whether the tier holds each block; nothing is read, counted or marked used."""
        return [os.path.exists(self._path(key)) for key in keys]

    def put_many(self, blocks: Sequence[tuple[BlockKey, bytes]]) -> None:
        """Keep the stored bytes of blocks, evicting the least recently used where the limit asks for it.

        Whoever calls has checked them: nothing is looked at here.
        """
        if not self._writable:
            return
        try:
            with self._alone() as ledger:
                for key, data in blocks:
                    self._put(ledger, key, data)
        except OSError as error:
            self._tell(n_failures=1)
            if self._writable:
                self._writable = False
                log.warning("the block cache in %s is off: %s", self._root, error)

    def drop(self, key: BlockKey) -> None:
        """Forget a block whose bytes turned out to be damaged."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()
            self._tell(n_dropped=1)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the tier against other threads and processes; yield the ledger's file descriptor."""
        with self._lock:
            self._root.mkdir(parents=True, exist_ok=True)
            ledger = os.open(self._root / LEDGER, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if fcntl is not None:
                    fcntl.flock(ledger, fcntl.LOCK_EX)
                yield ledger
            finally:
                os.close(ledger)  # and so unlock

    def _put(self, ledger: int, key: BlockKey, data: bytes) -> None:
        path = self._path(key)
        if os.path.exists(path):
            return
        size_bytes = self._used_bytes(ledger)
        room_bytes = self._limit_bytes - size_bytes
        if len(data) > self._limit_bytes or not self._admission.admits(key, len(data), room_bytes):
            self._tell(n_refused=1)
            return
        if len(data) > room_bytes:
            size_bytes = self._evict(max(0, int(KEEP_SHARE * self._limit_bytes) - len(data)))
            if size_bytes + len(data) > self._limit_bytes:
                self._tell(n_refused=1)
                return
        size_bytes += len(data)
        os.lseek(ledger, 0, os.SEEK_SET)
        os.write(ledger, b"%0*d" % (LEDGER_BYTES, size_bytes))
        self._write(path, data)
        with self._stats_lock:
            self._stats.size_bytes = size_bytes
            self._stats.n_admitted += 1

    def _used_bytes(self, ledger: int) -> int:
        os.lseek(ledger, 0, os.SEEK_SET)
        text = os.read(ledger, LEDGER_BYTES + 1) if self._counted else b""
        self._counted = True
        if len(text) == LEDGER_BYTES and text.isdigit():
            return int(text)
        return sum(size for _, size, _ in self._files())

    def _tell(self, **counts: int) -> None:
        with self._stats_lock:
            for name, count in counts.items():
                setattr(self._stats, name, getattr(self._stats, name) + count)

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

    def _evict(self, target_bytes: int) -> int:
        """Delete the least recently used files, of this process and others; return the bytes that are
        left."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        newest_s = files[-1][0] if files else 0.0
        n_evicted = 0
        for used_s, size, path in files:
            if total <= target_bytes:
                break
            if path.endswith(LEFTOVER) and newest_s - used_s < LEFTOVER_AGE_S:
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                n_evicted += 1
            total -= size
        self._tell(n_evicted=n_evicted)
        return total

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yield (time of last use, bytes, path) of every file, leftovers included."""
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name == LEDGER:
                    continue
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    yield status.st_mtime, status.st_size, path
