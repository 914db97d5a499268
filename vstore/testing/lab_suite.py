"""What the lab relies on in a part that you plug in: subclass a suite and give it the part as a fixture.

class TestMine(TraversalSuite):
    @pytest.fixture
    def traversal(self):
        return Mine()
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from vstore.lab.driver import QueryTrace, run_alone, run_query
from vstore.lab.graph import LabGraph
from vstore.lab.index import LabIndex, build_index
from vstore.lab.layouts import CODES, LISTS, SECTIONS, UPPER, VECTORS, Layout, separate
from vstore.lab.orders import Order
from vstore.lab.planners import Planner
from vstore.lab.seeds import Seeds
from vstore.lab.stores import Clock, SimulatedStore, StoreModel
from vstore.lab.walks import LabTraversal
from vstore.traverse.base import WalkParams, Wants
from vstore.types import Bitmap, Float32s
from vstore_kernels import bitmap
from vstore_kernels.codes import prepare_query

_N, _D, _K = 600, 8, 10


def small_points(n: int, seed: int) -> Float32s:
    """Return float32[n, 8]: clustered points."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(3).standard_normal((8, _D)) * 1.5
    return (centers[rng.integers(0, 8, n)] + rng.standard_normal((n, _D))).astype(np.float32)


@functools.cache
def small_index() -> LabIndex:
    """Return an index of 600 small rows in small blocks."""
    return build_index(
        small_points(_N, 1), M=6, ef_construction=40, cluster_rows=48, block_shift=4, n_threads=1
    )


def small_filter(share: float) -> Bitmap:
    """Return a filter that some rows pass."""
    flags = np.random.default_rng(5).random(_N) < share
    flags[17] = True
    return bitmap.pack(flags)


class TraversalSuite:
    """A traversal returns passing rows, reads what it asked for, and answers the same however it stops."""

    @pytest.fixture
    def index(self) -> LabIndex:
        """The shard."""
        return small_index()

    def _run(
        self, traversal: LabTraversal, index: LabIndex, query: Float32s, allowed: Bitmap | None, **how: Any
    ) -> QueryTrace:
        graph = LabGraph(index, separate(index))
        params = WalkParams(**{"ef": 30, "n_seeds": 16, "n_predicted": 2, **how})
        return run_alone(run_query(graph, traversal, query, allowed, params, _K))

    @pytest.mark.parametrize("share", [1.0, 0.4, 0.05, 0.0])
    def test_it_returns_passing_rows_nearest_first(
        self, traversal: LabTraversal, index: LabIndex, share: float
    ) -> None:
        """Every row passes, none comes twice, distances ascend."""
        allowed = small_filter(share)
        flags = np.zeros(_N, bool)
        flags[index.rows] = bitmap.unpack(allowed, _N)
        for query in small_points(6, 2):
            trace = self._run(traversal, index, query, allowed)
            assert flags[trace.rows].all()
            assert len(set(trace.rows.tolist())) == len(trace.rows) <= _K
            assert (np.diff(trace.distances) >= 0).all()

    def test_it_finds_most_of_the_truth_where_most_rows_pass(
        self, traversal: LabTraversal, index: LabIndex
    ) -> None:
        """At nine rows of ten passing, at least 0.8 of the nearest are found."""
        allowed = small_filter(0.9)
        nodes = bitmap.indices(allowed)
        hits = 0
        for query in small_points(10, 2):
            gaps = ((index.vectors[nodes] - query) ** 2).sum(axis=1)
            truth = index.rows[nodes[np.argsort(gaps)[:_K]]]
            hits += len(np.intersect1d(truth, self._run(traversal, index, query, allowed).rows))
        assert hits >= 0.8 * 10 * _K

    def test_how_it_stops_does_not_change_the_answer(self, traversal: LabTraversal, index: LabIndex) -> None:
        """Blocks asked for one by one, many at once, or predicted: same rows and counters."""
        allowed = small_filter(0.2)
        for query in small_points(6, 2):
            first = self._run(traversal, index, query, allowed)
            for how in ({"lookahead": 1}, {"n_predicted": 0}, {"lookahead": 1, "n_predicted": 0}):
                other = self._run(traversal, index, query, allowed, **how)
                assert np.array_equal(first.rows, other.rows)
                assert first.counters == other.counters

    def test_it_repeats(self, traversal: LabTraversal, index: LabIndex) -> None:
        """The same query twice: the same rounds."""
        for query in small_points(3, 2):
            one, two = (self._run(traversal, index, query, small_filter(0.3)) for _ in range(2))
            assert [units.tolist() for units in one.rounds] == [units.tolist() for units in two.rounds]


class SeedsSuite:
    """Seeds pass the filter, are distinct, and there is at least one where any row passes."""

    @pytest.mark.parametrize("share", [1.0, 0.2, 0.0])
    def test_seeds_pass(self, seeds: Seeds, share: float) -> None:
        """Whatever the share of passing rows."""
        index = small_index()
        graph = LabGraph(index, separate(index))
        allowed = small_filter(share)
        for query in small_points(4, 2):
            picking = seeds.pick(
                graph, query, prepare_query(query, index.code_params), allowed, WalkParams(ef=10, n_seeds=8)
            )
            try:
                while True:
                    assert isinstance(next(picking), Wants)
            except StopIteration as stop:
                found, n_distances = stop.value
            assert len(found) >= 1
            assert len(np.unique(found)) == len(found)
            assert bitmap.unpack(allowed, _N)[found].all()
            assert n_distances >= 0


class PlannerSuite:
    """A planner chooses a traversal from what is known before anything is read, and always the same one."""

    @pytest.mark.parametrize("share", [None, 1.0, 0.3, 0.0])
    def test_it_chooses_a_traversal_that_answers(self, planner: Planner, share: float | None) -> None:
        """Whatever passes, and where there is no filter; with no block in sight."""
        graph = LabGraph(small_index(), separate(small_index()))
        allowed = None if share is None else small_filter(share)
        params = WalkParams(ef=30, n_seeds=16)
        for query in small_points(4, 2):
            graph.show(np.zeros(len(graph.placement.sizes), bool))
            chosen = planner.plan(graph, query, allowed, params)
            again = planner.plan(graph, query, allowed, params)
            assert chosen.name == again.name
            found = run_alone(run_query(graph, chosen, query, allowed, params, _K))
            assert len(found.rows) >= 1


class OrderSuite:
    """An order is a permutation, and the same each time."""

    def test_it_is_a_permutation(self, order: Order) -> None:
        """Every row once."""
        index = small_index()
        numbering = order(index)
        assert np.array_equal(np.sort(numbering), np.arange(_N))
        assert np.array_equal(numbering, order(index))
        index.renumbered(numbering).upper.check(_N)


class LayoutSuite:
    """A layout places every block of every section, once, and units do not overlap."""

    def test_every_block_lies_somewhere(self, layout: Layout) -> None:
        """Unit numbers are valid, and units side by side or apart, never over each other."""
        index = small_index()
        placement = layout(index)
        n_units = len(placement.sizes)
        assert set(placement.unit_of) == set(SECTIONS)
        wanted = {LISTS: index.n_blocks, CODES: index.n_blocks, UPPER: 1}
        wanted[VECTORS] = -(-index.n // index.vector_rows)
        assert {name: len(units) for name, units in placement.unit_of.items()} == wanted
        named = np.concatenate(list(placement.unit_of.values()))
        assert set(named.tolist()) == set(range(n_units))
        assert len(set(placement.keys)) == n_units == len(placement.starts)
        order = np.argsort(placement.starts)
        ends = placement.starts[order] + placement.sizes[order]
        assert (placement.sizes > 0).all()
        assert (ends[:-1] <= placement.starts[order][1:]).all()


class StoreModelSuite:
    """More bytes, or more requests, never end sooner; the same seed gives the same time."""

    def _round_ms(self, model: StoreModel, sizes: list[int]) -> float:
        clock, ended = Clock(), [0.0]
        store = SimulatedStore(model, clock, np.random.default_rng(1))
        store.read(sizes, lambda: ended.append(clock.now_ms))
        clock.run()
        return ended[-1]

    def test_times_and_prices_make_sense(self, model: StoreModel) -> None:
        """Times are finite, repeat, and grow with what is read; so do prices."""
        small, large = self._round_ms(model, [1000] * 8), self._round_ms(model, [10_000_000] * 8)
        assert 0 <= small <= large < float("inf")
        assert small == self._round_ms(model, [1000] * 8)
        assert 0 <= model.cost_usd(1, 1000) <= model.cost_usd(2, 2000)
