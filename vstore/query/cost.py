"""About how long a search from memory takes, by its plans: enough to tell short ones from long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vstore.ingest.view import CollectionView
from vstore.query.planner import Plan
from vstore.query.resident import PlannedShard
from vstore.shard.reader import Shard

View = CollectionView[Shard]

_WALK_US: Final = 1.5
"""Of one place of a walk's beam, about: some thirty distances by codes."""
_CODES_US: Final = 0.04
"""Of one code that a scan scores, about."""
_CHUNK_US: Final = 30.0
"""Of one batch of rows in the memtable, beside its rows."""
_VECTOR_US: Final = 0.1
"""Of one row of the memtable, scored exactly, about."""


def work_us(view: View, planned: Sequence[PlannedShard], plans: Sequence[Plan]) -> float:
    """Return about how long one query takes, in microseconds; infinite where it may be very long."""
    total = 20.0 + view.memtable.n_live * _VECTOR_US + len(view.memtable.chunks) * _CHUNK_US
    return total + sum(plan_us(shard, plan) for shard, plan in zip(planned, plans, strict=True))


def plan_us(shard: PlannedShard, plan: Plan) -> float:
    """Return about how long one query takes on one shard, in microseconds; infinite for an exact search."""
    if plan.traversal == "exact":
        return np.inf
    if plan.traversal == "scan":
        return plan.n_matching * _CODES_US
    width = max(plan.ef, plan.n_candidates)
    # Two hops, or failing rows on the way: so much more for each that passes.
    filtered = shard.passing is not None
    return width * _WALK_US * (min(8.0, 1.0 / max(plan.selectivity, 0.02)) if filtered else 1.0)
