"""Traversal policies: how a shard's candidates are found.

A traversal is a generator: it yields the blocks that it lacks and is resumed when they are there, so
one driver can serve many shards in one parallel round, count the rounds, or simulate the store. It
sees a shard only through `GraphView`. Imports kernels, types and errors; never storage.

`base` the protocols; `scan`, `near_scan`, `clusters`, `sketches`, `hnsw`, `acorn` the policies; `scratch`
pooled kernel memory.
"""

from vstore.traverse.acorn import Acorn1, ClusterAcorn
from vstore.traverse.base import Found, GraphView, Traversal, Walk, WalkParams, Wants
from vstore.traverse.clusters import ClusterScan
from vstore.traverse.hnsw import HNSW, ResultFilterHNSW
from vstore.traverse.near_scan import NearestClusters
from vstore.traverse.scan import CodeScan
from vstore.traverse.sketches import SketchScan

TRAVERSALS: dict[str, Traversal] = {
    traversal.name: traversal
    for traversal in (
        CodeScan(),
        NearestClusters(),
        ClusterScan(),
        SketchScan(),
        HNSW(),
        ResultFilterHNSW(),
        Acorn1(),
        ClusterAcorn(),
    )
}
"""Every shipped traversal by name."""

__all__ = [
    "HNSW",
    "TRAVERSALS",
    "Acorn1",
    "ClusterAcorn",
    "ClusterScan",
    "CodeScan",
    "Found",
    "GraphView",
    "NearestClusters",
    "ResultFilterHNSW",
    "SketchScan",
    "Traversal",
    "Walk",
    "WalkParams",
    "Wants",
]
