"""Deletes what no kept manifest names: shards and dead rows replaced, log records flushed, old manifests.

Fence records stay (see `fences`).

Kept are the latest manifest and those that were still the latest within the retention. Manifests go oldest
first, one at a time, so that a version that is there has all its successors there too. An object
younger than the kept manifests may be one that a writer is about to name, so data objects are
deleted only where a manifest that is now too old named them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
    manifests = catalog.history(name)
    if not manifests:
        return Collected((), ())
    now = clock()
    # A manifest stops being the latest when the next one is made. The first that is young ends it, whatever
    # a clock that was set back says of later ones: a hole would let a late writer commit into it.
    expired = [
        old
        for old, _ in itertools.takewhile(
            lambda pair: pair[1].created_at < now - retention_s, itertools.pairwise(manifests)
        )
    ]
    kept = manifests[len(expired) :]
    named = {key for manifest in kept for key in _data_of(manifest)}
    dead = sorted({key for manifest in expired for key in _data_of(manifest)} - named)
    old_log = [] if kept[-1].dropped else _flushed_log(catalog, kept)
    gone = Collected(
        tuple(layout.manifest_key(name, manifest.version) for manifest in expired), tuple(dead + old_log)
    )
    if not dry_run:
        if gone.data:
            catalog.store.delete(gone.data)
        for key in gone.manifests:
            catalog.store.delete([key])
    return gone


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
