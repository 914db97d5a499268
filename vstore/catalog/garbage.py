"""Deletes what no kept manifest names: shards and dead rows replaced, log records flushed, old manifests.

Fence records stay (see `fences`), and what tags and leases pin (see `pins`).

Kept are the latest manifest and those that were still the latest within the retention. Manifests go oldest
first, one at a time, so that a version that is there has all its successors there too; then tags and leases
are looked for, and only then data goes.

What is listed may be out of date, so the versions after those that were listed are read one by one, and at
the end once more: a version that restores an old one names what that one did.

Of a dropped collection everything goes but its fences, should dropping it not have done so.

An object that no manifest names may be one that a writer is about to name. So such orphans (of a flush
that failed, or of a process that died) are deleted by the writer alone, while it flushes nothing: objects are
listed first, and a latest manifest of its own epoch, read after, says that nobody else was at work then.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from vstore.catalog import layout
from vstore.catalog.catalog import Catalog
from vstore.catalog.fences import fences_of
from vstore.catalog.pins import read_pins
from vstore.format.manifest import Manifest
from vstore.settings import Clock


@dataclass(frozen=True, slots=True)
class Collected:
    """Keys that were deleted, or would be: `data` is what expired manifests named, and log."""

    manifests: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    leases: tuple[str, ...] = ()


def collect(
    catalog: Catalog,
    name: str,
    retention_s: float,
    clock: Clock,
    *,
    dry_run: bool = False,
    writer_epoch: int | None = None,
) -> Collected:
    """Delete a collection's garbage.

    Args:
        catalog: of the store.
        name: the collection.
        retention_s: a manifest stays while it was the latest less than this many seconds ago.
        clock: tells now.
        dry_run: delete nothing, say what would be.
        writer_epoch: of the caller, if it is the writer and neither flushes nor merges now; it deletes
            orphans too.

    Raises:
        StorageError: the store failed; what was deleted until then was garbage.
    """
    # Listed before manifests are read: what stands here belongs to collections that they know of.
    stored = [info.key for info in catalog.store.list(layout.all_data_prefix(name))]
    manifests = catalog.history(name)
    if not manifests:
        return Collected()
    manifests += catalog.newer(name, manifests[-1].version)
    now = clock()
    latest = manifests[-1]
    expired = [
        *_latecomers(catalog, manifests[0], now - retention_s),
        *_expired(manifests, now - retention_s),
    ]
    gone = tuple(layout.manifest_key(name, manifest.version) for manifest in expired)
    dropped = _dropped_data(stored, manifests)
    if not dry_run:
        # Its manifest says which records of a dropped collection stay, so it goes last.
        catalog.store.delete(dropped)
        for key in gone:
            catalog.store.delete([key])
    # A tag that was made before its manifest went is here now; one that was made after finds it gone.
    pins = read_pins(catalog, name, latest.collection_id)
    # Restoring names again what an old version did, under a lease until its own manifest is there.
    restored = catalog.newer(name, latest.version)
    kept = [manifest for manifest in manifests if manifest not in expired]
    named = {key for manifest in (*kept, *restored, *pins.manifests(now)) for key in _data_of(manifest)}
    dead = {key for manifest in expired for key in _data_of(manifest)} - named - set(dropped)
    old_log = [] if latest.dropped else _flushed_log(stored, kept)
    orphans: set[str] = set()
    if writer_epoch == latest.writer_epoch and not latest.dropped:
        prefix = layout.data_prefix(name, latest.collection_id)
        parts = (f"{prefix}shards/", f"{prefix}dead/")
        orphans = {key for key in stored if key.startswith(parts)} - named - dead
    found = Collected(gone, (*dropped, *sorted(dead), *old_log), tuple(sorted(orphans)), pins.ended(now))
    if not dry_run and (garbage := (*sorted(dead), *old_log, *found.orphans, *found.leases)):
        catalog.store.delete(garbage)
    return found


def _expired(manifests: Sequence[Manifest], before: float) -> list[Manifest]:
    """Return the manifests that were the latest before a time only."""
    # A manifest stops being the latest when the next one is made. The first that is young ends it, whatever
    # a clock that was set back says of later ones: a hole would let a late writer commit into it.
    pairs = itertools.takewhile(lambda pair: pair[1].created_at < before, itertools.pairwise(manifests))
    return [old for old, _ in pairs]


def _latecomers(catalog: Catalog, oldest: Manifest, before: float) -> list[Manifest]:
    """Return the manifests that came into a number that had been collected, from before a time."""
    late = [version for version in catalog.stored_versions(oldest.name) if version < oldest.version]
    found = [catalog.load(oldest.name, version) for version in late]
    return [manifest for manifest in found if manifest is not None and manifest.created_at < before]


def _dropped_data(stored: Sequence[str], manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """Return the keys that are left of collections of this name that were dropped, less their fences."""
    latest = manifests[-1]
    tombs = {m.collection_id: set(fences_of(m)) for m in manifests if m.dropped}
    found = []
    for key in stored:
        _, _, collection_id, kind, *rest = key.split("/")
        if collection_id in tombs:
            seq = layout.number_of(rest[-1]) if kind == "log" and rest else None
            if seq is None or seq not in tombs[collection_id]:
                found.append(key)
        elif collection_id != latest.collection_id and kind != "log":
            # Dropped so long ago that its manifest is gone; of its log only fences are left.
            found.append(key)
    return tuple(found)


def _flushed_log(stored: Sequence[str], kept: Sequence[Manifest]) -> list[str]:
    latest = kept[-1]
    log_start = min(m.log_start for m in kept if m.collection_id == latest.collection_id)
    fences = set(fences_of(latest))
    prefix = layout.log_prefix(latest.name, latest.collection_id)
    numbers = [(key, layout.number_of(key[len(prefix) :])) for key in stored if key.startswith(prefix)]
    return [key for key, seq in numbers if seq is not None and seq < log_start and seq not in fences]


def _data_of(manifest: Manifest) -> set[str]:
    keys = {entry.key for entry in manifest.shards}
    return keys | {entry.dead_key for entry in manifest.shards if entry.dead_key is not None}
