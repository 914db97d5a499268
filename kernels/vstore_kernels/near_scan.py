"""The scan of the nearest clusters: inverted lists by codes, that stop once nearer rows stop coming.

Whole clusters are scanned in the order of their distance from the query. The scan is satisfied when it has
looked at a budget of passing rows and the last two fifths of them brought nothing among the k least upper
bounds. Rows in an order that says nothing of their distance would bring k / m at the m-th row, so that of k
= 10 five entered in that stretch: where a filter makes clusters a poor guide, the scan goes on by itself;
where they are a good one, it costs little more than its budget. (Early termination of inverted lists by a
learned or fixed count alone, as Li et al. 2020, SIGMOD, does not see the filter.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.codes import QueryCode, check_row_bytes
from vstore_kernels.intrinsics import trailing_zeros
from vstore_kernels.jit import Int, inner, kernel, part
from vstore_kernels.layout import NO_NODE
from vstore_kernels.rescore import keep
from vstore_kernels.scoring import QueryView, prefetch_passing, score
from vstore_kernels.tables import BlockTables

SCANNED: Final = 0
KEPT: Final = 1
BOUNDS: Final = 2
LAST: Final = 3
N_SCAN: Final = 4
"""Places of a scan's numbers: rows scanned, nodes in the beam, upper bounds held, and how many rows had been
scanned when one last entered these."""
QUIET: Final = (2, 5)
"""The share of the rows scanned, as a fraction, that must have brought nothing."""


class NearScan:
    """One query's scan of clusters, which stops where codes are not resident and goes on when they are.

    Args:
        query_code: from `codes.prepare_query`.
        tables: of the shard; only codes are read.
        passing: uint64 bitmap of the nodes that may be returned, or None where all may.
        budget: passing rows that are looked at in any case, at least 1.
        top: nodes to keep at most, at least 1.
        k: answers wanted, at least 1, at most `top`.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a number out of range, a short bitmap, codes of another length.
    """

    def __init__(
        self,
        query_code: QueryCode,
        tables: BlockTables,
        passing: NDArray[np.uint64] | None,
        budget: int,
        top: int,
        k: int,
    ) -> None:
        check_row_bytes(query_code, tables.row_bytes)
        if min(budget, k) < 1 or k > top:
            raise ValueError(
                f"budget is {budget}, k {k}, top {top}; budget and k must be at least 1, k at most top"
            )
        if passing is not None and gate.array("passing", passing, np.uint64, 1).size * 64 < tables.n:
            raise ValueError(f"a bitmap of {passing.size} words does not cover {tables.n} nodes")
        self._code, self._tables, self._budget, self._k = query_code, tables, budget, k
        self._passing = np.empty(0, np.uint64) if passing is None else passing
        self._filtered = passing is not None
        self._nodes = np.full(top, NO_NODE, np.int32)
        self._distances = np.empty(top, np.float32)
        self._bound_nodes, self._bounds = np.empty(k, np.int32), np.empty(k, np.float32)
        self._scan = np.zeros(N_SCAN, np.int64)

    @property
    def n_scanned(self) -> int:
        """Passing rows looked at so far."""
        return int(self._scan[SCANNED])

    @property
    def least(self) -> int:
        """Rows that will have been looked at when the scan is satisfied, if nothing more enters."""
        quiet, whole = QUIET
        return max(self._budget, -(-int(self._scan[LAST]) * whole // (whole - quiet)))

    @property
    def satisfied(self) -> bool:
        """Whether the scan may end."""
        return bool(satisfied(self._scan, self._budget))

    def run(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> int:
        """Scan clusters, nearest first, until satisfied; return how many were.

        Args:
            starts: int64 [c], the first node of each.
            stops: int64 [c], beyond its last; the code blocks of passing nodes between must be resident.

        Raises:
            TypeError: a wrong dtype.
            ValueError: ranges out of range.
        """
        gate.array("starts", starts, np.int64, 1)
        gate.array("stops", stops, np.int64, 1)
        if starts.size != stops.size or (starts.size and (starts.min() < 0 or stops.max() > self._tables.n)):
            raise ValueError(
                f"{starts.size} starts and {stops.size} stops; they must agree, within {self._tables.n} rows"
            )
        code, tables = self._code, self._tables
        return int(
            _run(
                starts,
                stops,
                self._passing,
                self._filtered,
                tables.code_table,
                tables.block_shift,
                tables.row_bytes,
                code.packed,
                code.factors,
                code.bits,
                code.width,
                code.bias_at,
                self._budget,
                self._k,
                self._nodes,
                self._distances,
                self._bound_nodes,
                self._bounds,
                self._scan,
            )
        )

    def results(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the nodes kept (int32 [m]) and their estimates (float32 [m], ascending)."""
        kept = int(self._scan[KEPT])
        return self._nodes[:kept].copy(), self._distances[:kept].copy()


@inner()
def satisfied(scan: NDArray[np.int64], budget: Int) -> bool:
    """Return whether a scan (int64 [N_SCAN]) has seen its budget, and then nothing new for long enough."""
    quiet = scan[SCANNED] - scan[LAST]
    return bool(scan[SCANNED] >= budget and quiet * QUIET[1] >= scan[SCANNED] * QUIET[0])


@kernel()
def _run(
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    passing: NDArray[np.uint64],
    filtered: bool,
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    budget: Int,
    k: Int,
    nodes: NDArray[np.int32],
    distances: NDArray[np.float32],
    bound_nodes: NDArray[np.int32],
    bounds: NDArray[np.float32],
    scan: NDArray[np.int64],
) -> Int:
    query = QueryView(packed, factors, bits, width, bias_at)
    for c in range(starts.shape[0]):
        if satisfied(scan, budget):
            return np.int64(c)
        scan_run(
            starts[c],
            stops[c],
            passing,
            filtered,
            code_table,
            block_shift,
            row_bytes,
            query,
            nodes,
            distances,
            nodes.shape[0],
            k,
            bound_nodes,
            bounds,
            scan,
        )
    return np.int64(starts.shape[0])


@part()
def scan_run(
    start: Int,
    stop: Int,
    passing: NDArray[np.uint64],
    filtered: bool,
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    query: QueryView,
    nodes: NDArray[np.int32],
    distances: NDArray[np.float32],
    capacity: Int,
    k: Int,
    bound_nodes: NDArray[np.int32],
    bounds: NDArray[np.float32],
    scan: NDArray[np.int64],
) -> None:
    """Score the passing nodes from `start` up to `stop` and keep those that may be among the k nearest.

    `passing` is a uint64 bitmap, read when `filtered`; `code_table` int64, the addresses of code blocks of
    `1 << block_shift` rows of `row_bytes`. Mutated: the beam `nodes` int32 and `distances` float32, both
    [>= capacity], `bound_nodes` int32 and `bounds` float32 [>= k], and `scan` int64 [N_SCAN]. Who scans
    several runs calls `ask_first` of the next before each.
    """
    if start >= stop:
        return
    mask = (np.int64(1) << block_shift) - 1
    first, last = start >> 6, (stop - 1) >> 6
    size, n_bounds, m, entered_at = scan[KEPT], scan[BOUNDS], scan[SCANNED], scan[LAST]
    following = _word(first, start, stop, passing, filtered)
    for w in range(first, last + 1):
        word = following
        if w < last:
            # On their way while those before them are scored.
            following = _word(w + 1, start, stop, passing, filtered)
            prefetch_passing(following, w * 64 + 64, code_table, block_shift, row_bytes)
        while word != np.uint64(0):
            node = w * 64 + trailing_zeros(word)
            word &= word - np.uint64(1)
            address = code_table[node >> block_shift] + (node & mask) * row_bytes
            distance = score(address, query)
            m += 1
            if size < capacity or distance < distances[size - 1]:
                size, n_bounds, entered = keep(
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
                if entered:
                    entered_at = m
    scan[KEPT], scan[BOUNDS], scan[SCANNED], scan[LAST] = size, n_bounds, m, entered_at


@inner()
def _word(w: Int, start: Int, stop: Int, passing: NDArray[np.uint64], filtered: bool) -> np.uint64:
    """Return word `w` of the bitmap of the passing nodes from `start` up to `stop`."""
    ones = ~np.uint64(0)
    word = passing[w] if filtered else ones
    if w == start >> 6:
        word &= ones << np.uint64(start & 63)
    if w == (stop - 1) >> 6:
        word &= ones >> np.uint64(63 - ((stop - 1) & 63))
    return np.uint64(word)


@part()
def ask_first(
    start: Int,
    stop: Int,
    passing: NDArray[np.uint64],
    filtered: bool,
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
) -> None:
    """Prefetch the codes that `scan_run` of these nodes scores first; arguments as there."""
    if start < stop:
        word = _word(start >> 6, start, stop, passing, filtered)
        prefetch_passing(word, start >> 6 << 6, code_table, block_shift, row_bytes)
