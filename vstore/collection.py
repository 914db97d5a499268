"""The public handle of a collection: wiring only. What it wires lives in ingest, query and rerank."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from vstore.catalog import Catalog, layout
from vstore.catalog.pins import At, Lease, delete_tag, find_snapshot
from vstore.errors import Closed, InvalidInput, ReadOnly, StaleRead, WriterFenced
from vstore.filters import FilterLike, compile_filter
from vstore.ingest.inputs import as_keys, as_vectors, check_unique, row_batch
from vstore.ingest.reader import OpenShard, load_view, open_snapshot
from vstore.ingest.registry import WriterRegistry
from vstore.ingest.token import VersionToken, parse_token
from vstore.ingest.update import Missing, as_changes, check_missing, updated_rows
from vstore.ingest.view import CollectionView
from vstore.ingest.writer import Writer
from vstore.progress import progress_of
from vstore.query import read
from vstore.query.answers import search_resident
from vstore.query.batch import search_batch
from vstore.query.request import CompiledFilters, SearchRequest, check_k, search_request
from vstore.query.resident import ResidentShards
from vstore.query.scan import Scanned, scan
from vstore.query.search import Engine, explain, hits_of, rank
from vstore.rerank.stage import apply, as_stages, depth_of
from vstore.settings import IndexSettings, Settings
from vstore.shard.reader import Shard
from vstore.types import BatchHits, Hits, Receipt, Record, Schema

Progress = bool | Callable[[int, int], None]
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


class Collection:
    """Vectors with attributes and documents under one name. Made by `Database`; thread-safe.

    Reads see every write made through the same connection, and what others had published when the
    handle was opened or last refreshed. The first write takes the collection over from any other
    connection's writer.
    """

    def __init__(self, name: str, parts: Parts, at: At | None = None) -> None:
        self._name = name
        self._parts = parts
        self._engine = parts.engine
        self._lock = threading.Lock()
        self._writer: Writer[Shard] | None = None
        self._closed = False
        self._at = at
        self._lease: Lease | None = None
        self._loaded = self._first_view(parts)
        self._filters = CompiledFilters(self._loaded.schema)
        self._resident = ResidentShards(parts.engine.cache, parts.engine.passing)

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
        """Dimension, metric and fields."""
        return self._loaded.schema

    @property
    def index(self) -> IndexSettings:
        """How shards are built."""
        return self._loaded.manifest.index

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

    # Writing.

    def upsert(
        self,
        ids: Any,
        vectors: Any,
        attributes: Any = None,
        documents: Any = None,
        *,
        progress: Progress = True,
    ) -> int:
        """Insert rows, or replace those whose id exists; durable on return.

        Args:
            ids: int or str, one kind in a collection; no id twice in a call.
            vectors: (n, dim) numbers: a numpy array, nested lists or a torch tensor.
            attributes: n dicts (or None), or a dict of columns of n values; absent is null.
            documents: n texts or {"text", "image"} dicts (or None).
            progress: of the flush, where this call fills the memtable: True shows a bar on a terminal.

        Returns:
            The number of rows written.

        Raises:
            InvalidInput (DimensionMismatch, InvalidVector, InvalidId, DuplicateId, InvalidDocument),
            FieldError: nothing was written; the message names the row.
            WriterFenced: another writer took the collection over.
            StorageError: the store failed.
        """
        with self._writing() as writer:
            kind = writer.view().id_kind
            rows = row_batch(ids, vectors, attributes, documents, schema=self.schema, kind=kind)
            if not rows.n:
                return 0
            with progress_of(progress, f"flushing {self._name}") as report:
                return writer.upsert(rows, report)

    def update(self, ids: Any, attributes: Any, *, missing: Missing = "error") -> int:
        """Change attributes alone: vectors and documents stay; durable on return.

        Args:
            ids: of rows that exist; no id twice in a call.
            attributes: n dicts (None changes nothing), or a dict of columns of n values. The fields given
                are replaced, those given as None are cleared, all others stay.
            missing: "error" refuses ids that do not exist, "ignore" leaves them out.

        Returns:
            The number of rows that exist and were written.

        Raises:
            InvalidInput (InvalidId, DuplicateId, InvalidSetting), FieldError: nothing was written; the
                message names the row.
            WriterFenced: another writer took the collection over.
            StorageError: the store failed; repeat the call.
        """
        policy = check_missing(missing)
        with self._writing() as writer:
            keys, _ = as_keys(ids, writer.view().id_kind)
            check_unique(keys)
            changes = as_changes(attributes, self.schema, len(keys))
            size_bytes = len(keys) * self.schema.dim * 4
            return writer.update(lambda view: updated_rows(view, keys, changes, policy), size_bytes)

    def delete(self, ids: Any = None, *, filter: FilterLike = None) -> int:
        """Delete rows by id or by filter; durable on return, and hidden at once.

        Returns:
            The number of rows that were there and are gone; unknown ids are no error.

        Raises:
            InvalidInput: neither or both of ids and filter were given.
            FilterError, FieldError, WriterFenced, StorageError.
        """
        if (ids is None) == (filter is None):
            raise InvalidInput("delete takes ids=[...] or filter=..., one of them")
        compiled = compile_filter(filter, self.schema)
        with self._writing() as writer:
            if ids is not None:
                keys, _ = as_keys(ids, writer.view().id_kind)
                return writer.delete(keys) if len(keys) else 0
            return writer.delete_where(lambda view: read.matching_keys(view, compiled, self._engine))

    def flush(self, progress: Progress = True) -> None:
        """Build a shard from the rows that are only in the log and the memtable.

        Args:
            progress: True shows a bar on a terminal; a callable gets (rows done, rows in all).
        """
        with self._writing() as writer, progress_of(progress, f"flushing {self._name}") as report:
            writer.flush(report)

    def compact(self, progress: Progress = True) -> None:
        """Merge shards, drop deleted rows, and delete what no manifest within the retention names.

        Args:
            progress: True shows a bar on a terminal; a callable gets (rows done, rows in all).
        """
        with self._writing() as writer, progress_of(progress, f"compacting {self._name}") as report:
            writer.compact(report)

    # Versions.

    def tag(self, tag: str, progress: Progress = True) -> int:
        """Flush, and keep the collection as it is now under a name; return the version.

        Raises:
            InvalidInput: the tag exists, or is no name (InvalidSetting).
            WriterFenced, StorageError: as for `flush`.
        """
        layout.tag_key(self._name, "", tag)
        with self._writing() as writer, progress_of(progress, f"flushing {self._name}") as report:
            return writer.tag(tag, report)

    def untag(self, tag: str) -> None:
        """Delete a tag: what only it kept goes with the next garbage. Unknown tags are no error."""
        with self._writing():
            delete_tag(self._parts.catalog, self._name, tag)

    def restore(self, at: At) -> int:
        """Make a snapshot the newest version again; return that version. All later writes are gone from it.

        They can be brought back in turn, while their versions are kept.

        Args:
            at: a version, a tag or a time, as for `Database.collection`.

        Raises:
            SnapshotNotFound: there is none.
            InvalidInput: it has other fields than the collection has now.
            WriterFenced, StorageError: nothing changed.
        """
        with self._writing() as writer:
            snapshot = Collection(self._name, self._parts, at)
            version = writer.restore(snapshot._view())
            # After a failure the lease stays until it ends: the commit may land yet.
            snapshot.close()
            return version

    # Reading.

    def get(self, ids: Any) -> list[Record | None]:
        """Return a record for each id, or None where there is no such row."""
        view = self._view()
        keys, _ = as_keys(ids, view.id_kind)
        return read.records(view, keys, self._engine)

    def count(self, filter: FilterLike = None) -> int:
        """Return the number of rows, or of rows that pass a filter."""
        view = self._view()
        compiled = compile_filter(filter, self.schema)
        return view.n_live if compiled is None else read.count(view, compiled, self._engine)

    def search(
        self,
        query: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
        rerank: Any = None,
        rerank_depth: int | None = None,
        query_document: Any = None,
    ) -> Hits:
        """Return the k best rows for a query; fewer only where fewer match.

        Args:
            query: (dim,) numbers.
            k: answers wanted, 1 or more.
            filter: an F expression or a dict; None takes every row.
            recall: the share of the true k best to aim for; 1 searches exactly.
            ef: beam width, instead of the one that `recall` stands for.
            rerank: a re-ranker, a `Rerank`, a list of them, or a callable (query, documents) -> scores.
            rerank_depth: how many of the first stage's hits are re-ranked.
            query_document: the query's own text or image, for the re-ranker.

        Raises:
            InvalidInput, FilterError, FieldError: a bad argument, named.
            RerankError: the re-ranker broke its contract.
            StorageError, FormatError: the store failed, or its bytes did not hold.
        """
        stages = as_stages(rerank, rerank_depth)
        request = self._request(query, depth_of(stages, check_k(k)), filter, recall, ef)
        view = self._view()
        found = search_resident(view, request, self._engine, self._resident)
        if found is None:
            ranked = rank(view, request, self._engine)
            found = Hits(hits_of(ranked, self._engine, view.schema.metric), ranked.receipt)
        if not stages:
            return found
        hits, reports = apply(stages, query_document, found.hits, k, self._engine.store)
        receipt = found.receipt
        receipt.timings_ms["rerank"] = sum(report.latency_ms for report in reports)
        receipt.rerank = reports
        return Hits(hits, receipt)

    def search_batch(
        self,
        queries: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> BatchHits:
        """Answer n queries: ids and scores only, over threads where they wait for storage.

        Args:
            queries: (n, dim) numbers.
            k, filter, recall, ef: as for `search`.

        Returns:
            ids (n, k) and scores float32 (n, k), padded where fewer than k rows match.
        """
        view, schema = self._view(), self.schema
        matrix = as_vectors(queries, dim=schema.dim, metric=schema.metric, what="query")
        if matrix is queries or not matrix.flags.owndata:
            # Receipts look at the queries later.
            matrix = matrix.copy()
        # One of them is checked as a search is; the others differ in the vector only.
        one = matrix[0] if len(matrix) else np.ones(schema.dim, np.float32)
        request = self._request(one, k, filter, recall, ef)
        n_threads = self._parts.settings.n_threads
        return search_batch(view, request, matrix, self._engine, self._resident, n_threads)

    def explain(
        self,
        query: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> Receipt:
        """Return the plan of a search without running it; what planning read is in the counters."""
        request = self._request(query, k, filter, recall, ef)
        return explain(self._view(), request, self._engine)

    def warm(self, progress: Progress = True) -> int:
        """Read every shard's head, lists, codes, columns and keys into the cache.

        Args:
            progress: True shows a bar on a terminal; a callable gets (bytes done, bytes in all).

        Returns:
            The number of bytes read.
        """
        return read.warm(self._view(), self._engine, progress)

    def _request(self, query: Any, k: Any, filter: FilterLike, recall: Any, ef: Any) -> SearchRequest:
        return search_request(query, k, filter, recall, ef, self.schema, self._filters)

    def scan(self, filter: FilterLike = None) -> Iterator[Record]:
        """Yield every row, or those that pass a filter, as they are now; later writes change nothing of it.

        Rows are read a bounded number of bytes at a time, past the cache, in no order that means anything.
        """
        return (record for batch in self.scan_batches(filter).batches for record in batch)

    def scan_batches(self, filter: FilterLike = None) -> Scanned:
        """As `scan`, in lists of records, with their number beforehand."""
        view = self._view()
        return scan(view, compile_filter(filter, view.schema), self._engine)

    # The handle.

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
        with self._lock:
            self._check_open()
            parts = self._parts
            if self._at is not None:
                return
            if parts.writers.get(self._name) is None:
                self._writer = None
                self._loaded = load_view(
                    parts.catalog,
                    self._name,
                    parts.settings,
                    open_shard=parts.open_shard,
                    previous=self._loaded,
                )

    def close(self) -> None:
        """Release the handle; nothing is lost, since every write was durable when it returned."""
        with self._lock:
            self._closed = True
            lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def __enter__(self) -> Collection:
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
        if self._at is not None:
            if (lease := self._lease) is not None:
                lease.renew()
            return self._loaded
        writer = self._writer or self._parts.writers.get(self._name)
        return self._loaded if writer is None else writer.view()

    @contextmanager
    def _writing(self) -> Iterator[Writer[Shard]]:
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
