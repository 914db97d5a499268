"""The answer of one resident shard alone, which nearly every answer is: lists as the kernel gave them.

Hits, scores and the receipt are those of `answers`, made only when someone looks.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vstore.ingest.view import LiveShard
from vstore.query.account import Account, own_part, told_key
from vstore.query.memtable import MemtableWork
from vstore.query.planner import Plan
from vstore.query.resident import PlannedShard, ReadyShard
from vstore.query.search import Engine
from vstore.query.shown import Rows, ShownDistances, ShownRows, shown_distances
from vstore.shard.payload import PayloadRow, Shown, attributes_of
from vstore.shard.reader import Shard
from vstore.types import Attributes, Document, Float32s, Hits, Key, Metric, Receipt
from vstore_kernels.answer import OneAnswer


class RowsOfOne(ShownRows):
    """The rows of one shard's answer (`HitRows`), and what it took; it holds the payload blocks."""

    __slots__ = (
        "_blocks",
        "_engine",
        "_found",
        "_live",
        "_plan",
        "_planned",
        "_query",
        "_ready",
        "_shown",
        "_spent_s",
    )

    def __init__(
        self,
        query: Float32s,
        live: LiveShard[Shard],
        ready: ReadyShard,
        planned: PlannedShard,
        plan: Plan,
        found: OneAnswer,
        blocks: list[Any],
        engine: Engine,
        spent_s: tuple[float, float, float],
        shown: ShownDistances | None = None,
    ) -> None:
        self._query, self._live, self._ready, self._planned, self._plan = query, live, ready, planned, plan
        self._found, self._blocks, self._engine, self._spent_s = found, blocks, engine, spent_s
        self._shown = shown

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def rows(self) -> Rows:
        """As `ShownRows.rows`."""
        return self._payload()

    @property
    def distances(self) -> Float32s:
        """As `ShownRows.distances`."""
        return np.array(self._found.distances, np.float32)

    @property
    def metric(self) -> Metric:
        """As `ShownRows.metric`."""
        return self._ready.head.metric

    @property
    def fields(self) -> Shown:
        """As `ShownRows.fields`."""
        return self._live.shard.shown(self._ready.head)

    def columns(self) -> tuple[list[Key], list[float], list[float], list[Attributes], list[Document | None]]:
        """As `HitRows.columns`, quicker: all rows are of one kind."""
        rows, shown = self._payload(), self._shown
        if not rows:
            return [], [], [], [], []
        keys, values, documents = zip(*rows, strict=True)
        scores, distances = shown_distances(self.distances, self.metric) if shown is None else shown
        n = len(rows)
        return [*keys], scores[:n], distances[:n], attributes_of(rows, values, self.fields), [*documents]

    def receipt_values(self) -> dict[str, Any]:
        """Return every field of the receipt by name."""
        return self._account().values()

    def receipt_parts(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """As `Account.parts`."""
        planned = self._planned
        key = told_key(self._live.n_live, (self._plan,))
        known = None if planned.plans.varies_around else planned.told.get(key)
        if known is None:
            return self._account().parts()
        return known[1], own_part(self._found.counters, self._n_blocks(), self._timings_ms())

    def _account(self) -> Account:
        return Account(
            self._query,
            [self._ready],
            [self._planned],
            [self._plan],
            [self._found.counters],
            self._live.n_live,
            0,
            MemtableWork(),
            self._n_blocks(),
            None,
            self._timings_ms(),
            self._engine,
        )

    def _n_blocks(self) -> int:
        """Return how many blocks the answer came from; codes and exact vectors are two."""
        block_rows = self._ready.head.payload_block_rows
        return 2 + len({row // block_rows for row in self._found.ids})

    def _timings_ms(self) -> dict[str, float]:
        filter_s, traverse_s, payload_s = self._spent_s
        return {"filter": filter_s * 1e3, "traverse": traverse_s * 1e3, "payload": payload_s * 1e3}

    def _payload(self) -> list[PayloadRow]:
        block_rows = self._ready.head.payload_block_rows
        return [block[row % block_rows] for block, row in zip(self._blocks, self._found.ids, strict=True)]


def hits_of_one(
    query: Float32s,
    live: LiveShard[Shard],
    ready: ReadyShard,
    planned: PlannedShard,
    plan: Plan,
    found: OneAnswer,
    engine: Engine,
    spent_s: tuple[float, float],
    shown: ShownDistances | None = None,
) -> Hits | None:
    """Return the hits; None where the payload of one of them is not resident.

    Args:
        query: float32[d], what was asked; kept.
        live: the only shard of the view.
        ready: it, as it was searched.
        planned: its plans.
        plan: the one that was used.
        found: by it.
        engine: for the prices.
        spent_s: on planning and on the kernel.
        shown: its distances, where they were made beforehand: k of each, at least.
    """
    started = time.perf_counter()
    payload, block_rows = ready.rows.payload, ready.head.payload_block_rows
    blocks = [payload[row // block_rows] for row in found.ids]
    if None in blocks:
        return None
    spent = (*spent_s, time.perf_counter() - started)
    rows = RowsOfOne(query, live, ready, planned, plan, found, blocks, engine, spent, shown)
    return Hits(rows, Receipt.later(rows.receipt_values))
