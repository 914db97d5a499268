"""A shard as the lab's traversals see it: everything in memory, and only what was asked for visible."""

from __future__ import annotations

import numpy as np

from vstore.errors import InvalidInput
from vstore.lab.index import LabIndex
from vstore.lab.layouts import CODES, LISTS, Placement
from vstore.traverse.base import Sketches, UpperGraph
from vstore.types import Bools, Float32s, Int32s, Int64s, Metric
from vstore_kernels.clusters import nearest_clusters
from vstore_kernels.codes import CodeParams
from vstore_kernels.search import BlockTables


class LabTables(BlockTables):
    """Block tables over whole arrays, of which the blocks that were asked for are visible.

    Args:
        index: keeps the arrays.
    """

    __slots__ = ("_code_addresses", "_list_addresses", "_whole")

    def __init__(self, index: LabIndex) -> None:
        super().__init__(index.n, index.M0, index.codes.shape[1], index.block_shift)
        self.set_all_lists(np.ascontiguousarray(index.neighbors))
        self.set_all_codes(index.codes)
        self._list_addresses, self._code_addresses = self.list_table.copy(), self.code_table.copy()
        self._whole = True

    def show(self, lists: Bools, codes: Bools) -> None:
        """Make the marked blocks visible (bool[n_blocks] each) and the others not."""
        self.list_table[:] = np.where(lists, self._list_addresses, 0)
        self.code_table[:] = np.where(codes, self._code_addresses, 0)
        self._whole = False

    def show_all(self) -> None:
        """Make every block visible: the kernels then check none."""
        self.list_table[:], self.code_table[:] = self._list_addresses, self._code_addresses
        self._whole = True

    @property
    def resident(self) -> bool:
        """Whether every block is visible by `show_all`."""
        return self._whole


class LabGraph:
    """One shard for one query at a time; a `GraphView`, and what only the lab asks.

    Args:
        index: the shard.
        placement: its layout, which says what becomes visible with what.
    """

    def __init__(self, index: LabIndex, placement: Placement) -> None:
        self.index = index
        self.placement = placement
        self.tables: BlockTables = LabTables(index)
        self.upper = UpperGraph(index.upper, np.ascontiguousarray(index.codes[index.upper.nodes]))
        by_cluster = np.argsort(index.cluster_of, kind="stable")
        self._members = by_cluster.astype(np.int32)
        self._bounds = np.searchsorted(index.cluster_of[by_cluster], np.arange(len(index.centroids) + 1))
        self._in_runs = bool((np.diff(index.cluster_of) >= 0).all())

    def show(self, units: Bools) -> None:
        """Make the blocks of the marked units visible, bool[U]."""
        assert isinstance(self.tables, LabTables)
        unit_of = self.placement.unit_of
        self.tables.show(units[unit_of[LISTS]], units[unit_of[CODES]])

    def show_all(self) -> None:
        """Make everything visible."""
        assert isinstance(self.tables, LabTables)
        self.tables.show_all()

    def members(self, cluster: int) -> Int32s:
        """Return int32[m], ascending: the node ids of a cluster."""
        return self._members[self._bounds[cluster] : self._bounds[cluster + 1]]

    def nearest(self, query: Float32s) -> Int32s:
        """Return int32[K]: the clusters, nearest to the query (float32[d], raw) first."""
        return nearest_clusters(query, self.centroids, self.metric)

    @property
    def n(self) -> int:
        """Rows."""
        return self.index.n

    @property
    def metric(self) -> Metric:
        """Of the data."""
        return self.index.metric

    @property
    def code_params(self) -> CodeParams:
        """How vectors became codes."""
        return self.index.code_params

    @property
    def centroids(self) -> Float32s:
        """float32[K, d'] in the space of the graph."""
        return self.index.centroids

    @property
    def sketch_params(self) -> None:
        """As `GraphView.sketch_params`: a lab's graph has no sketches."""
        return None

    def sketches(self, block: int) -> Sketches:
        """As `GraphView.sketches`: there are none."""
        raise InvalidInput(f"sketches {block} were asked for; a graph of the lab has none")

    @property
    def cluster_offsets(self) -> Int64s:
        """int64[K + 1]: cluster c holds the node ids from offsets[c] to offsets[c + 1].

        Raises:
            InvalidInput: the id order is another than by cluster.
        """
        if not self._in_runs:
            raise InvalidInput("clusters are runs of ids in cluster order only; use `members`, or that order")
        return self._bounds.astype(np.int64)
