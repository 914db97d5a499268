"""Objects as files of a local folder, durable when a call returns."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence

from vstore.errors import (
    AccessDenied,
    BucketNotFound,
    CorruptData,
    InvalidInput,
    NotAStore,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from vstore.settings import Clock, system_clock
from vstore.storage.base import ByteRange, ObjectInfo
from vstore.storage.keys import check_body, check_key, check_prefix, check_range, past_end
from vstore.storage.upload import Sink

TMP_PREFIX = ".tmp-"
"""Names of files being written; no key can begin a part with a dot."""
TMP_LIFE_S = 24 * 3600.0
"""A temporary file older than this was left by a crash."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_BUSY = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EBUSY}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalStore:
    """An ObjectStore in a folder: an object is a file, a part of its key before a slash is a directory.

    A put writes a temporary file, fsyncs it, renames (or, create-only, hard-links) it into place and fsyncs
    the directory. So a crash leaves the old object, the new one, or a temporary file that no listing shows.
    A key that is also the beginning of others ("a" beside "a/b") cannot be stored in a folder.

    Args:
        path: the folder; it is made by the first write.
        create: False: raise where the folder does not exist.
        clock: tells how old temporary files are.

    Raises:
        NotAStore: `path` is a file.
        BucketNotFound: `create` is False and there is no folder.

    Raises (puts): BucketNotFound: the folder was there, and was removed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, create: bool = True, clock: Clock = system_clock
    ) -> None:
        self._root = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.url = self._root
        self._clock = clock
        # Directories whose own entry this process has made durable.
        self._durable: set[str] = set()
        self._made = os.path.isdir(self._root)
        if os.path.exists(self._root) and not os.path.isdir(self._root):
            raise NotAStore(f"{self._root} is a file; a store is a folder: pass another path")
        if not create and not os.path.isdir(self._root):
            raise BucketNotFound(f"there is no folder {self._root}; check the path, or open it to create it")

    def __repr__(self) -> str:
        return f"LocalStore({self._root!r})"

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range; see ObjectStore.get."""
        return self.get_many([ByteRange(key, start, length)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, opening each file once; see ObjectStore.get_many."""
        for asked in ranges:
            check_range(*asked)
        out = [b""] * len(ranges)
        order = sorted(
            (i for i, asked in enumerate(ranges) if asked.length != 0), key=lambda i: ranges[i][:2]
        )
        with contextlib.ExitStack() as stack:
            open_key, fd, size = "", -1, 0
            for i in order:
                key, start, length = ranges[i]
                with self._translated("read", key):
                    if key != open_key:
                        stack.close()
                        fd, size = self._open(key)
                        stack.callback(os.close, fd)
                        open_key = key
                    out[i] = self._read(fd, key, start, length, size)
        return out

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole; see ObjectStore.put."""
        check_body(check_key(key), data)
        with self._translated("write", key):
            path, tmp = self._write_tmp(key, data)
            try:
                os.replace(tmp, path)
            except BaseException:
                _unlink(tmp)
                raise
            _fsync_directory(os.path.dirname(path))

    @contextlib.contextmanager
    def upload(self, key: str) -> Iterator[Sink]:
        """Yield what writes the object's bytes beside its place; see UploadsPieces.upload."""
        path = self._path(check_key(key))
        with self._translated("write", key):
            fd, tmp = self._open_tmp(path)
            try:
                with os.fdopen(fd, "wb") as file:
                    yield file.write
                    file.flush()
                    os.fsync(fd)
                os.replace(tmp, path)
            except BaseException:
                _unlink(tmp)
                raise
            _fsync_directory(os.path.dirname(path))

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists; see ObjectStore.put_if_absent."""
        check_body(check_key(key), data)
        with self._translated("write", key):
            # A lost race is known without writing a byte; the link below decides all the same.
            if not os.path.exists(self._path(key)):
                path, tmp = self._write_tmp(key, data)
                try:
                    if _link(tmp, path):
                        _fsync_directory(os.path.dirname(path))
                        return
                finally:
                    _unlink(tmp)
            if os.path.isdir(self._path(key)):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not self._holds(key, data):
            raise ObjectExists(f"{self.url}: object {key!r} exists already")
        # The one that wrote these bytes may have crashed before it made the name durable.
        with self._translated("write", key):
            _fsync_directory(os.path.dirname(self._path(key)))

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None."""
        path = self._path(check_key(key))
        with self._translated("look at", key):
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return ObjectInfo(key, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted; hidden files are none."""
        parent = check_prefix(prefix).rpartition("/")[0]
        with self._translated("list", prefix):
            found = [info for info in self._walk(parent) if info.key.startswith(prefix)]
        return sorted(found, key=lambda info: info.key)

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """Return one object whose key begins with `prefix`; see Peeking.first."""
        parent = check_prefix(prefix).rpartition("/")[0]
        with self._translated("list", prefix):
            return next((info for info in self._walk(parent) if info.key.startswith(prefix)), None)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects, and directories that become empty; absent ones are no error."""
        paths = {key: self._path(check_key(key)) for key in keys}
        directories = set()
        for key, path in paths.items():
            with self._translated("delete", key):
                try:
                    os.unlink(path)
                    directories.add(os.path.dirname(path))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except (IsADirectoryError, PermissionError):
                    if not os.path.isdir(path):
                        raise
        for directory in sorted(directories):
            with self._translated("delete from", os.path.relpath(directory, self._root)):
                with contextlib.suppress(FileNotFoundError):
                    _fsync_directory(directory)
                self._prune(directory)

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def _path(self, key: str) -> str:
        return os.path.join(self._root, *key.split("/"))

    def _open(self, key: str) -> tuple[int, int]:
        """Return (file descriptor, size) of the object's file."""
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFound(f"{self.url}: there is no object {key!r}") from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise ObjectNotFound(f"{self.url}: there is no object {key!r}")
        return fd, found.st_size

    def _read(self, fd: int, key: str, start: int, length: int | None, size: int) -> bytes:
        end = size if length is None else start + length
        if start >= size or end > size:
            raise CorruptData(past_end(self.url, key, start, length, size))
        pieces = []
        offset = start
        while offset < end:
            # The kernel reads at most 2 GiB at once.
            piece = os.pread(fd, min(end - offset, 1 << 30), offset)
            if not piece:
                raise CorruptData(past_end(self.url, key, start, length, offset))
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            info = self.head(key)
            return info is not None and info.size_bytes == len(data) and self.get(key) == data
        except ObjectNotFound:
            return False

    def _walk(self, relative: str) -> Iterator[ObjectInfo]:
        directory = os.path.join(self._root, relative) if relative else self._root
        try:
            entries = list(os.scandir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            key = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir():
                yield from self._walk(key)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield ObjectInfo(key, entry.stat().st_size)

    def _write_tmp(self, key: str, data: bytes) -> tuple[str, str]:
        """Write `data` durably beside its place; return (path, temporary path)."""
        path = self._path(key)
        fd, tmp = self._open_tmp(path)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view[: 1 << 30]) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            _unlink(tmp)
            raise
        return path, tmp

    def _open_tmp(self, path: str) -> tuple[int, str]:
        """Make a temporary file beside `path`; return (file descriptor, temporary path)."""
        directory = os.path.dirname(path)
        tmp = os.path.join(directory, f"{TMP_PREFIX}{os.getpid():x}-{secrets.token_hex(8)}")
        for attempt in range(100):
            try:
                self._make_directory(directory)
                return os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), tmp
            except (FileNotFoundError, FileExistsError):
                # A delete pruned the directory, or a parent of it, while this made it (`makedirs` says it
                # exists where it is gone by the time it looks again) or before this wrote.
                self._durable.discard(directory)
                if attempt == 99:
                    raise
        raise AssertionError("unreachable")

    def _make_directory(self, directory: str) -> None:
        """Make `directory` and its parents durably, and sweep leftovers from it, once a process."""
        if directory in self._durable and os.path.isdir(directory):
            return
        # Up to the root's parent in any case: another process may have made the directories just now.
        if self._made and not os.path.isdir(self._root):
            raise BucketNotFound(
                f"{self._root} was removed while it was in use; nothing was written: "
                "open it again to begin anew"
            )
        top = os.path.dirname(self._root)
        while not os.path.exists(top):
            top = os.path.dirname(top)
        os.makedirs(directory, exist_ok=True)
        parent = directory
        while parent != top:
            parent = os.path.dirname(parent)
            # The folder above the root may be one that this user cannot read.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                _fsync_directory(parent)
        self._sweep(directory)
        self._durable.add(directory)
        self._made = True

    def _sweep(self, directory: str) -> None:
        """Remove temporary files that a crash left long ago."""
        oldest = self._clock() - TMP_LIFE_S
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(directory):
                if entry.name.startswith(TMP_PREFIX):
                    with contextlib.suppress(FileNotFoundError):
                        if entry.stat().st_mtime < oldest:
                            os.unlink(entry.path)

    def _prune(self, directory: str) -> None:
        """Remove `directory` and its parents below the root, as far as they are empty."""
        while directory != self._root and directory.startswith(self._root):
            try:
                os.rmdir(directory)
            except OSError:
                return
            self._durable.discard(directory)
            directory = os.path.dirname(directory)

    @contextlib.contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        """Turn an OSError into the error of the tree that says what to do."""
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise _store_error(error, self._root, f"cannot {action} {key!r}") from error


def _store_error(error: OSError, root: str, what: str) -> StorageError | InvalidInput:
    reason = f"{root}: {what} ({error.strerror or error})"
    code = error.errno
    if code in _FULL:
        return StoreFull(f"{reason}; free some space or quota, then do it again: nothing was changed")
    if code in _DENIED:
        return AccessDenied(f"{reason}; give this user the right to read and write the folder")
    if code in _BUSY:
        return StoreUnavailable(f"{reason}; check the disk, and the limit of open files (ulimit -n)")
    if code == errno.ENAMETOOLONG:
        return InvalidInput(f"{reason}; open the store at a shorter path")
    if code in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return InvalidInput(
            f"{reason}; in a folder a key cannot also be the beginning of another: rename one"
        )
    return StorageError(reason)


def _link(tmp: str, path: str) -> bool:
    """Give `tmp` the name `path` atomically; return False where that name is taken."""
    try:
        os.link(tmp, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StorageError(
                f"{path}: cannot make a hard link ({error.strerror}), which a commit needs; "
                "keep the store on a file system that has them (ext4, xfs, btrfs, apfs, nfs)"
            ) from error
        raise
    return True


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _fsync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
