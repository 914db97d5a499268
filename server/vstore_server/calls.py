"""What a client sends and how it reads the answer: no sockets, so that both clients share it all.

Arguments are checked here by the embedded store's own functions, against the collection's schema: what
is wrong raises the same error, before anything is sent. The server checks again; it trusts nobody.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from vstore import BatchHits, Hits, IndexSettings, Receipt, Record
from vstore.database import check_schema
from vstore.errors import Closed, InvalidDocument, InvalidInput, InvalidSetting
from vstore.filters import FilterLike, compile_filter
from vstore.ingest.inputs import as_documents, as_keys, as_vectors, row_batch
from vstore.query.request import CompiledFilters, check_k, search_request
from vstore.rerank.stage import apply, as_stages, check_depth, depth_of
from vstore.types import Document, Schema
from vstore_server import messages
from vstore_server.codec import Limits, Message, decode, encode
from vstore_server.errors import ProtocolError
from vstore_server.messages import PROTOCOL, read_value

T = TypeVar("T")
PART_BYTES = 4 << 20
"""A larger upsert is sent as a stream of parts of about this size."""
ANSWER_LIMITS = Limits(message_bytes=1 << 30, items=1 << 30, text_bytes=1 << 30)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request of one method.

    `repeatable`: running it twice leaves the state and answer of once, so it may be sent again where an
    answer was lost. `heavy`: reading the answer takes long (it re-ranks), so not on an event loop.
    """

    method: str
    message: Message
    read: Callable[[Message], T]
    repeatable: bool = True
    heavy: bool = False


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a server says of itself."""

    server: str
    limits: Limits
    rerankers: tuple[str, ...]
    role: str


def request_bytes(call: Call[Any], limits: Limits) -> bytes:
    """Return a call's request.

    Raises:
        InvalidInput: it is larger than the server takes.
    """
    return checked_size(encode(call.message), limits)


def checked_size(data: bytes, limits: Limits) -> bytes:
    """Return the request, or raise InvalidInput where it is larger than the server takes."""
    if len(data) > limits.message_bytes:
        raise InvalidInput(
            f"the request has {len(data)} bytes; the server takes {limits.message_bytes}: send less at once"
        )
    return data


def read_answer(data: bytes) -> Message:
    """Return an answer's message.

    Raises:
        ProtocolError: it cannot be read.
    """
    try:
        return decode(data, ANSWER_LIMITS)
    except InvalidInput as error:
        raise ProtocolError(f"the server's answer cannot be read: {error}") from None


def read_with(call: Call[T], data: bytes) -> T:
    """Return what an answer means.

    Raises:
        ProtocolError: it is not the answer that the call has.
    """
    return call.read(read_answer(data))


def check_open(is_closed: bool, what: str) -> None:
    """Raise Closed where a handle was closed."""
    if is_closed:
        raise Closed(f"{what} was closed; connect, or get it, again")


class Progressed:
    """Reads the messages of a progress stream; `result` is there when the stream has ended."""

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self._report = report
        self._results: list[Any] = []

    def feed(self, data: bytes) -> None:
        """Take one message in."""
        message = read_answer(data)
        if "result" in message:
            self._results.append(message["result"])
        else:
            self._report(read_value(message, "done"), read_value(message, "total"))

    @property
    def result(self) -> Any:
        """What the method returned."""
        if not self._results:
            raise ProtocolError("the stream ended without a result")
        return self._results[0]


# The database.


def connect_call() -> Call[Welcome]:
    """Return the greeting that a client begins with."""
    return Call("Connect", {}, _read_welcome)


def _read_welcome(message: Message) -> Welcome:
    protocol = read_value(message, "protocol")
    if not isinstance(protocol, dict) or protocol.get("major") != PROTOCOL["major"]:
        raise ProtocolError(
            f"the server speaks protocol {protocol!r} and this client {PROTOCOL['major']}; upgrade the older"
        )
    known = {field.name for field in dataclasses.fields(Limits)}
    given = {name: value for name, value in read_value(message, "limits").items() if name in known}
    rerankers = tuple(read_value(message, "rerankers"))
    return Welcome(read_value(message, "server"), Limits(**given), rerankers, read_value(message, "role"))


def list_call() -> Call[list[str]]:
    """Return the call of `collections`."""
    return Call("ListCollections", {}, lambda answer: list(read_value(answer, "collections")))


def create_call(
    name: str, dim: Any, metric: Any, fields: Mapping[str, Any] | None, index: IndexSettings | None
) -> Call[Schema]:
    """Return the call of `create_collection`."""
    schema = check_schema(dim, metric, fields or {})
    message = {"name": name, **messages.schema_message(schema)}
    if index is not None:
        message["index"] = dataclasses.asdict(index)
    return _write("CreateCollection", message, lambda answer: messages.read_schema(answer["schema"]))


def drop_call(name: str) -> Call[None]:
    """Return the call of `drop_collection`."""
    return _write("DropCollection", {"collection": name}, lambda answer: None)


def describe_call(name: str) -> Call[Schema]:
    """Return the call that opens a collection."""
    message = {"collection": name}
    return Call("Describe", message, lambda answer: messages.read_schema(read_value(answer, "schema")))


class CollectionCalls:
    """The calls of one collection."""

    def __init__(self, name: str, schema: Schema, limits: Limits) -> None:
        self.name = name
        self.schema = schema
        self.limits = limits

    def upsert(self, ids: Any, vectors: Any, attributes: Any, documents: Any) -> list[Message]:
        """Return the messages of an upsert: one, or the parts of a stream; none for no rows."""
        rows = row_batch(ids, vectors, attributes, documents, schema=self.schema, kind=None)
        for row, document in enumerate(rows.documents or ()):
            _check_image(document, f"document {row}")
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

    def upsert_call(self, part: Message) -> Call[int]:
        """Return the unary call of an upsert that fits one message."""
        return _write("Upsert", part, lambda answer: int(read_value(answer, "n_written")), repeatable=True)

    def stream_requests(self, batches: Iterable[Any]) -> Iterator[bytes]:
        """Yield the requests of an `UpsertStream`, numbered; each is checked when its turn comes.

        Args:
            batches: tuples of the arguments of `upsert`: (ids, vectors[, attributes[, documents]]).
        """
        number = 0
        for batch in batches:
            if not isinstance(batch, tuple) or not 2 <= len(batch) <= 4:
                raise InvalidInput("a batch is a tuple (ids, vectors[, attributes[, documents]])")
            for part in self.upsert(*batch, *(None,) * (4 - len(batch))):
                yield self.part_request(number, part)
                number += 1

    def part_request(self, number: int, part: Message) -> bytes:
        """Return the request of one part of an `UpsertStream`."""
        return checked_size(encode({"batch": number, **part}), self.limits)

    def delete(self, ids: Any, filter: FilterLike) -> Call[int]:
        """Return the call of `delete`."""
        if (ids is None) == (filter is None):
            raise InvalidInput("delete takes ids=[...] or filter=..., one of them")
        message = self._message(filter)
        if ids is not None:
            message["ids"] = messages.keys_message(as_keys(ids, None)[0])
        return _write("Delete", message, lambda answer: int(read_value(answer, "n_deleted")))

    def get(self, ids: Any) -> Call[list[Record | None]]:
        """Return the call of `get`."""
        keys, _ = as_keys(ids, None)
        message = {"collection": self.name, "ids": messages.keys_message(keys)}
        return Call("Get", message, messages.read_records)

    def count(self, filter: FilterLike) -> Call[int]:
        """Return the call of `count`."""
        return Call("Count", self._message(filter), lambda answer: int(read_value(answer, "count")))

    def search(
        self,
        query: Any,
        k: int,
        filter: FilterLike,
        recall: float,
        ef: int | None,
        rerank: Any,
        rerank_depth: int | None,
        query_document: Any,
    ) -> Call[Hits]:
        """Return the call of `search`.

        Re-rankers that are names run on the server; those that are objects run here, on the hits that
        the server found for them.
        """
        named = _named_stages(rerank)
        stages = () if named else as_stages(rerank, rerank_depth)
        wanted = check_k(k)
        request = search_request(
            query, depth_of(stages, wanted), filter, recall, ef, self.schema, CompiledFilters(self.schema)
        )
        message = self._message(request.filter)
        message |= {"query": request.query, "k": request.k, "recall": request.recall, "ef": request.ef}
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
        self, queries: Any, k: int, filter: FilterLike, recall: float, ef: int | None
    ) -> Call[BatchHits]:
        """Return the call of `search_batch`."""
        matrix = as_vectors(queries, dim=self.schema.dim, metric=self.schema.metric, what="query")
        message = self._message(filter)
        if len(matrix):
            search_request(matrix[0], k, None, recall, ef, self.schema, CompiledFilters(self.schema))
        message |= {
            "queries": matrix,
            "k": check_k(k),
            "recall": float(recall),
            "ef": None if ef is None else int(ef),
        }
        return Call("SearchBatch", message, messages.read_batch)

    def explain(self, query: Any, k: int, filter: FilterLike, recall: float, ef: int | None) -> Call[Receipt]:
        """Return the call of `explain`."""
        request = search_request(query, k, filter, recall, ef, self.schema, CompiledFilters(self.schema))
        message = self._message(request.filter)
        message |= {"query": request.query, "k": request.k, "recall": request.recall, "ef": request.ef}
        return Call("Explain", message, lambda answer: messages.read_receipt(read_value(answer, "receipt")))

    def refresh(self) -> Call[None]:
        """Return the call of `refresh`."""
        return Call("Refresh", {"collection": self.name}, lambda answer: None)

    def describe(self) -> Call[Schema]:
        """Return the call that reads the schema again."""
        return describe_call(self.name)

    def progress_request(self, method: str) -> Message:
        """Return the request of Flush, Compact or Warm."""
        return {"collection": self.name}

    def _message(self, filter: FilterLike) -> Message:
        compiled = compile_filter(filter, self.schema)
        message: Message = {"collection": self.name}
        if compiled is not None:
            message["filter"] = compiled.to_dict()
        return message


def _write(method: str, message: Message, read: Callable[[Message], T], repeatable: bool = False) -> Call[T]:
    return Call(method, {**message, "idempotency_key": uuid.uuid4().hex}, read, repeatable)


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
    _check_image(stored[0] if stored else None, "query_document")
    return stored[0] if stored else None


def _check_image(document: Document | None, where: str) -> None:
    if document is not None and isinstance(document.get("image"), str):
        raise InvalidDocument(
            f"{where}: 'image' is a path or URL; a server takes encoded bytes: read the file and send those"
        )
