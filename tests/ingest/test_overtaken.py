"""What a writer does that was overtaken, or that does not know what became of a change that it made."""

from __future__ import annotations

import numpy as np
import pytest
from ingest_fakes import FailingStore, Place, build_shard, contents, model_of, rows_of, shard_opener

import vstore
from vstore.catalog import Catalog
from vstore.catalog.pins import Lease, find_snapshot, list_snapshots
from vstore.errors import CollectionNotFound, StorageError, StoreUnavailable, WriterFenced
from vstore.ingest.reader import load_view, open_snapshot
from vstore.ingest.registry import WriterRegistry
from vstore.settings import Settings
from vstore.storage.memory import MemoryStore


def test_who_was_overtaken_is_told_even_where_there_is_nothing_to_write():
    """Its stale view does not have the row that it is to delete, so nothing needs to be logged."""
    place = Place()
    first = place.writer()
    first.upsert(rows_of([1]))
    second = place.writer()
    second.upsert(rows_of([5]))
    for act in (
        lambda: first.delete(np.array([5])),
        lambda: first.delete_where(lambda view: np.array([], np.int64)),
        lambda: first.update(lambda view: None),
    ):
        with pytest.raises(WriterFenced):
            act()
    assert second.delete(np.array([77])) == 0


def test_who_was_overtaken_tags_nothing():
    place = Place()
    first = place.writer()
    first.upsert(rows_of([1]))
    first.flush()
    place.writer().upsert(rows_of([2]))
    with pytest.raises(WriterFenced):
        first.tag("now")
    assert [snapshot.tags for snapshot in list_snapshots(Catalog(place.store), "c")] == [()] * 4


def restored(place: Place, writer, version: int, store=None) -> int:
    catalog = Catalog(place.store)
    manifest = find_snapshot(catalog, "c", version)
    settings = Settings(clock=place.clock, n_threads=1, io_concurrency=1)
    view = open_snapshot(catalog, manifest, settings, open_shard=shard_opener(place.store))
    return writer.restore(view, Lease(catalog, manifest, settings, place.new_id()))


def fails_at_the_commit(after: bool) -> tuple[Place, FailingStore, object, int]:
    """A writer whose restore of the version with row 1 fails with its commit, landed or not."""
    place = Place()
    store = FailingStore(place.store)
    writer = place.writer(store)
    writer.upsert(rows_of([1]))
    writer.flush()
    version = writer.view().manifest.version
    writer.delete(np.array([1]))
    writer.upsert(rows_of([2]))
    writer.flush()
    commits = []
    real = place.store.put_if_absent

    def put_if_absent(key, data):
        if key.startswith("catalog/") and not commits:
            commits.append(key)
            if after:
                real(key, data)
            raise StoreUnavailable("on cue")
        real(key, data)

    store.put_if_absent = put_if_absent
    with pytest.raises(StoreUnavailable):
        restored(place, writer, version)
    assert commits
    return place, store, writer, version


@pytest.mark.parametrize("after", [False, True], ids=["refused", "lost"])
def test_a_write_after_a_restore_whose_answer_was_lost_knows_what_it_brought_back(after):
    place, _, writer, _ = fails_at_the_commit(after)
    assert writer.delete(np.array([1])) == int(after), "row 1 is back where the commit had landed"
    assert place.contents() == contents(writer.view()) == ({} if after else model_of(rows_of([2])))


@pytest.mark.parametrize("after", [False, True], ids=["refused", "lost"])
def test_a_tag_after_a_restore_whose_answer_was_lost_keeps_what_it_brought_back(after):
    place, _, writer, _ = fails_at_the_commit(after)
    writer.tag("t")
    catalog = Catalog(place.store)
    view = open_snapshot(
        catalog,
        find_snapshot(catalog, "c", "t"),
        Settings(io_concurrency=1),
        open_shard=shard_opener(place.store),
    )
    assert contents(view) == model_of(rows_of([1] if after else [2]))


def test_a_writer_that_is_closed_while_a_restore_is_unsettled_says_so():
    _, _, writer, _ = fails_at_the_commit(True)
    writer.close()
    with pytest.raises(vstore.errors.Closed):
        writer.upsert(rows_of([9]))


class StaleList(MemoryStore):
    """Lists what was there at a moment, while it is told to."""

    def __init__(self) -> None:
        super().__init__("stale")
        self.frozen: dict[str, list] | None = None

    def list(self, prefix=""):
        now = super().list(prefix)
        if self.frozen is None:
            return now
        return [info for info in self.frozen if info.key.startswith(prefix)]

    def freeze(self) -> None:
        self.frozen = super().list("")


def test_stale_listings_lose_nothing_and_take_no_reader_back():
    place = Place(store=StaleList())
    writer = place.writer()
    writer.upsert(rows_of([1]))
    before = place.view()
    place.store.freeze()
    writer.upsert(rows_of([2]))
    writer.flush()
    writer.upsert(rows_of([3]))
    assert contents(writer.view()) == model_of(rows_of([1, 2, 3]))
    place.store.frozen = None
    fresh = place.view(previous=before)
    place.store.freeze()
    place.store.frozen = [info for info in place.store.frozen if "0004" not in info.key]
    settings = Settings(io_concurrency=1)
    open_shard = shard_opener(place.store)
    try:
        again = load_view(Catalog(place.store), "c", settings, open_shard=open_shard, previous=fresh)
        assert again.manifest.version >= fresh.manifest.version
    except StoreUnavailable:
        pass
    other = place.writer()
    assert contents(other.view()) == model_of(rows_of([1, 2, 3])), "it reads on where the listing ends"
    place.store.frozen = None
    assert contents(place.view()) == model_of(rows_of([1, 2, 3]))


def test_a_flush_whose_answer_was_lost_and_a_stale_listing_do_not_lose_the_newest_writes():
    """The writer reads its own state anew; a listing that ends too early would cut its log."""
    place = Place(store=StaleList())
    writer = place.writer()
    writer.upsert(rows_of([1]))
    real = place.store.put_if_absent

    def lost(key, data):
        real(key, data)
        if key.startswith("catalog/"):
            place.store.put_if_absent = real
            raise StoreUnavailable("lost on cue")

    place.store.put_if_absent = lost
    with pytest.raises(StoreUnavailable):
        writer.flush()
    place.store.freeze()
    writer.upsert(rows_of([2]))
    with pytest.raises(StorageError, match="out of date"):
        writer.flush()
    assert contents(writer.view()) == model_of(rows_of([1, 2]))
    place.store.frozen = None
    writer.flush()
    assert contents(writer.view()) == place.contents() == model_of(rows_of([1, 2]))


def test_a_drop_fences_whoever_comes_between_its_fence_and_its_commit():
    place = Place()
    settings = Settings(clock=place.clock, n_threads=1, io_concurrency=1, background=False)
    catalog = Catalog(place.store)
    registry = WriterRegistry(catalog, settings, shard_opener(place.store), build_shard)
    others = []
    real = catalog.drop

    def drop(name, now, *args, **kwargs):
        if not others:
            others.append(place.writer())
        real(name, now, *args, **kwargs)

    catalog.drop = drop
    registry.drop("c")
    (other,) = others
    with pytest.raises((WriterFenced, CollectionNotFound)):
        other.upsert(rows_of([1]))
    assert catalog.load("c") is None


def test_a_writer_whose_collection_goes_while_it_opens_it_says_so():
    place = Place()
    first = place.writer()
    for stamp in range(3):
        first.upsert(rows_of([stamp]))
    store = FailingStore(place.store)
    real = store.list

    def listing(prefix=""):
        if prefix.endswith("/log/") and place.view().manifest.writer_epoch == 2:
            view = place.writer().view()
            Catalog(place.store).drop("c", 5000.0, view.fences, epoch=view.manifest.writer_epoch)
        return real(prefix)

    store.list = listing
    with pytest.raises(CollectionNotFound):
        place.writer(store)
