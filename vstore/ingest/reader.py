"""Opens a collection: its manifest, its shards, and the log since. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace

from vstore.catalog import Catalog
from vstore.catalog.fences import fences_of
from vstore.catalog.layout import log_prefix
from vstore.errors import CorruptData, ObjectNotFound, StoreUnavailable
from vstore.format.dead_rows import decode_dead
from vstore.format.manifest import Manifest, ShardEntry
from vstore.ingest.memtable import MemtableView
from vstore.ingest.schema import since_of
from vstore.ingest.view import CollectionView, LiveShard, S, replayed
from vstore.ingest.wal import replay
from vstore.settings import Settings
from vstore.storage.base import ByteRange
from vstore_kernels import bitmap

OpenShard = Callable[[ShardEntry, Manifest], S]
"""Opens a shard; the manifest tells the schema and the kind of ids."""

MAX_RESTARTS = 8


def load_view(
    catalog: Catalog,
    name: str,
    settings: Settings,
    *,
    open_shard: OpenShard[S],
    previous: CollectionView[S] | None = None,
    manifest: Manifest | None = None,
) -> CollectionView[S]:
    """Return what the collection holds now.

    A writer may publish a new manifest meanwhile and its garbage collection may take objects that
    the old one names; so the manifest is looked at again at the end, and a newer one starts over.

    Args:
        catalog: the store's catalog.
        name: the collection.
        settings: how many shards are opened and asked at once (`io_concurrency`).
        open_shard: opens a shard that `previous` does not hold open.
        previous: an earlier view of the same collection; what it has is not read again.
        manifest: one that was the latest just now, if it is known.

    Raises:
        CollectionNotFound: there is none of that name.
        CorruptData: an object that the manifest names is damaged or missing.
        StoreUnavailable: a new manifest came out during each of several attempts.
    """
    manifest = manifest or catalog.require(name)
    if previous is not None and previous.manifest.version > manifest.version:
        # A listing that is out of date must not take a reader back.
        manifest = previous.manifest
    for _ in range(MAX_RESTARTS):
        try:
            view = open_view(catalog, manifest, settings, open_shard=open_shard, previous=previous)
        except (CorruptData, ObjectNotFound):
            newer = catalog.require(name)
            if newer.version == manifest.version:
                raise
        else:
            if catalog.versions(name)[-1:] == [manifest.version]:
                return view
            newer, previous = catalog.require(name), view
        manifest = newer
    raise StoreUnavailable(
        f"{catalog.store.url}: collection {name!r} got a new manifest during each of {MAX_RESTARTS} attempts "
        "to open it; try again, or compact less often"
    )


def open_snapshot(
    catalog: Catalog, manifest: Manifest, settings: Settings, *, open_shard: OpenShard[S]
) -> CollectionView[S]:
    """Return what this manifest names, without the log since.

    Raises:
        CorruptData, ObjectNotFound: an object that the manifest names is damaged or missing.
    """
    with ThreadPoolExecutor(settings.io_concurrency) as pool:
        return CollectionView(
            manifest=manifest,
            shards=_open_shards(catalog, manifest, open_shard, None, pool),
            memtable=MemtableView(),
            seq=manifest.log_start,
            id_kind=manifest.id_kind,
            fences=fences_of(manifest),
        )


def open_view(
    catalog: Catalog,
    manifest: Manifest,
    settings: Settings,
    *,
    open_shard: OpenShard[S],
    previous: CollectionView[S] | None = None,
) -> CollectionView[S]:
    """Return what this manifest and the log since it hold.

    Raises:
        CorruptData, ObjectNotFound: an object that the manifest names is damaged or missing.
    """
    prefix = log_prefix(manifest.name, manifest.collection_id)
    with ThreadPoolExecutor(settings.io_concurrency) as pool:
        view = _reusable(previous, manifest)
        if view is None:
            view = CollectionView(
                manifest=manifest,
                shards=_open_shards(catalog, manifest, open_shard, previous, pool),
                memtable=MemtableView(),
                seq=manifest.log_start,
                id_kind=manifest.id_kind,
                fences=fences_of(manifest),
            )
        return replayed(view, replay(catalog.store, prefix, view.seq), pool)


def _reusable(previous: CollectionView[S] | None, manifest: Manifest) -> CollectionView[S] | None:
    """Return the earlier view, under the new manifest, where only the log can have grown."""
    if previous is None or previous.manifest.collection_id != manifest.collection_id:
        return None
    old = previous.manifest
    if (old.shards, old.log_start, old.schema) != (manifest.shards, manifest.log_start, manifest.schema):
        return None
    if since_of(old) != since_of(manifest):
        # A field that was dropped and added again is another one: rows of the log before it lack it.
        return None
    return replace(previous, manifest=manifest)


def _same_fields(old: Manifest, new: Manifest) -> bool:
    """Return whether shards that are open under one manifest read as they would under the other."""
    if old.collection_id != new.collection_id or old.schema != new.schema:
        return False
    sections = {entry.shard_id: entry.sections for entry in old.shards}
    # A field that was dropped and added again is another one: the shard has lost its column.
    return all(sections.get(entry.shard_id, entry.sections) == entry.sections for entry in new.shards)


def _open_shards(
    catalog: Catalog,
    manifest: Manifest,
    open_shard: OpenShard[S],
    previous: CollectionView[S] | None,
    pool: Executor,
) -> tuple[LiveShard[S], ...]:
    open_already: dict[str, S] = {}
    if previous is not None and _same_fields(previous.manifest, manifest):
        open_already = {shard.shard.entry.shard_id: shard.shard for shard in previous.shards}

    def opened(entry: ShardEntry) -> S:
        shard = open_already.get(entry.shard_id)
        return open_shard(entry, manifest) if shard is None else shard

    shards = list(pool.map(opened, manifest.shards))
    keys = [entry.dead_key for entry in manifest.shards if entry.dead_key is not None]
    dead = catalog.store.get_many([ByteRange(key) for key in keys]) if keys else []
    stored = dict(zip(keys, dead, strict=True))
    return tuple(
        _live_shard(catalog, entry, shard, stored.get(entry.dead_key or ""))
        for entry, shard in zip(manifest.shards, shards, strict=True)
    )


def _live_shard(catalog: Catalog, entry: ShardEntry, shard: S, dead: bytes | None) -> LiveShard[S]:
    if dead is None:
        return LiveShard(shard, None, entry.n_rows)
    rows = decode_dead(dead, f"{catalog.store.url}: {entry.dead_key}", entry.n_rows)
    n_dead = bitmap.popcount(rows)
    if n_dead != entry.n_dead:
        raise CorruptData(
            f"{catalog.store.url}: {entry.dead_key} marks {n_dead} rows as deleted; "
            f"the manifest says {entry.n_dead}: restore the object from a backup"
        )
    return LiveShard(shard, bitmap.without(bitmap.full(entry.n_rows), rows), entry.n_rows - n_dead)
