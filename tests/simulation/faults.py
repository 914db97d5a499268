"""One actor's way to the store: any call may fail, lose its answer, be done later, or be the actor's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vstore.errors import StoreUnavailable
from vstore.storage.base import ByteRange, ObjectInfo

if TYPE_CHECKING:
    from sim import Simulation

BEFORE = ("refused",)
"""The store never saw the call (503, a closed connection)."""
AROUND = ("refused", "lost", "late")
"""lost: done, and the answer did not arrive; late: it is done after the caller was told that it failed."""
CRASHES = ("crash before", "crash after", "crash late")


class Crash(BaseException):
    """The process that made this storage call is gone; nothing of vstore may catch it."""


class SimStore:
    """An ObjectStore over the world, for one actor."""

    def __init__(self, sim: Simulation, name: str) -> None:
        self.sim, self.name = sim, name
        self.url = f"sim://{name}"
        self.dead = False

    def call(self, what: str, act: Callable[[], Any], changes: bool) -> Any:
        """Do `act`, or some of it; other actors come first, and time passes."""
        if self.dead:
            raise Crash
        sim = self.sim
        sim.between_calls(self.name)
        fault = sim.fault(changes)
        sim.note(f"{self.name} {what}{' ' + fault if fault else ''}")
        if fault == "refused":
            raise StoreUnavailable(f"{what}: refused on cue")
        if fault == "crash before":
            self._die()
        if fault in ("late", "crash late"):
            sim.late.append(act)
        else:
            result = act()
        if fault in ("crash after", "crash late"):
            self._die()
        if fault in ("lost", "late"):
            raise StoreUnavailable(f"{what}: the answer was lost on cue")
        return result

    def _die(self) -> None:
        self.dead = True
        raise Crash

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self.call(f"get {key}", lambda: self.sim.world.get(key, start, length), False)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        return [self.get(*asked) for asked in ranges]

    def put(self, key: str, data: bytes) -> None:
        if self.sim.torn():
            # A multipart upload that breaks off: parts are there, and no object.
            self.sim.note(f"{self.name} put {key} torn")
            raise StoreUnavailable(f"put {key}: the upload broke off on cue")
        self.call(f"put {key}", lambda: self.sim.world.put(key, data), True)

    def put_if_absent(self, key: str, data: bytes) -> None:
        intent = self.sim.intents.get(self.name)
        self.call(f"create {key}", lambda: self.sim.world.put_if_absent(key, data, intent), True)

    def head(self, key: str) -> ObjectInfo | None:
        return self.call(f"head {key}", lambda: self.sim.world.head(key), False)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        return self.call(f"list {prefix}", lambda: self.sim.listing(self.name, prefix), False)

    def delete(self, keys: Sequence[str]) -> None:
        # S3 deletes keys one by one, so a crash may leave some.
        for key in keys:
            self.call(f"delete {key}", lambda key=key: self.sim.world.delete([key]), True)

    def close(self) -> None:
        pass
