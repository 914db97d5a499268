"""Idempotency keys: a write that is sent twice under one key runs once, and both get its answer."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass

from vstore.errors import InvalidInput

MAX_KEY_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class _Reply:
    digest: bytes
    kept_at_s: float
    answer: Future[bytes]


class Replies:
    """The answers of recent writes, in memory: a server that restarts has forgotten them.

    Thread-safe. A write that failed is forgotten at once, so that it can be tried again.
    """

    def __init__(self, max_replies: int = 10_000, keep_s: float = 600.0) -> None:
        self._max = max_replies
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._replies: OrderedDict[Hashable, _Reply] = OrderedDict()

    def once(self, key: Hashable, data: bytes, run: Callable[[], bytes]) -> bytes:
        """Return the answer of the first call under this key, running it if this is the first.

        Args:
            key: tenant, method and the caller's idempotency key.
            data: the request's bytes; the same key with other bytes is refused.
            run: the write.

        Raises:
            InvalidInput: the key stands for another request.
        """
        digest = hashlib.blake2b(data, digest_size=16).digest()
        now_s = time.monotonic()
        with self._lock:
            self._expire(now_s)
            held = self._replies.get(key)
            if held is None:
                held = self._replies[key] = _Reply(digest, now_s, Future())
                mine = True
            else:
                mine = False
        if held.digest != digest:
            raise InvalidInput("idempotency_key was used for another request; make a new one for each write")
        if not mine:
            return held.answer.result()
        try:
            answer = run()
        except BaseException as error:
            with self._lock:
                self._replies.pop(key, None)
            held.answer.set_exception(error)
            raise
        held.answer.set_result(answer)
        return answer

    def _expire(self, now_s: float) -> None:
        while self._replies:
            key, reply = next(iter(self._replies.items()))
            if len(self._replies) < self._max and now_s - reply.kept_at_s < self._keep_s:
                return
            if not reply.answer.done():
                return
            del self._replies[key]
