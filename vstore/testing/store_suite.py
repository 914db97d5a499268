"""The conformance suite of object stores: subclass it, override one fixture, run pytest.

    from vstore.testing.store_suite import StoreSuite

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store(self, tmp_path):
            store = MyStore(tmp_path)
            yield store
            store.close()

pytest then collects every test below for that store. docs/STORAGE.md says what each rule is for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vstore.errors import CorruptData, InvalidInput, ObjectExists, ObjectNotFound
from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.probe import probe_create_only

BAD_KEYS = ("", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", ".tmp-1", "a/.b", "a\x00b", "a b",
            "a\\b", "a\nb", "-a", "é", "k" * 201, "k/" * 400 + "k")  # fmt: skip
BAD_PREFIXES = ("/", "/a", "a//", "../", "a/../", ".", "a b")


def body(seed: int, n_bytes: int) -> bytes:
    """Return `n_bytes` bytes that only this seed gives."""
    return np.random.default_rng(seed).bytes(n_bytes)


def _refuses(call: Callable[[str], object], argument: str) -> bool:
    try:
        call(argument)
    except InvalidInput:
        return True
    return False


class StoreSuite:
    """What vstore relies on. Override the fixture `store`; the attributes say how hard the tests push."""

    n_threads = 16
    """Threads of the races."""
    n_rounds = 8
    """Rounds of the races."""
    n_listed = 60
    """Objects of the long listing; for a store that lists in pages, more than a page (S3: above 1000)."""
    large_bytes = 3 << 20

    @pytest.fixture
    def store(self) -> Iterator[ObjectStore]:
        """Yield a new, empty store, and close it after the test."""
        raise NotImplementedError("override the fixture `store`: yield a new, empty store")

    # ---- whole objects

    def test_has_every_method(self, store: ObjectStore) -> None:
        """A store is an ObjectStore and says where it is."""
        assert isinstance(store, ObjectStore)
        assert isinstance(store.url, str)
        assert store.url

    def test_what_was_put_comes_back(self, store: ObjectStore) -> None:
        """Any bytes under any valid key."""
        bodies = {
            "a": b"x",
            "zeros": bytes(1000),
            "newlines": b"\r\n\r\n0\r\n\r\n",
            "every_byte": bytes(range(256)) * 9,
            "deep/er/and/deeper": body(1, 70_000),
            "collections/Photos-1.x_y=z+w/log/00000000000000000001": body(2, 10),
            "k" * 200 + "/" + "l" * 200: b"long",
        }
        for key, data in bodies.items():
            store.put(key, data)
        for key, data in bodies.items():
            got = store.get(key)
            assert type(got) is bytes
            assert got == data
            assert store.head(key) == ObjectInfo(key, len(data))
        assert [info.key for info in store.list()] == sorted(bodies)

    def test_large_body(self, store: ObjectStore) -> None:
        """A body of some megabytes, and ranges at its ends."""
        data = body(3, self.large_bytes)
        store.put("large", data)
        assert store.get("large") == data
        assert store.get("large", len(data) - 5) == data[-5:]
        assert store.get("large", 1 << 20, 1 << 20) == data[1 << 20 : 2 << 20]

    def test_put_replaces(self, store: ObjectStore) -> None:
        """The second body is all that is left, also where it is shorter."""
        store.put("a/b", b"the first, longer body")
        store.put("a/b", b"second")
        assert store.get("a/b") == b"second"
        assert store.list() == [ObjectInfo("a/b", 6)]

    def test_absent_object(self, store: ObjectStore) -> None:
        """Reading raises and names the key; head is None; neighbours do not help."""
        store.put("a/b", b"x")
        for key in ("a", "a/b/c", "a/bb", "b"):
            with pytest.raises(ObjectNotFound, match=repr(key)):
                store.get(key)
            with pytest.raises(ObjectNotFound):
                store.get(key, 5, 5)
            with pytest.raises(ObjectNotFound):
                store.get_many([ByteRange("a/b"), ByteRange(key, 0, 1)])
            assert store.head(key) is None

    # ---- ranges

    def test_ranges(self, store: ObjectStore) -> None:
        """Each range is the slice that Python makes."""
        data = body(4, 5000)
        store.put("r", data)
        for start, length in ((0, 1), (0, 5000), (4999, 1), (1234, 777), (17, None), (4999, None), (0, None)):
            end = None if length is None else start + length
            assert store.get("r", start, length) == data[start:end]

    @pytest.mark.parametrize(
        ("start", "length"),
        [(0, 101), (50, 51), (99, 2), (100, 1), (101, 1), (1000, 5), (100, None), (200, None)],
    )
    def test_reading_past_the_end_is_corrupt_data(
        self, store: ObjectStore, start: int, length: int | None
    ) -> None:
        """An object that ends before a range does is never a short answer."""
        store.put("short", body(5, 100))
        with pytest.raises(CorruptData, match="short"):
            store.get("short", start, length)
        with pytest.raises(CorruptData, match="short"):
            store.get_many([ByteRange("short", 0, 10), ByteRange("short", start, length)])

    def test_empty_range_is_empty(self, store: ObjectStore) -> None:
        """A range of no bytes is no request."""
        store.put("e", b"abc")
        assert store.get("e", 1, 0) == b""
        assert store.get_many([ByteRange("e", 3, 0), ByteRange("e", 0, 1)]) == [b"", b"a"]

    def test_negative_ranges_are_refused(self, store: ObjectStore) -> None:
        """Offsets count from the beginning only."""
        store.put("n", b"abc")
        for start, length in ((-1, 1), (-1, None), (0, -1)):
            with pytest.raises(InvalidInput):
                store.get("n", start, length)
            with pytest.raises(InvalidInput):
                store.get_many([ByteRange("n", start, length)])

    def test_get_many_keeps_the_order(self, store: ObjectStore) -> None:
        """Repeated, overlapping, adjacent, far and whole ranges of several objects."""
        bodies = {f"m/{i}": body(10 + i, 20_000) for i in range(3)}
        for key, data in bodies.items():
            store.put(key, data)
        rng = np.random.default_rng(6)
        ranges = [ByteRange("m/1"), ByteRange("m/0", 5, 5), ByteRange("m/0", 5, 5), ByteRange("m/2", 19_000)]
        ranges += [ByteRange("m/1", 0, 7), ByteRange("m/1"), ByteRange("m/2", 19_000, 1000)]
        for _ in range(60):
            start = int(rng.integers(0, 19_999))
            ranges.append(
                ByteRange(f"m/{rng.integers(3)}", start, int(rng.integers(0, min(3000, 20_000 - start))))
            )
        got = store.get_many(ranges)
        assert len(got) == len(ranges)
        for (key, start, length), data in zip(ranges, got, strict=True):
            assert data == bodies[key][start : None if length is None else start + length]
        assert store.get_many([]) == []

    # ---- create only

    def test_create_only(self, store: ObjectStore) -> None:
        """The first creates; another body is refused and changes nothing; a delete makes room."""
        store.put_if_absent("c/1", b"first")
        with pytest.raises(ObjectExists, match="c/1"):
            store.put_if_absent("c/1", b"other")
        assert store.get("c/1") == b"first"
        store.put("c/2", b"by put")
        with pytest.raises(ObjectExists):
            store.put_if_absent("c/2", b"by name")
        store.delete(["c/1"])
        store.put_if_absent("c/1", b"again")
        assert store.get("c/1") == b"again"

    def test_creating_again_with_the_same_bytes_succeeds(self, store: ObjectStore) -> None:
        """So that who lost the answer may ask again; writers put something unique into their bytes."""
        store.put_if_absent("c", b"mine")
        store.put_if_absent("c", b"mine")
        with pytest.raises(ObjectExists):
            store.put_if_absent("c", b"mine too")
        assert store.get("c") == b"mine"

    def test_a_race_to_create_has_one_winner(self, store: ObjectStore) -> None:
        """Whoever was told that it created is what is read."""
        with ThreadPoolExecutor(self.n_threads) as pool:
            for round_ in range(self.n_rounds):
                barrier = threading.Barrier(self.n_threads)

                def create(i: int, key: str = f"race/{round_}", start: threading.Barrier = barrier) -> bool:
                    start.wait(60)
                    try:
                        store.put_if_absent(key, b"writer %d" % i)
                    except ObjectExists:
                        return False
                    return True

                won = [i for i, mine in enumerate(pool.map(create, range(self.n_threads))) if mine]
                assert len(won) == 1
                assert store.get(f"race/{round_}") == b"writer %d" % won[0]

    def test_the_probe_is_content(self, store: ObjectStore) -> None:
        """`probe_create_only` finds that the condition is kept, and leaves nothing."""
        probe_create_only(store, "scratch/")
        assert store.list() == []

    # ---- listing and deleting

    def test_list_is_by_prefix_and_sorted(self, store: ObjectStore) -> None:
        """A prefix is a beginning of the key, not a directory; the order is bytewise."""
        keys = ["a", "ab/c", "ab/d/e", "ab-1", "ab.x", "ab0", "abc", "b/1", "b/10", "b/2", "B/1"]
        for key in keys:
            store.put(key, key.encode())
        for prefix in ("", "a", "ab", "ab/", "ab/d", "ab/d/", "ab/d/e", "ab/d/ef", "b", "b/1", "c", "zz/yy"):
            expected = [ObjectInfo(k, len(k)) for k in sorted(keys) if k.startswith(prefix)]
            assert store.list(prefix) == expected

    def test_an_empty_store_lists_nothing(self, store: ObjectStore) -> None:
        """Not an error, also under a prefix."""
        assert store.list() == []
        assert store.list("a/b") == []

    def test_listing_sees_what_was_just_done(self, store: ObjectStore) -> None:
        """After a put or delete returned, the next listing shows it."""
        for i in range(10):
            store.put(f"l/{i}", b"x")
            assert len(store.list("l/")) == i + 1
        for i in range(10):
            store.delete([f"l/{i}"])
            assert len(store.list("l/")) == 9 - i

    def test_long_listing_and_long_delete(self, store: ObjectStore) -> None:
        """More objects than a page of the store's listing has, and than one request deletes."""
        keys = [f"many/{i:05d}" for i in range(self.n_listed)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"x"), keys))
        assert [info.key for info in store.list("many/")] == keys
        store.put("other", b"x")
        store.delete([*keys, "never/there", keys[0]])
        assert [info.key for info in store.list()] == ["other"]

    def test_delete(self, store: ObjectStore) -> None:
        """Only what is named goes; what is absent, or nothing at all, is no error."""
        for key in ("d/1", "d/10", "d/x/1"):
            store.put(key, b"x")
        store.delete([])
        store.delete(["d/1", "d/2", "d", "d/x/1/y"])
        assert [info.key for info in store.list()] == ["d/10", "d/x/1"]
        with pytest.raises(ObjectNotFound):
            store.get("d/1")
        assert store.head("d/1") is None
        store.delete(["d/1"])
        store.put("d/1", b"new")
        assert store.get("d/1") == b"new"

    # ---- many at once

    def test_a_reader_sees_whole_bodies_only(self, store: ObjectStore) -> None:
        """While one replaces an object, others read the old body or the new, never a mixture."""
        bodies = [bytes([i]) * (10_000 + i) for i in range(1, 21)]
        store.put("swap", bodies[0])
        done = threading.Event()

        def read() -> int:
            n_read = 0
            while not done.is_set() or n_read == 0:
                data = store.get("swap")
                assert data == bodies[data[0] - 1]
                n_read += 1
            return n_read

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                for data in bodies:
                    store.put("swap", data)
            finally:
                done.set()
            assert all(reader.result() > 0 for reader in readers)

    def test_threads_do_not_disturb_each_other(self, store: ObjectStore) -> None:
        """Each thread writes, reads, lists and deletes its own, in the same directories."""

        def work(i: int) -> None:
            for j in range(5):
                key, data = f"t/{j}/{i}", body(100 + i, 500 + i)
                store.put(key, data)
                assert store.get(key, 7, 100) == data[7:107]
                assert [info.key for info in store.list(f"t/{j}/{i}")][:1] == [key]
                store.delete([key])
                assert store.head(key) is None

        with ThreadPoolExecutor(self.n_threads) as pool:
            list(pool.map(work, range(100, 100 + self.n_threads)))
        assert store.list() == []

    # ---- bad input

    def test_bad_keys_are_refused(self, store: ObjectStore) -> None:
        """By every method, before anything is touched."""
        store.put("good", b"x")
        calls: dict[str, Callable[[str], object]] = {
            "get": store.get,
            "get_many": lambda key: store.get_many([ByteRange("good", 0, 1), ByteRange(key, 0, 1)]),
            "put": lambda key: store.put(key, b"x"),
            "put_if_absent": lambda key: store.put_if_absent(key, b"x"),
            "head": store.head,
            "delete": lambda key: store.delete(["good", key]),
        }
        for key in BAD_KEYS:
            for name, call in calls.items():
                assert _refuses(call, key), f"{name} accepts the key {key!r}"
        assert store.list() == [ObjectInfo("good", 1)]

    def test_bad_prefixes_are_refused(self, store: ObjectStore) -> None:
        """No key begins so."""
        for prefix in BAD_PREFIXES:
            assert _refuses(store.list, prefix), f"list accepts the prefix {prefix!r}"

    def test_empty_bodies_are_refused(self, store: ObjectStore) -> None:
        """An object holds at least a byte."""
        with pytest.raises(InvalidInput, match="empty"):
            store.put("a", b"")
        with pytest.raises(InvalidInput, match="empty"):
            store.put_if_absent("a", b"")
        assert store.list() == []

    def test_close_twice(self, store: ObjectStore) -> None:
        """Closing again is no error."""
        store.put("a", b"x")
        store.close()
        store.close()
