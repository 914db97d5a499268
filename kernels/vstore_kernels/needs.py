"""Which blocks a stopped search wants: those of the best part of its frontier, each once, the most urgent first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.bitmap import passes
from vstore_kernels.intrinsics import load_i32
from vstore_kernels.jit import kernel
from vstore_kernels.layout import NO_NODE


@kernel()
def want(
    table: NDArray[np.int64], block: int, wanted: NDArray[np.uint8], out: NDArray[np.int32], m: int
) -> int:
    """Append `block` to `out[:m]` when it is absent from `table` and not wanted yet; return the new length."""
    if table[block] == 0 and wanted[block] == 0:
        wanted[block] = 1
        out[m] = block
        return m + 1
    return m


@kernel()
def needs_of_node(
    node: int,
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    M0: int,
    filtered: bool,
    passing: NDArray[np.uint64],
    visited: NDArray[np.uint32],
    epoch: np.uint32,
    wanted: NDArray[np.uint8],
    need_lists: NDArray[np.int32],
    need_codes: NDArray[np.int32],
    n_needs: NDArray[np.int64],
) -> None:
    """Add what the expansion of `node` lacks, as far as the resident lists tell.

    Args:
        node: node id.
        list_table: int64 [n_blocks], addresses.
        code_table: int64 [n_blocks], addresses.
        block_shift: log2 of the rows of a block.
        M0: columns of a list block.
        filtered: expand as ACORN does, through `passing` (uint64 bitmap); else every neighbour counts.
        passing: uint64 bitmap.
        visited: uint32 [n], read only.
        epoch: this search's stamp.
        wanted: uint8 [2, n_blocks], what is in the answer already; mutated.
        need_lists: int32 [n_blocks], mutated.
        need_codes: int32 [n_blocks], mutated.
        n_needs: int64 [2], lengths of the two, mutated.
    """
    mask = (np.int64(1) << block_shift) - 1
    address = list_table[node >> block_shift]
    if address == 0:
        n_needs[0] = want(list_table, node >> block_shift, wanted[0], need_lists, n_needs[0])
        return
    start = (node & mask) * M0 * 4
    degree = 0
    n_passing = 0
    for t in range(M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        degree += 1
        if not filtered or passes(passing, other):
            n_passing += 1
            if visited[other] != epoch:
                n_needs[1] = want(code_table, other >> block_shift, wanted[1], need_codes, n_needs[1])
    if 2 * n_passing >= degree:
        return
    for t in range(degree):
        middle = np.int64(load_i32(address, start + 4 * t))
        if passes(passing, middle) or visited[middle] == epoch:
            continue
        far_address = list_table[middle >> block_shift]
        if far_address == 0:
            n_needs[0] = want(list_table, middle >> block_shift, wanted[0], need_lists, n_needs[0])
            continue
        far_start = (middle & mask) * M0 * 4
        for s in range(M0):
            other = np.int64(load_i32(far_address, far_start + 4 * s))
            if other == NO_NODE:
                break
            if visited[other] != epoch and passes(passing, other):
                n_needs[1] = want(code_table, other >> block_shift, wanted[1], need_codes, n_needs[1])
