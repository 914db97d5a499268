"""Many calls over one stream: requests come one after the other, and each has its answer or its error.

A stream that is there costs a third of a call that is not: no headers, no trailers, no new objects. It is for
reads that may run twice; an error is an answer here and ends nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from vstore.errors import Closed, VstoreError
from vstore.serving import CheckedSearch
from vstore.types import Float32s, Hits
from vstore_server import errors
from vstore_server.alike import Kinds
from vstore_server.codec import Limits, Message, decode, encode
from vstore_server.errors import DeadlineExceeded, LimitExceeded, MalformedMessage, ServerUnavailable
from vstore_server.methods import CALLS, METHODS, SEARCH, Call, Method
from vstore_server.plain import PlainSearch, plain_search
from vstore_server.searches import Searches

MOST_BYTES = 64 << 10
"""Requests of a stream are decoded where all streams are served, so they must be small."""
_EOF: Any = grpc.aio.EOF

Identify = Callable[[Method, Any], Call]
Run = Callable[[Method, bytes, Message, Call], Awaitable[bytes]]
Describe = Callable[[Any, Method, Exception, "Call | None"], dict[str, str]]
SearchOf = Callable[[Message, Call], "CheckedSearch | None"]
PlainSearchOf = Callable[[PlainSearch, Call], "CheckedSearch | None"]
PlainSearchesOf = Callable[[PlainSearch, Float32s, Call], "list[CheckedSearch] | None"]
Shown = Callable[[Hits, Call], bytes]
Note = Callable[[Method, "Call | None", float, "BaseException | None"], None]


@dataclass(frozen=True, slots=True)
class Answering:
    """What streams of calls share.

    Args:
        limits: of messages.
        identify: returns the call of a request; asked again and again, as tokens come and go.
        describe: returns what a caller may know of an error.
        note: told how each request ended.
        search_of: returns a request as a checked search, or None where it is none that memory answers.
        plain_search_of: the same, of a plain search.
        plain_searches_of: the same, of plain searches that differ in the vector alone.
        shown: returns the answer of a search.
    """

    limits: Limits
    identify: Identify
    describe: Describe
    note: Note
    search_of: SearchOf
    plain_search_of: PlainSearchOf
    plain_searches_of: PlainSearchesOf
    shown: Shown


class CallStreams:
    """Serves every stream of one call after the other. Belongs to the server's event loop.

    Args:
        answering: what streams of calls share.
        searches: told how many requests are under way; answers a search that comes alone.
        run: answers one request.
    """

    def __init__(self, answering: Answering, searches: Searches, run: Run) -> None:
        self._on, self._searches, self._run = answering, searches, run
        self._idle: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()

    async def serve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Serve one stream until its caller ends it, or the server closes."""
        task, kinds = asyncio.current_task(), Kinds()
        assert task is not None
        while True:
            if self._closing.is_set():
                raise ServerUnavailable("the server is shutting down; ask another, or come back")
            self._idle.add(task)
            try:
                data = await context.read()
            except asyncio.CancelledError:
                if self._closing.is_set():
                    continue
                raise
            finally:
                self._idle.discard(task)
            if data is _EOF:
                return
            self._searches.n_under_way += 1
            try:
                await context.write(await self._answer(data, kinds, context))
            finally:
                self._searches.n_under_way -= 1

    def close(self) -> None:
        """End every stream that waits for a request, and the others when they have answered."""
        self._closing.set()
        for task in list(self._idle):
            task.cancel()

    async def _answer(self, data: bytes, kinds: Kinds, context: Any) -> bytes:
        started = time.perf_counter()
        method = CALLS
        call: Call | None = None
        failure: BaseException | None = None
        try:
            known = kinds.find(data) if self._searches.is_alone else None
            if known is not None:
                method = SEARCH
                call = self._on.identify(method, context)
                answer = self._plain_at_once(known[0], call)
                if answer is not None:
                    return answer
            check_size(data)
            message = decode(data, self._on.limits)
            method = method_of(message)
            call = self._on.identify(method, context)
            if method is SEARCH and self._searches.is_alone:
                answer = self._at_once(data, kinds, message, call)
                if answer is not None:
                    return answer
            return await self._in_time(method, data, message, call)
        except asyncio.CancelledError as error:
            failure = error
            if call is not None:
                call.cancel()
            raise
        except Exception as error:
            failure = error
            return encode({"error": self._on.describe(context, method, error, call)})
        finally:
            self._on.note(method, call, started, failure)

    def _at_once(self, data: bytes, kinds: Kinds, message: Message, call: Call) -> bytes | None:
        """Return the answer of a search that memory has and that waits for no other: before any deadline.

        What is beside its vector is remembered.
        """
        asked, timeout_s = message, None
        if "timeout_ms" in message:
            asked = message.copy()
            timeout_s = timeout_of(asked)
        plain = plain_search(asked, self._on.limits)
        if plain is not None:
            kinds.learn(data, asked, plain, timeout_s)
            return self._plain_at_once(plain, call)
        try:
            return self._now(self._on.search_of(asked, call), call)
        except Closed:
            return None

    def _plain_at_once(self, plain: PlainSearch, call: Call) -> bytes | None:
        try:
            return self._now(self._on.plain_search_of(plain, call), call)
        except Closed:
            return None

    def _now(self, search: CheckedSearch | None, call: Call) -> bytes | None:
        hits = None if search is None else self._searches.now(search)
        return None if hits is None else self._on.shown(hits, call)

    async def _in_time(self, method: Method, data: bytes, message: Message, call: Call) -> bytes:
        timeout_s = timeout_of(message)
        if timeout_s is None:
            return await self._run(method, data, message, call)
        loop = asyncio.get_running_loop()
        task, late = asyncio.current_task(), []
        assert task is not None

        def overdue() -> None:
            late.append(True)
            call.cancel()
            task.cancel()

        timer = loop.call_later(timeout_s, overdue)
        try:
            return await self._run(method, data, message, call)
        except (asyncio.CancelledError, VstoreError):
            if not late:
                raise
            task.uncancel()
            raise DeadlineExceeded(f"the call took longer than {timeout_s:g} s") from None
        finally:
            timer.cancel()


def check_size(data: bytes) -> None:
    """Refuse a request that is decoded where all streams are served and is too large for that."""
    if len(data) > MOST_BYTES:
        raise LimitExceeded(
            f"the request has {len(data)} bytes; a stream of calls takes {MOST_BYTES}: "
            "send it as a call of its own"
        )


def timeout_of(message: Message) -> float | None:
    """Take the deadline of a stream's request off it, as seconds from now.

    Raises:
        MalformedMessage: it is no number above 0.
    """
    timeout_ms = message.pop("timeout_ms", None)
    if timeout_ms is None:
        return None
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, (int, float)) or not timeout_ms > 0:
        raise MalformedMessage("Calls: timeout_ms must be a number above 0")
    return timeout_ms / 1e3


def method_of(message: Message) -> Method:
    """Take the method of a stream's request off it.

    Raises:
        MalformedMessage: there is none such, or none that streams take.
    """
    name = message.pop("method", None)
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None or method.kind != "unary" or method.lane != "search":
        known = ", ".join(m.name for m in METHODS.values() if m.kind == "unary" and m.lane == "search")
        raise MalformedMessage(f"Calls takes the methods {known}; not {str(name)[:80]!r}")
    return method


def error_fields(error: Exception, message: str, request_id: str) -> dict[str, str]:
    """Return an error as its caller may see it: the status, the message and what else trailers carry."""
    fields = {
        "status": errors.status_of(error),
        "message": message,
        errors.ERROR_KEY: errors.name_of(error),
        errors.REQUEST_ID_KEY: request_id,
    }
    if isinstance(error, errors.ServerBusy):
        fields[errors.RETRY_AFTER_KEY] = str(max(1, round(error.retry_after_s * 1e3)))
    return fields
