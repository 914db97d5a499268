"""HNSW construction (Malkov & Yashunin 2018) by batches on a frozen prefix (ParlayANN, Manohar et al. 2024).

A batch of nodes searches the graph of all earlier batches, so its searches are independent of each other; the
reverse links are then grouped by target and each target is rewritten once. The graph is therefore the same
for any number of threads. Nodes enter by descending level, which is a random order still (levels are drawn
independently) and lets the entry point stand from the start. Within a batch they go in id order: ids are in
cluster order, so neighbouring searches share cache lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.build_rows import aligned, rows_for_build
from vstore_kernels.insertion import InsertScratch, add_reverse_links, find_links, link_orphans
from vstore_kernels.layout import MAX_NODES, NO_NODE
from vstore_kernels.parallel import run_chunks

Progress = Callable[[int, int], None]
OnPrefix = Callable[["HNSWGraph", NDArray[np.int32]], None]

_MAX_LEVEL: Final = 15
_BATCH_FRACTION: Final = 0.05
_MAX_BATCH: Final = 16_384
_CHUNK_NODES: Final = 32
_CHUNK_TARGETS: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class UpperLevels:
    """The levels above 0. They link ranks: positions in `nodes`."""

    nodes: NDArray[np.int32]
    """int32 [U], ascending: the nodes with a level of 1 or more."""
    rows: NDArray[np.int64]
    """int64 [U + 1]: level l >= 1 of rank r is row `rows[r] + l - 1` of `links`."""
    links: NDArray[np.int32]
    """int32 [rows[U], M] of ranks, -1 padded."""
    entry_rank: int
    max_level: int

    def check(self, n: int) -> None:
        """Check every index, so that the kernels may trust them.

        Raises:
            TypeError: a wrong dtype.
            ValueError: an index out of bounds for a shard of `n` nodes, or arrays that do not agree.
        """
        gate.array("nodes", self.nodes, np.int32, 1)
        gate.array("rows", self.rows, np.int64, 1)
        gate.array("links", self.links, np.int32, 2)
        U, R = self.nodes.size, self.links.shape[0]
        if U == 0 or self.rows.size != U + 1 or self.rows[0] != 0 or self.rows[-1] != R:
            raise ValueError(
                f"upper levels of {U} nodes, {self.rows.size} row offsets and {R} rows do not agree"
            )
        heights = np.diff(self.rows)
        if self.nodes[0] < 0 or self.nodes[-1] >= n or np.any(np.diff(self.nodes) <= 0):
            raise ValueError(f"the upper nodes must ascend from 0 to at most {n - 1}")
        if heights.min() < 1 or heights.max() > _MAX_LEVEL:
            raise ValueError(f"node levels must be from 1 to {_MAX_LEVEL}")
        if not 0 <= self.entry_rank < U or self.max_level != heights[self.entry_rank]:
            raise ValueError(
                f"entry rank {self.entry_rank} with level {self.max_level} is not one of {U} nodes"
            )
        if R and (self.links.min() < NO_NODE or self.links.max() >= U):
            raise ValueError(f"upper links must be ranks below {U}, or {NO_NODE}")
        row_level = np.arange(R) - np.repeat(self.rows[:-1], heights) + 1
        linked = self.links != NO_NODE
        low = np.where(linked, heights[np.where(linked, self.links, 0)], _MAX_LEVEL) < row_level[:, None]
        if np.any(low):
            raise ValueError("an upper link leads to a node that does not reach its level")


@dataclass(frozen=True, slots=True, eq=False)
class HNSWGraph:
    """A built graph over the rows of a space."""

    neighbors: NDArray[np.int32]
    """int32 [n, 2 M], -1 padded: level 0."""
    upper_nodes: NDArray[np.int32]
    upper_rows: NDArray[np.int64]
    upper_links: NDArray[np.int32]
    entry_rank: int
    max_level: int

    @property
    def upper(self) -> UpperLevels:
        """The levels above 0."""
        return UpperLevels(
            self.upper_nodes, self.upper_rows, self.upper_links, self.entry_rank, self.max_level
        )


def build_hnsw(
    space: NDArray[np.float32],
    M: int = 16,
    ef_construction: int = 200,
    seed: int = 0,
    n_threads: int = 1,
    progress: Progress | None = None,
    n_held_out: int = 0,
    on_prefix: OnPrefix | None = None,
) -> HNSWGraph:
    """Return the HNSW graph of `space` (float32 [n, d'], n >= 1, finite, C-contiguous, best in cluster
    order).

    The graph depends on space, M, ef_construction, seed and n_held_out only. `progress(done, n)` is called on
    this thread after each batch. Ctrl-C stops within some milliseconds. Beside `space` (4 d' bytes a row) a
    build holds 2 d' bytes a row, 8 M for the lists and some 50: 436 measured at d' = 128, M = 16, 2 threads.

    `n_held_out` random nodes of level 0 (fewer where there are fewer, and never the last node) are inserted
    last; before that, `on_prefix(graph, held_out)` gets the graph of all others, in which no row names one of
    `held_out` (int32 [m], ascending) and their own rows are empty: their vectors are queries that the graph
    has never seen. The arrays belong to the build: they are to be read only, and during the call only.

    Raises:
        TypeError: not float32.
        ValueError: no rows, too many rows, or a setting out of range.
    """
    gate.array("space", space, np.float32, 2)
    n = space.shape[0]
    if not 1 <= n < MAX_NODES:
        raise ValueError(f"space has {n} rows; a graph needs from 1 to {MAX_NODES - 1}")
    if M < 2 or ef_construction < 1 or n_threads < 1 or n_held_out < 0:
        raise ValueError(
            f"M is {M}, ef_construction {ef_construction}, n_threads {n_threads}, n_held_out {n_held_out}; "
            "at least 2, 1, 1 and 0 are needed"
        )
    builder = Builder(space, M, max(ef_construction, M), seed, n_threads)
    return builder.insert_from(1, builder.n_last(n_held_out), progress, on_prefix)


def _levels(rng: np.random.Generator, n: int, M: int) -> NDArray[np.int32]:
    """Return int32 [n]: floor(-log(draw) / log(M)) of uniform draws from (0, 1], at most _MAX_LEVEL.

    By comparison with powers of 1 / M: a logarithm's last bit differs from machine to machine.
    """
    limits = np.array([1 / M**level for level in range(_MAX_LEVEL, 0, -1)])
    draws: Any = 1 - rng.random(n)
    levels: NDArray[np.int32] = (_MAX_LEVEL - np.searchsorted(limits, draws, side="left")).astype(np.int32)
    return levels


class Builder:
    """The arrays of a graph under construction; upper links hold node ids until `finish`.

    Args:
        space: float32 [n, d'].
        M, ef, seed, n_threads: as for `build_hnsw`, `ef` at least M.
    """

    def __init__(self, space: NDArray[np.float32], M: int, ef: int, seed: int, n_threads: int) -> None:
        n = space.shape[0]
        rng = np.random.default_rng(seed)
        order = rng.permutation(n)
        levels: Any = _levels(rng, n, M)
        if levels.max() == 0:
            levels[order[0]] = 1
        self._rows = rows_for_build(space, n_threads)
        self._distance: Any = np.int32 if self._rows.dtype == np.int16 else np.float32
        self._M, self._ef, self._n_threads = M, ef, n_threads
        self._levels = levels
        self._order = order[np.argsort(-levels[order], kind="stable")].astype(np.int32)
        self._neighbors = aligned(n, 2 * M, np.int32)
        self._neighbors[:] = NO_NODE
        self._scratch: list[InsertScratch] = []
        self._make_upper()

    def insert_from(
        self, done: int, n_held_out: int, progress: Progress | None = None, on_prefix: OnPrefix | None = None
    ) -> HNSWGraph:
        """Insert the nodes from place `done` of the order on, in batches, and return the finished graph.

        Args:
            done: nodes that are in the graph, at least 1.
            n_held_out: of those inserted last.
            progress, on_prefix: as for `build_hnsw`.
        """
        n = self._levels.size
        prefix = n - n_held_out
        while done < n:
            if done == prefix and on_prefix is not None:
                on_prefix(self.graph(), self.nodes_from(prefix))
            left = (prefix if done < prefix else n) - done
            size = max(1, min(_MAX_BATCH, int(done * _BATCH_FRACTION), left))
            self.insert(done, done + size)
            done += size
            if progress is not None:
                progress(done, n)
        return self.finish()

    def insert(self, start: int, stop: int) -> None:
        """Insert the nodes `order[start:stop]`, all earlier ones being in the graph."""
        nodes = np.sort(self._order[start:stop])
        chunks = [nodes[s : s + _CHUNK_NODES] for s in range(0, nodes.size, _CHUNK_NODES)]
        run_chunks(self._find, chunks, self._n_threads)
        self._reverse(nodes, nodes, self._neighbors)
        for level in range(1, int(self._levels[nodes].max()) + 1):
            there = nodes[self._levels[nodes] >= level]
            self._reverse(there, self._first_row[there] + (level - 1), self._upper, level)

    def n_last(self, wanted: int) -> int:
        """Return how many nodes of level 0, up to `wanted`, can go in after all others."""
        return int(min(wanted, np.count_nonzero(self._levels == 0), self._levels.size - 1))

    def nodes_from(self, start: int) -> NDArray[np.int32]:
        """Return int32 [n - start], ascending: the nodes inserted from place `start` of the order on."""
        return np.sort(self._order[start:])

    def finish(self) -> HNSWGraph:
        """Return the finished graph."""
        link_orphans(self._rows, self._neighbors, np.zeros(self._levels.size, np.int32))
        return self.graph()

    def graph(self) -> HNSWGraph:
        """Return the graph as it stands, its upper links turned into ranks; level 0 is not copied."""
        ranks = np.searchsorted(self._upper_nodes, self._upper).astype(np.int32)
        ranks[self._upper == NO_NODE] = NO_NODE
        entry = int(self._order[0])
        return HNSWGraph(
            self._neighbors,
            self._upper_nodes,
            self._upper_rows,
            ranks,
            int(np.searchsorted(self._upper_nodes, entry)),
            int(self._levels[entry]),
        )

    def _make_upper(self) -> None:
        """Make empty upper levels for the levels drawn."""
        self._upper_nodes = np.flatnonzero(self._levels > 0).astype(np.int32)
        self._upper_rows = np.zeros(self._upper_nodes.size + 1, np.int64)
        np.cumsum(self._levels[self._upper_nodes], out=self._upper_rows[1:])
        self._first_row = np.full(self._levels.size, NO_NODE, np.int32)
        self._first_row[self._upper_nodes] = self._upper_rows[:-1]
        self._upper = np.full((int(self._upper_rows[-1]), self._M), NO_NODE, np.int32)

    def _find(self, nodes: NDArray[np.int32]) -> None:
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = InsertScratch(self._levels.size, self._ef, 2 * self._M, self._distance)
        find_links(
            self._rows,
            nodes,
            self._levels,
            self._first_row,
            self._neighbors,
            self._upper,
            int(self._order[0]),
            self._M,
            self._ef,
            *scratch.arrays,
        )
        self._scratch.append(scratch)

    def _reverse(
        self, nodes: NDArray[np.int32], rows: NDArray[np.int32], links: NDArray[np.int32], level: int = 0
    ) -> None:
        """Add the links from the rows' targets back to `nodes`, whose own links are in `rows` of `links`."""
        own = links[rows]
        linked = own != NO_NODE
        targets = own[linked]
        sources = np.repeat(nodes, linked.sum(axis=1))
        grouping = np.argsort(targets, kind="stable")
        targets, sources = targets[grouping], np.ascontiguousarray(sources[grouping])
        owners, starts = np.unique(targets, return_index=True)
        bounds = np.append(starts, targets.size).astype(np.int64)
        owner_rows = owners if level == 0 else self._first_row[owners] + (level - 1)
        longest = int(np.diff(bounds).max(initial=0)) + links.shape[1]
        stops = range(0, owners.size, _CHUNK_TARGETS)

        def add(start: int) -> None:
            add_reverse_links(
                self._rows,
                links,
                owners,
                owner_rows,
                bounds,
                sources,
                start,
                min(start + _CHUNK_TARGETS, owners.size),
                np.empty(longest, np.int32),
                np.empty(longest, self._distance),
                np.empty(links.shape[1], np.int32),
            )

        run_chunks(add, stops, self._n_threads)
