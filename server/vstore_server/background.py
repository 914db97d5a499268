"""A server on a thread of this process: for tests, notebooks and programs that embed one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from vstore import Database
from vstore_server.loops import Loop, factory_of, run
from vstore_server.server import Server
from vstore_server.settings import ServerSettings


class BackgroundServer:
    """Starts on entering, drains on leaving. The database stays open.

    Args:
        database: what is served.
        settings: default: a free port of 127.0.0.1.
        loop: which event loop it runs on (`loops.Loop`).
        options: tokens, tls and rerankers, as for `Server`.
    """

    def __init__(
        self,
        database: Database,
        settings: ServerSettings | None = None,
        *,
        loop: Loop = "auto",
        **options: Any,
    ) -> None:
        factory_of(loop)
        self._chosen_loop = loop
        self._make: Callable[[], Server] = lambda: Server(
            database, settings or ServerSettings(listen="127.0.0.1:0"), **options
        )
        self._thread = threading.Thread(target=self._run, name="vstore-server", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._grace_s: float | None = None
        self.address = ""
        self.metrics_address: str | None = None

    @property
    def url(self) -> str:
        """What `vstore_server.connect` takes."""
        return f"vstore://{self.address}"

    def stop(self, grace_s: float | None = None) -> None:
        """Drain and end, whatever runs longer than `grace_s` is cancelled."""
        self._grace_s = grace_s
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> BackgroundServer:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        run(self._serve, self._chosen_loop)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = None
        try:
            server = self._make()
            self.address = await server.start()
            self.metrics_address = server.metrics_address
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        await self._stop.wait()
        await server.stop(self._grace_s)
