"""A connection to one store: its collections, one cache and one set of settings for all of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, cast

from vstore.cache.blocks import CacheStats
from vstore.cache.opening import open_cache
from vstore.catalog import Catalog
from vstore.catalog.garbage import Collected, collect
from vstore.catalog.pins import At, Snapshot, list_snapshots
from vstore.collection import Collection
from vstore.errors import InvalidSetting, ReadOnly, nearest
from vstore.format.manifest import Manifest, ShardEntry
from vstore.handle import Parts
from vstore.ingest.opening import Opening
from vstore.ingest.registry import WriterRegistry
from vstore.ingest.schema import MAX_FIELDS, check_field
from vstore.progress import tell_of_compiling
from vstore.query.hydration import Hydration, limit_of
from vstore.query.pipeline import ColdReads
from vstore.query.search import Engine
from vstore.remote import SCHEME, server_module
from vstore.settings import IndexSettings, Settings
from vstore.shard.builder import ShardBuilder
from vstore.shard.reader import Shard
from vstore.storage import ObjectStore, open_store
from vstore.types import METRICS, FieldType, Metric, Schema
from vstore.upkeep.export import export_collection
from vstore.upkeep.folder import Export
from vstore.upkeep.importing import import_export
from vstore.upkeep.report import VerifyReport
from vstore.upkeep.verify import verify_store

MAX_DIM = 65_536


def connect(
    uri: str | os.PathLike[str] | ObjectStore,
    *,
    settings: Settings | None = None,
    read_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Database:
    """Open a store, or make ready to create one: nothing is written before the first collection.

    Args:
        uri: a folder ("./data"), "memory://", "s3://bucket/prefix", an ObjectStore of your own, or
            "vstore://host:port": a server, whose client has the same methods and gives the same objects.
        settings: how this process runs it.
        read_only: refuse every write through this connection.
        cache_dir: a folder for the disk tier of the block cache, shared by processes and kept between
            them; none by default.
        options: for s3: endpoint_url, region, access_key_id, secret_access_key, session_token,
            addressing_style; where absent, boto3's usual chain decides. For a server: token, tls,
            timeout_s, n_retries, insecure, as `vstore_server.connect` says.

    Raises:
        NotAStore: the place holds something else.
        BucketNotFound, AccessDenied, StoreUnavailable: the store cannot be reached.
        UnsupportedVersion: the store was written by a newer vstore.
        InvalidSetting: an unknown scheme or option.
    """
    return _database(uri, settings, read_only, cache_dir, options)


def open_collection(
    uri: str | os.PathLike[str] | ObjectStore,
    name: str,
    *,
    settings: Settings | None = None,
    read_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Collection:
    """Open one collection of a store in as few round trips as can be: `connect` and `collection` in one.

    It returns when the latest manifest is known, after one round trip; what the log holds beyond it is
    looked at while the first search runs, which starts over where there is anything. Closing the collection
    closes the store.

    Args:
        uri, settings, read_only, cache_dir, options: as for `connect`.
        name: the collection.

    Raises:
        CollectionNotFound: there is none of that name.
        As `connect`; what is wrong with the log, the first call on the collection raises.
    """
    database = _database(uri, settings, read_only, cache_dir, options, marked=True)
    try:
        return database._open(name) if isinstance(database, Database) else database.collection(name)
    except BaseException:
        database.close()
        raise


def _database(
    uri: str | os.PathLike[str] | ObjectStore,
    settings: Settings | None,
    read_only: bool,
    cache_dir: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    *,
    marked: bool = False,
) -> Database:
    chosen = settings or Settings()
    if isinstance(uri, ObjectStore):
        if options:
            raise InvalidSetting(
                f"options {sorted(options)} are for a store that connect opens, not for one given"
            )
        return Database(uri, chosen, read_only, cache_dir, marked=marked)
    place = os.fspath(uri)
    if place.startswith(SCHEME):
        if settings is not None or read_only or cache_dir is not None:
            raise InvalidSetting(
                f"settings, read_only and cache_dir are the server's, at {place}: give them to vstore serve"
            )
        return cast(Database, server_module().connect(place, **options))
    store = open_store(place, settings=chosen, **options)
    return Database(store, chosen, read_only, cache_dir, marked=marked)


class Database:
    """A store that was connected to. Thread-safe; a context manager."""

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        read_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        marked: bool = False,
    ) -> None:
        tell_of_compiling()
        self._store = store
        self._settings = settings
        self._read_only = read_only
        self._catalog = Catalog(store)
        if not marked:
            self._catalog.check_marker()
        by_clusters = settings.cold_plan == "clusters" or (
            settings.cold_plan == "auto" and store.url.startswith("s3://")
        )
        cold = ColdReads(by_clusters, settings.cold_bytes)
        engine = Engine(store, open_cache(settings, cache_dir), settings.prices, cold=cold)

        def open_shard(entry: ShardEntry, manifest: Manifest) -> Shard:
            return Shard(entry, manifest.schema, manifest.id_kind, store, engine.cache)

        builder = ShardBuilder(settings.n_threads)
        self._writers = WriterRegistry(self._catalog, settings, open_shard, builder)
        hydration = Hydration(engine, limit_of(settings.hydrate_bytes, store.url))
        self._parts = Parts(self._catalog, engine, settings, self._writers, open_shard, read_only, hydration)

    def __repr__(self) -> str:
        return f"Database({self._store.url!r})"

    @property
    def url(self) -> str:
        """Where the store is, without credentials."""
        return str(self._store.url)

    @property
    def settings(self) -> Settings:
        """How this process runs the store."""
        return self._settings

    @property
    def store(self) -> ObjectStore:
        """The object store, with whatever wraps it."""
        return self._store

    @property
    def cache_stats(self) -> CacheStats:
        """What the block cache holds in memory, and has done."""
        return self._parts.engine.cache.stats()

    def create_collection(
        self,
        name: str,
        *,
        dim: int,
        metric: Metric = "cosine",
        fields: Mapping[str, FieldType] | None = None,
        index: IndexSettings | None = None,
    ) -> Collection:
        """Create a collection and return its handle.

        Args:
            name: letters, digits, ".", "_" and "-", at most 128, beginning with a letter or digit.
            dim: components of a vector.
            metric: "cosine", "l2" or "dot".
            fields: the type of each attribute: int, float, bool, str, datetime, list[str], list[int].
            index: how shards are built.

        Raises:
            CollectionExists: the name is taken.
            InvalidSetting, FieldTypeError: an argument is out of range.
        """
        if self._read_only:
            raise ReadOnly(
                f"{self.url} was connected with read_only=True; connect without it to create {name!r}"
            )
        schema = check_schema(dim, metric, fields or {})
        self._catalog.create(
            Manifest(
                version=1,
                collection_id=uuid.uuid4().hex[:12],
                name=name,
                schema=schema,
                index=index or IndexSettings(),
                writer_epoch=0,
                log_start=1,
                created_at=self._settings.clock(),
                write_id=uuid.uuid4().hex,
            )
        )
        return self.collection(name)

    def collection(self, name: str, *, at: At | None = None) -> Collection:
        """Return the handle of a collection.

        Args:
            name: the collection.
            at: a snapshot of it: a version (int), a tag (str), or a time (datetime, or seconds since the
                epoch as float), which is the last version made by then. A snapshot holds what was flushed.
                It does not change, and is kept from garbage collection while the handle is in use.

        Raises:
            CollectionNotFound: there is none of that name; the message names the nearest.
            SnapshotNotFound: there is no such snapshot, or it was collected.
        """
        return Collection(name, self._parts, at)

    def _open(self, name: str) -> Collection:
        parts = self._parts
        manifest = self._catalog.require_at_once(name)
        opening = Opening(self._catalog, manifest, self._settings, parts.open_shard)
        return Collection(name, parts, opening=opening, on_close=self.close)

    def snapshots(self, name: str) -> list[Snapshot]:
        """Return the versions that `collection(name, at=version)` opens, ascending, with their tags.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        return list_snapshots(self._catalog, name)

    def collect_garbage(self, name: str, *, dry_run: bool = False) -> Collected:
        """Delete what no version within `retention_s`, no tag and no lease needs; return what it was.

        Orphans, which no version ever named, are deleted too where this connection writes to the collection.

        Args:
            name: the collection.
            dry_run: delete nothing, say what would be.

        Raises:
            CollectionNotFound: there is none of that name.
            StorageError: the store failed; what was deleted until then was garbage.
        """
        if self._read_only and not dry_run:
            raise ReadOnly(f"{self.url} was connected with read_only=True; connect without it, or dry_run")
        if not self._catalog.versions(name):
            self._catalog.require(name)
        writer = self._writers.get(name)
        if writer is not None:
            return writer.collect(dry_run=dry_run)
        settings = self._settings
        return collect(self._catalog, name, settings.retention_s, settings.clock, dry_run=dry_run)

    def collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        return self._catalog.collections()

    def drop_collection(self, name: str) -> None:
        """Drop a collection: it is gone at once, and then its objects are deleted.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        if self._read_only:
            raise ReadOnly(
                f"{self.url} was connected with read_only=True; connect without it to drop {name!r}"
            )
        self._writers.drop(name)

    def verify(
        self, name: str | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> VerifyReport:
        """Read a collection whole, past the cache, and check everything that can be checked.

        Args:
            name: the collection; None for all of them.
            progress: called with (bytes read, bytes in all).

        Returns:
            What was read, and every problem by object and reason; damage does not raise.

        Raises:
            CollectionNotFound: there is none of that name.
            StoreUnavailable, AccessDenied: the store cannot be read.
        """
        return verify_store(self._catalog, name, self._settings, progress)

    def export(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        at: At | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Write a collection to a new folder of plain files; return the number of rows.

        Args:
            name: the collection.
            path: a folder that does not exist, or is empty.
            at: a snapshot of it, as in `collection`; as it is now by default.
            progress: called with (rows written, rows in all).

        Raises:
            CollectionNotFound: there is none of that name.
            SnapshotNotFound: there is no such snapshot, or it was collected.
            InvalidInput: the folder is not empty, or is none.
            StorageError, FormatError: writing or reading failed; the folder is no complete export.
        """
        return export_collection(self._catalog, name, path, self._settings, progress, at)

    def import_collection(
        self,
        path: str | os.PathLike[str],
        name: str,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        """Create a collection from an export: ids, vectors, attributes, documents, schema, index settings.

        Args:
            path: the folder that `export` made.
            name: of the new collection.
            progress: called with (rows written, rows in all).

        Raises:
            CollectionExists: the name is taken.
            InvalidInput: the folder is no complete export.
            CorruptData, UnsupportedVersion: a file is damaged, or of a newer vstore; nothing was created.
            StorageError: the store failed; what was created is dropped again.
        """

        def create(export: Export) -> Collection:
            schema = export.schema
            return self.create_collection(
                name, dim=schema.dim, metric=schema.metric, fields=schema.fields, index=export.index
            )

        return import_export(path, create, lambda: self.drop_collection(name), progress)

    def close(self) -> None:
        """Release writers, connections and threads; nothing is lost."""
        self._parts.hydration.close()
        self._writers.close()
        self._store.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_schema(dim: Any, metric: Any, fields: Mapping[str, Any]) -> Schema:
    """Return the schema that a collection is created with.

    Raises:
        InvalidSetting: dim, metric or a field's name.
        FieldTypeError: a field's type.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MAX_DIM:
        raise InvalidSetting(f"dim is {dim!r}; it must be a whole number from 1 to {MAX_DIM}")
    if metric not in METRICS:
        raise InvalidSetting(
            f"metric is {metric!r}{nearest(str(metric), METRICS)} (one of {', '.join(METRICS)})"
        )
    if len(fields) > MAX_FIELDS:
        raise InvalidSetting(f"there are {len(fields)} fields; a collection has at most {MAX_FIELDS}")
    for name, kind in fields.items():
        check_field(name, kind)
    return Schema(dim, metric, dict(fields))
