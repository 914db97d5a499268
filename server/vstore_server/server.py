"""gRPC without protobuf: bytes in, bytes out, on asyncio; the work is on the lanes' threads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeVar

import grpc

from vstore import Database
from vstore.errors import Closed, InvalidSetting, StaleRead
from vstore_server import errors, health
from vstore_server.auth import ANYBODY, Tokens, check_listen
from vstore_server.callstream import MOST_BYTES, Answering, CallStreams, error_fields
from vstore_server.certificates import TLSFiles, credentials
from vstore_server.codec import Message, decode, encode
from vstore_server.drain import Active
from vstore_server.endpoint import Endpoint
from vstore_server.errors import ServerUnavailable
from vstore_server.framestream import FrameStreams
from vstore_server.lanes import Lane
from vstore_server.logs import event, log
from vstore_server.messages import SERVICE
from vstore_server.methods import CALLS, FRAMES, METHODS, Call, LaneName, Method, Report
from vstore_server.observe import Observer
from vstore_server.searches import Searches
from vstore_server.service import Service
from vstore_server.settings import ServerSettings, ServerTLS
from vstore_server.tracing import Tracing

T = TypeVar("T")
_STALE_DELAY_S = 0.01
_STREAM_SLACK = 1024
"""RPCs beside those that lanes bound: health checks, and streams between two messages."""


class Server:
    """Serves a database. Belongs to one event loop; closes neither the database nor its store."""

    def __init__(
        self,
        database: Database,
        settings: ServerSettings | None = None,
        *,
        tokens: Tokens | None = None,
        tls: ServerTLS | TLSFiles | None = None,
        rerankers: Mapping[str, Any] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings or ServerSettings()
        self._tokens = tokens or Tokens()
        self._tls = tls
        check_listen(
            self._settings.listen,
            tls=tls is not None,
            tokens=len(self._tokens) > 0,
            forced=self._settings.insecure,
        )
        chosen = self._settings
        self.observer = Observer(chosen.slow_ms, chosen.log_requests, tracing)
        self.observer.watch_database(database)
        self._service = Service(database, chosen.limits, rerankers, chosen.refresh_s, self.observer)
        self._endpoint = Endpoint(self.observer.registry, lambda: self._serving)
        self.metrics_address: str | None = None
        self._secrets = (database.url,)
        self._searches = Searches(self._settings.max_waiting)
        service = self._service
        answering = Answering(
            chosen.limits,
            self._call,
            self._described,
            self.observer.finished,
            service.search_of,
            service.plain_search_of,
            service.plain_searches_of,
            service.hits_answer,
        )
        self._streams = CallStreams(answering, self._searches, self._run_decoded)
        self._frames = FrameStreams(answering, self._searches, self._run_on_lane)
        self._lanes: dict[str, Lane] = {}
        self._server: Any = None
        self._serving = False
        self._changed = asyncio.Event()
        self._active = Active()

    async def start(self) -> str:
        """Listen, and return the address, with the port that was chosen where 0 was asked for.

        Raises:
            InvalidSetting: the address cannot be listened on.
        """
        chosen = self._settings
        self._lanes = {
            "search": Lane("search", chosen.n_search_threads, chosen.max_waiting),
            "rerank": Lane("rerank", chosen.n_rerank_threads, chosen.max_waiting),
            "write": Lane("write", chosen.n_write_threads, chosen.max_waiting),
            "upkeep": Lane("upkeep", chosen.n_upkeep_threads, chosen.max_waiting),
        }
        self.observer.watch_lanes(self._lanes)
        n_threads = sum(lane.n_threads for lane in self._lanes.values())
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", chosen.limits.message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.max_metadata_size", 16 << 10),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
            maximum_concurrent_rpcs=n_threads + len(self._lanes) * chosen.max_waiting + _STREAM_SLACK,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
                grpc.method_handlers_generic_handler(health.PATH, self._health_handlers()),
            )
        )
        port = self._listen()
        if chosen.metrics is not None:
            self.metrics_address = await self._endpoint.start(chosen.metrics)
        self._serving = True
        await self._server.start()
        host = chosen.listen.rpartition(":")[0]
        return chosen.listen if chosen.listen.startswith("unix") else f"{host}:{port}"

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain: refuse new requests, let running ones finish for `grace_s` (default: the setting), end."""
        self._serving = False
        self._changed.set()
        self._streams.close()
        self._frames.close()
        if self._server is not None:
            await self._active.stop(self._server, self._settings.drain_s if grace_s is None else grace_s)
        for lane in self._lanes.values():
            await lane.close()
        await self._endpoint.stop()
        await asyncio.to_thread(self._service.close)

    def _listen(self) -> int:
        chosen = self._settings.listen
        try:
            if self._tls is None:
                port: int = self._server.add_insecure_port(chosen)
            else:
                port = self._server.add_secure_port(chosen, credentials(self._tls))
        except RuntimeError:
            port = 0
        if port == 0:
            raise InvalidSetting(
                f"cannot listen on {chosen}: it is taken, forbidden, or no address of this host"
            )
        return port

    def _handlers(self) -> dict[str, Any]:
        counted = self._active.counted
        make = {
            "unary": lambda method: grpc.unary_unary_rpc_method_handler(counted(self._unary(method))),
            "progress": lambda method: grpc.unary_stream_rpc_method_handler(counted(self._progress(method))),
            "scan": lambda method: grpc.unary_stream_rpc_method_handler(counted(self._scan(method))),
            "stream": lambda method: grpc.stream_stream_rpc_method_handler(counted(self._stream(method))),
            "calls": lambda method: grpc.stream_stream_rpc_method_handler(counted(self._calls(method))),
        }
        return {
            name: make[method.kind](method)
            for name, method in {**METHODS, CALLS.name: CALLS, FRAMES.name: FRAMES}.items()
        }

    def _unary(self, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(data: bytes, context: Any) -> bytes:
            started = time.perf_counter()
            call: Call | None = None
            failure: BaseException | None = None
            self._searches.n_under_way += 1
            try:
                call = self._call(method, context)
                return await self._run(method, data, call)
            except asyncio.CancelledError as error:
                failure = error
                if call is not None:
                    call.cancel()
                raise
            except Exception as error:
                failure = error
                await self._abort(context, method, error, call)
            finally:
                self._searches.n_under_way -= 1
                self.observer.finished(method, call, started, failure)

        return handle

    def _progress(self, method: Method) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
        async def handle(data: bytes, context: Any) -> AsyncIterator[bytes]:
            loop, changed = asyncio.get_running_loop(), asyncio.Event()
            latest: list[tuple[int, int]] = []

            def arrived(done: int, total: int) -> None:
                # Only the latest is kept: a slow reader must not make the server remember.
                latest[:] = [(done, total)]
                changed.set()

            def report(done: int, total: int) -> None:
                loop.call_soon_threadsafe(arrived, int(done), int(total))

            started = time.perf_counter()
            call: Call | None = None
            failure: BaseException | None = None
            try:
                call = self._call(method, context, report)
                task = asyncio.ensure_future(self._run(method, data, call))
                task.add_done_callback(lambda _: changed.set())
                try:
                    while not task.done() or latest:
                        await changed.wait()
                        changed.clear()
                        if latest:
                            done, total = latest.pop()
                            yield encode({"done": done, "total": total})
                    yield task.result()
                finally:
                    if not task.done():
                        call.cancel()
                        task.cancel()
            except Exception as error:
                failure = error
                await self._abort(context, method, error, call)
            finally:
                self.observer.finished(method, call, started, failure)

        return handle

    def _stream(self, method: Method) -> Callable[[Any, Any], AsyncIterator[bytes]]:
        async def handle(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            following: asyncio.Future[Any] | None = None
            changed = asyncio.ensure_future(self._changed.wait())
            started = time.perf_counter()
            call: Call | None = None
            failure: BaseException | None = None
            try:
                call = self._call(method, context)
                following = asyncio.ensure_future(anext(requests, None))
                # One message is read ahead, to arrive while the one before is written; HTTP/2 holds the
                # rest back.
                while (data := await self._next_of(following, changed)) is not None:
                    following = asyncio.ensure_future(anext(requests, None))
                    yield await self._run(method, data, call)
            except Exception as error:
                failure = error
                await self._abort(context, method, error, call)
            finally:
                changed.cancel()
                if following is not None:
                    following.cancel()
                self.observer.finished(method, call, started, failure)

        return handle

    async def _next_of(self, following: asyncio.Future[Any], changed: asyncio.Future[Any]) -> bytes | None:
        """Return a stream's next message; a server that stops does not wait for who may never send one."""
        if not following.done():
            await asyncio.wait((following, changed), return_when=asyncio.FIRST_COMPLETED)
        if not self._serving:
            raise ServerUnavailable("the server is shutting down; send the rest to another")
        data: bytes | None = await following
        return data

    def _scan(self, method: Method) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
        async def handle(data: bytes, context: Any) -> AsyncIterator[bytes]:
            started = time.perf_counter()
            call: Call | None = None
            failure: BaseException | None = None
            try:
                call = asked = self._call(method, context)
                batches = await self._job(method.lane, call, lambda: self._service.scan(data, asked))
                # A thread reads one batch and is free again while HTTP/2 waits for a slow reader.
                while (answer := await self._job(method.lane, call, lambda: next(batches, None))) is not None:
                    yield answer
            except Exception as error:
                failure = error
                await self._abort(context, method, error, call)
            finally:
                if call is not None:
                    call.cancel()
                self.observer.finished(method, call, started, failure)

        return handle

    def _calls(self, method: Method) -> Callable[[Any, Any], Awaitable[None]]:
        async def handle(requests: AsyncIterator[bytes], context: Any) -> None:
            try:
                self._call(method, context)
                if method is FRAMES:
                    await self._frames.serve(context)
                else:
                    await self._streams.serve(requests, context)
            except Exception as error:
                await self._abort(context, method, error, None)

        return handle

    async def _run(self, method: Method, data: bytes, call: Call) -> bytes:
        if method.name == "Search" and len(data) <= MOST_BYTES:
            return await self._run_decoded(method, data, decode(data, self._settings.limits), call)
        return await self._job(method.lane, call, lambda: self._service.answer(method.name, data, call))

    async def _run_decoded(self, method: Method, data: bytes, message: Message, call: Call) -> bytes:
        if method.name == "Search":
            try:
                search = self._service.search_of(message, call)
                hits = None if search is None else await self._searches.answer(call.caller.tenant, search)
            except Closed:
                # The handle went the moment before; a thread opens it again, or says what became of it.
                hits = None
            if hits is not None:
                return self._service.hits_answer(hits, call)
        return await self._run_on_lane(method, data, message, call)

    async def _run_on_lane(self, method: Method, data: bytes, message: Message, call: Call) -> bytes:
        reranks = method.name == "Search" and message.get("rerank") is not None
        lane: LaneName = "rerank" if reranks else method.lane
        return await self._job(lane, call, lambda: self._service.respond(method.name, data, message, call))

    async def _job(self, lane_name: LaneName, call: Call, job: Callable[[], T]) -> T:
        """Run a job on its lane; where it asks for a version that is not there yet, again a moment later.

        Its thread serves others meanwhile.
        """
        lane, loop = self._lanes[lane_name], asyncio.get_running_loop()
        deadline, delay_s = loop.time() + self._settings.wait_s, _STALE_DELAY_S
        while True:
            try:
                return await lane.run(call.caller.tenant, job)
            except StaleRead:
                if loop.time() + delay_s > deadline:
                    raise
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, 20 * _STALE_DELAY_S)

    def _call(self, method: Method, context: Any, report: Report = lambda done, total: None) -> Call:
        if not self._serving:
            raise ServerUnavailable("the server is shutting down; ask another, or come back")
        metadata = _metadata(context)
        caller = self._tokens.identify(metadata.get("authorization"))
        caller.check_role(method.role, method.name)
        return Call(caller, report, metadata)

    async def _abort(self, context: Any, method: Method, error: Exception, call: Call | None) -> NoReturn:
        trailing = self._described(context, method, error, call)
        status, text = trailing.pop("status"), trailing.pop("message")
        await context.abort(getattr(grpc.StatusCode, status), text, tuple(trailing.items()))
        raise AssertionError("abort raises")

    def _described(self, context: Any, method: Method, error: Exception, call: Call | None) -> dict[str, str]:
        request_id = (call or Call(ANYBODY, metadata=_metadata(context))).request_id
        if errors.is_internal(error):
            event(logging.ERROR, "failed", method=method.name, request=request_id, error=repr(error))
            log.debug("request %s", request_id, exc_info=error)
        return error_fields(error, errors.public_message(error, self._secrets, request_id), request_id)

    def _health_handlers(self) -> dict[str, Any]:
        async def check(data: bytes, context: Any) -> bytes:
            try:
                status = self._health(data)
            except errors.MalformedMessage as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            if status == health.SERVICE_UNKNOWN:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
            return health.encode_response(status)

        async def watch(data: bytes, context: Any) -> AsyncIterator[bytes]:
            try:
                yield health.encode_response(self._health(data))
            except errors.MalformedMessage as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            # The one change there is: a draining server stops serving. Then the stream ends.
            await self._changed.wait()
            yield health.encode_response(self._health(data))

        return {
            "Check": grpc.unary_unary_rpc_method_handler(check),
            "Watch": grpc.unary_stream_rpc_method_handler(watch),
        }

    def _health(self, data: bytes) -> int:
        if health.decode_request(data) not in ("", SERVICE):
            return health.SERVICE_UNKNOWN
        return health.SERVING if self._serving else health.NOT_SERVING


def _metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
