"""Deletes what no kept manifest names: shards and dead rows replaced, log records flushed, old manifests.

Fence records stay (see `fences`).

Kept are the latest manifest and those that were still the latest within the retention. Manifests go oldest
first, one at a time, so that a version that is there has all its successors there too. An object
younger than the kept manifests may be one that a writer is about to name, so data objects are
deleted only where a manifest that is now too old named them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from vstore.catalog import layout
from vstore.catalog.catalog import Catalog
from vstore.catalog.fences import fences_of
from vstore.format.manifest import Manifest
from vstore.settings import Clock


@dataclass(frozen=True, slots=True)
class Collected:
    """Keys that were deleted, or would be."""

    manifests: tuple[str, ...]
    data: tuple[str, ...]


def collect(
    catalog: Catalog, name: str, retention_s: float, clock: Clock, *, dry_run: bool = False
) -> Collected:
    """Delete a collection's garbage.

    Args:
        catalog: of the store.
        name: the collection.
        retention_s: a manifest stays while it was the latest less than this many seconds ago.
        clock: tells now.
        dry_run: delete nothing, say what would be.

    Raises:
        StorageError: the store failed; what was deleted until then was garbage.
    """
    manifests = [
        m for m in (catalog.load(name, version) for version in catalog.versions(name)) if m is not None
    ]
    if not manifests:
        return Collected((), ())
    now = clock()
    # A manifest stops being the latest when the next one is made.
    expired = [
        old for old, successor in itertools.pairwise(manifests) if successor.created_at < now - retention_s
    ]
    kept = manifests[len(expired) :]
    named = {key for manifest in kept for key in _data_of(manifest)}
    dead = sorted({key for manifest in expired for key in _data_of(manifest)} - named)
    log_start = min(manifest.log_start for manifest in kept)
    prefix = layout.log_prefix(name, kept[-1].collection_id)
    fences = set(fences_of(kept[-1]))
    numbers = [(info.key, info.key[len(prefix) :]) for info in catalog.store.list(prefix)]
    old_log = [
        key
        for key, number in numbers
        if number.isdecimal() and int(number) < log_start and int(number) not in fences
    ]
    gone = Collected(
        tuple(layout.manifest_key(name, manifest.version) for manifest in expired), tuple(dead + old_log)
    )
    if not dry_run:
        if gone.data:
            catalog.store.delete(gone.data)
        for key in gone.manifests:
            catalog.store.delete([key])
    return gone


def _data_of(manifest: Manifest) -> set[str]:
    keys = {entry.key for entry in manifest.shards}
    return keys | {entry.dead_key for entry in manifest.shards if entry.dead_key is not None}
