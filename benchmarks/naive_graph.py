"""What a graph costs on object storage when it is read hop by hop: the same engine, its cache off.

HNSW, and ACORN-1 under a filter, from the graph's entry point: each stop asks for what the nearest
unexpanded node lacks and nothing else, so every hop whose blocks were not read yet is a round trip, and
two-hop expansion reads lists of neighbours too. What is read are blocks in cluster order, kept until the
query ends, which favours it: a store of single nodes would make every hop a round trip.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vstore.cache import BlockCache
from vstore.query.pipeline import passing_rows
from vstore.query.planner import width_for
from vstore.query.rounds import Rounds
from vstore.query.search import Engine
from vstore.settings import Prices
from vstore.shard import sections
from vstore.shard.session import ShardSession
from vstore.traverse import TRAVERSALS, WalkParams
from vstore_kernels.distance import exact_distances


def search(collection: Any, query: Any, k: int, filter: Any, recall: float) -> tuple[list[int], Rounds, int]:
    """Return the k best ids of the first shard, the rounds that finding them took, and the hops of the walk.

    Args:
        collection: open; its own cache is not used.
        query: float32[d].
        k: answers wanted.
        filter: a compiled filter, or None.
        recall: stands for a beam width by the engine's fixed rules.
    """
    view, ef = collection._view(), width_for(recall, k, None)
    live = view.shards[0]
    cache = BlockCache(0)
    engine = Engine(live.shard.store, cache, Prices())
    session = ShardSession(live.shard, cache)
    rounds = Rounds(live.shard.store)
    found: list[int] = []
    hops = [0]

    def pipeline() -> Any:
        passing = yield from passing_rows(session, live, filter, engine.passing)
        walk = TRAVERSALS["hnsw" if passing is None else "acorn1"].walk(
            session, query, passing, WalkParams(ef, lookahead=1, n_predicted=0)
        )
        wants = next(walk)
        try:
            while True:
                yield session.wanted(wants)
                wants = walk.send(None)
        except StopIteration as stop:
            candidates = stop.value.node_ids[: 4 * k]
            hops[0] = stop.value.n_hops
        if not len(candidates):
            return
        yield session.keys(sections.VECTORS, np.unique(candidates // session.head.vector_block_rows))
        exact = exact_distances(query, session.vector_rows(candidates), None, session.metric)
        best = candidates[np.argsort(exact, kind="stable")[:k]]
        yield session.keys(sections.PAYLOAD, np.unique(best // session.head.payload_block_rows))
        for row in best.tolist():
            block, offset = divmod(row, session.head.payload_block_rows)
            found.append(session.get(sections.PAYLOAD, block)[offset].key)

    rounds.run([(session, pipeline())])
    return found, rounds, hops[0]
