from __future__ import annotations

import dataclasses
import signal
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import clustered, examples, whole_numbers

from tests import naive
from vstore_kernels import beam, build, build_rows, clusters, gaps, insertion, parallel
from vstore_kernels.select import select_neighbors


def batches_of(n: int) -> list[tuple[int, int]]:
    out, done = [], 1
    while done < n:
        size = max(1, min(int(done * build._BATCH_FRACTION), n - done))
        out.append((done, done + size))
        done += size
    return out


@settings(max_examples=examples(10), deadline=None)
@given(st.integers(2, 90), st.integers(2, 5), st.integers(4, 30), st.integers(0, 99))
def test_the_graph_is_the_slow_twins(n: int, M: int, ef: int, seed: int) -> None:
    space = whole_numbers(n, 3, seed)
    drawn = build.Builder(space, M, max(ef, M), seed, 1)
    # The graph is that of the rows as they were coded.
    coded = build_rows.rows_for_build(space, 1).astype(np.float64)
    links = naive.build(coded, drawn._levels.tolist(), drawn._order.tolist(), M, max(ef, M), batches_of(n))
    graph = build.build_hnsw(space, M, ef, seed)
    graph.upper.check(n)
    upper = graph.upper
    for rank, node in enumerate(upper.nodes):
        for level in range(1, int(drawn._levels[node]) + 1):
            row = naive.row_of(upper.links, upper.rows[rank] + level - 1)
            assert [int(upper.nodes[r]) for r in row] == links[level][int(node)]
    named = {x for row in links[0].values() for x in row}
    for node in range(n):
        row = naive.row_of(graph.neighbors, node)
        # Nodes that nobody named were linked afterwards, from rows that differ by that alone.
        if set(row) <= named:
            assert row == links[0][node]


@pytest.mark.parametrize("n", [1, 2, 3, 17, 300])
def test_every_row_is_well_formed(n: int) -> None:
    graph = build.build_hnsw(clustered(n, 6), 4, 20)
    assert graph.neighbors.shape == (n, 8)
    graph.upper.check(n)
    assert graph.upper_nodes.size >= 1
    assert graph.max_level >= 1
    for node in range(n):
        row = naive.row_of(graph.neighbors, node)
        assert graph.neighbors[node, len(row) :].tolist() == [-1] * (8 - len(row))
        assert len(set(row)) == len(row)
        assert node not in row
        assert all(0 <= x < n for x in row)
        assert row or n == 1


def test_every_node_is_named_by_some_row() -> None:
    rng = np.random.default_rng(0)
    graph = build.build_hnsw(rng.standard_normal((1500, 48)).astype(np.float32), 4, 20)
    named = np.unique(graph.neighbors[graph.neighbors >= 0])
    assert named.size == 1500


def test_threads_change_nothing() -> None:
    space = clustered(1500, 8)
    seen = []
    one = build.build_hnsw(space, 6, 30, seed=3)
    two = build.build_hnsw(space, 6, 30, seed=3, n_threads=3, progress=lambda *at: seen.append(at))
    for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(two), strict=True):
        assert np.array_equal(a, b)
    other = build.build_hnsw(space, 6, 30, seed=4)
    assert not np.array_equal(one.neighbors, other.neighbors)
    assert seen[-1] == (1500, 1500)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_held_out_nodes_go_in_last() -> None:
    space = clustered(700, 8)
    seen = []

    def on_prefix(graph: build.HNSWGraph, held_out: np.ndarray) -> None:
        graph.upper.check(700)
        seen.append((graph.neighbors.copy(), held_out))

    one, two = (build.build_hnsw(space, 6, 30, 3, threads, None, 50, on_prefix) for threads in (1, 2))
    for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(two), strict=True):
        assert np.array_equal(a, b)
    (rows, held_out), (again, _) = seen
    assert np.array_equal(rows, again)
    assert held_out.dtype == np.int32
    assert held_out.size == np.unique(held_out).size == 50
    assert not np.isin(held_out, one.upper_nodes).any()
    assert not np.isin(rows, held_out).any()
    assert (rows[held_out] == -1).all()
    assert (np.delete(rows, held_out, axis=0)[:, 0] >= 0).all()
    assert (one.neighbors[held_out, 0] >= 0).all()


def test_a_tiny_build_holds_out_what_it_can() -> None:
    sizes = []
    for n in (1, 2, 5):
        build.build_hnsw(
            clustered(n, 4), 4, 8, n_held_out=50, on_prefix=lambda g, ids: sizes.append(ids.size)
        )
    assert len(sizes) == 2
    assert sizes[0] == 1
    assert 1 <= sizes[1] <= 4


def test_levels_fall_by_the_factor_M() -> None:
    levels = build.Builder(np.zeros((100_000, 1), np.float32), 16, 16, 0, 1)._levels
    assert (levels >= 1).mean() == pytest.approx(1 / 16, rel=0.05)
    assert (levels >= 2).mean() == pytest.approx(1 / 256, rel=0.2)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 12))
def test_beam_inserts_after_equals(distances: list[int], capacity: int) -> None:
    nodes, values = np.empty(capacity, np.int32), np.empty(capacity, np.float32)
    for insert in (beam.insert, insertion.insert):
        size, expected = 0, []
        for node, distance in enumerate(distances):
            at, size = insert(nodes, values, size, capacity, node, np.float32(distance))
            assert at == naive.beam_insert(expected, capacity, node, distance)
        assert list(zip(values[:size].tolist(), nodes[:size].tolist(), strict=True)) == expected


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_heap_gives_ascending_order(distances: list[int]) -> None:
    nodes, values = np.empty(40, np.int32), np.empty(40, np.float32)
    size = 0
    for node, distance in enumerate(distances):
        size = beam.heap_push(nodes, values, size, node, np.float32(distance))
    out = []
    while size:
        out.append((float(values[0]), int(nodes[0])))
        size = beam.heap_pop(nodes, values, size)
    assert out == sorted((float(d), node) for node, d in enumerate(distances))


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 30), st.integers(1, 10), st.integers(0, 99), st.booleans(), st.booleans())
def test_selection_agrees_with_the_slow_twin(
    n: int, capacity: int, seed: int, copies: bool, floating: bool
) -> None:
    space = whole_numbers(n + 1, gaps.STRIDE, seed)
    if copies:
        space = np.round(space / 100) * 100
    rows = space if floating else space.astype(np.int16)
    distances = ((space[:-1] - space[-1]) ** 2).sum(axis=1).astype(np.float32 if floating else np.int32)
    order = np.argsort(distances, kind="stable").astype(np.int32)
    out = np.empty(capacity, np.int32)
    m = select_neighbors(rows, order, distances[order], n, capacity, out)
    expected = naive.select_neighbors(space, order.tolist(), distances[order].tolist(), capacity)
    assert out[:m].tolist() == expected


def test_upper_levels_from_storage_are_checked() -> None:
    good = build.build_hnsw(clustered(300, 6), 4, 20).upper
    good.check(300)
    bad_links = good.links.copy()
    bad_links[0, 0] = good.nodes.size
    low = int(np.flatnonzero(np.diff(good.rows) == 1)[0])
    bad_level = good.links.copy()
    bad_level[int(good.rows[good.entry_rank]) + good.max_level - 1, 0] = low
    changes = [
        {"links": bad_links},
        {"entry_rank": good.nodes.size},
        {"max_level": good.max_level + 1},
        {"rows": good.rows[:-1].copy()},
        {"rows": good.rows[::-1].copy()},
        {"nodes": good.nodes[::-1].copy()},
    ]
    if good.max_level > 1:
        changes.append({"links": bad_level})
    for change in changes:
        with pytest.raises(ValueError, match=r"\w"):
            dataclasses.replace(good, **change).check(300)
    with pytest.raises(ValueError, match="must ascend"):
        good.check(5)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        build.build_hnsw(np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="M is 1"):
        build.build_hnsw(np.zeros((5, 3), np.float32), M=1)
    with pytest.raises(ValueError, match="n_held_out -1"):
        build.build_hnsw(np.zeros((5, 3), np.float32), n_held_out=-1)


def work_on(work: str, space: np.ndarray, progress: build.Progress) -> None:
    # Again and again: the signal arrives while some round is at work.
    while True:
        if work == "clusters":
            clusters.cluster_order(space, 32, n_threads=3, progress=progress)
        else:
            build.build_hnsw(space, 8, 60, n_threads=3, progress=progress)


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C interrupt: a process that was begun in the background may ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("work", ["clusters", "graph"])
@pytest.mark.parametrize("at_report", [1, 5])
def test_ctrl_c_ends_all_threads(work: str, at_report: int) -> None:
    space = clustered(6000, 24)
    begun, reports = threading.Event(), []

    def progress(done: int, n: int) -> None:
        reports.append(done)
        if len(reports) == at_report:
            begun.set()

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = threading.active_count()
    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        work_on(work, space, progress)
    helper.join()
    assert threading.active_count() == before
    # The threads that were stopped wrote nowhere else.
    assert np.array_equal(space, clustered(6000, 24))


def test_a_failing_chunk_stops_the_others() -> None:
    done: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> None:
        if item == 3:
            raise KeyboardInterrupt
        with lock:
            done.append(item)

    with pytest.raises(KeyboardInterrupt):
        parallel.run_chunks(work, range(10_000), 3)
    assert len(done) < 10_000
    done.clear()
    parallel.run_chunks(lambda item: work(item + 10), range(50), 4)
    assert sorted(done) == list(range(10, 60))
