"""One face, three ways to reach it: embedded, through the sync client, through the async client."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import vstore
import vstore_server

_numbers = itertools.count()


class Awaited:
    """The async client as if it were the sync one: every coroutine runs to its end on one loop."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def __len__(self) -> int:
        return self._loop.run_until_complete(self._target.count())

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name == "version":
            return self._loop.run_until_complete(value())
        return self._wrapped(value) if inspect.ismethod(value) else value

    def _wrapped(self, method: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._items(result)
            if inspect.isawaitable(result):
                result = self._loop.run_until_complete(result)
            is_handle = isinstance(result, vstore_server.aio.AsyncCollection)
            return Awaited(result, self._loop) if is_handle else result

        return run

    def _items(self, items: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return


def first_letters(query: Any, documents: Any) -> list[float]:
    """Scores a document by the letters that its text shares with the query."""
    return [float(len(set(str(query)) & set(d.text))) if d.text else float("nan") for d in documents]


@pytest.fixture(scope="session")
def embedded() -> Iterator[vstore.Database]:
    with vstore.connect("memory://", settings=vstore.Settings(n_threads=2)) as database:
        yield database


@pytest.fixture(scope="session")
def served(embedded: vstore.Database) -> Iterator[vstore_server.BackgroundServer]:
    with vstore_server.BackgroundServer(embedded, rerankers={"letters": first_letters}) as server:
        yield server


@pytest.fixture(scope="session")
def faces(embedded: vstore.Database, served: vstore_server.BackgroundServer) -> Iterator[dict[str, Any]]:
    loop = asyncio.new_event_loop()
    remote = vstore.connect(served.url)
    awaited = loop.run_until_complete(vstore.aio.connect(served.url))
    yield {"embedded": embedded, "sync": remote, "async": Awaited(awaited, loop)}
    remote.close()
    loop.run_until_complete(awaited.close())
    loop.close()


@pytest.fixture(params=["embedded", "sync", "async"])
def db(request: pytest.FixtureRequest, faces: dict[str, Any]) -> Any:
    """A face onto one shared store; use `new_name` for collections."""
    return faces[request.param]


@pytest.fixture
def new_name() -> str:
    return f"c{next(_numbers)}"
