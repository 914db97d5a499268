"""The scan of a passing set with codes, and exact selection of the nearest."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.codes import QueryCode, check_row_bytes
from vstore_kernels.jit import Int, kernel
from vstore_kernels.layout import blocks_of
from vstore_kernels.rescore import keep
from vstore_kernels.scoring import QueryView, prefetch_row, score
from vstore_kernels.tables import BlockTables

_AHEAD: Final = 4
_SMALL: Final = 512


def scan_codes(
    query_code: QueryCode,
    tables: BlockTables,
    node_ids: NDArray[np.integer],
    top: int,
    k: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the `top` nodes of least estimated distance: (int32 [m], float32 [m]), ascending, m <= top.

    With `k`, nodes are left out that the error of their estimates puts beyond the k nearest (`undecided`), so
    that m is what the data make it, and a wide `top` costs nothing where few are in doubt.

    Args:
        query_code: from `codes.prepare_query`.
        tables: every code block that holds one of `node_ids` must be resident.
        node_ids: integers [m]; fastest when ascending. Equal distances keep this order.
        top: how many are wanted, at least 1.
        k: answers wanted of them, at least 1; None keeps `top` whatever their errors.

    Raises:
        TypeError: ids that are not integers.
        ValueError: an id out of range, top or k below 1, codes of another length, or a block not
            resident.
    """
    check_row_bytes(query_code, tables.row_bytes)
    ids = gate.node_ids("node_ids", node_ids, tables.n)
    if top < 1:
        raise ValueError(f"top is {top}; at least 1 is needed")
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed, or None")
    if not tables.codes_resident:
        blocks = blocks_of(ids, tables.block_shift)
        absent = blocks[tables.code_table[blocks] == 0]
        if absent.size:
            raise ValueError(f"the codes of block {absent[0]} are not resident; set_codes it before the scan")
    capacity = min(top, ids.size)
    nodes, distances = np.empty(capacity, np.int32), np.empty(capacity, np.float32)
    size = 0
    if capacity:
        size = scan_kernel(
            tables.code_table,
            tables.block_shift,
            tables.row_bytes,
            query_code.packed,
            query_code.factors,
            query_code.bits,
            query_code.width,
            query_code.bias_at,
            ids,
            nodes,
            distances,
            k or 0,
            np.empty(k or 1, np.int32),
            np.empty(k or 1, np.float32),
        )
    return nodes[:size], distances[:size]


def topk(distances: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions (int64 [min(k, m)]) of the least `distances` (float32 [m]), by (distance,
    position).

    Raises:
        TypeError: not float32.
        ValueError: k below 0.
    """
    gate.array("distances", distances, np.float32, 1)
    if k < 0:
        raise ValueError(f"k is {k}; it must not be negative")
    k = min(k, distances.size)
    if k == 0:
        return np.empty(0, np.int64)
    if distances.size > _SMALL and k < distances.size:
        edge = distances[np.argpartition(distances, k - 1)[k - 1]]
        # NaN sorts last, so an edge of NaN keeps everything.
        candidates = np.flatnonzero(~(distances > edge))
        return candidates[np.argsort(distances[candidates], kind="stable")[:k]]
    return np.argsort(distances, kind="stable")[:k]


@kernel()
def scan_kernel(
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    node_ids: NDArray[np.int32],
    nodes: NDArray[np.int32],
    distances: NDArray[np.float32],
    k: Int,
    bound_nodes: NDArray[np.int32],
    bounds: NDArray[np.float32],
) -> Int:
    """As `scan_codes`, of `node_ids` (int32 [m]) that were checked; return how many nodes were kept.

    `nodes` int32 and `distances` float32, both [top], are mutated, and with k > 0 so are `bound_nodes` int32
    and `bounds` float32, both [k]; the others are as in `near_scan.scan_run`.
    """
    query = QueryView(packed, factors, bits, width, bias_at)
    mask = (np.int64(1) << block_shift) - 1
    capacity = nodes.shape[0]
    size = np.int64(0)
    n_bounds = np.int64(0)
    for t in range(node_ids.shape[0]):
        if t + _AHEAD < node_ids.shape[0]:
            ahead = np.int64(node_ids[t + _AHEAD])
            prefetch_row(code_table[ahead >> block_shift] + (ahead & mask) * row_bytes, row_bytes)
        node = np.int64(node_ids[t])
        address = code_table[node >> block_shift] + (node & mask) * row_bytes
        distance = score(address, query)
        if size < capacity or distance < distances[size - 1]:
            size, n_bounds, _ = keep(
                address,
                node,
                distance,
                query,
                nodes,
                distances,
                size,
                capacity,
                k,
                bound_nodes,
                bounds,
                n_bounds,
            )
    return size
