"""The Traversal protocol, and the view of a shard that a traversal is given."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from vstore.types import Bitmap, Float32s, Int32s, Int64s, Metric, UInt8s
from vstore_kernels import layout
from vstore_kernels.build import UpperLevels
from vstore_kernels.codes import CodeParams
from vstore_kernels.rotation import padded
from vstore_kernels.search import BlockTables, SearchScratch, results

NO_BLOCKS: Int32s = np.empty(0, dtype=np.int32)


class Wants(NamedTuple):
    """What a traversal lacks: blocks of lists, codes and sketches by number, and the upper levels."""

    lists: Int32s = NO_BLOCKS
    codes: Int32s = NO_BLOCKS
    upper: bool = False
    sketches: Int32s = NO_BLOCKS


class SketchParams(NamedTuple):
    """What all sketches of a shard share: rows of a block, a power of two, and the root mean square error of
    a component in units of a row's own step.
    """

    block_rows: int
    error: float


def sketch_row_bytes(dim: int) -> int:
    """Return the bytes of a row's sketch on storage: a bit a component, and two numbers of 16 bits."""
    return padded(dim) // 8 + 4


class Sketches(NamedTuple):
    """Sketches of consecutive rows: 1-bit codes of what they are beside their cluster's centroid.

    `bits` uint8[m, w / 8], component j being bit j & 7 of byte j >> 3; `bias` and `step` float32[m].
    """

    bits: UInt8s
    bias: Float32s
    step: Float32s


@dataclass(frozen=True, slots=True)
class UpperGraph:
    """The levels above 0, with the codes of their nodes, so that a descent reads nothing else.

    `codes` is uint8[U, row_bytes], in the order of `levels.nodes`.
    """

    levels: UpperLevels
    codes: UInt8s


class GraphView(Protocol):
    """What a traversal may see of one shard. It changes only while the traversal is suspended."""

    @property
    def n(self) -> int:
        """Rows of the shard."""
        ...

    @property
    def metric(self) -> Metric:
        """The collection's metric."""
        ...

    @property
    def code_params(self) -> CodeParams:
        """How vectors became codes."""
        ...

    @property
    def centroids(self) -> Float32s:
        """float32[K, d'] in the space that the shard was built in."""
        ...

    @property
    def cluster_offsets(self) -> Int64s:
        """int64[K + 1]: cluster c holds the node ids from offsets[c] to offsets[c + 1]."""
        ...

    @property
    def upper(self) -> UpperGraph:
        """The upper levels; resident after a yield of Wants(upper=True)."""
        ...

    @property
    def tables(self) -> BlockTables:
        """Which blocks of lists and codes are resident, and where. Not to be changed."""
        ...

    @property
    def sketch_params(self) -> SketchParams | None:
        """How the rows are sketched, None where they are not."""
        ...

    def sketches(self, block: int) -> Sketches:
        """Return a block of sketches; resident after a yield of Wants(sketches=...)."""
        ...


@dataclass(frozen=True, slots=True)
class WalkParams:
    """How wide a traversal searches.

    `ef` is the beam; `n_seeds` the passing points that a cluster-seeded traversal starts from, or that a
    cluster scan looks at in any case; `lookahead` how many of the nearest unexpanded beam entries a stop
    for missing blocks asks for, None being all of them; `n_predicted` how many of the query's nearest
    clusters are read before the walk; `k` the answers wanted, so that a scan may leave out what cannot be
    among them (None keeps all). Neither `lookahead` nor `n_predicted` changes an answer: they trade bytes
    for round trips.

    The scan of clusters in one round (`clusters`) alone looks at `reach`, how far it looks, 1 for a recall of
    0.95; at `apart`, whether the passing rows lie away from the query; at `code_bytes`, about the most
    that it reads; and at `chosen` int32[b], the blocks that it reads where the plan has chosen them already.
    """

    ef: int
    n_seeds: int = 256
    lookahead: int | None = None
    n_predicted: int = 16
    k: int | None = None
    reach: float = 1.0
    apart: bool = False
    code_bytes: int = 8 << 20
    chosen: Int32s | None = None


@dataclass(slots=True)
class Found:
    """A traversal's candidates by estimated distance, ascending, and what finding them took.

    `blocks` int32[b] are those whose codes were looked at, ascending, so that a cache knows what is in use;
    None where a traversal does not say. `spreads` float32[m] are one standard deviation of each estimate,
    where these are not by codes.
    """

    node_ids: Int32s
    distances: Float32s
    n_distances: int = 0
    n_hops: int = 0
    n_filter_checks: int = 0
    n_lists: int = 0
    blocks: Int32s | None = None
    spreads: Float32s | None = None

    @classmethod
    def nothing(cls) -> Found:
        """Return no candidates."""
        return cls(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))

    @classmethod
    def of_walk(cls, scratch: SearchScratch, blocks: Int32s | None = None) -> Found:
        """Return what a walk that ended left in its scratch; `blocks` as above."""
        node_ids, distances = results(scratch)
        counters = scratch.counters
        return cls(
            node_ids,
            distances,
            n_distances=int(counters[layout.N_DISTANCES]),
            n_hops=int(counters[layout.N_HOPS]),
            n_filter_checks=int(counters[layout.N_FILTER_CHECKS]),
            n_lists=int(counters[layout.N_LISTS]),
            blocks=blocks,
        )


Walk = Generator[Wants, None, Found]


class Traversal(Protocol):
    """Finds the candidates of one query in one shard."""

    @property
    def name(self) -> str:
        """The name by which plans know it."""
        ...

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """Yield what it lacks until it is done, then return candidates.

        Args:
            graph: the shard.
            query: float32[d], checked; not normalised.
            passing: rows that may be returned, or None where all may.
            params: the search's width.
        """
        ...
