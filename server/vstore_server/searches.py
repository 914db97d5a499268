"""Searches that need nothing but memory: answered on the event loop, together where several are there.

Handing work to a thread and its answer back costs more than such a search takes. Those that would read, or
take long, go to the lanes' threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vstore.serving import CheckedSearch, answer_from_memory
from vstore.types import Hits
from vstore_server.lanes import busy

MOST_TOGETHER = 8
"""Searches between two looks at the sockets: while a client reads these answers, the next are found."""

Answered = Callable[["Hits | Exception | None"], None]
"""Takes hits, or what went wrong, or None where a thread must find them."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A search that waits for its turn."""

    search: CheckedSearch
    answered: Answered
    given_up: bool = False
    """Whether nobody waits for it any more: it is passed over."""


class Searches:
    """Answers from memory for all connections of one server. Belongs to its event loop.

    A search that comes alone is answered at once. Where others are under way it waits for the end of the
    loop's turn, and what came in that turn is answered by one kernel call for each kind. Tenants take turns.

    Args:
        max_waiting: searches that may wait; one tenant may hold half of them.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[str, deque[Waiting]] = OrderedDict()
        self._n_waiting = 0
        self._is_due = False
        self.n_under_way = 0
        """Requests between their arrival and their answer's departure; kept by who serves them."""
        self.n_together = 0
        """Searches that were answered by a kernel call of two or more."""
        self.n_answered = 0
        """Searches that were answered here."""

    @property
    def is_alone(self) -> bool:
        """Whether a search that has come waits for no other and no other for it."""
        return self.n_under_way <= 1 and not self._n_waiting

    def now(self, search: CheckedSearch) -> Hits | None:
        """Return the hits of a search that came alone, or None where a thread must find them."""
        self.n_answered += 1
        return answer_from_memory([search])[0]

    async def answer(self, tenant: str, search: CheckedSearch) -> Hits | None:
        """Return the hits, or None where a thread must find them.

        Raises:
            ServerBusy: too many wait.
        """
        if self.is_alone:
            return self.now(search)
        future: asyncio.Future[Hits | None] = asyncio.get_running_loop().create_future()

        def answered(found: Hits | Exception | None) -> None:
            if future.done():
                return
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

        mine = self.submit(tenant, search, answered)
        try:
            return await future
        finally:
            mine.given_up = True

    def submit(self, tenant: str, search: CheckedSearch, answered: Answered) -> Waiting:
        """Have a search answered soon; `answered` is called on the loop, never before this returns.

        Raises:
            ServerBusy: too many wait.
        """
        queue = self._waiting.get(tenant)
        n_held = 0 if queue is None else len(queue)
        if self._n_waiting >= self._max_waiting or n_held >= max(1, self._max_waiting // 2):
            raise busy("search", self._n_waiting, n_held, self._max_waiting, 0.05)
        if queue is None:
            queue = self._waiting[tenant] = deque()
        mine = Waiting(search, answered)
        queue.append(mine)
        self._n_waiting += 1
        self._call_soon(asyncio.get_running_loop())
        return mine

    def _call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._answer_some, loop)

    def _answer_some(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_due = False
        groups: dict[tuple[Any, ...], list[Waiting]] = {}
        for one in self._take():
            groups.setdefault(one.search.group, []).append(one)
        for group in groups.values():
            self._answer_group(group)
        if self._n_waiting:
            self._call_soon(loop)

    def _take(self) -> list[Waiting]:
        """Take those whose turn it is, round the tenants; who gave up is passed over."""
        taken: list[Waiting] = []
        while self._waiting and len(taken) < MOST_TOGETHER:
            tenant, queue = next(iter(self._waiting.items()))
            one = queue.popleft()
            self._n_waiting -= 1
            if queue:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            if not one.given_up:
                taken.append(one)
        return taken

    def _answer_group(self, group: list[Waiting]) -> None:
        self.n_answered += len(group)
        if len(group) > 1:
            self.n_together += len(group)
        try:
            answers = answer_from_memory([one.search for one in group])
        except Exception as error:
            for one in group:
                one.answered(error)
            return
        for one, hits in zip(group, answers, strict=True):
            one.answered(hits)
