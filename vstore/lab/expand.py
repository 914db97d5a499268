"""A researcher's own expansion function, compiled into the resumable beam search.

An expansion says which nodes are scored when a node is visited. It is one numba function:

    @expansion
    def one_hop(node, search, tables, query, passing):
        m = 0
        row = open_list(node, search, tables)
        for t in range(degree(row, tables)):
            other = neighbor(row, t)
            if passes(passing, other) and is_new(other, search):
                m = offer(other, m, search, tables)
        return m

`open_list` and `offer` note what is not resident. After an expansion that lacked something the kernel takes
everything back, asks the same of the next nodes of its frontier, stops, and asks again when the blocks are
there; so an expansion knows nothing of blocks, and the answer is that of a search with everything resident.
The walk around it is that of `vstore_kernels.walk`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import vstore_kernels
from vstore_kernels.acorn import prefetch_start
from vstore_kernels.bitmap import passes
from vstore_kernels.intrinsics import load_i32, prefetch
from vstore_kernels.jit import Int, inner, kernel
from vstore_kernels.layout import N_DISTANCES, N_FILTER_CHECKS, N_HOPS, N_LISTS, N_TWO_HOPS, NO_NODE
from vstore_kernels.needs import _forget, _want_codes, _want_lists, seeds_ready
from vstore_kernels.scoring import QueryView, score
from vstore_kernels.views import CURRENT, EPOCH, N_SEEDS, N_STATE, SIZE, TableView
from vstore_kernels.walk import _next_node, _prefetch_following, _take

__all__ = [
    "compile_walk", "count_checks", "count_two_hop", "cross", "degree", "expansion", "is_new", "neighbor",
    "offer", "open_list", "passes", "prefetch_list", "score_node",
]  # fmt: skip


class LabSearch(NamedTuple):
    """`vstore_kernels.views.SearchView`, and what expansions read in every step.

    `heap_nodes` (int32) and `heap_distances` (float32), of M0 + M0^2 places, are an expansion's to use.
    """

    state: NDArray[np.int64]
    counters: NDArray[np.int64]
    beam_nodes: NDArray[np.int32]
    beam_distances: NDArray[np.float32]
    heap_nodes: NDArray[np.int32]
    heap_distances: NDArray[np.float32]
    seeds: NDArray[np.int32]
    visited: NDArray[np.uint32]
    buffer: NDArray[np.int32]
    failing: NDArray[np.int32]
    wanted: NDArray[np.uint8]
    need_lists: NDArray[np.int32]
    need_codes: NDArray[np.int32]
    n_needs: NDArray[np.int64]
    epoch: np.uint32
    """The stamp of this search in `visited`."""


CROSSED: Final = N_STATE
"""Where `state` counts the nodes that an expansion crossed."""
N_LAB_STATE: Final = N_STATE + 1

# Not cached one by one: numba would not see that a kernel which they call has changed. The walk is.
expansion: Any = partial(inner, cache=False)
"""Decorator of expansion functions: (node, search, tables, query, passing) -> how many were offered."""


@expansion()
def open_list(node: Int, search: LabSearch, tables: TableView) -> Int:
    """Return the address of a node's neighbour list; 0, which has no neighbours, where it is not resident."""
    address = tables.lists[node >> tables.block_shift]
    if not tables.resident and address == 0:
        _want_lists(search, tables, node)
        return np.int64(0)
    search.counters[N_LISTS] += 1
    return np.int64(address + (node & ((np.int64(1) << tables.block_shift) - 1)) * tables.M0 * 4)


@expansion()
def degree(row: Int, tables: TableView) -> Int:
    """Return how many neighbours stand in an opened list."""
    n = np.int64(0)
    if row != 0:
        while n < tables.M0 and load_i32(row, 4 * n) != NO_NODE:
            n += 1
    return n


@expansion()
def neighbor(row: Int, t: Int) -> Int:
    """Return neighbour `t` of an opened list; -1, for t below M0, after its last."""
    return np.int64(load_i32(row, 4 * t))


@expansion()
def is_new(node: Int, search: LabSearch) -> bool:
    """Return whether a node was neither offered nor crossed before."""
    return bool(search.visited[node] != search.epoch)


@expansion()
def offer(node: Int, m: Int, search: LabSearch, tables: TableView) -> Int:
    """Have a new node scored, as number `m` of this expansion; return m + 1.

    An expansion offers, and crosses, at most M0 + M0^2 nodes; what is more is not taken.
    """
    if m == search.buffer.shape[0]:
        return np.int64(m)
    if not tables.resident and tables.codes[node >> tables.block_shift] == 0:
        _want_codes(search, tables, node)
    else:
        prefetch_start(tables, node)
    search.visited[node] = search.epoch
    search.buffer[m] = node
    return np.int64(m + 1)


@expansion()
def cross(node: Int, search: LabSearch) -> None:
    """Mark a new node as seen without having it scored: its list was looked through."""
    if search.state[CROSSED] == search.failing.shape[0]:
        return
    search.visited[node] = search.epoch
    search.failing[search.state[CROSSED]] = node
    search.state[CROSSED] += 1


@expansion()
def prefetch_list(node: Int, tables: TableView) -> None:
    """Ask the processor for the list of a node that will be opened soon."""
    mask = (np.int64(1) << tables.block_shift) - 1
    prefetch(tables.lists[node >> tables.block_shift], (node & mask) * tables.M0 * 4)


@expansion()
def score_node(node: Int, search: LabSearch, tables: TableView, query: QueryView) -> np.float32:
    """Return the estimated distance of a node, counted; 0 where its codes are not resident, and noted."""
    address = tables.codes[node >> tables.block_shift]
    if not tables.resident and address == 0:
        _want_codes(search, tables, node)
        return np.float32(0)
    search.counters[N_DISTANCES] += 1
    mask = (np.int64(1) << tables.block_shift) - 1
    return np.float32(score(address + (node & mask) * tables.row_bytes, query))


@expansion()
def count_checks(n: Int, search: LabSearch) -> None:
    """Count filter checks."""
    search.counters[N_FILTER_CHECKS] += n


@expansion()
def count_two_hop(search: LabSearch) -> None:
    """Count an expansion that went beyond the node's own neighbours."""
    search.counters[N_TWO_HOPS] += 1


@kernel(cache=False)
def _undo(search: LabSearch, m: Int) -> None:
    for t in range(m):
        search.visited[search.buffer[t]] = np.uint32(0)
    for t in range(search.state[CROSSED]):
        search.visited[search.failing[t]] = np.uint32(0)
    search.state[CROSSED] = 0


# Placeholders: `compile_walk` makes copies of the two functions below that name an expansion here.
_expand: Any = None
_look_ahead: Any = None


def _look_ahead_template(
    search: LabSearch, tables: TableView, query: QueryView, passing: NDArray[np.uint64], lookahead: Int
) -> None:
    """Note what the next nodes of the beam lack, each expansion taken back."""
    at = search.state[CURRENT] + 1
    looked = 1
    while at < search.state[SIZE] and looked < lookahead:
        node = np.int64(search.beam_nodes[at])
        at += 1
        if node >= 0:
            looked += 1
            _undo(search, _expand(node, search, tables, query, passing))


def _walk_template(
    state: Any, counters: Any, beam_nodes: Any, beam_distances: Any, heap_nodes: Any, heap_distances: Any,
    seeds: Any, visited: Any, buffer: Any, failing: Any, wanted: Any, need_lists: Any, need_codes: Any,
    n_needs: Any, list_table: Any, code_table: Any, block_shift: Int, M0: Int, row_bytes: Int,
    resident: bool, packed: Any, factors: Any, bits: Int, width: Int, bias_at: Int, passing: Any,
    lookahead: Int,
) -> bool:  # fmt: skip
    """As `vstore_kernels.walk.walk`, with an expansion of its own."""
    n_needs[:] = 0
    search = LabSearch(
        state, counters, beam_nodes, beam_distances, heap_nodes, heap_distances, seeds, visited, buffer,
        failing, wanted, need_lists, need_codes, n_needs, np.uint32(state[EPOCH]),
    )  # fmt: skip
    tables = TableView(list_table, code_table, block_shift, M0, row_bytes, resident)
    query = QueryView(packed, factors, bits, width, bias_at)
    if state[N_SEEDS] > 0:
        if not seeds_ready(search, tables, passing):
            return False
        _take(seeds, state[N_SEEDS], search, tables, query, passing)
        state[N_SEEDS] = 0
        state[CURRENT] = 0
    while True:
        node = _next_node(search)
        if node < 0:
            return True
        _prefetch_following(search, tables)
        state[CROSSED] = 0
        n_distances = counters[N_DISTANCES]
        n_checks = counters[N_FILTER_CHECKS]
        n_lists = counters[N_LISTS]
        n_two_hops = counters[N_TWO_HOPS]
        m = _expand(node, search, tables, query, passing)
        if not resident and n_needs[0] + n_needs[1] > 0:
            _undo(search, m)
            _look_ahead(search, tables, query, passing, lookahead)
            _forget(search)
            counters[N_DISTANCES] = n_distances
            counters[N_FILTER_CHECKS] = n_checks
            counters[N_LISTS] = n_lists
            counters[N_TWO_HOPS] = n_two_hops
            return False
        counters[N_HOPS] += 1
        beam_nodes[state[CURRENT]] = ~node
        _take(buffer, m, search, tables, query, passing)


@functools.cache
def compile_walk(expand: Any) -> Any:
    """Return the beam search around an expansion function: a kernel with the arguments of `walk.walk`.

    It is compiled at its first call, in seconds, and kept in numba's cache until a kernel, this file or the
    file of the expansion changes.
    """
    digest = _digest(expand)
    names: dict[str, Any] = {"_expand": expand}
    names["_look_ahead"] = kernel(cache=False)(_copy(_look_ahead_template, names, digest))
    return kernel()(_copy(_walk_template, names, digest))


def _copy(template: Any, names: dict[str, Any], digest: str) -> Any:
    """Return a function that reads some of its globals from `names`; numba caches it by its own name."""
    function = types.FunctionType(template.__code__, {**template.__globals__, **names})
    function.__name__ = f"{template.__name__}_{digest}"
    function.__qualname__ = function.__name__
    function.__module__ = template.__module__
    return function


def _digest(expand: Any) -> str:
    """Return a digest of an expansion's name and of every file that its walk is compiled from."""
    function = getattr(expand, "py_func", expand)
    own = [Path(__file__), Path(inspect.getsourcefile(function) or __file__)]
    digest = hashlib.blake2b(f"{function.__module__}.{function.__qualname__}".encode(), digest_size=8)
    for path in (*sorted(Path(vstore_kernels.__path__[0]).glob("*.py")), *own):
        digest.update(path.read_bytes())
    return digest.hexdigest()
