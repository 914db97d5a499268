"""The public handle of a collection: wiring only. What it wires lives in ingest, query and rerank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vstore.catalog import layout
from vstore.catalog.pins import At, Lease, delete_tag
from vstore.errors import InvalidInput
from vstore.filters import FilterLike, compile_filter
from vstore.fusions import StoredFusions
from vstore.handle import Parts
from vstore.ingest.batches import Keys
from vstore.ingest.inputs import as_keys, as_vectors, check_unique, row_batch
from vstore.ingest.loading import BulkLoads
from vstore.ingest.opening import Opening
from vstore.ingest.schema import check_field, with_field, without_field
from vstore.ingest.update import Missing, as_changes, check_missing, updated_rows
from vstore.ingest.view import CollectionView
from vstore.progress import progress_of
from vstore.query import read
from vstore.query.answers import search_resident
from vstore.query.batch import search_batch
from vstore.query.limits import watching
from vstore.query.recording import Recorded, Recording
from vstore.query.request import CompiledFilters, SearchRequest, check_k, search_request
from vstore.query.resident import ResidentShards
from vstore.query.scan import Scanned, scan
from vstore.query.search import explain, hits_of, rank
from vstore.query.warming import warm
from vstore.rerank.stage import apply, as_stages, depth_of
from vstore.rerank.stored import bound
from vstore.settings import QueryLimits
from vstore.shard.reader import Shard
from vstore.types import BatchHits, FieldType, Hits, Receipt, Record, Warmed

Progress = bool | Callable[[int, int], None]


class Collection(StoredFusions, BulkLoads):
    """Vectors with attributes and documents under one name. Made by `Database`; thread-safe.

    Reads see every write made through the same connection, and what others had published when the
    handle was opened or last refreshed. The first write takes the collection over from any other
    connection's writer.
    """

    def __init__(
        self,
        name: str,
        parts: Parts,
        at: At | None = None,
        *,
        opening: Opening[Shard] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name, parts, at, opening=opening, on_close=on_close)
        self._filters = CompiledFilters(self._loaded.shown.schema)
        self._resident = ResidentShards(parts.engine.cache, parts.engine.passing)

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
            schema = writer.view().schema
            rows = row_batch(ids, vectors, attributes, documents, schema=schema, kind=kind)
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
            schema = writer.view().schema
            changes = as_changes(attributes, schema, len(keys))
            size_bytes = len(keys) * schema.dim * 4
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
        compile_filter(filter, self.schema)
        with self._writing() as writer:
            if ids is not None:
                keys, _ = as_keys(ids, writer.view().id_kind)
                return writer.delete(keys) if len(keys) else 0
            return writer.delete_where(lambda view: self._matching_keys(view, filter))

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
            if self._answered_from is not None:
                self._answered(writer.view())

    # Fields.

    def add_field(self, name: str, type: FieldType) -> int:
        """Add a field: null in every row there is; return the version. No row is rewritten.

        Args:
            name: 1 to 256 bytes, not beginning with "$".
            type: int, float, bool, str, datetime, list[str] or list[int].

        Raises:
            InvalidInput: the field exists, or a name that may not be given (InvalidSetting).
            FieldTypeError: no such type, or the field exists with another one: types do not change.
            WriterFenced: another writer took the collection over.
            StorageError: the store failed; call again.
        """
        check_field(name, type)
        with self._writing() as writer:
            return writer.change_schema(lambda manifest, seq: with_field(manifest, name, type, seq))

    def drop_field(self, name: str) -> int:
        """Drop a field with all its values, for good; return the version. No row is rewritten.

        Versions and tags from before still have it. A field that is added under the same name later is
        another one: null in every row.

        Raises:
            UnknownField: there is none of that name.
            WriterFenced, StorageError: as for `add_field`.
        """
        with self._writing() as writer:
            return writer.change_schema(lambda manifest, _: without_field(manifest, name))

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
            lease = snapshot._lease
            if lease is None:
                # The tag keeps its version, unless somebody unties it meanwhile.
                manifest = snapshot._view().manifest
                lease = Lease(self._parts.catalog, manifest, self._parts.settings, tag=str(at))
            version = writer.restore(snapshot._view(), lease)
            lease.release()
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
        compiled = compile_filter(filter, view.schema)
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
        limits: QueryLimits | None = None,
    ) -> Hits:
        """Return the k best rows for a query; fewer only where fewer match.

        Args:
            query: (dim,) numbers.
            k: answers wanted, 1 or more.
            filter: an F expression or a dict; None takes every row.
            recall: the share of the true k best to aim for; 1 searches exactly.
            ef: beam width, instead of the one that `recall` stands for.
            rerank: a re-ranker, a `Rerank`, a list of them, a callable (query, documents) -> scores, or
                "fusion:NAME", which `save_fusion` stored.
            rerank_depth: how many of the first stage's hits are re-ranked.
            query_document: the query's own text or image, for the re-ranker.
            limits: deadline, requests, bytes and cancellation of this search; default: those of the settings.

        Raises:
            InvalidInput, FilterError, FieldError: a bad argument, named.
            QueryStopped (QueryTimeout, QueryCancelled, QueryLimitExceeded): the limits ended it.
            RerankError: the re-ranker broke its contract.
            StorageError, FormatError: the store failed, or its bytes did not hold.
        """
        if rerank is None and rerank_depth is None and (view := self._known()) is not None:
            request = self._request(view, query, k, filter, recall, ef)
            return self._answer(view, request, limits or self._parts.settings.limits)
        stages = bound(as_stages(rerank, rerank_depth), self.fusion)
        depth = depth_of(stages, check_k(k))

        def answer(view: CollectionView[Shard]) -> Hits:
            request = self._request(view, query, depth, filter, recall, ef)
            return self._answer(view, request, limits or self._parts.settings.limits)

        found = self._early(answer)
        if found is None:
            found = answer(self._view())
        if not stages:
            return found
        hits, reports = apply(stages, query_document, found.hits, k, self._engine.store)
        receipt = found.receipt
        receipt.timings_ms["rerank"] = sum(report.latency_ms for report in reports)
        receipt.rerank = reports
        return Hits(hits, receipt)

    def record(
        self,
        query: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> Recorded:
        """As `search` without re-ranking, and what it asked for, round by round, whatever is cached.

        For `vstore.lab`, which serves such rounds again through other caches and from other stores.
        """
        view, recording = self._view(), Recording()
        request = self._request(view, query, check_k(k), filter, recall, ef)
        ranked = rank(view, request, self._engine, self._parts.settings.limits, recording)
        hits = hits_of(ranked, self._engine, view.schema.metric)
        return Recorded(Hits(hits, ranked.receipt), recording.rounds)

    def _answer(self, view: CollectionView[Shard], request: SearchRequest, limits: QueryLimits) -> Hits:
        if limits.bind:
            with watching(limits):
                found = self._found(view, request, limits)
        else:
            found = self._found(view, request, limits)
        self._answered(view)
        return found

    def _found(self, view: CollectionView[Shard], request: SearchRequest, limits: QueryLimits) -> Hits:
        found = search_resident(view, request, self._engine, self._resident)
        if found is None:
            ranked = rank(view, request, self._engine, limits)
            found = Hits(hits_of(ranked, self._engine, view.schema.metric), ranked.receipt)
        return found

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
        view = self._view()
        schema = view.schema
        matrix = as_vectors(queries, dim=schema.dim, metric=schema.metric, what="query")
        if matrix is queries or not matrix.flags.owndata:
            # Receipts look at the queries later.
            matrix = matrix.copy()
        # One of them is checked as a search is; the others differ in the vector only.
        one = matrix[0] if len(matrix) else np.ones(schema.dim, np.float32)
        request = self._request(view, one, k, filter, recall, ef)
        n_threads = self._parts.settings.n_threads
        found = search_batch(view, request, matrix, self._engine, self._resident, n_threads)
        self._answered(view)
        return found

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
        view = self._view()
        return explain(view, self._request(view, query, k, filter, recall, ef), self._engine)

    def warm(
        self,
        progress: Progress = True,
        *,
        filter: FilterLike = None,
        shards: str | Sequence[str] | None = None,
        max_bytes: int | None = None,
        vectors: bool = False,
    ) -> Warmed:
        """Read what searches want into the cache: heads, lists, codes, columns and keys.

        Args:
            progress: True shows a bar on a terminal; a callable gets (bytes done, bytes in all).
            filter: only what a search with this filter would want.
            shards: only these, by the ids that receipts show.
            max_bytes: the most to read; what is there already is not read again, so a later call goes on.
            vectors: exact vectors and payload too.

        Returns:
            The number of bytes read, as an int that knows `n_blocks`, `n_requests` and `n_left`, too.
        """
        view = self._view()
        compiled = compile_filter(filter, view.schema)
        return warm(view, self._engine, progress, compiled, shards, max_bytes, vectors)

    def _request(
        self, view: CollectionView[Shard], query: Any, k: Any, filter: FilterLike, recall: Any, ef: Any
    ) -> SearchRequest:
        schema, filters = view.schema, self._filters
        if filters.schema is not schema and filters.schema != schema:
            # What a filter means depends on the fields.
            self._filters = filters = CompiledFilters(schema)
        return search_request(query, k, filter, recall, ef, schema, filters)

    def _matching_keys(self, view: CollectionView[Shard], filter: FilterLike) -> Keys:
        return read.matching_keys(view, compile_filter(filter, view.schema), self._engine)

    def scan(self, filter: FilterLike = None) -> Iterator[Record]:
        """Yield every row, or those that pass a filter, as they are now; later writes change nothing of it.

        Rows are read a bounded number of bytes at a time, past the cache, in no order that means anything.
        """
        return (record for batch in self.scan_batches(filter).batches for record in batch)

    def scan_batches(self, filter: FilterLike = None) -> Scanned:
        """As `scan`, in lists of records, with their number beforehand."""
        view = self._view()
        return scan(view, compile_filter(filter, view.schema), self._engine)
