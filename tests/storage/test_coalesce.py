"""Coalesced reads give what single reads give, with fewer requests and bounded waste."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.storage import ByteRange
from vstore.storage.base import SparseRange
from vstore.storage.coalesce import plan_coalesce, plan_of, split_fetches

SIZE = 300
BODIES = {"a": bytes(i % 256 for i in range(SIZE)), "b": bytes((i * 7 + 1) % 256 for i in range(SIZE))}

closed = st.tuples(st.sampled_from("ab"), st.integers(0, SIZE), st.integers(0, SIZE)).map(
    lambda t: ByteRange(t[0], min(t[1], t[2]), abs(t[1] - t[2]))
)
open_ended = st.builds(ByteRange, st.sampled_from("ab"), st.integers(0, SIZE - 1), st.none())


def read(asked: ByteRange) -> bytes:
    key, start, length = asked
    return BODIES[key][start : None if length is None else start + length]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(closed, closed, open_ended), max_size=25), st.integers(0, 60), st.integers(1, 200))
def test_coalesced_is_one_by_one(ranges, gap, most):
    fetches = plan_coalesce(ranges, gap, most)
    assert split_fetches(ranges, fetches, [read(f.range) for f in fetches]) == [read(r) for r in ranges]
    served = sorted(p for f in fetches for p in f.parts)
    assert served == [i for i, r in enumerate(ranges) if r.length != 0]
    previous = {}
    for fetch in (f for f in fetches if f.range.length is not None):
        key, start, length = fetch.range
        longest = max(ranges[p].length for p in fetch.parts)
        assert length <= max(most, longest)
        wanted = {o for p in fetch.parts for o in range(ranges[p].start, ranges[p].start + ranges[p].length)}
        assert {start, start + length - 1} <= wanted
        unwanted_run = longest_run(sorted(set(range(start, start + length)) - wanted))
        assert unwanted_run <= gap
        if key in previous:
            last_start, last_end = previous[key]
            # Two that stay apart have a reason to: too far, or too long together.
            assert start - last_end > gap or start + length - last_start > most
        previous[key] = (start, start + length)


def longest_run(offsets: list[int]) -> int:
    best = run = 0
    last = None
    for offset in offsets:
        run = run + 1 if last is not None and offset == last + 1 else 1
        best, last = max(best, run), offset
    return best


def test_examples():
    ranges = [ByteRange("a", 100, 10), ByteRange("a", 0, 10), ByteRange("a", 10, 10), ByteRange("a", 25, 5)]
    assert [(f.range[1:], f.parts) for f in plan_coalesce(ranges, 0, 1000)] == [
        ((0, 20), (1, 2)),
        ((25, 5), (3,)),
        ((100, 10), (0,)),
    ]
    assert len(plan_coalesce(ranges, 70, 1000)) == 1
    assert len(plan_coalesce(ranges, 70, 50)) == 2
    assert plan_coalesce([], 10, 10) == []


def test_sparse_ranges_are_joined_over_their_own_gap_at_most():
    near, far = SparseRange.gap_bytes, SparseRange.gap_bytes + 1
    ranges = [SparseRange("a", 0, 10), SparseRange("a", 10 + near, 10), SparseRange("a", 20 + near + far, 10)]
    assert [f.parts for f in plan_coalesce(ranges, 64 << 10, 8 << 20)] == [(0, 1), (2,)]
    assert len(plan_coalesce(ranges, near - 1, 8 << 20)) == 3
    assert len(plan_coalesce([ByteRange(*asked) for asked in ranges], 64 << 10, 8 << 20)) == 1


def test_a_store_that_does_not_say_sends_one_each():
    ranges = [ByteRange("a", 0, 1), ByteRange("a", 1, 0), ByteRange("a", 1, 1)]
    assert [f.parts for f in plan_of(object(), ranges)] == [(0,), (2,)]
