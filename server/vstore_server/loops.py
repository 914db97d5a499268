"""The event loop that a server runs on: uvloop's where it is installed, which takes less time of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, Literal, TypeVar, get_args

from vstore.errors import InvalidSetting

T = TypeVar("T")

Loop = Literal["auto", "asyncio", "uvloop"]
"""Which event loop: "auto" is uvloop where it is installed."""


def run(main: Callable[[], Coroutine[Any, Any, T]], loop: Loop = "auto") -> T:
    """Run what a coroutine function does on a new event loop, as `asyncio.run`, and return what it returns.

    Raises:
        InvalidSetting: as `factory_of`.
    """
    with asyncio.Runner(loop_factory=factory_of(loop)) as runner:
        return runner.run(main())


def factory_of(loop: Loop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes such an event loop; None stands for asyncio's own.

    Raises:
        InvalidSetting: there is none of that name, or uvloop is asked for and not installed.
    """
    if loop not in get_args(Loop):
        raise InvalidSetting(f"loop is {loop!r}; it must be one of {', '.join(get_args(Loop))}")
    installed = find_spec("uvloop") is not None
    if loop == "uvloop" and not installed:
        raise InvalidSetting('loop is "uvloop", which is not installed: pip install uvloop, or choose "auto"')
    if loop == "asyncio" or not installed:
        return None
    import uvloop  # Not everywhere: it has no Windows.

    return uvloop.new_event_loop
