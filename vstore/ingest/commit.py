"""Manifests as the writer commits them: the next one, seen to be the latest, and the one of a new epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vstore.catalog import Catalog
from vstore.catalog.layout import manifest_key
from vstore.errors import CommitConflict, WriterFenced
from vstore.format.manifest import Manifest
from vstore.settings import Settings

MAX_ATTEMPTS = 16
"""Times that a commit which lost its race is made anew on top of the winner's."""


def commit(catalog: Catalog, manifest: Manifest) -> None:
    """Commit a manifest and see that it is the latest.

    A writer that slept while its successors' manifests came and were collected finds the number free
    that it wants: it creates a manifest that nobody will ever read.

    Raises:
        CommitConflict: there is a later one.
    """
    catalog.commit(manifest)
    before = manifest.version - 1
    if not before or catalog.store.head(manifest_key(manifest.name, before)) is not None:
        # Garbage goes oldest first: while the version before is there, this number was never collected.
        return
    latest = max(catalog.stored_versions(manifest.name), default=manifest.version)
    if latest > manifest.version:
        raise CommitConflict(
            f"{catalog.store.url}: version {manifest.version} of collection {manifest.name!r} came after "
            f"version {latest}: somebody else published meanwhile; reload and try again"
        )


def take_over(catalog: Catalog, name: str, settings: Settings, new_id: Callable[[], str]) -> Manifest:
    """Commit the manifest of the next epoch, and return it.

    Raises:
        WriterFenced: others did so again and again.
    """
    for _ in range(MAX_ATTEMPTS):
        latest = catalog.require(name)
        manifest = replace(
            latest,
            version=latest.version + 1,
            writer_epoch=latest.writer_epoch + 1,
            created_at=settings.clock(),
            write_id=new_id(),
        )
        try:
            commit(catalog, manifest)
        except CommitConflict:
            continue
        return manifest
    raise WriterFenced(
        f"{catalog.store.url}: {MAX_ATTEMPTS} other writers took collection {name!r} over while this one "
        "tried; a collection has one writer at a time: see that not several processes open it to write"
    )


def overtaken(catalog: Catalog, manifest: Manifest, epoch: int) -> WriterFenced:
    """Return the error for a writer that another of this epoch overtook while it opened the collection."""
    return WriterFenced(
        f"{catalog.store.url}: collection {manifest.name!r} was taken over by a writer of epoch {epoch} "
        f"while this one, of epoch {manifest.writer_epoch}, was opening it: open it again to write"
    )
