"""What garbage collection must leave alone besides manifests: tags for ever, leases for a while.

A tag is a copy of a manifest under a name; a lease is one with a time at which it ends. Both are written
first, and then the manifest is looked for: garbage collection deletes a manifest, then looks for
tags and leases, then deletes data. So whoever still finds the manifest after writing was seen in time.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vstore.catalog import layout
from vstore.catalog.catalog import Catalog
from vstore.errors import InvalidInput, ObjectExists, ObjectNotFound, SnapshotNotFound, StorageError
from vstore.format.frame import decode_frame, decoding, encode_frame, pack, unpack
from vstore.format.manifest import Manifest
from vstore.format.manifest_codec import decode_manifest, encode_manifest
from vstore.settings import Settings

log = logging.getLogger(__name__)

MAGIC: Final = b"VSTLEAS\x01"
CLOCK_SKEW_S: Final = 60.0
"""A lease is honoured for so long after its end: the clocks of two machines may differ."""
CLOCK_STEP_S: Final = 1.0
"""A clock that goes back by more than this was set."""

At = int | float | str | datetime
"""A snapshot: a version, a time (seconds since the epoch, or a datetime), or a tag."""


@dataclass(frozen=True, slots=True)
class Pins:
    """What is pinned: manifests by tag, and the manifest and end of each lease by its key."""

    tags: Mapping[str, Manifest]
    leases: Mapping[str, tuple[Manifest, float]]

    def ended(self, now: float) -> tuple[str, ...]:
        """Return the keys of the leases that have ended, however wrong the reader's clock may be."""
        return tuple(key for key, (_, end) in self.leases.items() if end + CLOCK_SKEW_S < now)

    def manifests(self, now: float) -> list[Manifest]:
        """Return the manifests whose data has to stay."""
        ended = set(self.ended(now))
        leased = [manifest for key, (manifest, _) in self.leases.items() if key not in ended]
        return [*self.tags.values(), *leased]


def read_pins(catalog: Catalog, name: str, collection_id: str) -> Pins:
    """Return the tags and leases of a collection.

    Raises:
        CorruptData: one of them is damaged.
    """
    prefix = layout.pin_prefix(name, collection_id)
    tags: dict[str, Manifest] = {}
    leases: dict[str, tuple[Manifest, float]] = {}
    for info in catalog.store.list(prefix):
        kind, _, rest = info.key[len(prefix) :].partition(".")
        try:
            data = catalog.store.get(info.key)
        except ObjectNotFound:
            continue
        where = f"{catalog.store.url}: {info.key}"
        if kind == "tag":
            tags[rest] = decode_manifest(data, where)
        elif kind == "lease":
            stored = unpack(decode_frame(data, MAGIC, where), where)
            with decoding(where):
                manifest = decode_manifest(stored["manifest"], where)
                leases[info.key] = (manifest, float(stored["expires_at"]))
    return Pins(tags, leases)


def put_tag(catalog: Catalog, manifest: Manifest, tag: str) -> None:
    """Keep a manifest, and all that it names, under a name.

    Raises:
        InvalidInput: the tag exists, of another version.
        SnapshotNotFound: the manifest was collected meanwhile.
    """
    key = layout.tag_key(manifest.name, manifest.collection_id, tag)
    try:
        catalog.store.put_if_absent(key, encode_manifest(manifest))
    except ObjectExists:
        raise InvalidInput(
            f"{catalog.store.url}: collection {manifest.name!r} has a tag {tag!r} already; "
            "choose another name, or untag that one first"
        ) from None
    if catalog.store.head(layout.manifest_key(manifest.name, manifest.version)) is None:
        catalog.store.delete([key])
        raise _gone(catalog, manifest.name, manifest.version)


def find_snapshot(catalog: Catalog, name: str, at: At) -> Manifest:
    """Return the manifest of a version, a tag, or the last one that was made by a time.

    Raises:
        CollectionNotFound: there is no such collection.
        SnapshotNotFound: there is no such version or tag, or nothing is kept from that time.
        InvalidInput: `at` is none of these.
    """
    latest = catalog.require(name)
    if isinstance(at, bool) or not isinstance(at, (int, float, str, datetime)):
        raise InvalidInput(
            f"at is {at!r}; give a version (int), a tag (str), or a time (datetime, or seconds as float)"
        )
    if isinstance(at, str):
        key = layout.tag_key(name, latest.collection_id, at)
        try:
            return decode_manifest(catalog.store.get(key), f"{catalog.store.url}: {key}")
        except ObjectNotFound:
            known = ", ".join(sorted(read_pins(catalog, name, latest.collection_id).tags)) or "there are none"
            raise SnapshotNotFound(
                f"{catalog.store.url}: collection {name!r} has no tag {at!r} ({known}); tag makes one"
            ) from None
    history = [manifest for manifest in catalog.history(name) if not manifest.dropped]
    history = [manifest for manifest in history if manifest.collection_id == latest.collection_id]
    if isinstance(at, int):
        found = [manifest for manifest in history if manifest.version == at]
    else:
        seconds = at.timestamp() if isinstance(at, datetime) else at
        found = [manifest for manifest in history if manifest.created_at <= seconds]
    if not found:
        kept = f"{history[0].version} to {history[-1].version}" if history else "none"
        raise SnapshotNotFound(
            f"{catalog.store.url}: collection {name!r} keeps nothing at {at!r} (versions {kept}); "
            "a longer retention_s keeps more, and a tag keeps a version for ever"
        )
    return found[-1]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version that can be opened: `created_at` in seconds since the epoch, and the tags that keep it."""

    version: int
    created_at: float
    n_rows: int
    tags: tuple[str, ...]


def list_snapshots(catalog: Catalog, name: str) -> list[Snapshot]:
    """Return the versions that can be opened, ascending: those within the retention, and tagged ones.

    Raises:
        CollectionNotFound: there is no such collection.
    """
    latest = catalog.require(name)
    tags = read_pins(catalog, name, latest.collection_id).tags
    kept = {m.version: m for m in (*tags.values(), *catalog.history(name))}
    return [
        Snapshot(
            version,
            manifest.created_at,
            sum(entry.n_rows - entry.n_dead for entry in manifest.shards),
            tuple(sorted(tag for tag, tagged in tags.items() if tagged.version == version)),
        )
        for version, manifest in sorted(kept.items())
        if manifest.collection_id == latest.collection_id
    ]


def delete_tag(catalog: Catalog, name: str, tag: str) -> None:
    """Let what a tag keeps go, unless something else keeps it; an unknown tag is no error.

    Raises:
        CollectionNotFound: there is no such collection.
    """
    latest = catalog.require(name)
    catalog.store.delete([layout.tag_key(name, latest.collection_id, tag)])


class Lease:
    """Keeps a version from garbage collection while somebody reads it. Thread-safe.

    Args:
        catalog: of the store.
        manifest: the version's.
        settings: `lease_s` and `clock`.
        unique: an id that no other lease has.
        tag: the tag that the manifest was found under; then it, and not the version, must still be there.

    Raises:
        SnapshotNotFound: the version was collected before the lease was there.
        StorageError: the lease could not be written.
    """

    def __init__(
        self,
        catalog: Catalog,
        manifest: Manifest,
        settings: Settings,
        unique: str | None = None,
        *,
        tag: str | None = None,
    ) -> None:
        self._catalog = catalog
        self._manifest = manifest
        self._settings = settings
        self._key = layout.lease_key(manifest.name, manifest.collection_id, unique or uuid.uuid4().hex)
        self._lock = threading.Lock()
        self._source = layout.manifest_key(manifest.name, manifest.version)
        if tag is not None:
            self._source = layout.tag_key(manifest.name, manifest.collection_id, tag)
        self._at = self._held_at = self._renew_at = self._ends_at = 0.0
        self.hold()

    def renew(self) -> None:
        """Extend the lease where half of its time is over; a failure is logged, and tried again.

        Raises:
            SnapshotNotFound: the lease had ended, and the version was collected.
        """
        now = self._settings.clock()
        if now >= self._held_at - CLOCK_STEP_S and self._steady(now) < self._renew_at:
            return
        try:
            self.hold()
        except StorageError as error:
            log.warning("collection %r: a lease was not renewed: %s", self._manifest.name, error)

    def hold(self) -> None:
        """Let the lease end `lease_s` from now.

        Raises:
            SnapshotNotFound: the lease had ended, and the version was collected.
            StorageError: the lease could not be written.
        """
        with self._lock:
            lapsed = self._steady(self._settings.clock()) > self._ends_at
            self._put()
            catalog, manifest = self._catalog, self._manifest
            if not lapsed or catalog.store.head(self._source) is not None:
                return
        self.release()
        raise _gone(catalog, manifest.name, manifest.version)

    def release(self) -> None:
        """Let the version go; what cannot be deleted ends by itself."""
        try:
            self._catalog.store.delete([self._key])
        except StorageError as error:
            log.warning("collection %r: a lease was not released: %s", self._manifest.name, error)

    def _steady(self, now: float) -> float:
        """Return a time that goes on where the clock was set back: other machines' clocks do so too."""
        return self._at + max(0.0, now - self._held_at)

    def _put(self) -> None:
        now, lease_s = self._settings.clock(), self._settings.lease_s
        self._at, self._held_at = self._steady(now), now
        stored = {"expires_at": self._at + lease_s, "manifest": encode_manifest(self._manifest)}
        self._catalog.store.put(self._key, encode_frame(MAGIC, pack(stored)))
        self._renew_at, self._ends_at = self._at + lease_s / 2, self._at + lease_s


def _gone(catalog: Catalog, name: str, version: int) -> SnapshotNotFound:
    return SnapshotNotFound(
        f"{catalog.store.url}: version {version} of collection {name!r} was collected; "
        "a longer retention_s keeps more"
    )
