"""The requests of one collection: the one place where a client's arguments are named, checked and encoded.

They are checked by the embedded store's own functions, against the collection's schema: what is wrong
raises the same error, before anything is sent. The server checks again; it trusts nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vstore import BatchHits, Hits, Receipt, Record
from vstore.errors import InvalidInput, InvalidSetting, ReadOnly
from vstore.filters import FilterLike, compile_filter
from vstore.ingest.inputs import as_documents, as_keys, as_vectors, check_unique, row_batch
from vstore.ingest.schema import check_field
from vstore.ingest.token import parse_token
from vstore.ingest.update import Missing, as_changes, check_missing
from vstore.query.request import CompiledFilters, check_k, search_request
from vstore.rerank.stage import apply, as_stages, check_depth, depth_of
from vstore.rerank.stored import encode_fusion
from vstore.types import FieldType, Warmed
from vstore_server import messages
from vstore_server.calls import (
    Call,
    Description,
    Parts,
    Request,
    Watched,
    read_description,
    request_bytes,
    write_message,
)
from vstore_server.codec import Limits, Message
from vstore_server.images import check_image
from vstore_server.messages import read_value

if TYPE_CHECKING:
    from vstore.rerank.stored import Fusion

T = TypeVar("T")
PART_BYTES = 4 << 20
"""A larger upsert is sent as a stream of parts of about this size."""


class CollectionCalls:
    """The requests of one collection, or of a snapshot of it. Thread-safe.

    Every read asks to see at least what this handle has written, or was told of by `refresh`.
    """

    def __init__(self, name: str, described: Description, limits: Limits, at: Any = None) -> None:
        self.name = name
        self.described = described
        self.limits = limits
        self._at = at
        self._filters = CompiledFilters(described.schema)
        self._lock = threading.Lock()
        self._token = described.version_token
        self._has_to_see = False

    @property
    def version_token(self) -> str:
        """The newest version that this handle knows of."""
        return self._token

    # Writing.

    def upsert(
        self,
        ids: Any,
        vectors: Any,
        attributes: Any = None,
        documents: Any = None,
        *,
        progress: Any = True,
    ) -> Request[int]:
        """As `vstore.Collection.upsert`; more than about 4 MiB travel in parts, each durable on its own.

        There is no progress to show: the server flushes behind the write.
        """
        parts = self._parts(ids, vectors, attributes, documents)
        if len(parts) == 1:
            return self._write("Upsert", parts[0], "n_written", repeatable=True)
        return Parts(self._numbered(parts), lambda acks: sum(self.acknowledged(ack) for ack in acks))

    def stream_requests(self, batches: Iterable[Any]) -> Iterator[bytes]:
        """Yield the requests of an `UpsertStream`, numbered; each is checked when its turn comes.

        Args:
            batches: tuples of the arguments of `upsert`: (ids, vectors[, attributes[, documents]]).
        """
        self._check_writable()
        return self._numbered(self._parts_of(batches))

    def acknowledged(self, ack: Message) -> int:
        """Take an acknowledgement in; return the number of rows that it is for."""
        self._saw(ack)
        return int(read_value(ack, "n_written"))

    def _parts_of(self, batches: Iterable[Any]) -> Iterator[Message]:
        for batch in batches:
            if not isinstance(batch, tuple) or not 2 <= len(batch) <= 4:
                raise InvalidInput("a batch is a tuple (ids, vectors[, attributes[, documents]])")
            yield from self._parts(*batch, *(None,) * (4 - len(batch)))

    def _numbered(self, parts: Iterable[Message]) -> Iterator[bytes]:
        for number, part in enumerate(parts):
            yield request_bytes({"batch": number, **part}, self.limits)

    def _parts(self, ids: Any, vectors: Any, attributes: Any, documents: Any) -> list[Message]:
        """Return the messages of an upsert, each of about PART_BYTES; none for no rows."""
        self._check_writable()
        rows = row_batch(ids, vectors, attributes, documents, schema=self.described.schema, kind=None)
        for row, document in enumerate(rows.documents or ()):
            check_image(document, f"document {row}", self.name)
        whole = messages.rows_message(rows)
        ends = np.cumsum(messages.row_sizes(rows)) if rows.n else np.empty(0, np.int64)
        parts: list[Message] = []
        start = 0
        part_bytes = min(PART_BYTES, self.limits.message_bytes // 2)
        while start < rows.n:
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + part_bytes, side="right"))
            stop = min(max(stop, start + 1), start + self.limits.upsert_rows, rows.n)
            parts.append({"collection": self.name, **messages.slice_rows(whole, start, stop)})
            start = stop
        return parts

    def update(self, ids: Any, attributes: Any, *, missing: Missing = "error") -> Call[int]:
        """As `vstore.Collection.update`."""
        policy = check_missing(missing)
        keys, _ = as_keys(ids, None)
        check_unique(keys)
        changes = as_changes(attributes, self.described.schema, len(keys))
        given = messages.changes_message(changes, len(keys))
        message = {**self._to_write(), "ids": messages.keys_message(keys), "attributes": given}
        return self._write("Update", {**message, "missing": policy}, "n_written", repeatable=True)

    def delete(self, ids: Any = None, *, filter: FilterLike = None) -> Call[int]:
        """As `vstore.Collection.delete`."""
        if (ids is None) == (filter is None):
            raise InvalidInput("delete takes ids=[...] or filter=..., one of them")
        message = self._with_filter(self._to_write(), filter)
        if ids is not None:
            message["ids"] = messages.keys_message(as_keys(ids, None)[0])
        return self._write("Delete", message, "n_deleted")

    def flush(self, progress: Any = True) -> Watched[None]:
        """As `vstore.Collection.flush`."""
        return self._watched("Flush", self._to_write(), progress, "flushing", self._saw)

    def compact(self, progress: Any = True) -> Watched[None]:
        """As `vstore.Collection.compact`."""
        return self._watched("Compact", self._to_write(), progress, "compacting", self._saw)

    def add_field(self, name: str, type: FieldType) -> Call[int]:
        """As `vstore.Collection.add_field`."""
        check_field(name, type)
        return self._schema_change("AddField", {"name": name, "type": type})

    def drop_field(self, name: str) -> Call[int]:
        """As `vstore.Collection.drop_field`."""
        return self._schema_change("DropField", {"name": name})

    def _schema_change(self, method: str, fields: Message) -> Call[int]:
        call = self._write(method, {**self._to_write(), **fields}, "version")

        def read(answer: Message) -> int:
            self.described = replace(self.described, schema=messages.read_schema(answer["schema"]))
            return call.read(answer)

        return replace(call, read=read)

    # Versions.

    def tag(self, tag: str, progress: Any = True) -> Watched[int]:
        """As `vstore.Collection.tag`."""
        message = {**self._to_write(), "tag": tag}
        return self._watched("Tag", message, progress, "flushing", self._result)

    def untag(self, tag: str) -> Call[None]:
        """As `vstore.Collection.untag`."""
        return Call("Untag", write_message({**self._to_write(), "tag": tag}), lambda answer: None)

    def restore(self, at: Any) -> Call[int]:
        """As `vstore.Collection.restore`."""
        return self._write("Restore", {**self._to_write(), "at": at}, "version")

    # Fusions.

    def fusions(self) -> Call[list[str]]:
        """As `vstore.Collection.fusions`."""
        return Call("Fusions", self._to_read(), lambda answer: list(read_value(answer, "names")))

    def fusion_bytes(self, name: str) -> Call[bytes]:
        """As `vstore.Collection.fusion_bytes`."""
        return Call(
            "GetFusion", {**self._to_read(), "name": name}, lambda answer: bytes(read_value(answer, "data"))
        )

    def put_fusion_bytes(self, name: str, data: bytes) -> Call[None]:
        """As `vstore.Collection.put_fusion_bytes`."""
        message = write_message({**self._to_write(), "name": name, "data": data})
        return Call("PutFusion", message, lambda answer: None, repeatable=False)

    def save_fusion(self, name: str, fusion: Fusion) -> Call[None]:
        """As `vstore.Collection.save_fusion`."""
        return self.put_fusion_bytes(name, encode_fusion(fusion))

    def delete_fusion(self, name: str) -> Call[None]:
        """As `vstore.Collection.delete_fusion`."""
        return Call("DeleteFusion", write_message({**self._to_write(), "name": name}), lambda answer: None)

    # Reading.

    def get(self, ids: Any) -> Call[list[Record | None]]:
        """As `vstore.Collection.get`."""
        keys, _ = as_keys(ids, None)
        return Call("Get", {**self._to_read(), "ids": messages.keys_message(keys)}, messages.read_records)

    def count(self, filter: FilterLike = None) -> Call[int]:
        """As `vstore.Collection.count`."""
        message = self._with_filter(self._to_read(), filter)
        return Call("Count", message, lambda answer: int(read_value(answer, "count")))

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
    ) -> Call[Hits]:
        """As `vstore.Collection.search`.

        `rerank` may also be the name of one of the server's re-rankers, a dict {"model": name, "depth":
        ...} or a list of these; then it runs there. An object runs here, on the hits' documents.
        """
        named = _named_stages(rerank)
        stages = () if named else as_stages(rerank, rerank_depth)
        wanted = check_k(k)
        message = self._query(query, depth_of(stages, wanted), filter, recall, ef)
        if named:
            message["rerank"] = named
            message["rerank_depth"] = (
                None if rerank_depth is None else check_depth(rerank_depth, "rerank_depth")
            )
            message["query_document"] = _as_query_document(query_document)

        def read(answer: Message) -> Hits:
            hits = messages.read_hits(answer)
            if stages:
                hits.hits, hits.receipt.rerank = apply(stages, query_document, hits.hits, wanted)
                hits.receipt.timings_ms["rerank"] = sum(r.latency_ms for r in hits.receipt.rerank)
            return hits

        return Call("Search", message, read, heavy=bool(stages))

    def search_batch(
        self,
        queries: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> Call[BatchHits]:
        """As `vstore.Collection.search_batch`."""
        schema = self.described.schema
        matrix = as_vectors(queries, dim=schema.dim, metric=schema.metric, what="query")
        one = matrix[0] if len(matrix) else np.ones(schema.dim, np.float32)
        message = self._query(one, k, filter, recall, ef)
        del message["query"]
        return Call("SearchBatch", {**message, "queries": matrix}, messages.read_batch)

    def explain(
        self,
        query: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> Call[Receipt]:
        """As `vstore.Collection.explain`."""
        message = self._query(query, k, filter, recall, ef)
        return Call("Explain", message, lambda answer: messages.read_receipt(read_value(answer, "receipt")))

    def warm(
        self,
        progress: Any = True,
        *,
        filter: FilterLike = None,
        shards: str | Sequence[str] | None = None,
        max_bytes: int | None = None,
        vectors: bool = False,
    ) -> Watched[Warmed]:
        """As `vstore.Collection.warm`: it is the server's cache that is filled."""
        message = self._with_filter(self._to_read(), filter)
        if shards is not None:
            message["shards"] = [shards] if isinstance(shards, str) else list(shards)
        message |= {"max_bytes": max_bytes, "vectors": bool(vectors)}
        return self._watched("Warm", message, progress, "warming", _read_warmed, "bytes")

    def scan_request(self, filter: FilterLike = None) -> bytes:
        """Return the request of a `Scan`."""
        return request_bytes(self._with_filter(self._to_read(), filter), self.limits)

    # The handle.

    def refresh(self, at_least: str | None = None, *, timeout_s: float = 10.0) -> Call[None]:
        """Have the server take in what other processes have published, and read the schema again.

        Args:
            at_least: a `version_token`: waits until the server sees what it stands for, as all later reads
                of this handle will.
            timeout_s: not heeded: the server's own setting and the connection's `timeout_s` end the wait.
        """
        if at_least is not None:
            parse_token(at_least)
            self._saw({"version_token": at_least})

        message = {"collection": self.name, "refresh": True}
        if self._at is not None:
            return Call("Describe", {**self._to_read()}, self._described)
        if self._has_to_see:
            message["at_least"] = self._token
        return Call("Describe", message, self._described)

    def describe(self) -> Call[Description]:
        """Return the call that reads schema, index and version again."""

        def read(answer: Message) -> Description:
            self._described(answer)
            return self.described

        return Call("Describe", self._to_read(), read)

    def _described(self, answer: Message) -> None:
        self.described = read_description(answer)

    def _saw(self, answer: Message) -> None:
        """Remember the newer of two versions: reads have to see it from now on."""
        text = read_value(answer, "version_token")
        with self._lock:
            self._has_to_see = True
            if not parse_token(text).seen_by(parse_token(self._token)):
                self._token = text

    def _result(self, answer: Message) -> int:
        if "version_token" in answer:
            self._saw(answer)
        return int(read_value(answer, "result"))

    def _write(self, method: str, message: Message, field: str, repeatable: bool = False) -> Call[int]:
        def read(answer: Message) -> int:
            self._saw(answer)
            return int(read_value(answer, field))

        return Call(method, write_message(message), read, repeatable)

    def _watched(
        self,
        method: str,
        message: Message,
        progress: Any,
        verb: str,
        read: Callable[[Message], T],
        unit: str = "rows",
    ) -> Watched[T]:
        return Watched(method, message, read, progress, f"{verb} {self.name}", unit)

    def _check_writable(self) -> None:
        if self._at is not None:
            raise ReadOnly(
                f"this is collection {self.name!r} at {self._at!r}, which does not change; write to "
                f"db.collection({self.name!r}), or restore({self._at!r}) there"
            )

    def _to_write(self) -> Message:
        self._check_writable()
        return {"collection": self.name}

    def _to_read(self) -> Message:
        if self._at is not None:
            return {"collection": self.name, "at": self._at, "version": self.described.version}
        if self._has_to_see:
            return {"collection": self.name, "at_least": self._token}
        return {"collection": self.name}

    def _with_filter(self, message: Message, filter: FilterLike) -> Message:
        compiled = compile_filter(filter, self.described.schema)
        if compiled is not None:
            message["filter"] = compiled.to_dict()
        return message

    def _query(self, query: Any, k: int, filter: FilterLike, recall: float, ef: int | None) -> Message:
        schema = self.described.schema
        filters = self._filters
        if filters.schema is not schema:
            self._filters = filters = CompiledFilters(schema)
        request = search_request(query, k, filter, recall, ef, schema, filters)
        message = self._to_read()
        if request.filter is not None:
            message["filter"] = request.filter.to_dict()
        return message | {
            "query": request.query,
            "k": request.k,
            "recall": request.recall,
            "ef": request.ef,
        }


def _read_warmed(answer: Message) -> Warmed:
    counts = {name: int(answer.get(name, 0)) for name in ("n_blocks", "n_requests", "n_left")}
    return Warmed(int(read_value(answer, "result")), **counts)


def _named_stages(rerank: Any) -> list[Any]:
    given = () if rerank is None else rerank if isinstance(rerank, (list, tuple)) else (rerank,)
    names = [isinstance(item, (str, Mapping)) for item in given]
    if any(names) and not all(names):
        raise InvalidSetting(
            "rerank mixes names, which run on the server, with objects, which run here; give either alone"
        )
    return [{"model": item} if isinstance(item, str) else dict(item) for item in given] if all(names) else []


def _as_query_document(document: Any) -> Any:
    if document is None or isinstance(document, (str, bytes)):
        return document
    parts = document if isinstance(document, Mapping) else {"image": document}
    stored = as_documents([parts], 1)
    check_image(stored[0] if stored else None, "query_document")
    return stored[0] if stored else None
