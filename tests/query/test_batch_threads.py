"""How a batch is shared out: every task once, in order, errors passed on; receipts made when looked at."""

from __future__ import annotations

import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vstore.query.batch import LEAST_SLICE, Workers, _slices
from vstore.query.receipts import LaterReceipts
from vstore.types import Receipt
from vstore_kernels.scan_tile import TILE


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_tasks", [0, 1, 2, 7, 40])
def test_every_task_is_done_once_and_results_keep_their_order(n_threads, n_tasks) -> None:
    done = []
    with Workers(n_threads) as workers:
        for _ in range(2):
            found = workers.run(lambda task: (done.append(task), task * task)[1], range(n_tasks))
            assert found == [task * task for task in range(n_tasks)]
    assert sorted(done) == sorted(2 * [*range(n_tasks)])


def test_several_threads_work_at_once() -> None:
    together = threading.Barrier(2, timeout=60)
    with Workers(2) as workers:
        threads = workers.run(lambda _: (together.wait(), threading.get_ident())[1], range(2))
    assert threading.get_ident() in threads
    assert len(set(threads)) == 2


@pytest.mark.parametrize("failing", [0, 3, 9])
def test_an_error_is_passed_on_and_ends_the_work(failing) -> None:
    def task(number: int) -> int:
        if number == failing:
            raise ValueError(f"task {number}")
        return number

    with Workers(2) as workers:
        with pytest.raises(ValueError, match=f"task {failing}"):
            workers.run(task, range(10))
        assert workers.run(task, range(failing)) == [*range(failing)]


@given(st.integers(0, 20_000), st.integers(1, 5_000), st.integers(1, 8))
def test_slices_cover_all_queries_in_order(m, most, n_threads) -> None:
    parts = [*_slices(m, most, n_threads)]
    assert [i for part in parts for i in range(part.start, part.stop)] == [*range(m)]
    sizes = [part.stop - part.start for part in parts]
    assert all(0 < size <= most for size in sizes)
    if n_threads > 1 and most >= m:
        # None is larger than those before it, and all but the last fill tiles.
        assert sizes == sorted(sizes, reverse=True)
        assert all(size >= LEAST_SLICE and size % TILE == 0 for size in sizes[:-1])


def test_receipts_are_made_when_looked_at_and_only_once() -> None:
    made = []

    def make(i: int) -> Receipt:
        made.append(i)
        return Receipt(n_matching=i)

    receipts = LaterReceipts(5, make)
    there = Receipt(n_matching=100)
    receipts.put(2, there)
    assert (len(receipts), made) == (5, [])
    assert receipts[2] is there
    assert receipts[-1] is receipts[4]
    assert made == [4]
    assert [receipt.n_matching for receipt in receipts[1:3]] == [1, 100]
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            receipts[beyond]
    assert [receipt.n_matching for receipt in receipts] == [0, 1, 100, 3, 4]
    assert sorted(made) == [0, 1, 3, 4]
    assert pickle.loads(pickle.dumps(receipts)) == [*receipts]
