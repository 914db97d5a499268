"""What each method does: a request's bytes in, an answer's bytes out, on a thread. No sockets here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import vstore
from vstore import BatchHits, Collection, Database, Hits, IndexSettings, Rerank
from vstore.cancel import checking
from vstore.errors import InvalidSetting, nearest
from vstore.rerank.callables import FUSION, as_reranker, name_of
from vstore.serving import CheckedSearch, checked_search, checked_searches, receipt_parts
from vstore.types import Candidate, Reranker
from vstore_server import messages
from vstore_server.codec import Limits, Message, decode, encode, prepare
from vstore_server.errors import LimitExceeded
from vstore_server.images import check_image
from vstore_server.messages import Reader
from vstore_server.methods import METHODS, Call
from vstore_server.observe import Observer
from vstore_server.plain import PlainSearch, plain_search
from vstore_server.replies import MAX_KEY_CHARACTERS, Replies
from vstore_server.requests import written
from vstore_server.shown import PackedReceipts
from vstore_server.versions import VersionMethods

__all__ = ["BATCH_SLICE", "METHODS", "Call", "Service"]

BATCH_SLICE = 64
"""Queries that a batch answers between two looks at whether its caller still waits."""


class _Asked(NamedTuple):
    """The fields of a `Search`, beside what it reads."""

    query: npt.NDArray[Any]
    k: int
    settings: dict[str, Any]
    stages: list[Any] | None
    depth: int | None
    document: Any


class Service(VersionMethods):
    """The face of a database over messages. Thread-safe; owns neither database nor threads."""

    def __init__(
        self,
        database: Database,
        limits: Limits | None = None,
        rerankers: Mapping[str, Any] | None = None,
        refresh_s: float = 1.0,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(database, limits or Limits(), refresh_s)
        self._rerankers = {name: as_reranker(model) for name, model in (rerankers or {}).items()}
        prepare()
        self._observer = observer or Observer(slow_ms=math.inf)
        self._replies = Replies()
        self._packed = PackedReceipts()
        self.reads_plainly = True
        """Whether searches that are as most are may be read the quick way (`plain`)."""
        self._run: dict[str, Callable[[Reader, Call], Message]] = {
            "Connect": self._connect,
            "ListCollections": self._list,
            "CreateCollection": self._create,
            "DropCollection": self._drop,
            "Describe": self._describe,
            "Upsert": self._upsert,
            "UpsertStream": self._upsert_part,
            "Update": self._update,
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
            "AddField": self._add_field,
            "DropField": self._drop_field,
            "Snapshots": self._snapshots,
            "Tag": self._tag,
            "Untag": self._untag,
            "Restore": self._restore,
            "Fusions": self._list_fusions,
            "GetFusion": self._get_fusion,
            "PutFusion": self._put_fusion,
            "DeleteFusion": self._delete_fusion,
            "CollectGarbage": self._collect,
            "Verify": self._verify,
        }

    def close(self) -> None:
        """Let the handles go; the database stays open."""
        self._handles.close()

    def answer(self, name: str, data: bytes, call: Call) -> bytes:
        """Run one request; for a stream, one of its messages.

        Raises:
            VstoreError: whatever the face raises, and what the network adds.
        """
        return self.respond(name, data, decode(data, self.limits), call)

    def respond(self, name: str, data: bytes, message: Message, call: Call) -> bytes:
        """As `answer`, for a request that was decoded already."""
        call.check()
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
        # A write that began is not left half way: only reads ask whether someone still waits.
        look = checking(call.check) if METHODS[name].lane == "search" else nullcontext()
        with look, self._settling(message.get("collection"), call):
            answer = encode(self._run[name](reader, call))
        self._check_size(answer)
        return answer

    def scan(self, data: bytes, call: Call) -> Iterator[bytes]:
        """Return the messages of a `Scan`: the number of rows, and then batches of them.

        The filter is evaluated now; each step reads one batch, and between steps only the view is held.
        """
        call.check()
        message = decode(data, self.limits)
        with self._settling(message.get("collection"), call):
            reader = Reader(message, "Scan")
            opened, filter = self._reading(reader, call), self._filter(reader)
            reader.done()
            collection = opened()
            found, dim = collection.scan_batches(filter), collection.schema.dim

        def answers() -> Iterator[bytes]:
            yield encode({"rows": found.n_rows})
            for batch in found.batches:
                call.check()
                answer = encode(messages.batch_of_records(batch, dim))
                self._check_size(answer)
                yield answer

        return answers()

    def _check_size(self, answer: bytes) -> None:
        if len(answer) > self.limits.message_bytes:
            raise LimitExceeded(
                f"the answer has {len(answer)} bytes; at most {self.limits.message_bytes} are allowed: "
                "ask for less at once"
            )

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
        refresh = reader.flag("refresh", False)
        opened = self._reading(reader, call, refresh=refresh)
        reader.done()
        collection = opened()
        return {
            "name": collection.name,
            "schema": messages.schema_message(collection.schema),
            "index": dataclasses.asdict(collection.index),
            "rows": len(collection),
            "version": collection.version,
            "version_token": collection.version_token,
        }

    def _get(self, reader: Reader, call: Call) -> Message:
        opened, ids = self._reading(reader, call), self._ids(reader)
        reader.done()
        collection = opened()
        return messages.records_message(collection.get([] if ids is None else ids), collection.schema.dim)

    def _count(self, reader: Reader, call: Call) -> Message:
        opened, filter = self._reading(reader, call), self._filter(reader)
        reader.done()
        collection = opened()
        return {"count": collection.count(filter)}

    def _search(self, reader: Reader, call: Call) -> Message:
        opened, asked = self._reading(reader, call), self._asked(reader)
        collection = opened()
        self._at_most("rerank_depth", asked.depth or 0, self.limits.rerank_depth)
        self._at_most("stages of rerank", len(asked.stages or ()), self.limits.rerank_stages)
        hits = collection.search(
            asked.query,
            asked.k,
            **asked.settings,
            rerank=None
            if asked.stages is None
            else [self._stage(stage, collection, call) for stage in asked.stages],
            rerank_depth=asked.depth,
            query_document=asked.document,
        )
        return self._shown(hits, call)

    def _asked(self, reader: Reader) -> _Asked:
        query = reader.array("query", 1)
        k, settings = self._k(reader), self._settings(reader)
        stages, depth = reader.items("rerank", None), reader.whole("rerank_depth", None)
        query_document = reader.document("query_document")
        check_image(query_document, "query_document")
        reader.done()
        return _Asked(query, k, settings, stages, depth, query_document)

    def search_of(self, message: Message, call: Call) -> CheckedSearch | None:
        """Return a `Search` without re-ranking, checked, for who answers from memory.

        None where it re-ranks, or its handle must be opened or refreshed first: that may wait.

        Raises: as `respond`, for a bad request.
        """
        if message.get("rerank") is not None or message.get("at") is not None:
            return None
        plain = plain_search(message, self.limits) if self.reads_plainly else None
        if plain is not None:
            return self.plain_search_of(plain, call)
        reader = Reader(message, "Search")
        self._reading(reader, call)
        asked = self._asked(reader)
        if asked.depth is not None or asked.document is not None:
            return None
        collection = self._handles.fresh(message["collection"], message.get("at_least"))
        if collection is None:
            return None
        return checked_search(collection, asked.query, asked.k, **asked.settings)

    def plain_search_of(self, plain: PlainSearch, call: Call) -> CheckedSearch | None:
        """As `search_of`, for a plain search."""
        name = plain.collection
        call.caller.check_collection(name)
        call.collection = name[:128]
        collection = self._handles.fresh(name, plain.at_least)
        if collection is None:
            return None
        return checked_search(collection, plain.query, plain.k, None, plain.recall, plain.ef)

    def plain_searches_of(
        self, plain: PlainSearch, queries: npt.NDArray[np.float32], call: Call
    ) -> list[CheckedSearch] | None:
        """As `plain_search_of`, of searches that differ in the vector alone (float32[m, d]).

        None, too, where one of them must be checked by itself.
        """
        call.caller.check_collection(plain.collection)
        collection = self._handles.fresh(plain.collection, plain.at_least)
        if collection is None:
            return None
        return checked_searches(collection, queries, plain.k, plain.recall, plain.ef)

    def hits_answer(self, hits: Hits, call: Call) -> bytes:
        """Return the answer of a `Search` that memory answered."""
        parts = receipt_parts(hits)
        if parts is None:
            answer = encode(self._shown(hits, call))
        else:
            answer = self._packed.answer(hits, *parts)
            call.receipt_parts = parts
            self._observer.answered(*parts)
        self._check_size(answer)
        return answer

    def _shown(self, hits: Hits, call: Call) -> Message:
        answer = messages.hits_message(hits)
        call.receipt_parts = (answer["receipt"],)
        self._observer.searched([answer["receipt"]])
        return answer

    def _search_batch(self, reader: Reader, call: Call) -> Message:
        opened, queries = self._reading(reader, call), reader.array("queries", 2)
        k, settings = self._k(reader), self._settings(reader)
        reader.done()
        collection = opened()
        self._at_most("queries", len(queries), self.limits.batch_queries)
        self._at_most("queries x k", len(queries) * k, self.limits.batch_answers)
        parts: list[BatchHits] = []
        for start in range(0, max(len(queries), 1), BATCH_SLICE):
            call.check()
            parts.append(collection.search_batch(queries[start : start + BATCH_SLICE], k, **settings))
        ids: npt.NDArray[Any] = np.concatenate([part.ids for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        receipts = [receipt for part in parts for receipt in part.receipts]
        answer = messages.batch_message(BatchHits(ids, scores, receipts))
        self._observer.searched(answer["receipts"])
        return answer

    def _explain(self, reader: Reader, call: Call) -> Message:
        opened, query = self._reading(reader, call), reader.array("query", 1)
        k, settings = self._k(reader), self._settings(reader)
        reader.done()
        collection = opened()
        receipt = collection.explain(query, k, **settings)
        return {"receipt": messages.receipt_message(receipt)}

    def _refresh(self, reader: Reader, call: Call) -> Message:
        name, at_least = self._name(reader, call), reader.text("at_least", None)
        reader.done()
        return {"version_token": self._handles.get(name, refresh=True, at_least=at_least).version_token}

    def _warm(self, reader: Reader, call: Call) -> Message:
        opened, filter = self._reading(reader, call), self._filter(reader)
        shards, max_bytes = reader.items("shards", None), reader.whole("max_bytes", None)
        vectors = reader.flag("vectors", False)
        reader.done()
        collection = opened()

        def report(done: int, total: int) -> None:
            call.check()
            call.report(done, total)

        warmed = collection.warm(report, filter=filter, shards=shards, max_bytes=max_bytes, vectors=vectors)
        counts = {"n_blocks": warmed.n_blocks, "n_requests": warmed.n_requests, "n_left": warmed.n_left}
        return {"result": int(warmed), **counts}

    # A collection: writing.

    def _upsert(self, reader: Reader, call: Call) -> Message:
        opened, ids, vectors = self._writing(reader, call), reader.keys("ids"), reader.array("vectors", 2)
        attributes, documents = self._attributes(reader), reader.items("documents", None)
        reader.done()
        collection = opened()
        self._at_most("vectors", len(vectors), self.limits.upsert_rows)
        self._at_most("ids", 0 if ids is None else len(ids), self.limits.upsert_rows)
        for row, document in enumerate(documents or ()):
            check_image(document, f"document {row}", collection.name)
        given: Any = [] if ids is None else ids
        n_written = collection.upsert(given, vectors, attributes, documents)
        self._observer.wrote("upsert", n_written)
        return written(collection, n_written=n_written)

    def _upsert_part(self, reader: Reader, call: Call) -> Message:
        batch = reader.whole("batch")
        return {"batch": batch, **self._upsert(reader, call)}

    def _delete(self, reader: Reader, call: Call) -> Message:
        opened, ids = self._writing(reader, call), self._ids(reader)
        filter = self._filter(reader)
        reader.done()
        collection = opened()
        n_deleted = collection.delete(ids, filter=filter)
        self._observer.wrote("delete", n_deleted)
        return written(collection, n_deleted=n_deleted)

    def _update(self, reader: Reader, call: Call) -> Message:
        opened, ids = self._writing(reader, call), self._ids(reader)
        attributes, missing = self._attributes(reader), reader.text("missing", "error")
        reader.done()
        collection = opened()
        n_written = collection.update([] if ids is None else ids, attributes, missing=missing)
        self._observer.wrote("update", n_written)
        return written(collection, n_written=n_written)

    def _flush(self, reader: Reader, call: Call) -> Message:
        opened = self._writing(reader, call)
        reader.done()
        collection = opened()
        collection.flush(call.report)
        return written(collection, result=None)

    def _compact(self, reader: Reader, call: Call) -> Message:
        opened = self._writing(reader, call)
        reader.done()
        collection = opened()
        collection.compact(call.report)
        return written(collection, result=None)

    # Parts of requests.

    def _settings(self, reader: Reader) -> dict[str, Any]:
        ef = reader.whole("ef", None)
        self._at_most("ef", ef or 0, self.limits.ef)
        return {"filter": self._filter(reader), "recall": reader.number("recall", 0.95), "ef": ef}

    def _stage(self, stage: Any, collection: Collection, call: Call) -> Rerank:
        reader = Reader(stage if isinstance(stage, dict) else {"model": stage}, "Search: rerank")
        name = reader.text("model")
        depth, blend = reader.whole("depth", None), reader.number("blend", None)
        normalize, needs = reader.text("normalize", None), reader.text("needs", None)
        on_error = reader.text("on_error", "raise")
        reader.done()
        model = self._rerankers.get(name)
        if model is None and name.startswith(FUSION):
            # Of its signals, those that are models are the operator's, by name.
            model = collection.fusion(name.removeprefix(FUSION), self._rerankers)
        if model is None:
            known = ", ".join(sorted(self._rerankers)) or "none"
            raise InvalidSetting(
                f"the server has no re-ranker {name[:80]!r}{nearest(name, self._rerankers)} (it has: {known})"
            )
        self._at_most("rerank depth", depth or 0, self.limits.rerank_depth)
        return Rerank(_Watched(model, call), depth, blend, normalize, needs, on_error)


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
