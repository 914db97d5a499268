"""A few queries on one shard, on the caller's thread: what `batch.on_shard` finds, without its slices.

Of a handful of queries the kernel takes no longer than Python's work around threads and slices would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vstore.query.batch import BY_CLUSTERS
from vstore.query.planner import Plan
from vstore.query.resident import Found, PlannedShard, ReadyShard, Step, find, is_uncut, step_of
from vstore.query.search import distance_of, score_of
from vstore.query.shown import ShownDistances
from vstore.types import Float32s
from vstore_kernels.answer import OneAnswer


class Answer(NamedTuple):
    """What one query found, and its distances as hits show them: of k places, filled or not."""

    found: OneAnswer
    shown: ShownDistances


def few_on_shard(
    shard: ReadyShard,
    planned: PlannedShard,
    plans: Sequence[Plan],
    queries: Float32s,
    k: int,
    gaps: Float32s | None,
) -> list[Answer | None]:
    """Return what one shard has for each query; None for one whose vectors are not all resident.

    Args:
        shard: what to search.
        planned: its plans.
        plans: of each query (`ShardPlans.of_few`).
        queries: float32[m, d], C-contiguous, checked.
        k: answers wanted.
        gaps: as `ShardPlans.of_few` gave them.
    """
    answers: list[Answer | None] = [None] * len(queries)
    alike: dict[tuple[int, ...], tuple[Step, list[int]]] = {}
    for i, plan in enumerate(plans):
        step = step_of(shard, planned, plan)
        if step is not None and not is_uncut(step):
            alike.setdefault(step.wanted, (step, []))[1].append(i)
    for step, rows in alike.values():
        near = gaps if step.mode in BY_CLUSTERS else None
        asked = queries
        if len(rows) < len(queries):
            asked, near = queries[rows], None if near is None else near[rows]
        room = Found.room(len(rows), k)
        find(shard, step, asked, k, room, near)
        metric = shard.head.metric
        scores, distances = score_of(room.distances, metric), distance_of(room.distances, metric)
        columns = rows, room.each(), scores.tolist(), distances.tolist()
        for i, found, its_scores, its_distances in zip(*columns, strict=True):
            if not found.status:
                answers[i] = Answer(found, (its_scores, its_distances))
    return answers
