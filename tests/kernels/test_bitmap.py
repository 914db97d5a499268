from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from tests import naive
from vstore_kernels import bitmap

flags_of = st.lists(st.booleans(), max_size=300).map(lambda x: np.array(x, np.bool_))


@settings(max_examples=examples(60), deadline=None)
@given(flags_of)
def test_pack_and_back(flags: np.ndarray) -> None:
    packed = bitmap.pack(flags)
    assert packed.dtype == np.uint64
    assert packed.size == -(-flags.size // 64)
    assert np.array_equal(bitmap.unpack(packed, flags.size), flags)
    assert bitmap.popcount(packed) == flags.sum()
    assert bitmap.indices(packed).tolist() == np.flatnonzero(flags).tolist()
    assert [bitmap.test(packed, i) for i in range(flags.size)] == flags.tolist()


@settings(max_examples=examples(60), deadline=None)
@given(flags_of, st.lists(st.integers(0, 300), max_size=8))
def test_range_counts(flags: np.ndarray, cuts: list[int]) -> None:
    offsets = np.array(sorted({0, flags.size, *(c for c in cuts if c < flags.size)}), np.int64)
    counted = bitmap.range_counts(bitmap.pack(flags), offsets)
    assert counted.tolist() == naive.range_counts(flags.tolist(), offsets.tolist())


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 200), st.data())
def test_bits_are_set_and_cleared_in_place(n: int, data: st.DataObject) -> None:
    ids = np.array(data.draw(st.lists(st.integers(0, n - 1))), np.int64)
    bits = bitmap.empty(n)
    bitmap.set_bits(bits, ids)
    assert set(bitmap.indices(bits).tolist()) == set(ids.tolist())
    whole = bitmap.full(n)
    assert bitmap.popcount(whole) == n
    bitmap.clear_bits(whole, ids)
    assert np.array_equal(whole, bitmap.without(bitmap.full(n), bits))
    assert bitmap.popcount(bitmap.both(whole, bits)) == 0


def test_wrong_input_is_refused_by_name() -> None:
    bits = bitmap.empty(64)
    with pytest.raises(ValueError, match="node ids must be from 0 to 63"):
        bitmap.set_bits(bits, np.array([64]))
    with pytest.raises(ValueError, match="-1"):
        bitmap.clear_bits(bits, np.array([-1]))
    with pytest.raises(TypeError, match="int64"):
        bitmap.popcount(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="has 2 words"):
        bitmap.unpack(bits, 65)
    with pytest.raises(ValueError, match="combined"):
        bitmap.both(bits, bitmap.empty(65))
    for offsets in ([0, 65], [5, 3], [-1, 3], []):
        with pytest.raises(ValueError, match="offsets"):
            bitmap.range_counts(bits, np.array(offsets, np.int64))
