"""The synchronous client: the face of the embedded store, over a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import grpc

from vstore import BatchHits, Hits, IndexSettings, Receipt, Record
from vstore.filters import FilterLike
from vstore.progress import Report, progress_of
from vstore.settings import Sleep, system_sleep
from vstore.types import FieldType, Metric, Schema
from vstore_server import calls
from vstore_server.calls import Call, CollectionCalls, Welcome, checked_size
from vstore_server.codec import Limits, encode
from vstore_server.dial import Dial, Source, error_of
from vstore_server.errors import retry_delay_s
from vstore_server.messages import path_of
from vstore_server.settings import ClientTLS

T = TypeVar("T")


def connect(
    url: str,
    *,
    token: str | None = None,
    tls: ClientTLS | bool = False,
    timeout_s: float | None = 60.0,
    n_retries: int = 3,
    insecure: bool = False,
) -> RemoteDatabase:
    """Connect to a server: "vstore://host:port" or "vstore://unix:/path".

    Args:
        url: where it listens; the port is 8765 where none is given.
        token: an API token.
        tls: True trusts what the system trusts; a `ClientTLS` says what to trust and to show.
        timeout_s: how long one call may take; None for no limit. Flush, compact and warm have none.
        n_retries: how often a call is tried again when the server is busy, or, if it may run twice, away.
        insecure: send the token without TLS to another machine.

    Raises:
        InvalidSetting: the url or an option.
        ServerUnavailable, Unauthenticated, ProtocolError: the server's first answer.
    """
    wire = Wire(Dial(url, token, tls, timeout_s, n_retries, insecure))
    try:
        return RemoteDatabase(wire, wire.unary(calls.connect_call()))
    except BaseException:
        wire.close()
        raise


class Wire:
    """One channel: carries calls, and tries again those that may be. Thread-safe."""

    def __init__(self, dial: Dial, sleep: Sleep = system_sleep) -> None:
        self.dial = dial
        self.limits = Limits()
        self._sleep = sleep
        self._closed = False
        secure = dial.credentials
        self._channel = (
            grpc.insecure_channel(dial.target, dial.options)
            if secure is None
            else grpc.secure_channel(dial.target, secure, dial.options)
        )
        self._stubs: dict[str, Any] = {}

    def unary(self, call: Call[T]) -> T:
        """Send one call and return what its answer means."""
        calls.check_open(self._closed, "the connection")
        data = calls.request_bytes(call, self.limits)
        stub = self._stubs.get(call.method)
        if stub is None:
            stub = self._stubs[call.method] = self._channel.unary_unary(path_of(call.method))
        attempt = 0
        while True:
            try:
                answer = stub(data, timeout=self.dial.timeout_s, metadata=self.dial.metadata)
                break
            except grpc.RpcError as failure:
                error = error_of(failure)
            delay_s = retry_delay_s(error, attempt, call.repeatable, self.dial.n_retries)
            if delay_s is None:
                raise error
            self._sleep(delay_s)
            attempt += 1
        return calls.read_with(call, answer)

    def progress(self, method: str, request: dict[str, Any], report: Report) -> Any:
        """Run a method that reports progress and return its result."""
        calls.check_open(self._closed, "the connection")
        data = checked_size(encode(request), self.limits)
        progressed = calls.Progressed(report)
        stream = self._channel.unary_stream(path_of(method))(data, metadata=self.dial.metadata)
        try:
            for answer in stream:
                progressed.feed(answer)
        except grpc.RpcError as failure:
            raise error_of(failure) from None
        finally:
            stream.cancel()
        return progressed.result

    def stream(self, method: str, requests: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        """Send requests as the server takes them and yield its acknowledgements."""
        calls.check_open(self._closed, "the connection")
        source = Source(requests)
        stream = self._channel.stream_stream(path_of(method))(source, metadata=self.dial.metadata)
        try:
            for answer in stream:
                yield calls.read_answer(answer)
        except grpc.RpcError as failure:
            raise error_of(failure) from None
        finally:
            stream.cancel()
        source.check()

    def close(self) -> None:
        """End the channel and every call on it."""
        self._closed = True
        self._channel.close()


class RemoteDatabase:
    """A server that was connected to; the methods of `vstore.Database`. Thread-safe."""

    def __init__(self, wire: Wire, welcome: Welcome) -> None:
        self._wire = wire
        wire.limits = welcome.limits
        self.welcome = welcome

    def __repr__(self) -> str:
        return f"RemoteDatabase({self.url!r})"

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._wire.dial.url

    def create_collection(
        self,
        name: str,
        *,
        dim: int,
        metric: Metric = "cosine",
        fields: Mapping[str, FieldType] | None = None,
        index: IndexSettings | None = None,
    ) -> RemoteCollection:
        """As `vstore.Database.create_collection`."""
        schema = self._wire.unary(calls.create_call(name, dim, metric, fields, index))
        return RemoteCollection(self._wire, CollectionCalls(name, schema, self._wire.limits))

    def collection(self, name: str) -> RemoteCollection:
        """As `vstore.Database.collection`."""
        schema = self._wire.unary(calls.describe_call(name))
        return RemoteCollection(self._wire, CollectionCalls(name, schema, self._wire.limits))

    def collections(self) -> list[str]:
        """Return the names of the collections that the token reaches, sorted."""
        return self._wire.unary(calls.list_call())

    def drop_collection(self, name: str) -> None:
        """As `vstore.Database.drop_collection`."""
        self._wire.unary(calls.drop_call(name))

    def close(self) -> None:
        """End the connection."""
        self._wire.close()

    def __enter__(self) -> RemoteDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteCollection:
    """A collection on a server; the methods of `vstore.Collection`. Thread-safe.

    Every call reads the newest snapshot of the server, so no handle grows stale.
    """

    def __init__(self, wire: Wire, of: CollectionCalls) -> None:
        self._on = wire
        self._calls = of
        self._closed = False

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._calls.name

    @property
    def schema(self) -> Schema:
        """Dimension, metric and fields."""
        return self._calls.schema

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        return f"RemoteCollection({self.name!r}, dim={self.schema.dim}, metric={self.schema.metric!r})"

    @property
    def _wire(self) -> Wire:
        calls.check_open(self._closed, f"collection {self.name!r}")
        return self._on

    def upsert(self, ids: Any, vectors: Any, attributes: Any = None, documents: Any = None) -> int:
        """As `vstore.Collection.upsert`; one that exceeds a message is sent as a stream of parts.

        Each part is durable on its own: an error in the middle leaves the parts before it written.
        """
        wire = self._wire
        parts = self._calls.upsert(ids, vectors, attributes, documents)
        if len(parts) == 1:
            return wire.unary(self._calls.upsert_call(parts[0]))
        requests = (self._calls.part_request(number, part) for number, part in enumerate(parts))
        return sum(ack["n_written"] for ack in wire.stream("UpsertStream", requests)) if parts else 0

    def upsert_stream(self, batches: Iterable[Any]) -> Iterator[int]:
        """Write batches as they come and yield, for each that is durable, the number of rows written.

        Args:
            batches: tuples of the arguments of `upsert`. One that exceeds a message is split, and each
                part acknowledged. They are asked for no faster than the server takes them.
        """
        for ack in self._wire.stream("UpsertStream", self._calls.stream_requests(batches)):
            yield int(ack["n_written"])

    def delete(self, ids: Any = None, *, filter: FilterLike = None) -> int:
        """As `vstore.Collection.delete`."""
        return self._wire.unary(self._calls.delete(ids, filter))

    def get(self, ids: Any) -> list[Record | None]:
        """As `vstore.Collection.get`."""
        return self._wire.unary(self._calls.get(ids))

    def count(self, filter: FilterLike = None) -> int:
        """As `vstore.Collection.count`."""
        return self._wire.unary(self._calls.count(filter))

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
        """As `vstore.Collection.search`.

        `rerank` may also be the name of one of the server's re-rankers, a dict {"model": name, "depth":
        ...} or a list of these; then it runs there. An object runs here, on the hits' documents.
        """
        asked = self._calls.search(query, k, filter, recall, ef, rerank, rerank_depth, query_document)
        return self._wire.unary(asked)

    def search_batch(
        self,
        queries: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> BatchHits:
        """As `vstore.Collection.search_batch`."""
        return self._wire.unary(self._calls.search_batch(queries, k, filter, recall, ef))

    def explain(
        self,
        query: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> Receipt:
        """As `vstore.Collection.explain`."""
        return self._wire.unary(self._calls.explain(query, k, filter, recall, ef))

    def flush(self, progress: Report | None = None) -> None:
        """As `vstore.Collection.flush`."""
        self._progress("Flush", progress)

    def compact(self, progress: Report | None = None) -> None:
        """As `vstore.Collection.compact`."""
        self._progress("Compact", progress)

    def warm(self, progress: Any = True) -> int:
        """As `vstore.Collection.warm`: it is the server's cache that is filled."""
        return int(self._progress("Warm", progress, f"warming {self.name}"))

    def refresh(self) -> None:
        """Have the server take in what other processes have published, and read the schema again."""
        self._wire.unary(self._calls.refresh())
        self._calls.schema = self._wire.unary(self._calls.describe())

    def close(self) -> None:
        """Release the handle; the connection stays."""
        self._closed = True

    def __enter__(self) -> RemoteCollection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _progress(self, method: str, progress: Any, label: str = "") -> Any:
        wire = self._wire
        with progress_of(progress, label, unit="bytes") as report:
            return wire.progress(method, self._calls.progress_request(method), report)
