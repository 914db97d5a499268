"""The synchronous client: the face of the embedded store, over a network."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from vstore import IndexSettings, Record
from vstore.catalog.garbage import Collected
from vstore.catalog.pins import At, Snapshot
from vstore.errors import UnknownField
from vstore.filters import FilterLike
from vstore.progress import Report, progress_of
from vstore.settings import Sleep, system_sleep
from vstore.types import FieldType, Metric, Schema
from vstore.upkeep.folder import Export
from vstore.upkeep.importing import import_export
from vstore.upkeep.report import VerifyReport
from vstore_server import calls
from vstore_server.calls import Call, Parts, Progressed, Request, Welcome
from vstore_server.codec import Limits
from vstore_server.collection_calls import CollectionCalls
from vstore_server.dial import Dial, Source, error_of
from vstore_server.errors import retry_delay_s
from vstore_server.express import Express
from vstore_server.messages import path_of
from vstore_server.settings import ClientTLS
from vstore_server.transfer import export_scan

FUSIONS_MINOR = 2
"""The protocol's minor number since which servers tell of stored fusions."""
T = TypeVar("T")
P = ParamSpec("P")


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
        return RemoteDatabase(wire, wire.run(calls.connect_call()))
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
        self._express = Express(dial, calls.ANSWER_LIMITS.message_bytes)

    def run(self, request: Request[T]) -> T:
        """Carry a request of the face out and return what its answer means."""
        calls.check_open(self._closed, "the connection")
        if isinstance(request, Call):
            return self._unary(request)
        if isinstance(request, Parts):
            return request.read(list(self.stream("UpsertStream", request.requests)))
        with progress_of(request.progress, request.label, request.unit) as report:
            progressed = Progressed(request, report)
            for answer in self.receive(request.method, calls.request_bytes(request.message, self.limits)):
                progressed.feed(answer)
            return progressed.result

    def _unary(self, call: Call[T]) -> T:
        quick = calls.quick_bytes(call, self.dial.timeout_s)
        attempt = 0
        while True:
            try:
                return self._once(call, quick)
            except grpc.RpcError as failure:
                error = error_of(failure)
            except calls.AnsweredError as failure:
                error = failure.error
            delay_s = retry_delay_s(error, attempt, call.repeatable, self.dial.n_retries)
            if delay_s is None:
                raise error
            self._sleep(delay_s)
            attempt += 1

    def _once(self, call: Call[T], quick: bytes | None) -> T:
        if quick is not None:
            answer = self._express.ask(quick, self.dial.timeout_s)
            if answer is not None:
                return calls.read_quick(call, answer)
        data = calls.request_bytes(call.message, self.limits)
        stub = self._stubs.get(call.method)
        if stub is None:
            stub = self._stubs[call.method] = self._channel.unary_unary(path_of(call.method))
        answer = stub(data, timeout=self.dial.timeout_s, metadata=self.dial.metadata)
        return calls.read_with(call, answer)

    def receive(self, method: str, data: bytes) -> Generator[bytes]:
        """Send one request and yield its answers as they come."""
        calls.check_open(self._closed, "the connection")
        stream = self._channel.unary_stream(path_of(method))(data, metadata=self.dial.metadata)
        try:
            yield from stream
        except grpc.RpcError as failure:
            raise error_of(failure) from None
        finally:
            stream.cancel()

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
        self._express.close()
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
        self._wire.run(calls.create_call(name, dim, metric, fields, index))
        return self.collection(name)

    def collection(self, name: str, *, at: At | None = None) -> RemoteCollection:
        """As `vstore.Database.collection`."""
        described = self._wire.run(calls.describe_call(name, at))
        return RemoteCollection(self._wire, CollectionCalls(name, described, self._wire.limits, at))

    def collections(self) -> list[str]:
        """Return the names of the collections that the token reaches, sorted."""
        return self._wire.run(calls.list_call())

    def drop_collection(self, name: str) -> None:
        """As `vstore.Database.drop_collection`."""
        self._wire.run(calls.drop_call(name))

    def snapshots(self, name: str) -> list[Snapshot]:
        """As `vstore.Database.snapshots`."""
        return self._wire.run(calls.snapshots_call(name))

    def collect_garbage(self, name: str, *, dry_run: bool = False) -> Collected:
        """As `vstore.Database.collect_garbage`."""
        return self._wire.run(calls.collect_call(name, dry_run))

    def verify(self, name: str | None = None, *, progress: Report | None = None) -> VerifyReport:
        """As `vstore.Database.verify`: the server reads; without a name, of all that there is."""
        return self._wire.run(calls.verify_call(name, progress))

    def export(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        at: At | None = None,
        progress: Report | None = None,
    ) -> int:
        """As `vstore.Database.export`, to a folder of this machine."""
        collection = self.collection(name, at=at)
        fusions = {}
        if self.welcome.minor >= FUSIONS_MINOR:
            fusions = {fusion: collection.fusion_bytes(fusion) for fusion in collection.fusions()}
        with closing(self._wire.receive("Scan", collection._calls.scan_request())) as answers:
            return export_scan(name, collection._calls.described, fusions, answers, path, progress)

    def import_collection(
        self, path: str | os.PathLike[str], name: str, *, progress: Report | None = None
    ) -> RemoteCollection:
        """As `vstore.Database.import_collection`, from a folder of this machine."""

        def create(export: Export) -> Any:
            schema = export.schema
            return self.create_collection(
                name, dim=schema.dim, metric=schema.metric, fields=schema.fields, index=export.index
            )

        import_export(path, create, lambda: self.drop_collection(name), progress)
        return self.collection(name)

    def close(self) -> None:
        """End the connection."""
        self._wire.close()

    def __enter__(self) -> RemoteDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _carried_out(
    make: Callable[Concatenate[CollectionCalls, P], Request[T]],
) -> Callable[Concatenate[RemoteCollection, P], T]:
    """Return the method of a collection that carries out what `make` returns for its arguments."""

    @functools.wraps(make)
    def method(self: RemoteCollection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        wire = self._wire
        try:
            request = make(self._calls, *args, **kwargs)
        except UnknownField:
            # Another handle may have added it since this one read the schema.
            known = self.schema
            if (wire.run(self._calls.describe())).schema == known:
                raise
            request = make(self._calls, *args, **kwargs)
        return wire.run(request)

    return method


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
        return self._calls.described.schema

    @property
    def index(self) -> IndexSettings:
        """How shards are built."""
        return self._calls.described.index

    @property
    def version_token(self) -> str:
        """The newest version that this handle knows of: its reads see it, on whichever server."""
        return self._calls.version_token

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        return f"RemoteCollection({self.name!r}, dim={self.schema.dim}, metric={self.schema.metric!r})"

    @property
    def _wire(self) -> Wire:
        calls.check_open(self._closed, f"collection {self.name!r}")
        return self._on

    upsert = _carried_out(CollectionCalls.upsert)
    update = _carried_out(CollectionCalls.update)
    delete = _carried_out(CollectionCalls.delete)
    add_field = _carried_out(CollectionCalls.add_field)
    drop_field = _carried_out(CollectionCalls.drop_field)
    flush = _carried_out(CollectionCalls.flush)
    compact = _carried_out(CollectionCalls.compact)
    tag = _carried_out(CollectionCalls.tag)
    untag = _carried_out(CollectionCalls.untag)
    restore = _carried_out(CollectionCalls.restore)
    fusions = _carried_out(CollectionCalls.fusions)
    fusion_bytes = _carried_out(CollectionCalls.fusion_bytes)
    put_fusion_bytes = _carried_out(CollectionCalls.put_fusion_bytes)
    save_fusion = _carried_out(CollectionCalls.save_fusion)
    delete_fusion = _carried_out(CollectionCalls.delete_fusion)
    get = _carried_out(CollectionCalls.get)
    count = _carried_out(CollectionCalls.count)
    search = _carried_out(CollectionCalls.search)
    search_batch = _carried_out(CollectionCalls.search_batch)
    explain = _carried_out(CollectionCalls.explain)
    warm = _carried_out(CollectionCalls.warm)
    refresh = _carried_out(CollectionCalls.refresh)

    @property
    def version(self) -> int:
        """As `vstore.Collection.version`; asks the server."""
        return self._wire.run(self._calls.describe()).version

    def upsert_stream(self, batches: Iterable[Any]) -> Iterator[int]:
        """Upsert batch after batch; yield the number of rows of each when it is durable.

        Args:
            batches: tuples (ids, vectors[, attributes[, documents]]); a large one is sent in parts, and each
                part acknowledged. They are asked for no faster than the server takes them.
        """
        for ack in self._wire.stream("UpsertStream", self._calls.stream_requests(batches)):
            yield self._calls.acknowledged(ack)

    def scan(self, filter: FilterLike = None) -> Iterator[Record]:
        """As `vstore.Collection.scan`; rows are sent no faster than they are taken."""
        return self._scan(self._wire, self._calls.scan_request(filter))

    def _scan(self, wire: Wire, data: bytes) -> Iterator[Record]:
        for answer in wire.receive("Scan", data):
            yield from calls.read_scan(answer)

    def close(self) -> None:
        """Release the handle; the connection stays."""
        self._closed = True

    def __enter__(self) -> RemoteCollection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
