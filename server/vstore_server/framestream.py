"""Streams whose messages carry many calls: each is answered as soon as it can be, with what else is ready.

A message of grpcio costs more than a search does. Callers that share a connection put what they ask in the
same moment into one, and are answered in one. Order is free: a long call holds up no short one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from vstore.errors import Closed
from vstore.serving import CheckedSearch
from vstore.types import Hits
from vstore_server.alike import Kind, Kinds
from vstore_server.callstream import Answering, check_size, method_of, timeout_of
from vstore_server.codec import Message, decode, encode
from vstore_server.errors import DeadlineExceeded, MalformedMessage, ServerUnavailable
from vstore_server.frames import MOST_UNDER_WAY, pack_answers, unpack_requests
from vstore_server.methods import FRAMES, SEARCH, Call, Method
from vstore_server.plain import plain_search
from vstore_server.searches import Searches, Waiting

_EOF: Any = grpc.aio.EOF

OnLane = Callable[[Method, bytes, Message, Call], Awaitable[bytes]]


class FrameStreams:
    """Serves every such stream of one server. Belongs to its event loop.

    Args:
        answering: what streams of calls share.
        searches: answers searches from memory, those of all streams together.
        on_lane: answers one request on a thread.
    """

    def __init__(self, answering: Answering, searches: Searches, on_lane: OnLane) -> None:
        self.answering, self.searches, self.on_lane = answering, searches, on_lane
        self._streams: set[_Stream] = set()
        self.is_closing = False

    async def serve(self, context: Any) -> None:
        """Serve one stream until its caller ends it, or the server closes."""
        stream = _Stream(self, context)
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """End every stream when what it was asked has been answered."""
        self.is_closing = True
        for stream in list(self._streams):
            stream.close()


class _Running:
    """One call of a stream that has no answer yet."""

    __slots__ = ("call", "data", "message", "method", "number", "started", "task", "until_s", "waiting")

    def __init__(self, number: int, data: bytes) -> None:
        self.number, self.data = number, data
        self.started = time.perf_counter()
        self.method: Method = FRAMES
        self.message: Message | None = None
        """None while it was not decoded: it is of a kind that is known."""
        self.call: Call | None = None
        self.until_s: float | None = None
        self.waiting: Waiting | None = None
        self.task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """End what runs for it."""
        if self.waiting is not None:
            self.waiting.given_up = True
        if self.call is not None:
            self.call.cancel()
        if self.task is not None:
            self.task.cancel()


class _Stream:
    def __init__(self, of: FrameStreams, context: Any) -> None:
        self._of, self._context = of, context
        self._running: dict[int, _Running] = {}
        self._kinds = Kinds()
        self._numbers: list[int] = []
        self._answers: list[bytes] = []
        self._n_under_way = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        """Who waits for a frame."""

    async def serve(self) -> None:
        writer = asyncio.ensure_future(self._write())
        serving = asyncio.current_task()
        assert serving is not None

        def ended(writer: asyncio.Task[None]) -> None:
            # A stream that cannot be written to is of no use to its reader.
            if not writer.cancelled():
                serving.cancel()

        writer.add_done_callback(ended)
        try:
            while not self._of.is_closing:
                data = await self._read(serving)
                if data is _EOF:
                    break
                self._take(data)
                await self._until(MOST_UNDER_WAY - 1)
            await self._until(0)
            if self._of.is_closing:
                raise ServerUnavailable("the server is shutting down; ask another, or come back")
        finally:
            writer.cancel()
            for one in list(self._running.values()):
                self._forget(one)
            self._of.searches.n_under_way -= self._n_under_way

    def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()

    async def _read(self, serving: asyncio.Task[Any]) -> Any:
        self._task = serving
        try:
            return await self._context.read()
        except asyncio.CancelledError:
            if not self._of.is_closing:
                raise
            serving.uncancel()
            return _EOF
        finally:
            self._task = None

    async def _until(self, n_running: int) -> None:
        """Wait until so few calls run; with none, until their answers have gone."""
        while len(self._running) > n_running or (n_running == 0 and self._n_under_way):
            self._room.clear()
            await self._room.wait()

    async def _write(self) -> None:
        """Send what is ready, together, whenever something is."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            numbers, answers = self._numbers, self._answers
            if numbers:
                self._numbers, self._answers = [], []
                self._of.searches.n_under_way -= len(numbers)
                self._n_under_way -= len(numbers)
                await self._context.write(pack_answers(numbers, answers))
            self._room.set()

    def _take(self, data: bytes) -> None:
        """Begin the calls of one frame, and end those that nobody waits for."""
        numbers, requests, given_up = unpack_requests(data)
        # Once a frame: who lost a token is refused from the next frame on.
        caller = self._of.answering.identify(FRAMES, self._context)
        for number in given_up:
            one = self._running.get(number)
            if one is not None:
                self._forget(one)
                self._room.set()
        if not self._running.keys().isdisjoint(numbers):
            raise MalformedMessage("a frame has a number whose first call has no answer yet; count on")
        self._of.searches.n_under_way += len(numbers)
        self._n_under_way += len(numbers)
        kinds: dict[int, tuple[Kind, list[_Running]]] = {}
        for number, request in zip(numbers, requests, strict=True):
            one = self._running[number] = _Running(number, request)
            kind = self._kinds.kind_of(request)
            if kind is None:
                self._begin_or_fail(one, caller, None)
            else:
                kinds.setdefault(id(kind), (kind, []))[1].append(one)
        for kind, alike in kinds.values():
            if len(alike) == 1 or not self._begin_alike(kind, alike, caller):
                for one in alike:
                    self._begin_or_fail(one, caller, kind)

    def _begin_alike(self, kind: Kind, alike: list[_Running], caller: Call) -> bool:
        """Begin searches of one kind; False where each is to be begun by itself, and nothing was done."""
        of, plain = self._of, kind.search
        queries = kind.vectors_of([one.data for one in alike])
        try:
            searches = of.answering.plain_searches_of(plain, queries, caller)
        except Exception:
            # Each is answered with what was wrong.
            return False
        if searches is None:
            return False
        tenant, name = caller.caller.tenant, plain.collection[:128]
        for one, search in zip(alike, searches, strict=True):
            call = one.call = caller.another()
            call.collection, one.method = name, SEARCH
            one.until_s = None if kind.timeout_s is None else one.started + kind.timeout_s
            try:
                one.waiting = of.searches.submit(tenant, search, partial(self._found, one))
            except Exception as error:
                self._failed(one, error)
        return True

    def _begin_or_fail(self, one: _Running, caller: Call, kind: Kind | None) -> None:
        try:
            self._begin(one, caller, kind)
        except Exception as error:
            self._failed(one, error)

    def _begin(self, one: _Running, caller: Call, kind: Kind | None) -> None:
        of = self._of
        call = one.call = caller.another()
        search = None
        try:
            if kind is not None:
                one.method = SEARCH
                one.until_s = None if kind.timeout_s is None else one.started + kind.timeout_s
                search = of.answering.plain_search_of(kind.search_of(one.data), call)
            else:
                message = self._decode(one)
                if one.method is SEARCH:
                    search = self._search_of(one, message, call)
        except Closed:
            # The handle went the moment before; a thread opens it again, or says what became of it.
            pass
        if search is None:
            one.task = asyncio.ensure_future(self._on_lane(one))
        elif of.searches.is_alone:
            found: Hits | Exception | None
            try:
                found = of.searches.now(search)
            except Closed as error:
                found = error
            self._found(one, found)
        else:
            one.waiting = of.searches.submit(call.caller.tenant, search, partial(self._found, one))

    def _search_of(self, one: _Running, message: Message, call: Call) -> CheckedSearch | None:
        """Return a request as a search from memory; what is beside its vector is remembered."""
        answering = self._of.answering
        plain = plain_search(message, answering.limits)
        if plain is None:
            return answering.search_of(message, call)
        timeout_s = None if one.until_s is None else one.until_s - one.started
        self._kinds.learn(one.data, message, plain, timeout_s)
        return answering.plain_search_of(plain, call)

    def _decode(self, one: _Running) -> Message:
        check_size(one.data)
        message = decode(one.data, self._of.answering.limits)
        one.method = method_of(message)
        timeout_s = timeout_of(message)
        one.until_s = None if timeout_s is None else one.started + timeout_s
        one.message = message
        return message

    def _found(self, one: _Running, found: Hits | Exception | None) -> None:
        """Answer a search that memory answered, or have a thread do it."""
        call = one.call
        assert call is not None
        # It refers back: neither would go before the collector of cycles came round.
        one.waiting = None
        try:
            if one.until_s is not None and time.perf_counter() > one.until_s:
                raise DeadlineExceeded("the call took longer than its deadline")
            if found is None or isinstance(found, Closed):
                one.task = asyncio.ensure_future(self._on_lane(one))
            elif isinstance(found, Exception):
                raise found
            else:
                self._answered(one, self._of.answering.shown(found, call), None)
        except Exception as error:
            self._failed(one, error)

    async def _on_lane(self, one: _Running) -> None:
        call = one.call
        assert call is not None
        try:
            message = self._decode(one) if one.message is None else one.message
            left_s = None if one.until_s is None else one.until_s - time.perf_counter()
            async with asyncio.timeout(left_s):
                answer = await self._of.on_lane(one.method, one.data, message, call)
        except TimeoutError:
            call.cancel()
            self._failed(one, DeadlineExceeded("the call took longer than its deadline"))
        except Exception as error:
            self._failed(one, error)
        else:
            self._answered(one, answer, None)

    def _failed(self, one: _Running, error: Exception) -> None:
        described = self._of.answering.describe(self._context, one.method, error, one.call)
        self._answered(one, encode({"error": described}), error)

    def _answered(self, one: _Running, answer: bytes, failure: BaseException | None) -> None:
        if self._running.pop(one.number, None) is None:
            return
        self._numbers.append(one.number)
        self._answers.append(answer)
        self._changed.set()
        self._of.answering.note(one.method, one.call, one.started, failure)

    def _forget(self, one: _Running) -> None:
        """End a call that nobody waits for; it has no answer."""
        del self._running[one.number]
        one.give_up()
        self._of.searches.n_under_way -= 1
        self._n_under_way -= 1
        self._of.answering.note(one.method, one.call, one.started, asyncio.CancelledError())
