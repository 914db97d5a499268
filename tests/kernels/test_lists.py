from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from tests import naive
from vstore_kernels import lists, pair_lists

N = 1 << 20
M0 = 8
rows_of = st.lists(st.lists(st.integers(0, N - 1), max_size=M0, unique=True), min_size=1, max_size=12)
# Most links within the block, as in cluster order.
near_rows = st.lists(st.lists(st.integers(90, 120), max_size=M0, unique=True), min_size=1, max_size=20)


def table(rows: list[list[int]]) -> np.ndarray:
    out = np.full((len(rows), M0), -1, np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def others(rows: list[list[int]], base: int) -> list[list[int]]:
    """The rows without links of a node to itself."""
    return [[x for x in row if x != base + i] for i, row in enumerate(rows)]


@settings(max_examples=examples(80), deadline=None)
@given(rows_of, st.integers(0, N - 12))
def test_lists_come_back_sorted(rows: list[list[int]], base: int) -> None:
    rows = others(rows, base)
    data = lists.encode_lists(table(rows), base)
    back = lists.decode_lists(data, base, len(rows), M0, N)
    assert np.array_equal(back, table([sorted(row) for row in rows]))


@settings(max_examples=examples(80), deadline=None)
@given(near_rows)
def test_the_bits_are_the_slow_twins(rows: list[list[int]]) -> None:
    rows = others(rows, 100)
    data = lists.encode_lists(table(rows), 100)
    numbers = naive.list_numbers(rows, 100)
    assert data[:5].tobytes() == lists.MARKER
    contexts = [context for context, _ in numbers]
    assert naive.read_list_numbers(data[5:].tobytes(), contexts) == [value for _, value in numbers]
    back = lists.decode_lists(data, 100, len(rows), M0, 200)
    assert np.array_equal(back, table([sorted(row) for row in rows]))


@settings(max_examples=examples(80), deadline=None)
@given(rows_of, st.integers(0, N - 12))
def test_lists_of_the_first_version_are_read(rows: list[list[int]], base: int) -> None:
    data = np.frombuffer(naive.encode_lists_v1(rows, base), np.uint8)
    back = lists.decode_lists(data, base, len(rows), M0, N)
    assert np.array_equal(back, table([sorted(row) for row in rows]))


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=32))
def test_code_lengths_make_a_whole_code(counts: list[int]) -> None:
    lengths = pair_lists.code_lengths(np.array(counts))
    used = [length for length in lengths.tolist() if length]
    assert [length > 0 for length in lengths.tolist()] == [count > 0 for count in counts]
    assert max(used, default=0) <= pair_lists.MAX_CODE_BITS
    if len(used) > 1:
        assert sum(2.0**-length for length in used) == 1


@settings(max_examples=examples(300), deadline=None)
@given(st.one_of(rows_of, near_rows), st.booleans(), st.data())
def test_damaged_bytes_are_refused_or_stay_in_bounds(
    rows: list[list[int]], first_version: bool, data: st.DataObject
) -> None:
    rows = others(rows, 0)
    if first_version:
        encoded = bytearray(naive.encode_lists_v1(rows, 0))
    else:
        encoded = bytearray(lists.encode_lists(table(rows), 0).tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    damaged = np.frombuffer(bytes(encoded[:cut]), np.uint8)
    try:
        back = lists.decode_lists(damaged, 0, len(rows), M0, N)
    except ValueError:
        return
    assert back.shape == (len(rows), M0)
    assert back.min() >= -1
    assert back.max() < N


def test_damaged_pairs_say_what_is_wrong() -> None:
    data = lists.encode_lists(table([[101, 5], [100, 102, 190], [101, 3]]), 100)
    assert lists.decode_lists(data, 100, 3, M0, 200)[0].tolist()[:2] == [5, 101]
    for change, reason in (
        (data[:-1], "end inside"),
        (np.append(data, np.uint8(0)), "follow the last"),
        (data[:9], "not whole"),
        (np.concatenate([data[:5], np.full(1, 33, np.uint8), data[6:]]), "not whole"),
    ):
        with pytest.raises(ValueError, match=reason):
            lists.decode_lists(change, 100, 3, M0, 200)
    with pytest.raises(ValueError, match="outside the shard"):
        lists.decode_lists(data, 100, 3, M0, 150)
    with pytest.raises(ValueError, match="longer than M0"):
        lists.decode_lists(data, 100, 3, 2, 200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([1], "end inside"),
        ([9, 0], "longer than M0"),
        ([1, 1], "outside the shard"),
        ([0, 0], "follow the last"),
        ([128, 128, 128, 128, 128, 1], "5 bytes"),
        ([], "cannot hold"),
    ],
)
def test_malformed_bytes_say_what_is_wrong(data: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        lists.decode_lists(np.array(data, np.uint8), 0, 1, M0, 10)


def test_rows_that_cannot_be_encoded_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1"):
        lists.encode_lists(table([[1], [3, 3]]), 0)
    with pytest.raises(ValueError, match="row 0"):
        lists.encode_lists(np.array([[-2, -1]], np.int32), 0)
    with pytest.raises(ValueError, match="row 1"):
        lists.encode_lists(table([[1], [8]]), 7)
    with pytest.raises(ValueError, match="do not lie"):
        lists.decode_lists(np.zeros(4, np.uint8), 8, 4, M0, 10)
