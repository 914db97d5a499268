"""The conformance suite finds what is wrong: each broken store fails the test that is meant for it."""

from __future__ import annotations

import threading

import pytest

from vstore.errors import ObjectNotFound, VstoreError
from vstore.storage import MemoryStore
from vstore.storage.wrappers import Fault, FaultStore, ForwardingStore
from vstore.testing.store_suite import StoreSuite


def a_moment():
    """Let other threads come between two steps."""
    threading.Event().wait(0.002)


class Careless(ForwardingStore):
    """Ignores the condition of a create."""

    def put_if_absent(self, key, data):
        self.inner.put(key, data)


class CheckThenPut(ForwardingStore):
    """Checks the condition, and then writes: two may pass the check."""

    def put_if_absent(self, key, data):
        found = self.inner.head(key)
        if found is None:
            a_moment()
            self.inner.put(key, data)
        else:
            self.inner.put_if_absent(key, data)


class Stubborn(ForwardingStore):
    """Refuses the second create of the same bytes."""

    def put_if_absent(self, key, data):
        if self.inner.head(key) is not None:
            data += b"different"
        self.inner.put_if_absent(key, data)


class Disordered(ForwardingStore):
    """Lists by directory, as SeaweedFS does: "a/b" before "a-1"."""

    def list(self, prefix=""):
        return sorted(self.inner.list(prefix), key=lambda info: info.key.split("/"))


class OnePage(ForwardingStore):
    """Forgets the second page."""

    def list(self, prefix=""):
        return self.inner.list(prefix)[:50]


class Directories(ForwardingStore):
    """Takes a prefix for a directory."""

    def list(self, prefix=""):
        return [
            i for i in self.inner.list(prefix) if i.key.startswith(prefix.rstrip("/") + "/") or not prefix
        ]


class Shortened(ForwardingStore):
    """Returns what there is."""

    def get(self, key, start=0, length=None):
        data = self.inner.get(key)
        return data[start : None if length is None else start + length]


class Swapped(ForwardingStore):
    """Answers in the order of the store, not of the call."""

    def get_many(self, ranges):
        return self.inner.get_many(sorted(ranges, key=lambda r: r[:2]))


class Strict(ForwardingStore):
    """Raises where nothing is there to delete."""

    def delete(self, keys):
        for key in keys:
            if self.inner.head(key) is None:
                raise ObjectNotFound(key)
        self.inner.delete(keys)


class Torn(ForwardingStore):
    """Replaces an object in two steps."""

    def put(self, key, data):
        if len(data) > 5000:
            old = self.inner.get(key) if self.inner.head(key) else data
            self.inner.put(key, data[:5000] + old[5000:])
            a_moment()
        self.inner.put(key, data)


class Slippery(ForwardingStore):
    """Has room for empty bodies."""

    def put(self, key, data):
        if data:
            self.inner.put(key, data)


class Loose(ForwardingStore):
    """Deletes what begins with the key."""

    def delete(self, keys):
        for key in keys:
            self.inner.delete([info.key for info in self.inner.list(key)])


BROKEN = [
    (Careless, "test_create_only"),
    (Careless, "test_the_probe_is_content"),
    (Careless, "test_a_race_to_create_has_one_winner"),
    (CheckThenPut, "test_a_race_to_create_has_one_winner"),
    (Stubborn, "test_creating_again_with_the_same_bytes_succeeds"),
    (Disordered, "test_list_is_by_prefix_and_sorted"),
    (OnePage, "test_long_listing_and_long_delete"),
    (Directories, "test_list_is_by_prefix_and_sorted"),
    (Shortened, "test_reading_past_the_end_is_corrupt_data"),
    (Swapped, "test_get_many_keeps_the_order"),
    (Strict, "test_delete"),
    (Loose, "test_delete"),
    (Torn, "test_a_reader_sees_whole_bodies_only"),
    (Slippery, "test_empty_bodies_are_refused"),
    (lambda inner: FaultStore(inner, lambda m, k: Fault.FLIP), "test_what_was_put_comes_back"),
    (lambda inner: FaultStore(inner, lambda m, k: Fault.SHORT), "test_ranges"),
]


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_broken_store_is_found(broken, name):
    suite = StoreSuite()
    arguments = {"start": 90, "length": 20} if "past_the_end" in name else {}
    getattr(suite, name)(store=MemoryStore(), **arguments)
    with pytest.raises((AssertionError, pytest.fail.Exception, VstoreError)):
        getattr(suite, name)(store=broken(MemoryStore()), **arguments)
