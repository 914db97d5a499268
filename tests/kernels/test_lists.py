from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from tests import naive
from vstore_kernels import lists

N = 1 << 20
M0 = 8
rows_of = st.lists(st.lists(st.integers(0, N - 1), max_size=M0, unique=True), min_size=1, max_size=12)


def table(rows: list[list[int]]) -> np.ndarray:
    out = np.full((len(rows), M0), -1, np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


@settings(max_examples=examples(80), deadline=None)
@given(rows_of, st.integers(0, N - 12))
def test_lists_come_back_sorted(rows: list[list[int]], base: int) -> None:
    data = lists.encode_lists(table(rows), base)
    assert data.tobytes() == naive.encode_lists(rows, base)
    back = lists.decode_lists(data, base, len(rows), M0, N)
    assert np.array_equal(back, table([sorted(row) for row in rows]))


@settings(max_examples=examples(150), deadline=None)
@given(rows_of, st.data())
def test_damaged_bytes_are_refused_or_stay_in_bounds(rows: list[list[int]], data: st.DataObject) -> None:
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
    with pytest.raises(ValueError, match="do not lie"):
        lists.decode_lists(np.zeros(4, np.uint8), 8, 4, M0, 10)
