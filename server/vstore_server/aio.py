"""The asynchronous client: the same calls, awaited. Cancelling a task cancels its request."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from vstore import IndexSettings, Record
from vstore.catalog.garbage import Collected
from vstore.catalog.pins import At, Snapshot
from vstore.errors import UnknownField
from vstore.filters import FilterLike
from vstore.progress import Report, progress_of
from vstore.types import FieldType, Metric, Schema
from vstore.upkeep.report import VerifyReport
from vstore_server import calls
from vstore_server.aio_frames import AsyncFrames
from vstore_server.calls import Call, Parts, Progressed, Request, Welcome
from vstore_server.client import RemoteDatabase, Wire
from vstore_server.codec import Limits
from vstore_server.collection_calls import CollectionCalls
from vstore_server.dial import Dial, Source, error_of
from vstore_server.errors import retry_delay_s
from vstore_server.frames import MINOR as FRAMES_MINOR
from vstore_server.messages import path_of
from vstore_server.settings import ClientTLS

T = TypeVar("T")
P = ParamSpec("P")


async def connect(
    url: str,
    *,
    token: str | None = None,
    tls: ClientTLS | bool = False,
    timeout_s: float | None = 60.0,
    n_retries: int = 3,
    insecure: bool = False,
) -> AsyncDatabase:
    """As `vstore_server.connect`, on the running event loop."""
    wire = AsyncWire(Dial(url, token, tls, timeout_s, n_retries, insecure))
    try:
        return AsyncDatabase(wire, await wire.run(calls.connect_call()))
    except BaseException:
        await wire.close()
        raise


class AsyncWire:
    """One channel on one event loop: carries calls, and tries again those that may be."""

    def __init__(self, dial: Dial, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.dial = dial
        self.limits = Limits()
        self._sleep = sleep
        self._closed = False
        secure = dial.credentials
        self._channel = (
            grpc.aio.insecure_channel(dial.target, dial.options)
            if secure is None
            else grpc.aio.secure_channel(dial.target, secure, dial.options)
        )
        self._stubs: dict[str, Any] = {}
        self.frames = AsyncFrames(self._channel, dial)

    async def run(self, request: Request[T]) -> T:
        """Carry a request of the face out and return what its answer means."""
        calls.check_open(self._closed, "the connection")
        if isinstance(request, Call):
            return await self._unary(request)
        if isinstance(request, Parts):
            return request.read([ack async for ack in self.stream("UpsertStream", request.requests)])
        with progress_of(request.progress, request.label, request.unit) as report:
            progressed = Progressed(request, report)
            data = calls.request_bytes(request.message, self.limits)
            async for answer in self.receive(request.method, data):
                progressed.feed(answer)
            return progressed.result

    async def _unary(self, call: Call[T]) -> T:
        quick = calls.quick_bytes(call, self.dial.timeout_s)
        attempt = 0
        while True:
            try:
                return await self._once(call, quick)
            except grpc.aio.AioRpcError as failure:
                error = error_of(failure)
            except calls.AnsweredError as failure:
                error = failure.error
            delay_s = retry_delay_s(error, attempt, call.repeatable, self.dial.n_retries)
            if delay_s is None:
                raise error
            await self._sleep(delay_s)
            attempt += 1

    async def _once(self, call: Call[T], quick: bytes | None) -> T:
        if quick is not None:
            answer = await self.frames.ask(quick, self.dial.timeout_s)
            if answer is not None:
                return await _read(call, answer, calls.read_quick)
        data = calls.request_bytes(call.message, self.limits)
        stub = self._stubs.get(call.method)
        if stub is None:
            stub = self._stubs[call.method] = self._channel.unary_unary(path_of(call.method))
        answer = await stub(data, timeout=self.dial.timeout_s, metadata=self.dial.metadata)
        return await _read(call, answer, calls.read_with)

    async def receive(self, method: str, data: bytes) -> AsyncIterator[bytes]:
        """Send one request and yield its answers as they come."""
        calls.check_open(self._closed, "the connection")
        stream = self._channel.unary_stream(path_of(method))(data, metadata=self.dial.metadata)
        try:
            async for answer in stream:
                yield answer
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from None
        finally:
            stream.cancel()

    async def stream(self, method: str, requests: Iterable[bytes]) -> AsyncIterator[dict[str, Any]]:
        """Send requests as the server takes them and yield its acknowledgements."""
        calls.check_open(self._closed, "the connection")
        source = Source(requests)
        stream = self._channel.stream_stream(path_of(method))(metadata=self.dial.metadata)
        try:
            for request in source:
                await stream.write(request)
                answer = await stream.read()
                if answer is grpc.aio.EOF:
                    break
                yield calls.read_answer(answer)
            await stream.done_writing()
            if (code := await stream.code()) is not grpc.StatusCode.OK:
                raise error_of(_Ended(code, await stream.details(), await stream.trailing_metadata()))
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from None
        finally:
            stream.cancel()
        source.check()

    async def close(self) -> None:
        """End the channel and every call on it."""
        self._closed = True
        await self.frames.close()
        await self._channel.close()


async def _read(call: Call[T], answer: bytes, read: Callable[[Call[T], bytes], T]) -> T:
    return await asyncio.to_thread(read, call, answer) if call.heavy else read(call, answer)


class _Ended:
    """The status of a stream that ended, in the shape of a grpc.RpcError."""

    def __init__(self, code: Any, details: Any, trailing: Any) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailing


class AsyncDatabase:
    """A server that was connected to; the methods of `vstore.Database`, awaited."""

    def __init__(self, wire: AsyncWire, welcome: Welcome) -> None:
        self._wire = wire
        wire.limits = welcome.limits
        wire.frames.is_known = welcome.minor >= FRAMES_MINOR
        self.welcome = welcome

    def __repr__(self) -> str:
        return f"AsyncDatabase({self.url!r})"

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._wire.dial.url

    async def create_collection(
        self,
        name: str,
        *,
        dim: int,
        metric: Metric = "cosine",
        fields: Mapping[str, FieldType] | None = None,
        index: IndexSettings | None = None,
    ) -> AsyncCollection:
        """As `vstore.Database.create_collection`."""
        await self._wire.run(calls.create_call(name, dim, metric, fields, index))
        return await self.collection(name)

    async def collection(self, name: str, *, at: At | None = None) -> AsyncCollection:
        """As `vstore.Database.collection`."""
        described = await self._wire.run(calls.describe_call(name, at))
        return AsyncCollection(self._wire, CollectionCalls(name, described, self._wire.limits, at))

    async def collections(self) -> list[str]:
        """Return the names of the collections that the token reaches, sorted."""
        return await self._wire.run(calls.list_call())

    async def drop_collection(self, name: str) -> None:
        """As `vstore.Database.drop_collection`."""
        await self._wire.run(calls.drop_call(name))

    async def snapshots(self, name: str) -> list[Snapshot]:
        """As `vstore.Database.snapshots`."""
        return await self._wire.run(calls.snapshots_call(name))

    async def collect_garbage(self, name: str, *, dry_run: bool = False) -> Collected:
        """As `vstore.Database.collect_garbage`."""
        return await self._wire.run(calls.collect_call(name, dry_run))

    async def verify(self, name: str | None = None, *, progress: Report | None = None) -> VerifyReport:
        """As `RemoteDatabase.verify`."""
        return await self._wire.run(calls.verify_call(name, progress))

    async def export(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        at: At | None = None,
        progress: Report | None = None,
    ) -> int:
        """As `RemoteDatabase.export`, on a thread and a connection of its own: `progress` is called there."""
        return await self._on_thread(lambda remote: remote.export(name, path, at=at, progress=progress))

    async def import_collection(
        self, path: str | os.PathLike[str], name: str, *, progress: Report | None = None
    ) -> AsyncCollection:
        """As `RemoteDatabase.import_collection`, on a thread and a connection of its own."""
        await self._on_thread(lambda remote: remote.import_collection(path, name, progress=progress))
        return await self.collection(name)

    async def _on_thread(self, job: Callable[[RemoteDatabase], T]) -> T:
        def run() -> T:
            with RemoteDatabase(Wire(self._wire.dial), self.welcome) as remote:
                return job(remote)

        return await asyncio.to_thread(run)

    async def close(self) -> None:
        """End the connection."""
        await self._wire.close()

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _carried_out(
    make: Callable[Concatenate[CollectionCalls, P], Request[T]],
) -> Callable[Concatenate[AsyncCollection, P], Coroutine[Any, Any, T]]:
    """Return the method of a collection that carries out what `make` returns for its arguments."""

    @functools.wraps(make)
    async def method(self: AsyncCollection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        wire = self._wire
        try:
            request = make(self._calls, *args, **kwargs)
        except UnknownField:
            # Another handle may have added it since this one read the schema.
            known = self.schema
            if (await wire.run(self._calls.describe())).schema == known:
                raise
            request = make(self._calls, *args, **kwargs)
        return await wire.run(request)

    return method


class AsyncCollection:
    """A collection on a server; the methods of `vstore.Collection`, awaited."""

    def __init__(self, wire: AsyncWire, of: CollectionCalls) -> None:
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
        """As `RemoteCollection.version_token`."""
        return self._calls.version_token

    def __repr__(self) -> str:
        return f"AsyncCollection({self.name!r}, dim={self.schema.dim}, metric={self.schema.metric!r})"

    @property
    def _wire(self) -> AsyncWire:
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

    async def version(self) -> int:
        """As `vstore.Collection.version`; asks the server, and so is a method."""
        return (await self._wire.run(self._calls.describe())).version

    async def upsert_stream(self, batches: Iterable[Any]) -> AsyncIterator[int]:
        """As `RemoteCollection.upsert_stream`; each batch is sent when the one before is durable."""
        async for ack in self._wire.stream("UpsertStream", self._calls.stream_requests(batches)):
            yield self._calls.acknowledged(ack)

    def scan(self, filter: FilterLike = None) -> AsyncIterator[Record]:
        """As `RemoteCollection.scan`."""
        return self._scan(self._wire, self._calls.scan_request(filter))

    async def _scan(self, wire: AsyncWire, data: bytes) -> AsyncIterator[Record]:
        async for answer in wire.receive("Scan", data):
            for record in calls.read_scan(answer):
                yield record

    def close(self) -> None:
        """Release the handle; the connection stays."""
        self._closed = True
