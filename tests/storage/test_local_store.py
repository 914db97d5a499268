"""What a folder adds to the contract: crashes, permissions, full disks and foreign files."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rights import as_somebody

from vstore.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidInput,
    NotAStore,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from vstore.storage import ByteRange, LocalStore, ObjectInfo
from vstore.storage.local import TMP_LIFE_S


def files_of(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_reading_makes_no_folder(tmp_path):
    store = LocalStore(tmp_path / "typo")
    assert store.list() == []
    assert store.head("a") is None
    with pytest.raises(ObjectNotFound):
        store.get("a")
    store.delete(["a/b"])
    assert not (tmp_path / "typo").exists()


def test_the_folder_must_exist_where_asked(tmp_path):
    with pytest.raises(BucketNotFound, match="no folder"):
        LocalStore(tmp_path / "typo", create=False)
    LocalStore(tmp_path, create=False)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NotAStore, match="is a file"):
        LocalStore(tmp_path / "file")


def test_leftovers_of_a_crash_are_not_listed_and_swept_in_time(tmp_path):
    store = LocalStore(tmp_path)
    store.put("d/a", b"x")
    leftover = tmp_path / "d" / ".tmp-123-deadbeef"
    leftover.write_bytes(b"half")
    assert store.list() == [ObjectInfo("d/a", 1)]
    now = leftover.stat().st_mtime
    LocalStore(tmp_path, clock=lambda: now + TMP_LIFE_S - 60).put("d/b", b"x")
    assert leftover.exists()
    LocalStore(tmp_path, clock=lambda: now + TMP_LIFE_S + 60).put("d/c", b"x")
    assert not leftover.exists()
    assert [info.key for info in store.list()] == ["d/a", "d/b", "d/c"]


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
@pytest.mark.parametrize("step", ["write", "fsync", "replace", "link"])
def test_killed_at_any_step_an_object_is_whole_or_absent(tmp_path, method, step):
    """A process kills itself at one system call; what it leaves is the old object, the new one, or none."""
    LocalStore(tmp_path).put("d/old", b"old" * 1000)
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from vstore.storage.local import LocalStore
real = os.{step}
def die(*args, **options):
    if "{step}" == "write":
        real(args[0], bytes(args[1])[:1500])
    os.kill(os.getpid(), signal.SIGKILL)
os.{step} = die
store = LocalStore({str(tmp_path)!r})
store.{method}("d/old" if "{method}" == "put" else "d/new", b"new" * 1000)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    uses = {"put": ("write", "fsync", "replace"), "put_if_absent": ("write", "fsync", "link")}[method]
    assert done.returncode == (-signal.SIGKILL if step in uses else 0)
    store = LocalStore(tmp_path)
    found = {info.key: store.get(info.key) for info in store.list()}
    if step in uses:
        assert found == {"d/old": b"old" * 1000}
        store.put_if_absent("d/new", b"after")
    elif method == "put":
        assert found == {"d/old": b"new" * 1000}
    else:
        assert found == {"d/old": b"old" * 1000, "d/new": b"new" * 1000}


def test_bytes_are_durable_before_their_name(tmp_path, monkeypatch):
    """fsync of the file, then the name, then fsync of the directory."""
    calls = []

    def log(name):
        real = getattr(os, name)

        def spy(*args, **options):
            kind = ""
            if name == "fsync":
                kind = " directory" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
            calls.append(name + kind)
            return real(*args, **options)

        monkeypatch.setattr(os, name, spy)

    store = LocalStore(tmp_path)
    store.put("d/first", b"makes the directory")
    for name in ("write", "fsync", "replace", "link"):
        log(name)
    store.put("d/a", b"x")
    assert calls == ["write", "fsync file", "replace", "fsync directory"]
    calls.clear()
    store.put_if_absent("d/b", b"x")
    assert calls == ["write", "fsync file", "link", "fsync directory"]
    calls.clear()
    store.put("new/deep/a", b"x")
    assert calls[:3] == ["fsync directory"] * 3 or calls[:4] == ["fsync directory"] * 4


@pytest.mark.parametrize("method", ["put", "put_if_absent"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path, monkeypatch, method, code):
    store = LocalStore(tmp_path)
    store.put("d/a", b"before")
    real = os.write
    written = []

    def write(fd, data):
        if written:
            raise OSError(code, os.strerror(code))
        written.append(real(fd, data[:3]))
        return 3

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreFull, match=r"d/b.*free some space"):
        getattr(store, method)("d/b", b"some bytes")
    monkeypatch.undo()
    assert files_of(tmp_path) == ["d/a"]
    getattr(store, method)("d/b", b"some bytes")


def test_a_file_size_limit(tmp_path):
    """A real limit of the system, not a patched one."""
    script = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from vstore.errors import StoreFull
from vstore.storage.local import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    LocalStore({str(tmp_path)!r}).put("big", bytes(20_000))
except StoreFull as error:
    print("full:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("full:"), done.stderr
    assert files_of(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    store = LocalStore(tmp_path)
    store.put("a", bytes(range(100)))
    assert store.get("a") == bytes(range(100))


def test_a_forbidden_folder():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        root = Path(name) / "store"
        LocalStore(root).put("d/a", b"x")
        store = LocalStore(root)
        for mode in (0o555, 0o000):
            os.chmod(root / "d", mode)
            with as_somebody():
                for call in (
                    lambda: store.put("d/b", b"x"),
                    lambda: store.put_if_absent("d/b", b"x"),
                    lambda: store.delete(["d/a"]),
                ):
                    with pytest.raises(AccessDenied, match="give this user the right"):
                        call()
                if mode == 0:
                    for call in (store.list, lambda: store.get("d/a"), lambda: store.head("d/a")):
                        with pytest.raises(AccessDenied):
                            call()
        os.chmod(root / "d", 0o755)
        assert [info.key for info in LocalStore(root).list()] == ["d/a"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EROFS, AccessDenied),
        (errno.EIO, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
        (errno.ENAMETOOLONG, InvalidInput),
        (errno.EINVAL, StorageError),
    ],
)
def test_other_errors_of_the_system(tmp_path, monkeypatch, code, expected):
    store = LocalStore(tmp_path)

    def fail(*args, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(expected, match=os.strerror(code)) as caught:
        store.put("a", b"x")
    assert type(caught.value) is expected


def test_no_hard_links(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match="hard link"):
        LocalStore(tmp_path).put_if_absent("a", b"x")
    assert files_of(tmp_path) == []


def test_a_link_whose_answer_was_lost(tmp_path, monkeypatch):
    """A network file system may do the link, lose the answer, and find its own link when it repeats it."""
    real = os.link

    def link(*args, **options):
        real(*args, **options)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link)
    store = LocalStore(tmp_path)
    store.put_if_absent("a", b"mine")
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"other")
    assert files_of(tmp_path) == ["a"]


def test_a_key_cannot_be_the_beginning_of_another(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a/b", b"x")
    for method in (store.put, store.put_if_absent):
        with pytest.raises(InvalidInput, match="rename one"):
            method("a", b"x")
        with pytest.raises(InvalidInput, match="rename one"):
            method("a/b/c", b"x")
    assert files_of(tmp_path) == ["a/b"]


def test_deleting_prunes_directories_up_to_the_root(tmp_path):
    store = LocalStore(tmp_path / "root")
    store.put("a/b/c/1", b"x")
    store.put("a/2", b"x")
    store.delete(["a/b/c/1"])
    assert not (tmp_path / "root" / "a" / "b").exists()
    store.delete(["a/2"])
    assert list((tmp_path / "root").iterdir()) == []
    store.put("a/b/c/1", b"again")
    assert store.get("a/b/c/1") == b"again"


def test_a_directory_that_a_delete_takes_away_is_made_again(tmp_path, monkeypatch):
    make, gone = os.makedirs, [FileNotFoundError(errno.ENOENT, "x"), FileExistsError(errno.EEXIST, "x")]

    def taken_away(path, **options):
        if gone:
            raise gone.pop()
        make(path, **options)

    monkeypatch.setattr(os, "makedirs", taken_away)
    store = LocalStore(tmp_path)
    store.put("a/b/c", b"x")
    assert not gone
    assert store.get("a/b/c", 0, 1) == b"x"


def test_foreign_files_are_seen_and_hidden_ones_are_not(tmp_path):
    """So that a folder of somebody else's is not taken for an empty one."""
    (tmp_path / "my notes.txt").write_text("hello")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    assert LocalStore(tmp_path).list() == [ObjectInfo("my notes.txt", 5)]


def test_files_are_closed(tmp_path):
    store = LocalStore(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(20):
        store.put(f"d{i}/a", b"x")
        store.get_many([ByteRange(f"d{j}/a", 0, 1) for j in range(i + 1)])
        with contextlib.suppress(ObjectNotFound):
            store.get("d0")
        store.list()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
