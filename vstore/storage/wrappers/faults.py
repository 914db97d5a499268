"""Make a good store bad, repeatably: to test what stands above it."""

from __future__ import annotations

import enum
import random
import threading
from collections.abc import Callable, Sequence

from vstore.errors import StoreUnavailable
from vstore.settings import require
from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.wrappers.forward import ForwardingStore


class Fault(enum.Enum):
    """What goes wrong in one call."""

    ERROR = "error"
    """StoreUnavailable, and nothing was done."""
    LOST = "lost"
    """The call was done, and then StoreUnavailable: the answer was lost."""
    SHORT = "short"
    """A read returns fewer bytes than were asked for, without an error."""
    FLIP = "flip"
    """A read returns one wrong bit."""
    STALE = "stale"
    """A list returns what the list of that prefix before it did."""


READS = ("get", "get_many")
WRITES = ("put", "put_if_absent", "delete")
Decide = Callable[[str, str], Fault | None]
"""Given the method's name and its key ("" for several, the prefix for a list), the fault of this call."""


def seeded_faults(
    seed: int,
    error_rate: float = 0.0,
    lost_rate: float = 0.0,
    short_rate: float = 0.0,
    flip_rate: float = 0.0,
    stale_rate: float = 0.0,
) -> Decide:
    """Return faults drawn at these rates (0 to 1 of the calls), the same sequence for the same seed.

    Answers are lost of writes only; bodies are cut and bits flipped in reads only; only lists are stale.

    Raises:
        InvalidSetting: a negative rate, or rates that add up to more than 1.
    """
    rates = (error_rate, lost_rate, short_rate, flip_rate, stale_rate)
    require(
        min(rates) >= 0 and error_rate + max(lost_rate, short_rate + flip_rate, stale_rate) <= 1,
        f"the rates {rates} must be 0 or more, and add up to 1 at most",
    )
    rng = random.Random(seed)

    def decide(method: str, key: str) -> Fault | None:
        draw = rng.random()
        if draw < error_rate:
            return Fault.ERROR
        draw -= error_rate
        if method in WRITES:
            return Fault.LOST if draw < lost_rate else None
        if method == "list":
            return Fault.STALE if draw < stale_rate else None
        if method in READS:
            if draw < short_rate:
                return Fault.SHORT
            if draw < short_rate + flip_rate:
                return Fault.FLIP
        return None

    return decide


class FaultStore(ForwardingStore):
    """Injects the fault that `decide` names into each call; it breaks the contract of a store on purpose.

    Args:
        inner: the store.
        decide: `seeded_faults(...)`, or any function of (method, key): a script of what shall happen.
        seed: of the places of flipped bits and cuts.
    """

    def __init__(self, inner: ObjectStore, decide: Decide, seed: int = 0) -> None:
        super().__init__(inner)
        self._decide = decide
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._n_faults = dict.fromkeys(Fault, 0)
        self._listed: dict[str, list[ObjectInfo]] = {}

    def n_faults(self, fault: Fault) -> int:
        """Return how many faults of that kind were injected."""
        return self._n_faults[fault]

    def _next(self, method: str, key: str) -> Fault | None:
        with self._lock:
            fault = self._decide(method, key)
            if fault is not None:
                self._n_faults[fault] += 1
        if fault is Fault.ERROR:
            raise StoreUnavailable(f"{self.url}: injected error before {method} {key!r}")
        return fault

    def _write(self, method: str, key: str, call: Callable[[], None]) -> None:
        fault = self._next(method, key)
        call()
        if fault is Fault.LOST:
            raise StoreUnavailable(f"{self.url}: injected loss of the answer to {method} {key!r}")

    def _spoil(self, fault: Fault | None, data: bytes) -> bytes:
        if fault is None or not data:
            return data
        with self._lock:
            place = self._rng.randrange(len(data) * 8)
        if fault is Fault.SHORT:
            return data[: place // 8]
        if fault is Fault.FLIP:
            spoilt = bytearray(data)
            spoilt[place // 8] ^= 1 << (place % 8)
            return bytes(spoilt)
        return data

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range, or wrong ones."""
        fault = self._next("get", key)
        return self._spoil(fault, self.inner.get(key, start, length))

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range; one of them may be wrong."""
        fault = self._next("get_many", ranges[0].key if len(ranges) == 1 else "")
        bodies = self.inner.get_many(ranges)
        if fault is not None and bodies:
            with self._lock:
                victim = self._rng.randrange(len(bodies))
            bodies[victim] = self._spoil(fault, bodies[victim])
        return bodies

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole."""
        self._write("put", key, lambda: self.inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists."""
        self._write("put_if_absent", key, lambda: self.inner.put_if_absent(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None."""
        self._next("head", key)
        return self.inner.head(key)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted; or those that the last list found."""
        fault = self._next("list", prefix)
        with self._lock:
            before = self._listed.get(prefix)
        if fault is Fault.STALE and before is not None:
            return list(before)
        found = self.inner.list(prefix)
        with self._lock:
            self._listed[prefix] = found
        return list(found)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects."""
        self._write("delete", keys[0] if len(keys) == 1 else "", lambda: self.inner.delete(keys))
