from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from tests import naive
from vstore_kernels import rotation


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 400), st.integers(0, 99))
def test_rotation_agrees_with_the_slow_twin_and_keeps_lengths(d: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((3, d)).astype(np.float32)
    got = rotation.rotate(rows)
    assert got.shape == (3, rotation.padded(d))
    signs = rotation.signs(rotation.padded(d))
    np.testing.assert_allclose(got, [naive.rotate(row, signs) for row in rows], atol=1e-4)
    np.testing.assert_allclose(got @ got.T, rows @ rows.T, rtol=1e-3, atol=1e-3)


def test_one_large_component_spreads_over_all() -> None:
    for d in (64, 100, 784):
        spike = np.zeros((1, d), np.float32)
        spike[0, 0] = 1
        turned = np.abs(rotation.rotate(spike)[0])
        assert turned.max() < 5 / np.sqrt(turned.size)


def test_signs_are_fixed_by_the_width() -> None:
    # Shards on storage were encoded with these: they may never change.
    assert rotation.signs(64)[0, :8].tolist() == [-1, -1, -1, 1, 1, 1, -1, 1]
    assert rotation.signs(64)[3, :8].tolist() == [1, -1, 1, 1, -1, -1, 1, -1]
    first = rotation.signs(128)
    assert first.shape == (rotation.ROUNDS, 128)
    assert set(np.unique(first)) == {-1.0, 1.0}
    assert abs(float(first.mean())) < 0.2
    with pytest.raises(ValueError, match="multiple of 64"):
        rotation.signs(100)
