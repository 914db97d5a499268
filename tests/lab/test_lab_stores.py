"""Stores in virtual time: distributions, limits, and what a round takes, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vstore.errors import InvalidInput, InvalidSetting
from vstore.lab.stores import PRESETS, Clock, Empirical, Fixed, LogNormal, SimulatedStore, StoreModel, preset
from vstore.lab.stores.clock import run_clients


def round_ms(model: StoreModel, sizes: list[int], seed: int = 0) -> float:
    clock = Clock()
    ended = []
    SimulatedStore(model, clock, np.random.default_rng(seed)).read(sizes, lambda: ended.append(clock.now_ms))
    clock.run()
    return ended[0]


def test_the_clock_runs_in_order_of_time_then_of_arrival() -> None:
    clock, seen = Clock(), []
    clock.at(5, lambda: seen.append(("a", clock.now_ms)))
    clock.at(
        2, lambda: (seen.append(("b", clock.now_ms)), clock.at(1, lambda: seen.append(("c", clock.now_ms))))
    )
    clock.at(5, lambda: seen.append(("d", clock.now_ms)))
    clock.run()
    assert seen == [("b", 2), ("c", 2), ("a", 5), ("d", 5)]


def test_requests_beyond_the_connections_wait() -> None:
    assert round_ms(StoreModel("x", Fixed(10), concurrency=2), [1] * 5) == 30
    assert round_ms(StoreModel("x", Fixed(10), concurrency=5), [1] * 5) == 10
    assert round_ms(StoreModel("x", Fixed(10)), []) == 0


def test_bandwidth_of_a_connection_and_of_the_link() -> None:
    alone = StoreModel("x", Fixed(10), bytes_per_s=1000)
    assert round_ms(alone, [500, 250]) == 510
    shared = StoreModel("x", Fixed(10), link_bytes_per_s=1000)
    assert round_ms(shared, [500, 250]) == 760


def test_a_straggler_does_not_hold_up_the_others_on_the_link() -> None:
    class Two:
        def draw(self, rng, n):
            return np.array([100.0, 10.0])

    clock, ended = Clock(), {}
    store = SimulatedStore(StoreModel("x", Two(), link_bytes_per_s=1000), clock, np.random.default_rng(0))
    store.read([50, 50], lambda: ended.update(both=clock.now_ms))
    clock.run()
    assert ended == {"both": 150}


def test_the_rate_limit_holds_after_the_burst() -> None:
    model = StoreModel("x", Fixed(1), requests_per_s=100, burst_requests=3)
    # Three at once, then one every 10 ms.
    assert round_ms(model, [1] * 3) == 1
    assert round_ms(model, [1] * 5) == pytest.approx(21)


def test_the_clients_processor_sends_and_receives_one_thing_at_a_time() -> None:
    # Sent at 2, 4 and 6; there at 12, 14 and 16; received at 15, 18 and 21.
    assert round_ms(StoreModel("x", Fixed(10), send_ms=2, receive_ms=3), [1] * 3) == 21
    # Sent at 2 to 10; what is there at 3 and after waits for the last to be sent.
    assert round_ms(StoreModel("x", Fixed(1), send_ms=2, receive_ms=3), [1] * 5) == 25
    # A rate limit lets one go every 10 ms: there is nothing left to wait for but that.
    slow = StoreModel("x", Fixed(1), send_ms=2, receive_ms=3, requests_per_s=100)
    assert round_ms(slow, [1] * 3) == pytest.approx(26)


def test_clients_share_a_store_and_wait_for_their_own_rounds() -> None:
    clock = Clock()
    store = SimulatedStore(StoreModel("x", Fixed(10), concurrency=1), clock, np.random.default_rng(0))
    ends = {}

    def client(name: str, n: int):
        for _ in range(n):
            yield [1]
        ends[name] = clock.now_ms

    run_clients(store, clock, [client("a", 1), client("b", 2)])
    assert ends == {"a": 10, "b": 30}


def test_draws_follow_their_distribution_and_the_seed(tmp_path) -> None:
    log_normal = LogNormal(20, 0.4, straggler_share=0.1, straggler_factor=10)
    times = log_normal.draw(np.random.default_rng(1), 20_000)
    assert np.array_equal(times, log_normal.draw(np.random.default_rng(1), 20_000))
    plain = LogNormal(20, 0.4).draw(np.random.default_rng(1), 20_000)
    assert abs(np.median(plain) - 20) < 0.5
    assert abs(np.log(plain).std() - 0.4) < 0.02
    assert abs((times != plain).mean() - 0.1) < 0.01
    path = tmp_path / "times.txt"
    path.write_text("# measured\n3.5\n\n7 # slow\n")
    measured = Empirical.read(path)
    assert measured.times_ms == (3.5, 7.0)
    assert set(measured.draw(np.random.default_rng(0), 50)) == {3.5, 7.0}
    path.write_text("3.5\nfast\n")
    with pytest.raises(InvalidInput, match="line 2: 'fast'"):
        Empirical.read(path)


def test_presets_say_where_they_come_from_and_what_reads_cost() -> None:
    assert set(PRESETS) == {"s3_standard", "s3_express", "nvme", "lan", "free"}
    assert all(store.source for store in PRESETS.values())
    assert preset("s3_standard").cost_usd(1_000_000, 10**12) == pytest.approx(0.4)
    assert preset("s3_express").cost_usd(1_000_000, 10**9) == pytest.approx(0.03 + 0.0006)
    with pytest.raises(InvalidSetting, match="s3_standard"):
        preset("tape")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed(-1),
        lambda: LogNormal(0),
        lambda: LogNormal(1, straggler_share=2),
        lambda: LogNormal(1, straggler_factor=0.5),
        lambda: Empirical(()),
        lambda: Empirical((1.0, math.nan)),
        lambda: StoreModel("x", Fixed(1), bytes_per_s=0),
        lambda: StoreModel("x", Fixed(1), concurrency=0),
        lambda: StoreModel("x", Fixed(1), usd_per_gb=-1),
        lambda: StoreModel("x", Fixed(1), receive_ms=-1),
    ],
)
def test_impossible_stores_are_refused(make) -> None:
    with pytest.raises(InvalidSetting):
        make()
