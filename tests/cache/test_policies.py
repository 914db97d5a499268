"""Every shipped policy keeps the suite's rules; each eviction agrees with its slow twin, victim by victim."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_policies import NaiveLRU, NaivePinHubs, NaiveS3FIFO

from vstore.cache import BlockKey
from vstore.cache.policies import (
    ADMISSIONS,
    EVICTIONS,
    LRU,
    PREFETCHES,
    S3FIFO,
    Adjacent,
    AdmitAll,
    AdmitNone,
    AdmitSecond,
    KeepFirst,
    NoPrefetch,
    PinHubs,
    Residency,
    policy_of,
)
from vstore.errors import InvalidSetting
from vstore.testing.cache_suite import AdmissionSuite, EvictionSuite, PrefetchSuite, trace


class TestLRU(EvictionSuite):
    def make(self):
        return LRU()


class TestS3FIFO(EvictionSuite):
    def make(self):
        return S3FIFO()


class TestPinHubs(EvictionSuite):
    def make(self):
        return PinHubs()


class TestPinHubsByInDegree(EvictionSuite):
    def make(self):
        return PinHubs(share=0.3, in_degrees={key: key.block % 7 for key, _ in trace(0, 500)})


class TestKeepFirst(EvictionSuite):
    def make(self):
        return KeepFirst()


class TestAdmitAll(AdmissionSuite):
    def make(self):
        return AdmitAll()


class TestAdmitNone(AdmissionSuite):
    def make(self):
        return AdmitNone()


class TestAdmitSecond(AdmissionSuite):
    def make(self):
        return AdmitSecond()


class TestNoPrefetch(PrefetchSuite):
    def make(self):
        return NoPrefetch()


class TestAdjacent(PrefetchSuite):
    def make(self):
        return Adjacent(reach=2)


def test_every_name_has_its_suite():
    made = {type(make()) for known in (EVICTIONS, ADMISSIONS, PREFETCHES) for make in known.values()}
    suites = (EvictionSuite, AdmissionSuite, PrefetchSuite)
    assert made <= {type(kind().make()) for suite in suites for kind in suite.__subclasses__()}


DEGREES = {3: 5.0, 4: 2.0, 5: 2.0, 11: 9.0}
PAIRS = {
    "lru": (LRU, NaiveLRU),
    "s3_fifo": (S3FIFO, NaiveS3FIFO),
    "pin_hubs": (lambda: PinHubs(always=lambda key: key == 7), lambda: NaivePinHubs(always=lambda k: k == 7)),
    "by_degree": (lambda: PinHubs(0.4, DEGREES), lambda: NaivePinHubs(0.4, DEGREES)),
}
ASKED = st.lists(
    st.tuples(st.integers(0, 14), st.sampled_from(["ask", "ask", "ask", "remove"])), max_size=120
)
SIZES = st.lists(st.integers(0, 40), min_size=15, max_size=15)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=60, deadline=None)
@given(
    asked=ASKED, limit_bytes=st.integers(0, 200), sizes=st.lists(st.integers(0, 40), min_size=15, max_size=15)
)
def test_hits_and_victims_are_those_of_the_slow_twin(name, asked, limit_bytes, sizes):
    fast, slow = (Residency(limit_bytes, make) for make in PAIRS[name])
    for key, act in asked:
        if act == "remove":
            for cache in (fast, slow):
                if key in cache:
                    cache.remove(key)
            continue
        assert fast.ask(key) == slow.ask(key)
        if key not in fast:
            assert fast.offer(key, sizes[key]) == slow.offer(key, sizes[key])
        assert fast.size_bytes == sum(sizes[key] for key in fast.keys()) <= limit_bytes  # noqa: SIM118
    assert fast.counts == slow.counts
    assert fast.keys() == slow.keys()


@pytest.mark.parametrize("name", PAIRS)
def test_long_traces_agree_with_the_slow_twin(name):
    for seed, limit_bytes in ((8, 700), (9, 2_500)):
        fast, slow = (Residency(limit_bytes, make) for make in PAIRS[name])
        for key, size in trace(seed, 2_000):
            assert fast.request(key.block, size) == slow.request(key.block, size)
        assert fast.counts == slow.counts
        assert fast.counts.n_evicted > 50


def test_a_scan_leaves_what_s3_fifo_holds_and_sweeps_lru():
    left = {}
    for name in ("s3_fifo", "lru"):
        cache = Residency(1_000, EVICTIONS[name])
        for _ in range(4):
            for key in range(50):
                cache.request(key, 10)
        for key in range(1_000, 1_300):
            cache.request(key, 10)
        left[name] = sum(key in cache for key in range(50))
    assert left == {"s3_fifo": 50, "lru": 0}


def test_hubs_stay_and_upper_levels_longest():
    cache = Residency(1_000, PinHubs)
    upper = BlockKey("s", "upper", -1)
    cache.request(upper, 100)
    hubs = [BlockKey("s", "lists", block) for block in range(3)]
    for _ in range(5):
        for key in hubs:
            cache.request(key, 100)
    for block in range(50, 150):
        cache.request(BlockKey("s", "lists", block), 100)
    assert all(key in cache for key in [upper, *hubs])
    lone = Residency(300, PinHubs)
    for block in range(4):
        lone.request(BlockKey(f"s{block}", "upper", -1), 100)
    assert BlockKey("s3", "upper", -1) in lone, "hubs go where nothing else is left"


def test_keep_first_refuses_newcomers():
    cache = Residency(25, KeepFirst)
    assert [cache.request(key, 10) for key in "abcab"] == [False, False, False, True, True]
    assert (cache.counts.n_refused, cache.counts.n_evicted) == (1, 0)


def test_second_admits_what_fits_then_what_returns():
    cache = Residency(20, LRU, AdmitSecond(n_remembered=2))
    for key in "ab":
        cache.request(key, 10)
    assert cache.keys() == ["a", "b"]
    cache.request("c", 10)
    assert cache.keys() == ["a", "b"], "once is not enough where something must go"
    cache.request("c", 10)
    assert cache.keys() == ["b", "c"]
    for key in "xyzx":
        cache.request(key, 10)
    assert "x" not in cache, "only two refused keys are remembered"


def test_nothing_is_admitted_by_none():
    cache = Residency(1_000, LRU, AdmitNone())
    assert not any(cache.request("a", 10) for _ in range(3))
    assert len(cache) == 0


def test_lesser_keys_go_first_beyond_their_share():
    cache = Residency(100, LRU, lesser=lambda key: key[0] == "row", lesser_share=0.25)
    for number in range(5):
        cache.request(("guide", number), 10)
    for number in range(50):
        cache.request(("row", number), 10)
    assert sum(key[0] == "guide" for key in cache.keys()) == 5  # noqa: SIM118
    for number in range(5, 30):
        cache.request(("guide", number), 10)
    assert 2 <= sum(key[0] == "row" for key in cache.keys()) <= 3  # noqa: SIM118


def test_adjacent_names_both_sides_of_lists_and_codes_only():
    def key(section, block):
        return BlockKey("s", section, block)

    asked = [key("lists", 0), key("lists", 2), key("codes", 5), key("vectors", 9), key("upper", -1)]
    assert Adjacent().ahead(asked) == [key("lists", 1), key("lists", 3), key("codes", 4), key("codes", 6)]


def test_a_policy_is_chosen_by_name_or_made_by_a_callable():
    assert policy_of("s3_fifo", EVICTIONS, "cache_eviction") is S3FIFO
    made = policy_of(lambda: PinHubs(share=0.9), EVICTIONS, "cache_eviction")()
    assert isinstance(made, PinHubs)
    with pytest.raises(InvalidSetting, match=r"cache_eviction is 's3fifo'; did you mean 's3_fifo'\?"):
        policy_of("s3fifo", EVICTIONS, "cache_eviction")
    with pytest.raises(InvalidSetting, match="pass the class"):
        policy_of(LRU(), EVICTIONS, "cache_eviction")
