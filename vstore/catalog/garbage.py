"""Deletes what no kept manifest names: shards and dead rows replaced, log records flushed, old manifests.

Fence records stay (see `fences`), and what tags and leases pin (see `pins`).

Kept are the latest manifest and those that were still the latest within the retention. Manifests go oldest
first, one at a time, so that a version that is there has all its successors there too; then tags and leases
are looked for, and only then data goes.

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
    unnamed = _shards_and_dead(catalog, name) if writer_epoch is not None else []
    manifests = catalog.history(name)
    if not manifests:
        return Collected()
    now = clock()
    latest = manifests[-1]
    # A manifest stops being the latest when the next one is made. The first that is young ends it, whatever
    # a clock that was set back says of later ones: a hole would let a late writer commit into it.
    expired = [
        old
        for old, _ in itertools.takewhile(
            lambda pair: pair[1].created_at < now - retention_s, itertools.pairwise(manifests)
        )
    ]
    kept = manifests[len(expired) :]
    gone = tuple(layout.manifest_key(name, manifest.version) for manifest in expired)
    if not dry_run:
        for key in gone:
            catalog.store.delete([key])
    # A tag that was made before its manifest went is here now; one that was made after finds it gone.
    pins = read_pins(catalog, name, latest.collection_id)
    named = {key for manifest in (*kept, *pins.manifests(now)) for key in _data_of(manifest)}
    dead = {key for manifest in expired for key in _data_of(manifest)} - named
    old_log = [] if latest.dropped else _flushed_log(catalog, kept)
    orphans: set[str] = set()
    if writer_epoch == latest.writer_epoch and not latest.dropped:
        prefix = layout.data_prefix(name, latest.collection_id)
        orphans = {key for key in unnamed if key.startswith(prefix)} - named - dead
    found = Collected(gone, (*sorted(dead), *old_log), tuple(sorted(orphans)), pins.ended(now))
    if not dry_run and (garbage := (*found.data, *found.orphans, *found.leases)):
        catalog.store.delete(garbage)
    return found


def _shards_and_dead(catalog: Catalog, name: str) -> list[str]:
    latest = catalog.load(name)
    if latest is None:
        return []
    prefix = layout.data_prefix(name, latest.collection_id)
    parts = (f"{prefix}shards/", f"{prefix}dead/")
    return [info.key for part in parts for info in catalog.store.list(part)]


def _flushed_log(catalog: Catalog, kept: Sequence[Manifest]) -> list[str]:
    latest = kept[-1]
    log_start = min(m.log_start for m in kept if m.collection_id == latest.collection_id)
    fences = set(fences_of(latest))
    prefix = layout.log_prefix(latest.name, latest.collection_id)
    numbers = [(info.key, layout.number_of(info.key[len(prefix) :])) for info in catalog.store.list(prefix)]
    return [key for key, seq in numbers if seq is not None and seq < log_start and seq not in fences]


def _data_of(manifest: Manifest) -> set[str]:
    keys = {entry.key for entry in manifest.shards}
    return keys | {entry.dead_key for entry in manifest.shards if entry.dead_key is not None}
