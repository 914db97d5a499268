"""What an answer from memory took, and its receipt, made when someone looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from vstore.query.memtable import MemtableWork
from vstore.query.planner import Plan
from vstore.query.resident import PlannedShard, ReadyShard
from vstore.query.search import Engine, Work, receipt_of, write_reads
from vstore.shard.fetch import ReadMeter
from vstore.types import Float32s, Receipt
from vstore_kernels import layout


@dataclass(slots=True, eq=False)
class Account:
    """What one answer took, to make its receipt of; `counters` has a row for each shard."""

    query: Float32s
    ready: Sequence[ReadyShard]
    planned: Sequence[PlannedShard]
    plans: Sequence[Plan]
    counters: Sequence[Sequence[int]]
    n_live: int
    n_memtable: int
    memtable: MemtableWork
    n_cache_hits: int
    meter: ReadMeter | None
    timings_ms: dict[str, float]
    engine: Engine

    def values(self) -> dict[str, Any]:
        """Return every field of the receipt by name; a new map each time."""
        parts = self.parts()
        if parts is None:
            return self._all_values()
        shared, own = parts
        values = {**shared, **own, "rerank": []}
        values["plans"] = [plan.copy() for plan in shared["plans"]]
        return values

    def parts(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the fields that all receipts of a kind share, and those of this one alone.

        The shared ones are the same map each time, which nobody may change. None where it has no kind.
        """
        if self.n_memtable or self.meter is not None or not self.planned:
            return None
        if any(planned.plans.varies_around for planned in self.planned):
            return None
        told = self.planned[0].told
        key = told_key(self.n_live, self.plans)
        known = told.get(key)
        if known is None:
            if len(told) >= REMEMBERED_RECEIPTS:
                told.clear()
            shared = self._all_values()
            for name in _OWN:
                del shared[name]
            known = told[key] = tuple(self.plans), shared
        counters: Any = self.counters
        row = counters[0] if len(counters) == 1 else [sum(of) for of in zip(*counters, strict=True)]
        return known[1], own_part(row, self.n_cache_hits, self.timings_ms)

    def _all_values(self) -> dict[str, Any]:
        plans = [
            (ready.shard.shard_id, _correlated(plan, planned.plans.correlation(self.query)))
            for ready, planned, plan in zip(self.ready, self.planned, self.plans, strict=True)
        ]
        receipt = receipt_of(
            n_live=self.n_live,
            n_memtable=self.n_memtable,
            memtable=self.memtable,
            plans=plans,
            work=[Work(*(int(row[position]) for position in _WORK)) for row in self.counters],
        )
        receipt.timings_ms = self.timings_ms
        write_reads(receipt, self.meter or ReadMeter(), self.n_cache_hits, self.engine.prices)
        return {name: getattr(receipt, name) for name in _FIELDS}


def told_key(n_live: int, plans: Sequence[Plan]) -> tuple[int, ...]:
    """Return what `PlannedShard.told` knows a kind of receipts by."""
    return n_live, *map(id, plans)


def own_part(row: Sequence[int], n_cache_hits: int, timings_ms: dict[str, float]) -> dict[str, Any]:
    """Return the fields of a receipt that are its own: a row of counters, and what is beside them."""
    own: dict[str, Any] = {name: int(row[position]) for name, position in _WORK_PLACES}
    own["n_cache_hits"], own["timings_ms"] = n_cache_hits, timings_ms
    return own


REMEMBERED_RECEIPTS: Final = 64
"""Kinds of receipts for one filter, k, recall and ef; more than a few come of many shards alone."""
_FIELDS: Final = tuple(f.name for f in fields(Receipt))
_WORK: Final = (
    layout.N_DISTANCES,
    layout.N_HOPS,
    layout.N_FILTER_CHECKS,
    layout.N_RESCORED,
    layout.N_SKIPPED,
)
_WORK_PLACES: Final = tuple(zip(Work._fields, _WORK, strict=True))
_OWN: Final = (*Work._fields, "n_cache_hits", "timings_ms")


def _correlated(plan: Plan, correlation: float | None) -> Plan:
    return plan if plan.correlation is correlation else replace(plan, correlation=correlation)
