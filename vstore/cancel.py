"""Whether anybody still waits for an answer: asked between the steps of long work, in this thread.

Who starts the work says how to ask; the check raises what shall end it. Nothing is asked where nobody said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

Check = Callable[[], None]
LOOK_S: Final = 0.02
"""Who waits for something looks so often."""

_CURRENT: ContextVar[Check | None] = ContextVar("vstore_cancel", default=None)


@contextmanager
def checking(check: Check) -> Iterator[None]:
    """Have the work of the block ask `check`, which raises where nobody waits any more."""
    token = _CURRENT.set(check)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def check_cancelled() -> None:
    """Raise what the current check raises, if there is one."""
    check = _CURRENT.get()
    if check is not None:
        check()


def current_check() -> Check | None:
    """Return the current check, for threads that do parts of the work."""
    return _CURRENT.get()


def wait_s(left_s: float | None) -> float | None:
    """Return how long to wait for something before the next look: at most `left_s`, None for no limit."""
    if _CURRENT.get() is None:
        return left_s
    return LOOK_S if left_s is None else min(LOOK_S, left_s)
