"""Parts of kernels give the same from Python and from kernels; packs hold arrays."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from vstore_kernels import packs
from vstore_kernels.jit import DISABLE_JIT, inner, kernel, part


@part()
def total_of(row: np.ndarray, times: int) -> np.float32:
    total = np.float32(0)
    for j in range(row.shape[0]):
        total += row[j] * np.float32(times)
    return total


@inner()
def twice(row: np.ndarray) -> np.float32:
    return np.float32(total_of(row, 2))


@kernel(cache=False)
def totals(words: np.ndarray, out: np.ndarray) -> None:
    rows, factors = packs.grid(words, 0, np.float32), packs.flat(words, 1, np.int64)
    for i in range(rows.shape[0]):
        out[i] = twice(rows[i]) + total_of(rows[i], factors[i])


def test_a_part_gives_the_same_in_a_kernel_and_from_python() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    factors, out = np.array([1, 5, -2]), np.zeros(3, np.float32)
    totals(packs.pack([rows, factors]), out)
    np.testing.assert_array_equal(out, rows.sum(axis=1) * (2 + factors))
    assert [twice(row) for row in rows] == (2 * rows.sum(axis=1)).tolist()
    assert total_of(rows[1], 3) == 3 * rows[1].sum()
    totals(packs.pack([rows, factors]), out)
    np.testing.assert_array_equal(out, rows.sum(axis=1) * (2 + factors))


@pytest.mark.skipif(DISABLE_JIT, reason="nothing is compiled")
def test_collections_go_on_after_a_compilation() -> None:
    @kernel(cache=False)
    def one() -> int:
        return 1

    assert gc.isenabled()
    assert one() == 1
    assert gc.isenabled()


def test_a_pack_holds_addresses_shapes_and_numbers() -> None:
    grid, flat = np.zeros((2, 3), np.float32), np.zeros(4, np.uint8)
    words = packs.pack([grid, flat], [7, 9])
    assert words.tolist() == [grid.ctypes.data, 2, 3, flat.ctypes.data, 4, 1, 7, 9]
    for bad in (np.zeros((4, 4))[:, ::2], np.zeros((1, 1, 1))):
        with pytest.raises(ValueError, match="contiguous"):
            packs.pack([bad])
