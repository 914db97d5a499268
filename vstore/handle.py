"""A collection's handle: what it holds open, which view it reads, and the writer that it lends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from vstore.catalog import Catalog
from vstore.catalog.pins import At, Lease, find_snapshot
from vstore.errors import Closed, ReadOnly, StaleRead, WriterFenced
from vstore.ingest.bulk import BulkWriter
from vstore.ingest.opening import Loaded, Opening
from vstore.ingest.reader import OpenShard, load_view, open_snapshot
from vstore.ingest.registry import WriterRegistry
from vstore.ingest.token import VersionToken, parse_token
from vstore.ingest.view import CollectionView, LiveShard
from vstore.query.hydration import Hydration
from vstore.query.search import Engine
from vstore.settings import IndexSettings, Settings
from vstore.shard.reader import Shard
from vstore.types import Schema

T = TypeVar("T")

REFRESH_DELAY_S = 0.01
"""Between two looks for a version token, at first; it doubles up to twenty times that."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the handles of one connection share."""

    catalog: Catalog
    engine: Engine
    settings: Settings
    writers: WriterRegistry[Shard]
    open_shard: OpenShard[Shard]
    read_only: bool
    hydration: Hydration


class Handle:
    """One collection, open at its newest version or at a snapshot. Thread-safe."""

    def __init__(
        self,
        name: str,
        parts: Parts,
        at: At | None = None,
        *,
        opening: Opening[Shard] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._parts = parts
        self._engine = parts.engine
        self._lock = threading.Lock()
        self._writer: BulkWriter[Shard] | None = None
        self._closed = False
        self._at = at
        self._lease: Lease | None = None
        self._on_close = on_close
        self._loaded = Loaded(self._first_view(parts) if opening is None else None, opening)
        self._answered_from: tuple[LiveShard[Shard], ...] | None = None

    def _answered(self, view: CollectionView[Shard]) -> None:
        """Say which shards a query was answered from, so that they can be read ahead of the next."""
        shards = view.shards
        if shards is not self._answered_from:
            before, self._answered_from = self._answered_from, shards
            self._parts.hydration.saw(before, shards)

    def _first_view(self, parts: Parts) -> CollectionView[Shard]:
        if self._at is None:
            return load_view(parts.catalog, self._name, parts.settings, open_shard=parts.open_shard)
        manifest = find_snapshot(parts.catalog, self._name, self._at)
        # A tag keeps its version by itself, and who may only read cannot leave a lease.
        if not isinstance(self._at, str) and not parts.read_only:
            self._lease = Lease(parts.catalog, manifest, parts.settings)
        return open_snapshot(parts.catalog, manifest, parts.settings, open_shard=parts.open_shard)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def schema(self) -> Schema:
        """Dimension, metric and fields, as of the last write or `refresh` through this connection."""
        return self._current().schema

    @property
    def index(self) -> IndexSettings:
        """How shards are built."""
        return self._loaded.shown.manifest.index

    @property
    def version(self) -> int:
        """The number of the manifest that is read, as in `Database.snapshots`."""
        return self._view().manifest.version

    @property
    def version_token(self) -> str:
        """All that is seen here now, as text; `refresh(at_least=...)` elsewhere waits until it is seen."""
        return str(VersionToken.of(self._view()))

    def __len__(self) -> int:
        return self._view().n_live

    def __repr__(self) -> str:
        schema = self.schema
        return f"Collection({self._name!r}, dim={schema.dim}, metric={schema.metric!r}, rows={len(self)})"

    def refresh(self, at_least: str | None = None, *, timeout_s: float = 10.0) -> None:
        """Take in what other connections have published; one that writes is always up to date.

        Args:
            at_least: a `version_token`; looks again until what it stands for is seen.
            timeout_s: how long.

        Raises:
            StaleRead: it was not seen in time, or belongs to another collection.
            InvalidSetting: it is no token.
        """
        wanted = None if at_least is None else parse_token(at_least)
        settings = self._parts.settings
        deadline, delay_s = settings.clock() + timeout_s, REFRESH_DELAY_S
        self._refresh()
        while wanted is not None and not wanted.seen_by(VersionToken.of(self._view())):
            if self._at is not None or settings.clock() + delay_s > deadline:
                raise StaleRead(
                    f"collection {self._name!r} is at {self.version_token}; {at_least} was not seen within "
                    f"{timeout_s} s: wait longer, or is the token another collection's?"
                )
            settings.sleep(delay_s)
            delay_s = min(2 * delay_s, 20 * REFRESH_DELAY_S)
            self._refresh()

    def _refresh(self) -> None:
        before = self._loaded.view()
        with self._lock:
            self._check_open()
            parts = self._parts
            if self._at is not None:
                return
            if parts.writers.get(self._name) is None:
                self._writer = None
                view = load_view(
                    parts.catalog,
                    self._name,
                    parts.settings,
                    open_shard=parts.open_shard,
                    previous=before,
                )
                self._loaded.take(view)

    def close(self) -> None:
        """Release the handle; nothing is lost, since every write was durable when it returned."""
        with self._lock:
            self._closed = True
            lease, self._lease = self._lease, None
            on_close, self._on_close = self._on_close, None
        if lease is not None:
            lease.release()
        if on_close is not None:
            on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(
                f"collection {self._name!r} was closed; get it again with db.collection({self._name!r})"
            )

    def _view(self) -> CollectionView[Shard]:
        self._check_open()
        if (lease := self._lease) is not None:
            lease.renew()
        return self._current()

    def _current(self) -> CollectionView[Shard]:
        writer = self._writes()
        return self._loaded.view() if writer is None else writer.view()

    def _writes(self) -> BulkWriter[Shard] | None:
        """Return the writer whose view is this handle's, if any."""
        return None if self._at is not None else self._writer or self._parts.writers.get(self._name)

    def _known(self) -> CollectionView[Shard] | None:
        """As `_view`; None where the collection is still being opened, and the view may be early."""
        if self._lease is None and not self._closed:
            writer = self._writes()
            if writer is not None:
                return writer.view()
            if self._loaded.is_read:
                return self._loaded.shown
        return None

    def _early(self, answer: Callable[[CollectionView[Shard]], T]) -> T | None:
        """As `Loaded.early`; None where this connection writes."""
        self._check_open()
        return None if self._writes() is not None else self._loaded.early(answer)

    @contextmanager
    def _writing(self) -> Iterator[BulkWriter[Shard]]:
        """Lend the writer that this connection's handles share; one that was fenced is let go."""
        writers = self._parts.writers
        with self._lock:
            self._check_open()
            if self._parts.read_only:
                raise ReadOnly(
                    f"collection {self._name!r} was opened with read_only=True; connect without it to write"
                )
            if self._at is not None:
                raise ReadOnly(
                    f"this is collection {self._name!r} at {self._at!r}, which does not change; write to "
                    f"db.collection({self._name!r}), or restore({self._at!r}) there"
                )
            if self._writer is None:
                self._writer = writers.acquire(self._name)
            elif writers.get(self._name) is not self._writer:
                raise WriterFenced(
                    f"another writer took collection {self._name!r} over; "
                    f"get it again with db.collection({self._name!r}) to write (that fences the other)"
                )
        try:
            yield self._writer
        except WriterFenced:
            writers.release(self._name)
            raise
