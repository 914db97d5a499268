"""What each method does: a request's bytes in, an answer's bytes out, on a thread. No sockets here."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import vstore
from vstore import BatchHits, Collection, Database, IndexSettings, Rerank
from vstore.errors import (
    CollectionNotFound,
    InvalidDocument,
    InvalidSetting,
    VstoreError,
    nearest,
)
from vstore.rerank.callables import as_reranker, name_of
from vstore.types import Candidate, Reranker
from vstore_server import messages
from vstore_server.auth import Caller, Role
from vstore_server.codec import Limits, Message, decode, encode, prepare
from vstore_server.errors import Cancelled, LimitExceeded
from vstore_server.handles import Handles
from vstore_server.messages import Reader
from vstore_server.replies import MAX_KEY_CHARACTERS, Replies

Kind = Literal["unary", "progress", "stream"]
LaneName = Literal["search", "write", "upkeep"]
Report = Callable[[int, int], None]

BATCH_SLICE = 64
"""Queries that a batch answers between two looks at whether its caller still waits."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is called, by whom, and on which threads."""

    name: str
    role: Role
    lane: LaneName
    kind: Kind = "unary"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("Connect", "read", "search"),
        Method("ListCollections", "read", "search"),
        Method("CreateCollection", "admin", "write"),
        Method("DropCollection", "admin", "write"),
        Method("Describe", "read", "search"),
        Method("Upsert", "write", "write"),
        Method("UpsertStream", "write", "write", "stream"),
        Method("Delete", "write", "write"),
        Method("Get", "read", "search"),
        Method("Count", "read", "search"),
        Method("Search", "read", "search"),
        Method("SearchBatch", "read", "search"),
        Method("Explain", "read", "search"),
        Method("Refresh", "read", "search"),
        Method("Flush", "write", "upkeep", "progress"),
        Method("Compact", "admin", "upkeep", "progress"),
        Method("Warm", "read", "upkeep", "progress"),
    )
}
"""Every method of the service, by the name in its path."""


class Call:
    """One request while it runs: who asked, whether they still wait, and where progress goes."""

    def __init__(self, caller: Caller, report: Report = lambda done, total: None) -> None:
        self.caller = caller
        self.report = report
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Note that nobody waits for the answer any more."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise Cancelled where nobody waits."""
        if self._cancelled.is_set():
            raise Cancelled("the caller gave up")


class Service:
    """The face of a database over messages. Thread-safe; owns neither database nor threads."""

    def __init__(
        self,
        database: Database,
        limits: Limits | None = None,
        rerankers: Mapping[str, Any] | None = None,
        refresh_s: float = 1.0,
    ) -> None:
        self.database = database
        self.limits = limits or Limits()
        self._rerankers = {name: as_reranker(model) for name, model in (rerankers or {}).items()}
        prepare()
        self._handles = Handles(database, refresh_s)
        self._replies = Replies()
        self._run: dict[str, Callable[[Reader, Call], Message]] = {
            "Connect": self._connect,
            "ListCollections": self._list,
            "CreateCollection": self._create,
            "DropCollection": self._drop,
            "Describe": self._describe,
            "Upsert": self._upsert,
            "UpsertStream": self._upsert_part,
            "Delete": self._delete,
            "Get": self._get,
            "Count": self._count,
            "Search": self._search,
            "SearchBatch": self._search_batch,
            "Explain": self._explain,
            "Refresh": self._refresh,
            "Flush": self._flush,
            "Compact": self._compact,
            "Warm": self._warm,
        }

    def answer(self, name: str, data: bytes, call: Call) -> bytes:
        """Run one request; for a stream, one of its messages.

        Raises:
            VstoreError: whatever the face raises, and what the network adds.
        """
        call.check()
        message = decode(data, self.limits)
        key = message.get("idempotency_key")
        if key is None or METHODS[name].lane == "search":
            return self._answer(name, message, call)
        reader = Reader({"idempotency_key": key}, name)
        length = len(reader.text("idempotency_key"))
        self._at_most("characters of idempotency_key", length, MAX_KEY_CHARACTERS)
        return self._replies.once(
            (call.caller.tenant, name, key), data, lambda: self._answer(name, message, call)
        )

    def _answer(self, name: str, message: Message, call: Call) -> bytes:
        reader = Reader(message, name)
        if METHODS[name].lane != "search":
            reader.text("idempotency_key", "")
        collection = message.get("collection")
        try:
            answer = encode(self._run[name](reader, call))
        except VstoreError as error:
            if isinstance(collection, str):
                self._handles.settle(collection, error)
            if isinstance(error, CollectionNotFound) and not call.caller.sees_all:
                # The usual message names the nearest collection, which may be out of the token's sight.
                raise CollectionNotFound(f"there is no collection {collection!r}") from None
            raise
        if len(answer) > self.limits.message_bytes:
            raise LimitExceeded(
                f"the answer has {len(answer)} bytes; at most {self.limits.message_bytes} are allowed: "
                "ask for less at once"
            )
        return answer

    # The database.

    def _connect(self, reader: Reader, call: Call) -> Message:
        reader.done()
        return {
            "protocol": messages.PROTOCOL,
            "server": f"vstore {vstore.__version__}",
            "limits": dataclasses.asdict(self.limits),
            "rerankers": sorted(self._rerankers),
            "role": call.caller.role,
        }

    def _list(self, reader: Reader, call: Call) -> Message:
        reader.done()
        return {"collections": [name for name in self.database.collections() if call.caller.sees(name)]}

    def _create(self, reader: Reader, call: Call) -> Message:
        name = self._name(reader, call, "name")
        dim, metric = reader.whole("dim"), reader.text("metric", "cosine")
        fields, index = reader.map("fields", {}), reader.map("index", {})
        reader.done()
        known = [f.name for f in dataclasses.fields(IndexSettings)]
        for setting, value in index.items():
            if setting not in known:
                raise InvalidSetting(f"index has no setting {setting!r}{nearest(str(setting), known)}")
            if not isinstance(value, int | float | str):
                raise InvalidSetting(f"index: {setting} is {value!r}; it must be a number, text or a flag")
        metric_name: Any = metric
        made = self.database.create_collection(
            name, dim=dim, metric=metric_name, fields=fields, index=IndexSettings(**index)
        )
        self._handles.forget(name)
        return {"name": name, "schema": messages.schema_message(made.schema)}

    def _drop(self, reader: Reader, call: Call) -> Message:
        name = self._name(reader, call)
        reader.done()
        self.database.drop_collection(name)
        self._handles.forget(name)
        return {}

    # A collection: reading.

    def _describe(self, reader: Reader, call: Call) -> Message:
        name = self._name(reader, call)
        reader.done()
        collection = self._handles.get(name)
        return {"name": name, "schema": messages.schema_message(collection.schema), "rows": len(collection)}

    def _get(self, reader: Reader, call: Call) -> Message:
        name, ids = self._name(reader, call), self._ids(reader)
        reader.done()
        collection = self._handles.get(name)
        return messages.records_message(collection.get([] if ids is None else ids), collection.schema.dim)

    def _count(self, reader: Reader, call: Call) -> Message:
        name, filter = self._name(reader, call), reader.map("filter", None)
        reader.done()
        return {"count": self._handles.get(name).count(filter)}

    def _search(self, reader: Reader, call: Call) -> Message:
        name, query = self._name(reader, call), reader.array("query", 1)
        k, settings = self._k(reader), self._settings(reader)
        stages, depth = reader.items("rerank", None), reader.whole("rerank_depth", None)
        query_document = reader.document("query_document")
        _check_image(query_document, "query_document")
        reader.done()
        self._at_most("rerank_depth", depth or 0, self.limits.rerank_depth)
        hits = self._handles.get(name).search(
            query,
            k,
            **settings,
            rerank=None if stages is None else [self._stage(stage, call) for stage in stages],
            rerank_depth=depth,
            query_document=query_document,
        )
        return messages.hits_message(hits)

    def _search_batch(self, reader: Reader, call: Call) -> Message:
        name, queries = self._name(reader, call), reader.array("queries", 2)
        k, settings = self._k(reader), self._settings(reader)
        reader.done()
        self._at_most("queries", len(queries), self.limits.batch_queries)
        self._at_most("queries x k", len(queries) * k, self.limits.batch_answers)
        collection = self._handles.get(name)
        parts: list[BatchHits] = []
        for start in range(0, max(len(queries), 1), BATCH_SLICE):
            call.check()
            parts.append(collection.search_batch(queries[start : start + BATCH_SLICE], k, **settings))
        ids: npt.NDArray[Any] = np.concatenate([part.ids for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        receipts = [receipt for part in parts for receipt in part.receipts]
        return messages.batch_message(BatchHits(ids, scores, receipts))

    def _explain(self, reader: Reader, call: Call) -> Message:
        name, query = self._name(reader, call), reader.array("query", 1)
        k, settings = self._k(reader), self._settings(reader)
        reader.done()
        receipt = self._handles.get(name).explain(query, k, **settings)
        return {"receipt": messages.receipt_message(receipt)}

    def _refresh(self, reader: Reader, call: Call) -> Message:
        name = self._name(reader, call)
        reader.done()
        self._handles.get(name, refresh=True)
        return {}

    def _warm(self, reader: Reader, call: Call) -> Message:
        name = self._name(reader, call)
        reader.done()

        def report(done: int, total: int) -> None:
            call.check()
            call.report(done, total)

        return {"result": self._handles.get(name).warm(report)}

    # A collection: writing.

    def _upsert(self, reader: Reader, call: Call) -> Message:
        name, ids, vectors = self._name(reader, call), reader.keys("ids"), reader.array("vectors", 2)
        attributes, documents = reader.columns("attributes"), reader.items("documents", None)
        reader.done()
        self._at_most("vectors", len(vectors), self.limits.upsert_rows)
        self._at_most("ids", 0 if ids is None else len(ids), self.limits.upsert_rows)
        for row, document in enumerate(documents or ()):
            _check_image(document, f"document {row}")
        given: Any = [] if ids is None else ids
        return {"n_written": self._handles.get(name).upsert(given, vectors, attributes, documents)}

    def _upsert_part(self, reader: Reader, call: Call) -> Message:
        batch = reader.whole("batch")
        return {"batch": batch, **self._upsert(reader, call)}

    def _delete(self, reader: Reader, call: Call) -> Message:
        name, ids, filter = self._name(reader, call), self._ids(reader), reader.map("filter", None)
        reader.done()
        return {"n_deleted": self._handles.get(name).delete(ids, filter=filter)}

    def _flush(self, reader: Reader, call: Call) -> Message:
        collection = self._collection(reader, call)
        collection.flush(call.report)
        return {"result": None}

    def _compact(self, reader: Reader, call: Call) -> Message:
        collection = self._collection(reader, call)
        collection.compact(call.report)
        return {"result": None}

    # Parts of requests.

    def _collection(self, reader: Reader, call: Call) -> Collection:
        name = self._name(reader, call)
        reader.done()
        return self._handles.get(name)

    def _name(self, reader: Reader, call: Call, field: str = "collection") -> str:
        name: str = reader.text(field)
        call.caller.check_collection(name)
        return name

    def _ids(self, reader: Reader) -> npt.NDArray[Any] | list[Any] | None:
        ids = reader.keys("ids")
        self._at_most("ids", 0 if ids is None else len(ids), self.limits.ids)
        return ids

    def _k(self, reader: Reader) -> int:
        k: int = reader.whole("k", 10)
        self._at_most("k", k, self.limits.k)
        return k

    def _settings(self, reader: Reader) -> dict[str, Any]:
        ef = reader.whole("ef", None)
        self._at_most("ef", ef or 0, self.limits.ef)
        return {"filter": reader.map("filter", None), "recall": reader.number("recall", 0.95), "ef": ef}

    def _stage(self, stage: Any, call: Call) -> Rerank:
        reader = Reader(stage if isinstance(stage, dict) else {"model": stage}, "Search: rerank")
        name = reader.text("model")
        depth, blend = reader.whole("depth", None), reader.number("blend", None)
        normalize, needs = reader.text("normalize", None), reader.text("needs", None)
        on_error = reader.text("on_error", "raise")
        reader.done()
        model = self._rerankers.get(name)
        if model is None:
            known = ", ".join(sorted(self._rerankers)) or "none"
            raise InvalidSetting(
                f"the server has no re-ranker {name[:80]!r}{nearest(name, self._rerankers)} (it has: {known})"
            )
        self._at_most("rerank depth", depth or 0, self.limits.rerank_depth)
        return Rerank(_Watched(model, call), depth, blend, normalize, needs, on_error)

    def _at_most(self, what: str, value: int, limit: int) -> None:
        if value > limit:
            raise LimitExceeded(
                f"{what}: {value} is over this server's limit of {limit}; ask for less at once"
            )


class _Watched:
    """A re-ranker that is not started for a caller who gave up."""

    def __init__(self, model: Reranker, call: Call) -> None:
        self._model = model
        self._call = call
        self.name = name_of(model)
        self.rerank_defaults = getattr(model, "rerank_defaults", None)

    def score(self, query: Any, documents: Sequence[Candidate]) -> npt.ArrayLike:
        """Score, unless nobody waits."""
        self._call.check()
        return self._model.score(query, documents)


def _check_image(document: Any, where: str) -> None:
    # A path or URL would have the server's re-rankers open it for whoever sent it.
    if isinstance(document, dict) and isinstance(document.get("image"), str):
        raise InvalidDocument(
            f"{where}: 'image' is a path or URL; a server takes encoded bytes: read the file and send those"
        )
