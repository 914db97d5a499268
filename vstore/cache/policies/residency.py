"""Who is resident under a byte limit: the books of a cache, kept by keys and sizes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic

from vstore.cache.policies.admission import AdmitAll
from vstore.cache.policies.base import Admission, Eviction, K


@dataclass(slots=True)
class ResidencyCounts:
    """Totals: keys asked for and there, or not; taken in, turned away, and evicted."""

    n_hits: int = 0
    n_misses: int = 0
    n_admitted: int = 0
    n_refused: int = 0
    n_evicted: int = 0


class Residency(Generic[K]):
    """Keys under a byte limit that holds at every moment, as an eviction and an admission decide. Not
    thread-safe.

    It holds no values: the block cache keeps its own beside it, and a replayed trace needs none.

    Args:
        limit_bytes: the most that resident keys may weigh.
        eviction: makes the policy; one for the lesser keys, and one for the others.
        admission: asked of each key that is offered.
        lesser: keys that go first while they hold more than `lesser_share` of the limit. None: all are equal.
        lesser_share: of the limit.
    """

    def __init__(
        self,
        limit_bytes: int,
        eviction: Callable[[], Eviction[K]],
        admission: Admission[K] | None = None,
        *,
        lesser: Callable[[K], bool] | None = None,
        lesser_share: float = 0.25,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.counts = ResidencyCounts()
        self._admission: Admission[K] = AdmitAll() if admission is None else admission
        self._greater, self._lesser = eviction(), eviction()
        self._is_lesser = lesser
        self._lesser_share = lesser_share
        self._lesser_bytes = 0
        self._sizes: dict[K, int] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def keys(self) -> list[K]:
        """Return the resident keys, in the order in which they came."""
        return list(self._sizes)

    def ask(self, key: K) -> bool:
        """Whether a key is resident; marks it used, and counts a hit or a miss."""
        if key not in self._sizes:
            self.counts.n_misses += 1
            return False
        self.counts.n_hits += 1
        self._policy(key).used(key)
        return True

    def use(self, keys: Iterable[K]) -> None:
        """Mark keys used, those that are resident; nothing is counted."""
        sizes, is_lesser = self._sizes, self._is_lesser
        for key in keys:
            if key in sizes:
                (self._greater if is_lesser is None or not is_lesser(key) else self._lesser).used(key)

    def offer(self, key: K, size_bytes: int, *, evict: bool = True) -> tuple[bool, list[K]]:
        """Take a key in that was read, if the policies will have it.

        A key heavier than the whole limit is refused, and pushes nothing out. One that is resident stays as
        it is.

        Returns:
            Whether it was taken in just now, and who had to go.
        """
        if key in self._sizes:
            return False, []
        room_bytes = self.limit_bytes - self.size_bytes
        most_bytes = self.limit_bytes if evict else room_bytes
        if size_bytes > most_bytes or not self._admission.admits(key, size_bytes, room_bytes):
            self.counts.n_refused += 1
            return False, []
        gone: list[K] = []
        while self.size_bytes + size_bytes > self.limit_bytes:
            victim = self._victim()
            if victim is None:
                self.counts.n_refused += 1
                return False, gone
            gone.append(victim)
        self._weigh(key, size_bytes)
        self._sizes[key] = size_bytes
        self._policy(key).added(key, size_bytes)
        self.counts.n_admitted += 1
        return True, gone

    def request(self, key: K, size_bytes: int) -> bool:
        """Ask for a key, and offer it where it is not resident: one step of a replayed trace; whether it was
        a hit."""
        hit = self.ask(key)
        if not hit:
            self.offer(key, size_bytes)
        return hit

    def remove(self, key: K) -> None:
        """Take a resident key out; it is not counted as evicted."""
        self._weigh(key, -self._sizes.pop(key))
        self._policy(key).removed(key)

    def replace(self, old: Iterable[K], new: K, size_bytes: int) -> None:
        """Put one key in the place of others that weigh at least as much; nothing is counted."""
        for key in old:
            self.remove(key)
        self._weigh(new, size_bytes)
        self._sizes[new] = size_bytes
        self._policy(new).added(new, size_bytes)

    def _policy(self, key: K) -> Eviction[K]:
        lesser = self._is_lesser
        return self._greater if lesser is None or not lesser(key) else self._lesser

    def _weigh(self, key: K, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        if self._is_lesser is not None and self._is_lesser(key):
            self._lesser_bytes += size_bytes

    def _victim(self) -> K | None:
        lesser_first = self._lesser_bytes > self._lesser_share * self.limit_bytes
        order = (self._lesser, self._greater) if lesser_first else (self._greater, self._lesser)
        for policy in order:
            key = policy.victim()
            if key is not None:
                self._weigh(key, -self._sizes.pop(key))
                self.counts.n_evicted += 1
                return key
        return None
