"""The conformance suites of cache policies: subclass one, override one method, run pytest.

    from vstore.testing.cache_suite import EvictionSuite

    class TestMyPolicy(EvictionSuite):
        def make(self):
            return MyPolicy()

pytest then collects every test below for that policy. docs/CACHE.md says how to write one.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from vstore.cache import BlockKey
from vstore.cache.policies import Admission, Eviction, Prefetch, Residency

SECTIONS = ("lists", "codes", "vectors", "payload", "upper")


def trace(seed: int, n: int, n_keys: int = 120) -> Iterator[tuple[BlockKey, int]]:
    """Yield n requests for blocks of a skewed popularity that shifts halfway, a scan in their midst.

    A key always weighs the same: from 0 to 99 bytes.
    """
    rng = np.random.default_rng(seed)
    ranks = np.minimum(rng.zipf(1.3, n), n_keys) - 1
    for step, rank in enumerate(ranks.tolist()):
        number = (rank + (n_keys // 2 if step > n // 2 else 0)) % n_keys
        if n // 3 < step < n // 3 + n_keys:
            number = step
        key = BlockKey(f"shard{number % 3}", SECTIONS[number % 5], number)
        yield key, number * 37 % 100


class EvictionSuite:
    """What the cache relies on in an `Eviction`. Override `make`."""

    n_steps = 3_000
    """Requests of a trace."""

    def make(self) -> Eviction[Any]:
        """Return a new policy that knows of no key."""
        raise NotImplementedError("override make(): return a new policy")

    def test_a_victim_is_resident_and_goes_once(self) -> None:
        """Whatever comes, is used and goes, a victim is one of those that are there."""
        for seed in range(4):
            rng = np.random.default_rng(seed)
            policy, resident = self.make(), dict[Hashable, int]()
            for key, size_bytes in trace(seed, self.n_steps):
                if key in resident:
                    policy.used(key)
                else:
                    policy.added(key, size_bytes)
                    resident[key] = size_bytes
                act = rng.random()
                if act < 0.05:
                    gone = list(resident)[int(rng.integers(len(resident)))]
                    policy.removed(gone)
                    del resident[gone]
                elif act < 0.3:
                    victim = policy.victim()
                    if victim is not None:
                        assert victim in resident, f"{victim} is not resident, and was chosen to go"
                        del resident[victim]

    def test_it_comes_to_an_end(self) -> None:
        """Asked again and again, it names each key once at most, then None."""
        policy = self.make()
        keys = dict(trace(1, self.n_steps))
        for key, size_bytes in keys.items():
            policy.added(key, size_bytes)
        for key in list(keys)[::3]:
            policy.used(key)
        named: list[Hashable] = []
        while (victim := policy.victim()) is not None:
            named.append(victim)
            assert len(named) <= len(keys), "more victims than keys"
        assert len(set(named)) == len(named), "a key went twice"
        assert set(named) <= set(keys)

    def test_none_is_resident_where_none_came(self) -> None:
        """A new policy, and one whose keys have all gone, has no victim."""
        policy = self.make()
        assert policy.victim() is None
        policy.added("key", 10)
        policy.removed("key")
        assert policy.victim() is None

    def test_what_went_may_return(self) -> None:
        """A key that went, by choice or by another's hand, is added like any other."""
        policy = self.make()
        for _ in range(5):
            policy.added(("a", 1), 10)
            policy.used(("a", 1))
            policy.removed(("a", 1))
            policy.added(("a", 1), 10)
            if policy.victim() is None:
                policy.removed(("a", 1))

    def test_the_same_calls_give_the_same_victims(self) -> None:
        """No clock, and no randomness that is not seeded: an experiment can be repeated."""
        runs = []
        for _ in range(2):
            cache = Residency(800, self.make)
            runs.append([cache.request(key, size) for key, size in trace(2, self.n_steps)])
        assert runs[0] == runs[1]

    def test_the_limit_holds_at_every_moment(self) -> None:
        """Under a policy that keeps everything, newcomers are refused; the limit holds all the same."""
        for limit_bytes in (0, 1, 99, 500, 3_000):
            cache = Residency(limit_bytes, self.make)
            for key, size_bytes in trace(3, self.n_steps):
                cache.request(key, size_bytes)
                assert cache.size_bytes <= limit_bytes

    def test_the_books_agree(self) -> None:
        """Hits are of keys that are there, and what came is there or went."""
        cache = Residency(900, self.make)
        sizes: dict[BlockKey, int] = {}
        asked = Counter[bool]()
        for key, size_bytes in trace(4, self.n_steps):
            sizes[key] = size_bytes
            there = key in cache
            assert cache.request(key, size_bytes) == there
            asked[there] += 1
        counts = cache.counts
        assert (counts.n_hits, counts.n_misses) == (asked[True], asked[False])
        assert counts.n_admitted - counts.n_evicted == len(cache)
        assert counts.n_admitted + counts.n_refused == counts.n_misses
        assert cache.size_bytes == sum(sizes[key] for key in cache.keys())  # noqa: SIM118
        assert counts.n_hits > 0, "it keeps something"

    def test_it_forgets(self) -> None:
        """Memory does not grow with the number of keys that ever were."""
        cache = Residency(2_000, self.make)
        for number in range(3_000):
            cache.request(("first", number), 10)
        tracemalloc.start()
        try:
            for number in range(3_000):
                cache.request(("second", number), 10)
            first, _ = tracemalloc.get_traced_memory()
            for number in range(20_000):
                cache.request(("third", number), 10)
            last, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert last - first < 20_000 * 16, f"it grew by {last - first} bytes over 20000 keys"


class AdmissionSuite:
    """What the cache relies on in an `Admission`. Override `make`."""

    def make(self) -> Admission[Any]:
        """Return a new policy."""
        raise NotImplementedError("override make(): return a new policy")

    def test_it_answers_whatever_comes(self) -> None:
        """Any key, any size, any room: an answer that is True or False."""
        policy = self.make()
        for key, size_bytes in trace(5, 2_000):
            assert policy.admits(key, size_bytes, size_bytes * 3 % 50) in (True, False)

    def test_the_same_calls_give_the_same_answers(self) -> None:
        """An experiment can be repeated."""
        runs = []
        for _ in range(2):
            policy = self.make()
            runs.append([policy.admits(key, size, 10) for key, size in trace(6, 2_000)])
        assert runs[0] == runs[1]

    def test_it_forgets(self) -> None:
        """Memory does not grow with the number of keys that ever were."""
        policy = self.make()
        for number in range(40_000):
            policy.admits(("first", number), 10, 0)
        tracemalloc.start()
        try:
            for number in range(20_000):
                policy.admits(("second", number), 10, 0)
            first, _ = tracemalloc.get_traced_memory()
            for number in range(40_000):
                policy.admits(("third", number), 10, 0)
            last, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert last - first < 40_000 * 16, f"it grew by {last - first} bytes over 40000 keys"


class PrefetchSuite:
    """What the cache relies on in a `Prefetch`. Override `make`."""

    def make(self) -> Prefetch[Any]:
        """Return a new policy."""
        raise NotImplementedError("override make(): return a new policy")

    def test_it_names_others_and_each_once(self) -> None:
        """What was missed is read anyway; a key is not read twice."""
        policy = self.make()
        keys = [key for key, _ in trace(7, 600)]
        for start in range(0, 600, 20):
            missed = list(dict.fromkeys(keys[start : start + 20]))
            ahead = list(policy.ahead(missed))
            assert not set(ahead) & set(missed), "it names what is read anyway"
            assert len(set(ahead)) == len(ahead), "it names a key twice"
            assert all(isinstance(key, BlockKey) for key in ahead)

    def test_nothing_missed_reads_nothing(self) -> None:
        """A round is never sent for a guess alone."""
        assert list(self.make().ahead([])) == []
