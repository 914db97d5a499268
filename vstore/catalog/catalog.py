"""Loads and commits manifests. Commit is one create-only put of the next version's name.

Manifests are numbered without holes and never overwritten, so who creates `version` has decided what
it is: two committers race for one name, and exactly one wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from vstore.catalog import layout
from vstore.catalog.fences import fences_of, with_fences
from vstore.catalog.invariants import check_manifest, check_succession
from vstore.errors import (
    CollectionExists,
    CollectionNotFound,
    CommitConflict,
    CorruptData,
    FormatError,
    NotAStore,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
    UnsupportedVersion,
    nearest,
)
from vstore.format.frame import VERSION
from vstore.format.manifest import Manifest
from vstore.format.manifest_codec import decode_manifest, encode_manifest
from vstore.storage.base import ByteRange, ObjectStore
from vstore.storage.probe import is_empty, probe_create_only

_RELOADS = 5


class Catalog:
    """The collections of one store. Thread-safe; holds no state."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def check_marker(self) -> bool:
        """Return whether the place is a store already; an empty place may become one.

        Raises:
            NotAStore: it holds other things.
            UnsupportedVersion: it was made by a newer vstore.
        """
        where = f"{self.store.url}: {layout.MARKER}"
        try:
            data = self.store.get(layout.MARKER)
        except ObjectNotFound:
            if not is_empty(self.store):
                raise NotAStore(
                    f"{self.store.url} holds files but no {layout.MARKER}: it is no vstore store; "
                    "give an empty or new place"
                ) from None
            return False
        try:
            marker = json.loads(data)
            kind, version = marker["format"], marker["version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NotAStore(f"{where} does not say what made it ({error}); it is no vstore store") from None
        if kind != "vstore" or type(version) is not int or version < 1:
            raise NotAStore(f"{where} says format {kind!r}, version {version!r}; it is no vstore store")
        if version > VERSION:
            raise UnsupportedVersion(
                f"{where} says version {version}; this vstore reads up to {VERSION}: upgrade it"
            )
        return True

    def create(self, manifest: Manifest) -> None:
        """Commit the first manifest of a collection, making the place a store where it is none.

        Raises:
            CollectionExists: the name is taken.
        """
        layout.check_name(manifest.name)
        self._mark()
        before = self._latest(manifest.name)
        if before is not None and not before.dropped:
            raise CollectionExists(
                f"{self.store.url}: collection {manifest.name!r} exists; "
                f"use collection({manifest.name!r}), or drop_collection first"
            )
        if before is not None:
            manifest = dataclasses.replace(manifest, version=before.version + 1)
        try:
            self.commit(manifest)
        except CommitConflict:
            raise CollectionExists(
                f"{self.store.url}: collection {manifest.name!r} was just created by someone else"
            ) from None

    def load(self, name: str, version: int | None = None) -> Manifest | None:
        """Return a manifest, the latest by default; None where the collection does not exist.

        Raises:
            CorruptData, UnsupportedVersion: it cannot be read.
        """
        layout.check_name(name)
        manifest = self._latest(name) if version is None else self._read(name, version)
        return None if manifest is None or manifest.dropped else manifest

    def require(self, name: str) -> Manifest:
        """Return the latest manifest.

        Raises:
            CollectionNotFound: the collection does not exist.
        """
        manifest = self.load(name)
        if manifest is None:
            known = self.collections()
            raise CollectionNotFound(
                f"{self.store.url}: there is no collection {name!r}{nearest(name, known)} "
                f"({', '.join(known) or 'none exist'}); create_collection makes one"
            )
        return manifest

    def commit(self, manifest: Manifest) -> None:
        """Publish a manifest: on return it is durable.

        Raises:
            CommitConflict: its version was published by someone else, or long ago.
            CorruptData: it may not follow the version before it, or could not be read back.
        """
        check_manifest(manifest)
        if manifest.version > 1:
            before = self._read(manifest.name, manifest.version - 1)
            if before is None:
                # Garbage goes oldest first: the version that is wanted now came and went as well.
                raise CommitConflict(
                    f"{self.store.url}: version {manifest.version - 1} of collection {manifest.name!r} is "
                    f"gone, so version {manifest.version} was published long ago; reload and try again"
                )
            check_succession(before, manifest)
        key = layout.manifest_key(manifest.name, manifest.version)
        data = encode_manifest(manifest)
        if decode_manifest(data, f"{self.store.url}: {key}") != manifest:
            raise CorruptData(f"{self.store.url}: {key} would read back as another manifest: not published")
        try:
            self.store.put_if_absent(key, data)
        except ObjectExists:
            raise CommitConflict(
                f"{self.store.url}: version {manifest.version} of collection {manifest.name!r} "
                "was published by someone else first; reload and try again"
            ) from None

        # Only a copy: who reads it looks whether it is the latest, so a lost one costs a round trip.
        with contextlib.suppress(StorageError):
            self.store.put(layout.latest_key(manifest.name), data)

    def require_at_once(self, name: str) -> Manifest:
        """Return the latest manifest, checked as by `check_marker`, by reads that do not wait for each other.

        One round trip, where the copy of the latest manifest is up to date; else another one or two.

        Raises: as `check_marker` and `require`.
        """
        layout.check_name(name)
        with ThreadPoolExecutor(3) as pool:
            marked = pool.submit(self.check_marker)
            versions = pool.submit(self.versions, name)
            copy = pool.submit(self._copy, name)
            known, latest = marked.result() and versions.result(), copy.result()
            if known and latest is not None and latest.version == known[-1] and not latest.dropped:
                return latest
        return self.require(name)

    def _copy(self, name: str) -> Manifest | None:
        key = layout.latest_key(name)
        try:
            manifest = decode_manifest(self.store.get(key), f"{self.store.url}: {key}")
        except (ObjectNotFound, FormatError):
            return None
        return manifest if manifest.name == name else None

    def collections(self) -> list[str]:
        """Return the names of the collections that exist, sorted."""
        latest: dict[str, int] = {}
        for info in self.store.list(layout.CATALOG):
            name, _, number = info.key[len(layout.CATALOG) :].partition("/")
            version = layout.number_of(number)
            if version is not None:
                latest[name] = max(latest.get(name, 0), version)
        keys = {name: layout.manifest_key(name, version) for name, version in latest.items()}
        try:
            stored = self.store.get_many([ByteRange(key) for key in keys.values()])
        except ObjectNotFound:
            # One was superseded and collected since the listing.
            return [name for name in sorted(latest) if self.load(name) is not None]
        return sorted(
            name
            for (name, key), data in zip(keys.items(), stored, strict=True)
            if not decode_manifest(data, f"{self.store.url}: {key}").dropped
        )

    def drop(self, name: str, now: float, fences: Iterable[int] = (), epoch: int | None = None) -> None:
        """Drop a collection: gone with one commit, then its data is deleted.

        Should the deletion fail, garbage collection ends it.

        Args:
            name: the collection.
            now: seconds since the epoch.
            fences: records of the log that stay: without them a writer that slept through the drop
                could have a write acknowledged that nobody will ever read.
            epoch: of the caller, whose fence ends the log; a writer that came after has not been fenced.

        Raises:
            CollectionNotFound: it does not exist.
            CommitConflict: somebody committed meanwhile, again and again, or took the collection over.
        """
        for attempt in range(_RELOADS):
            before = self.require(name)
            if epoch is not None and before.writer_epoch != epoch:
                raise CommitConflict(
                    f"{self.store.url}: collection {name!r} was taken over by a writer of epoch "
                    f"{before.writer_epoch} while one of epoch {epoch} dropped it: drop it again"
                )
            gone = dataclasses.replace(
                before,
                version=before.version + 1,
                writer_epoch=before.writer_epoch + 1,
                shards=(),
                dropped=True,
                created_at=now,
                write_id=uuid.uuid4().hex,
                properties=with_fences({}, fences),
            )
            try:
                self.commit(gone)
                break
            except CommitConflict:
                if attempt == _RELOADS - 1:
                    raise
        self.store.delete(self.left_of(gone))

    def left_of(self, dropped: Manifest) -> list[str]:
        """Return the keys of a dropped collection's data, less its fences."""
        prefix = layout.data_prefix(dropped.name, dropped.collection_id)
        log = layout.log_prefix(dropped.name, dropped.collection_id)
        keep = {layout.log_key(log, seq) for seq in fences_of(dropped)}
        return [info.key for info in self.store.list(prefix) if info.key not in keep]

    def versions(self, name: str) -> list[int]:
        """Return the versions that are kept, ascending and without holes.

        Garbage goes oldest first and so leaves no hole. What stands before one came into a number that was
        collected, from a commit that was on its way for very long: it never was a version of the collection.
        """
        stored = self.stored_versions(name)
        first = len(stored) - 1
        while first > 0 and stored[first - 1] == stored[first] - 1:
            first -= 1
        return stored[max(first, 0) :]

    def stored_versions(self, name: str) -> list[int]:
        """Return the numbers of all manifests that are stored, ascending."""
        prefix = layout.manifest_prefix(layout.check_name(name))
        found = [layout.number_of(info.key[len(prefix) :]) for info in self.store.list(prefix)]
        return sorted(version for version in found if version is not None)

    def newer(self, name: str, version: int) -> list[Manifest]:
        """Return the manifests after a version, ascending, past every listing that may be stale.

        Raises:
            StoreUnavailable: the version itself is gone, so newer ones may have come and gone too.
        """
        found: list[Manifest] = []
        while (after := self._read(name, version + len(found) + 1)) is not None:
            found.append(after)
        last = version + len(found)
        if self.store.head(layout.manifest_key(name, last)) is None:
            raise StoreUnavailable(
                f"{self.store.url}: version {last} of collection {name!r} was collected while the versions "
                "after it were looked for; try again"
            )
        return found

    def history(self, name: str) -> list[Manifest]:
        """Return the manifests that are kept, ascending, those of dropped collections included.

        Raises:
            CorruptData, UnsupportedVersion: one cannot be read.
        """
        versions = self.versions(name)
        keys = [layout.manifest_key(name, version) for version in versions]
        try:
            stored = self.store.get_many([ByteRange(key) for key in keys]) if keys else []
        except ObjectNotFound:
            # One was collected since the listing.
            kept = [self._read(name, version) for version in versions]
            return [manifest for manifest in kept if manifest is not None]
        return [self._decode(name, version, data) for version, data in zip(versions, stored, strict=True)]

    def _latest(self, name: str) -> Manifest | None:
        for _ in range(_RELOADS):
            versions = self.versions(name)
            if not versions:
                return None
            manifest = self._read(name, versions[-1])
            # Missing: listed, superseded and collected since; what superseded it is listed next time.
            if manifest is not None:
                return manifest
        raise StoreUnavailable(
            f"{self.store.url}: manifests of {name!r} are listed but gone when read, {_RELOADS} times over; "
            "the store's listings are out of date: try again"
        )

    def _read(self, name: str, version: int) -> Manifest | None:
        key = layout.manifest_key(name, version)
        try:
            data = self.store.get(key)
        except ObjectNotFound:
            return None
        return self._decode(name, version, data)

    def _decode(self, name: str, version: int, data: bytes) -> Manifest:
        where = f"{self.store.url}: {layout.manifest_key(name, version)}"
        manifest = decode_manifest(data, where)
        if manifest.version != version or manifest.name != name:
            raise CorruptData(
                f"{where} holds version {manifest.version} of {manifest.name!r}: objects were mixed up"
            )
        return manifest

    def _mark(self) -> None:
        if self.check_marker():
            return
        probe_create_only(self.store, layout.CATALOG)
        marker = {"format": "vstore", "version": VERSION, "made_by": uuid.uuid4().hex}
        try:
            self.store.put_if_absent(layout.MARKER, json.dumps(marker).encode())
        except ObjectExists:
            self.check_marker()
