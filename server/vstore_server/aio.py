"""The asynchronous client: the same calls, awaited. Cancelling a task cancels its request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import grpc

from vstore import BatchHits, Hits, IndexSettings, Receipt, Record
from vstore.filters import FilterLike
from vstore.progress import Report, progress_of
from vstore.types import FieldType, Metric, Schema
from vstore_server import calls
from vstore_server.calls import Call, CollectionCalls, Welcome, checked_size
from vstore_server.codec import Limits, encode
from vstore_server.dial import Dial, Source, error_of
from vstore_server.errors import retry_delay_s
from vstore_server.messages import path_of
from vstore_server.settings import ClientTLS

T = TypeVar("T")


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
        return AsyncDatabase(wire, await wire.unary(calls.connect_call()))
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

    async def unary(self, call: Call[T]) -> T:
        """Send one call and return what its answer means."""
        calls.check_open(self._closed, "the connection")
        data = calls.request_bytes(call, self.limits)
        stub = self._channel.unary_unary(path_of(call.method))
        attempt = 0
        while True:
            try:
                answer = await stub(data, timeout=self.dial.timeout_s, metadata=self.dial.metadata)
                break
            except grpc.aio.AioRpcError as failure:
                error = error_of(failure)
            delay_s = retry_delay_s(error, attempt, call.repeatable, self.dial.n_retries)
            if delay_s is None:
                raise error
            await self._sleep(delay_s)
            attempt += 1
        if call.heavy:
            return await asyncio.to_thread(calls.read_with, call, answer)
        return calls.read_with(call, answer)

    async def progress(self, method: str, request: dict[str, Any], report: Report) -> Any:
        """Run a method that reports progress and return its result."""
        calls.check_open(self._closed, "the connection")
        data = checked_size(encode(request), self.limits)
        progressed = calls.Progressed(report)
        stream = self._channel.unary_stream(path_of(method))(data, metadata=self.dial.metadata)
        try:
            async for answer in stream:
                progressed.feed(answer)
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from None
        finally:
            stream.cancel()
        return progressed.result

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
        await self._channel.close()


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
        schema = await self._wire.unary(calls.create_call(name, dim, metric, fields, index))
        return AsyncCollection(self._wire, CollectionCalls(name, schema, self._wire.limits))

    async def collection(self, name: str) -> AsyncCollection:
        """As `vstore.Database.collection`."""
        schema = await self._wire.unary(calls.describe_call(name))
        return AsyncCollection(self._wire, CollectionCalls(name, schema, self._wire.limits))

    async def collections(self) -> list[str]:
        """Return the names of the collections that the token reaches, sorted."""
        return await self._wire.unary(calls.list_call())

    async def drop_collection(self, name: str) -> None:
        """As `vstore.Database.drop_collection`."""
        await self._wire.unary(calls.drop_call(name))

    async def close(self) -> None:
        """End the connection."""
        await self._wire.close()

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


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
        return self._calls.schema

    def __repr__(self) -> str:
        return f"AsyncCollection({self.name!r}, dim={self.schema.dim}, metric={self.schema.metric!r})"

    @property
    def _wire(self) -> AsyncWire:
        calls.check_open(self._closed, f"collection {self.name!r}")
        return self._on

    async def upsert(self, ids: Any, vectors: Any, attributes: Any = None, documents: Any = None) -> int:
        """As `RemoteCollection.upsert`."""
        wire = self._wire
        parts = self._calls.upsert(ids, vectors, attributes, documents)
        if len(parts) == 1:
            return await wire.unary(self._calls.upsert_call(parts[0]))
        requests = (self._calls.part_request(number, part) for number, part in enumerate(parts))
        return sum([ack["n_written"] async for ack in wire.stream("UpsertStream", requests)]) if parts else 0

    async def upsert_stream(self, batches: Iterable[Any]) -> AsyncIterator[int]:
        """As `RemoteCollection.upsert_stream`; each batch is sent when the one before is durable."""
        async for ack in self._wire.stream("UpsertStream", self._calls.stream_requests(batches)):
            yield int(ack["n_written"])

    async def delete(self, ids: Any = None, *, filter: FilterLike = None) -> int:
        """As `vstore.Collection.delete`."""
        return await self._wire.unary(self._calls.delete(ids, filter))

    async def get(self, ids: Any) -> list[Record | None]:
        """As `vstore.Collection.get`."""
        return await self._wire.unary(self._calls.get(ids))

    async def count(self, filter: FilterLike = None) -> int:
        """As `vstore.Collection.count`."""
        return await self._wire.unary(self._calls.count(filter))

    async def search(
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
        """As `RemoteCollection.search`; a re-ranker that is an object runs on a thread."""
        asked = self._calls.search(query, k, filter, recall, ef, rerank, rerank_depth, query_document)
        return await self._wire.unary(asked)

    async def search_batch(
        self,
        queries: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> BatchHits:
        """As `vstore.Collection.search_batch`."""
        return await self._wire.unary(self._calls.search_batch(queries, k, filter, recall, ef))

    async def explain(
        self,
        query: Any,
        k: int = 10,
        filter: FilterLike = None,
        *,
        recall: float = 0.95,
        ef: int | None = None,
    ) -> Receipt:
        """As `vstore.Collection.explain`."""
        return await self._wire.unary(self._calls.explain(query, k, filter, recall, ef))

    async def flush(self, progress: Report | None = None) -> None:
        """As `vstore.Collection.flush`."""
        await self._progress("Flush", progress)

    async def compact(self, progress: Report | None = None) -> None:
        """As `vstore.Collection.compact`."""
        await self._progress("Compact", progress)

    async def warm(self, progress: Any = True) -> int:
        """As `vstore.Collection.warm`: it is the server's cache that is filled."""
        return int(await self._progress("Warm", progress, f"warming {self.name}"))

    async def refresh(self) -> None:
        """As `RemoteCollection.refresh`."""
        await self._wire.unary(self._calls.refresh())
        self._calls.schema = await self._wire.unary(self._calls.describe())

    def close(self) -> None:
        """Release the handle; the connection stays."""
        self._closed = True

    async def _progress(self, method: str, progress: Any, label: str = "") -> Any:
        wire = self._wire
        with progress_of(progress, label, unit="bytes") as report:
            return await wire.progress(method, self._calls.progress_request(method), report)
