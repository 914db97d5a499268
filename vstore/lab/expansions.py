"""The expansions of published filtered traversals, each one numba function; `walks` makes traversals of them.

All keep a beam of passing nodes only and differ in which of a node's surroundings they score.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore.lab.expand import (
    LabSearch,
    count_checks,
    count_two_hop,
    cross,
    degree,
    expansion,
    is_new,
    neighbor,
    offer,
    open_list,
    passes,
    prefetch_list,
    score_node,
)
from vstore_kernels.jit import Int
from vstore_kernels.layout import MAX_TWO_HOP_FOUND
from vstore_kernels.scoring import QueryView
from vstore_kernels.views import TableView

Passing = NDArray[np.uint64]

GAMMA: Final = 12
"""How many times M candidates a node of an ACORN-gamma graph has: selectivity down to 1 / GAMMA."""
AHEAD: Final = 4
"""How many lists ahead are asked for."""
N_BRIDGES: Final = 4
"""How many failing nodes RACORN-1 crosses to a third hop where two hops found nothing."""


@expansion()
def one_hop(node: Int, search: LabSearch, tables: TableView, query: QueryView, passing: Passing) -> Int:
    """The passing neighbours and no more: what is left of HNSW in the subgraph of passing nodes."""
    m = np.int64(0)
    row = open_list(node, search, tables)
    n = degree(row, tables)
    for t in range(n):
        other = neighbor(row, t)
        if passes(passing, other) and is_new(other, search):
            m = offer(other, m, search, tables)
    count_checks(n, search)
    return m


@expansion()
def through(middle: Int, m: Int, limit: Int, search: LabSearch, tables: TableView, passing: Passing) -> Int:
    """ACORN's second hop: offer the new passing nodes of a neighbour's list, until `m` is `limit`."""
    far = open_list(middle, search, tables)
    for s in range(degree(far, tables)):
        if m >= limit:
            break
        other = neighbor(far, s)
        count_checks(1, search)
        if passes(passing, other) and is_new(other, search):
            m = offer(other, m, search, tables)
    return m


@expansion()
def two_hop(node: Int, search: LabSearch, tables: TableView, query: QueryView, passing: Passing) -> Int:
    """ACORN-1 (Patel et al. 2024, section 6.1): all neighbours and theirs, the M0 first that pass."""
    m = np.int64(0)
    row = open_list(node, search, tables)
    n = degree(row, tables)
    count_checks(n, search)
    count_two_hop(search)
    found = np.int64(0)
    for t in range(n):
        if found >= tables.M0:
            break
        middle = neighbor(row, t)
        if passes(passing, middle):
            found += 1
            if is_new(middle, search):
                m = offer(middle, m, search, tables)
        before = m
        m = through(middle, m, m + tables.M0 - found, search, tables, passing)
        found += m - before
    return m


@expansion()
def beyond(middle: Int, m: Int, limit: Int, search: LabSearch, tables: TableView, passing: Passing) -> Int:
    """Cross a new failing node: offer the new passing ones of its list, until `m` is `limit`."""
    far = open_list(middle, search, tables)
    cross(middle, search)
    if far == 0:
        return m
    n_checks = np.int64(0)
    for s in range(tables.M0):
        other = neighbor(far, s)
        if other < 0 or m >= limit:
            break
        if is_new(other, search):
            n_checks += 1
            if passes(passing, other):
                m = offer(other, m, search, tables)
    count_checks(n_checks, search)
    return m


@expansion()
def adaptive(node: Int, search: LabSearch, tables: TableView, query: QueryView, passing: Passing) -> Int:
    """NaviX adaptive-local (Sehgal & Salihoglu 2025), with the estimates of its code.

    One hop where at least half of the neighbours pass. Else two hops: through the failing neighbours nearest
    to the query first where that costs fewer distances than looking through all (directed), else through all
    as they come (blind); both until as many were found as a list has places.
    """
    m = np.int64(0)
    row = open_list(node, search, tables)
    n = degree(row, tables)
    count_checks(n, search)
    n_passing = np.int64(0)
    for t in range(n):
        other = neighbor(row, t)
        if passes(passing, other):
            n_passing += 1
            if is_new(other, search):
                m = offer(other, m, search, tables)
        else:
            prefetch_list(other, tables)
    if 2 * n_passing >= n:
        return m
    count_two_hop(search)
    full = np.float32(0.4) * np.float32(n * n_passing + n_passing)
    if full <= np.float32(n + (n - n_passing)):
        for t in range(n):
            middle = neighbor(row, t)
            if m >= tables.M0:
                break
            if not passes(passing, middle) and is_new(middle, search):
                m = beyond(middle, m, tables.M0, search, tables, passing)
        return m
    n_left = np.int64(0)
    for t in range(n):
        middle = neighbor(row, t)
        if not passes(passing, middle) and is_new(middle, search):
            # The arrays of the heap are free in this kind of walk.
            search.heap_nodes[n_left] = middle
            search.heap_distances[n_left] = score_node(middle, search, tables, query)
            n_left += 1
    while n_left > 0 and m < tables.M0:
        best = np.int64(0)
        for t in range(1, n_left):
            if search.heap_distances[t] < search.heap_distances[best]:
                best = np.int64(t)
        middle = np.int64(search.heap_nodes[best])
        n_left -= 1
        for t in range(best, n_left):
            search.heap_nodes[t] = search.heap_nodes[t + 1]
            search.heap_distances[t] = search.heap_distances[t + 1]
        m = beyond(middle, m, tables.M0, search, tables, passing)
    return m


@expansion()
def bridged(node: Int, search: LabSearch, tables: TableView, query: QueryView, passing: Passing) -> Int:
    """RACORN-1's adaptive search fallback (Kim & Choe 2026), after its description: ACORN-1, and where no new
    passing node lies within two hops, a third hop over failing nodes taken at even strides.

    The paper's own number of bridges is not known here: N_BRIDGES.
    """
    m = np.int64(0)
    row = open_list(node, search, tables)
    n = degree(row, tables)
    count_checks(n, search)
    for t in range(n):
        other = neighbor(row, t)
        if passes(passing, other) and is_new(other, search):
            m = offer(other, m, search, tables)
    count_two_hop(search)
    for t in range(n):
        middle = neighbor(row, t)
        if m >= tables.M0:
            break
        if not passes(passing, middle) and is_new(middle, search):
            m = beyond(middle, m, tables.M0, search, tables, passing)
    if m > 0 or n == 0:
        return m
    for b in range(min(n, N_BRIDGES)):
        middle = neighbor(row, b * n // min(n, N_BRIDGES))
        far = open_list(middle, search, tables)
        n_far = degree(far, tables)
        for c in range(min(n_far, N_BRIDGES)):
            bridge = neighbor(far, c * n_far // min(n_far, N_BRIDGES))
            if not passes(passing, bridge) and is_new(bridge, search):
                m = beyond(bridge, m, tables.M0, search, tables, passing)
    return m


@expansion()
def switched(node: Int, search: LabSearch, tables: TableView, query: QueryView, passing: Passing) -> Int:
    """The engine's own expansion (`vstore_kernels.acorn`) as a plug-in: to measure what being one costs."""
    m = np.int64(0)
    n = np.int64(0)
    n_passing = np.int64(0)
    n_failing = np.int64(0)
    row = open_list(node, search, tables)
    if row != 0:
        while n < tables.M0:
            other = neighbor(row, n)
            if other < 0:
                break
            n += 1
            if passes(passing, other):
                n_passing += 1
                if is_new(other, search):
                    m = offer(other, m, search, tables)
            elif is_new(other, search):
                search.heap_nodes[n_failing] = other
                n_failing += 1
    count_checks(n, search)
    if 2 * n_passing >= n:
        return m
    count_two_hop(search)
    found = n_passing
    for t in range(AHEAD):
        if t == n_failing:
            break
        prefetch_list(np.int64(search.heap_nodes[t]), tables)
    for t in range(n_failing):
        if found >= MAX_TWO_HOP_FOUND:
            break
        if t + AHEAD < n_failing:
            prefetch_list(np.int64(search.heap_nodes[t + AHEAD]), tables)
        before = m
        # A list that was begun is looked through to its end.
        m = beyond(np.int64(search.heap_nodes[t]), m, np.int64(1 << 30), search, tables, passing)
        found += m - before
    return m


@expansion()
def compressed(node: Int, search: LabSearch, tables: TableView, query: QueryView, passing: Passing) -> Int:
    """ACORN-gamma (Patel et al. 2024, section 5.1): passing nodes of the list in its order of nearness, and
    from place M_beta on also those of its neighbours' lists, which the build left out; the M_beta first.

    For graphs of `gamma.build_gamma`, whose lists have GAMMA / 2 times M_beta places.
    """
    m = np.int64(0)
    M_beta = 2 * tables.M0 // GAMMA
    row = open_list(node, search, tables)
    n = degree(row, tables)
    found = np.int64(0)
    for t in range(n):
        if found >= M_beta:
            break
        middle = neighbor(row, t)
        count_checks(1, search)
        if passes(passing, middle):
            found += 1
            if is_new(middle, search):
                m = offer(middle, m, search, tables)
        if t < M_beta:
            continue
        before = m
        m = through(middle, m, m + M_beta - found, search, tables, passing)
        found += m - before
    return m


EXPANSIONS: Final[dict[str, Any]] = {
    "one_hop": one_hop,
    "two_hop": two_hop,
    "adaptive": adaptive,
    "bridged": bridged,
    "switched": switched,
    "compressed": compressed,
}
"""Every shipped expansion by name."""
