"""A filter on a column that is not all here: what summaries of its zones decide, and what must be read.

Every step has two answers for each zone: whether all of its rows match, and whether any may. Where they agree
the zone is decided, and no row of it is looked at (Moerkotte 1998, "Small materialized aggregates").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vstore.filters.check import Exists, Interval, Leaf, OneOf, Text, TextIn, TypedStep, codes_of
from vstore.filters.evaluate import Bound, bind, matcher
from vstore.format.columns import Column
from vstore.format.rows_codec import hash_keys
from vstore.format.zones import PREFIX, Zones, may_hold
from vstore.types import Bools, FieldType, Int64s, UInt8s

MAX_HASHED = 64
"""An $in of more values than this is not looked up in Bloom filters: some block would seem to hold one."""


class Summary(NamedTuple):
    """What is known of a column that was not read: its zones, and its blocks' Bloom filters, if any."""

    zones: Zones
    blooms: Sequence[UInt8s] | None


class Verdict(NamedTuple):
    """bool[Z] twice: every row of the zone matches; some row may match."""

    every: Bools
    some: Bools

    def inverted(self) -> Verdict:
        """Return the verdict on the complement."""
        return Verdict(~self.some, ~self.every)


class ZonedRows:
    """The rows of a filter, decided zone by zone.

    Args:
        steps: the filter, typed.
        types: the type of each field.
        starts: int64[Z], the first row of each zone, ascending, beginning with 0.
        n: number of rows.
        block_rows: rows of a block of a column; zones do not cross blocks.
        whole: columns of n rows that are here.
        summaries: what is known of the others.
    """

    def __init__(
        self,
        steps: Sequence[TypedStep],
        types: Mapping[str, FieldType],
        starts: Int64s,
        n: int,
        block_rows: int,
        whole: Mapping[str, Column],
        summaries: Mapping[str, Summary],
    ) -> None:
        self._steps, self._types = steps, types
        self._n, self._block_rows = n, block_rows
        self._whole = whole
        self._starts = starts
        self._lengths = np.diff(np.append(starts, n))
        self._block_of = starts // block_rows
        self._verdicts: list[Verdict | None] = []
        for step in steps:
            if not isinstance(step, Leaf):
                self._verdicts.append(None)
            elif step.field in whole:
                self._verdicts.append(self._counted(step))
            else:
                self._verdicts.append(self._of_summary(step, summaries[step.field]))
        self._verdict = _combined(steps, self._verdicts)
        self._undecided = self._verdict.some & ~self._verdict.every

    def needed(self) -> dict[str, list[int]]:
        """Return the blocks of each field that must be read: those where its values make a difference."""
        blocks: dict[str, set[int]] = {}
        for step, verdict in zip(self._steps, self._verdicts, strict=True):
            if isinstance(step, Leaf) and verdict is not None and step.field not in self._whole:
                open_here = self._undecided & verdict.some & ~verdict.every
                blocks.setdefault(step.field, set()).update(self._block_of[open_here].tolist())
        return {field: sorted(found) for field, found in blocks.items() if found}

    def rows(self, column: Callable[[str, int], Column]) -> Bools:
        """Return bool[n], a fresh array: the rows that match.

        Args:
            column: given a field and one of its needed blocks, returns the block.
        """
        result = np.repeat(self._verdict.every, self._lengths)
        undecided = np.repeat(self._undecided, self._lengths)
        needed = {field: frozenset(blocks) for field, blocks in self.needed().items()}
        here = [
            bind(step, self._whole, self._types, self._n)
            if isinstance(step, Leaf) and step.field in self._whole
            else None
            for step in self._steps
        ]
        for block in np.unique(self._block_of[self._undecided]).tolist():
            start = block * self._block_rows
            stop = min(start + self._block_rows, self._n)
            stack: list[Bools] = []
            for place, (step, test) in enumerate(zip(self._steps, here, strict=True)):
                if not isinstance(step, Leaf):
                    _combine(stack, step)
                elif test is not None:
                    stack.append(test(start, stop))
                elif block in needed.get(step.field, ()):
                    held = {step.field: column(step.field, block)}
                    stack.append(bind(step, held, self._types, stop - start)(0, stop - start))
                else:
                    # Decided in every zone of this block that is open; in the others this is not looked at.
                    verdict = self._verdicts[place]
                    assert verdict is not None
                    stack.append(self._spread(verdict.every, block))
            wanted = undecided[start:stop]
            result[start:stop][wanted] = stack[0][wanted]
        return result

    def _spread(self, every: Bools, block: int) -> Bools:
        zones = slice(*np.searchsorted(self._block_of, [block, block + 1]).tolist())
        return np.repeat(every[zones], self._lengths[zones])

    def _counted(self, leaf: Leaf) -> Verdict:
        test: Bound = bind(leaf, self._whole, self._types, self._n)
        counts = np.add.reduceat(test(0, self._n), self._starts, dtype=np.int64)
        return Verdict(counts == self._lengths, counts > 0)

    def _of_summary(self, leaf: Leaf, summary: Summary) -> Verdict:
        zones, test = summary.zones, leaf.test
        if isinstance(test, Exists):
            verdict = Verdict(zones.n_present == self._lengths, zones.n_present > 0)
        else:
            every, some = _of_values(test, zones)
            if summary.blooms is not None and some.any():
                some = some & self._of_blooms(test, summary.blooms, some)
            # A row without a value matches nothing.
            verdict = Verdict(every & (zones.n_full == self._lengths), some & (zones.n_full > 0))
        return verdict.inverted() if leaf.negated else verdict

    def _of_blooms(self, test: Any, blooms: Sequence[UInt8s], some: Bools) -> Bools:
        hashes = _hashes(test)
        if hashes is None:
            return some
        # Many zones lie in a block, and its filter answers for all of them.
        holds = np.ones(len(blooms), dtype=np.bool_)
        for block in np.unique(self._block_of[some]).tolist():
            holds[block] = may_hold(blooms[block], hashes).any()
        found: Bools = holds[self._block_of]
        return found


def asks_for_values(steps: Sequence[TypedStep], field: str) -> bool:
    """Return whether the filter asks the field for few given values, which Bloom filters can tell."""
    return any(
        isinstance(step, Leaf) and step.field == field and _hashes(step.test) is not None for step in steps
    )


def _hashes(test: Any) -> npt.NDArray[np.uint64] | None:
    """Return the hashes of the values that a test asks for, or None where it asks for no few of them."""
    if isinstance(test, Text) and test.op == "$eq":
        return hash_keys((test.value,))
    if isinstance(test, TextIn) and 0 < len(test.values) <= MAX_HASHED:
        return hash_keys(tuple(test.values))
    if isinstance(test, Interval) and isinstance(test.low, int) and test.low == test.high:
        return hash_keys(np.array([test.low], dtype=np.int64))
    if isinstance(test, OneOf) and test.values.dtype == np.int64 and 0 < len(test.values) <= MAX_HASHED:
        return hash_keys(test.values)
    return None


def _combined(steps: Sequence[TypedStep], leaves: Sequence[Verdict | None]) -> Verdict:
    stack: list[Verdict] = []
    for step, verdict in zip(steps, leaves, strict=True):
        if verdict is not None:
            stack.append(verdict)
        elif step == "not":
            stack.append(stack.pop().inverted())
        else:
            top, below = stack.pop(), stack.pop()
            join = np.logical_and if step == "and" else np.logical_or
            stack.append(Verdict(join(below.every, top.every), join(below.some, top.some)))
    return stack[0]


def _combine(stack: list[Bools], step: TypedStep) -> None:
    if step == "not":
        stack.append(~stack.pop())
        return
    top, below = stack.pop(), stack.pop()
    stack.append(below & top if step == "and" else below | top)


def _of_values(test: Any, zones: Zones) -> tuple[Bools, Bools]:
    """Return of each zone whether all of its values match, and whether any may."""
    if zones.values is not None and zones.sets is not None:
        matching = _matching(test, zones.values)
        fails: Bools = np.logical_or.reduce(zones.sets[:, ~matching], axis=1)
        holds: Bools = np.logical_or.reduce(zones.sets[:, matching], axis=1)
        return ~fails, holds
    low, high = zones.low, zones.high
    if isinstance(low, np.ndarray) and isinstance(high, np.ndarray):
        if isinstance(test, Interval):
            every, some = np.ones(len(low), np.bool_), np.ones(len(low), np.bool_)
            if test.low is not None:
                every &= low >= test.low
                some &= high >= test.low
            if test.high is not None:
                every &= high <= test.high
                some &= low <= test.high
            return every, some
        wanted = test.values.astype(low.dtype)
        first, end = np.searchsorted(wanted, low, "left"), np.searchsorted(wanted, high, "right")
        held: Bools = first < end
        single: Bools = low == high
        return held & single, held
    pairs = [_of_text(test, str(a), str(b)) for a, b in zip(low or (), high or (), strict=True)]
    both: Bools = np.array(pairs, dtype=np.bool_).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _matching(test: Any, values: npt.NDArray[Any] | tuple[str, ...]) -> Bools:
    """Return which of a column's distinct values match."""
    places: npt.NDArray[Any]
    if isinstance(values, tuple):
        test, places = codes_of(test, values), np.arange(len(values), dtype=np.int32)
    else:
        places = values
    match = matcher(test, places.dtype)
    return np.zeros(len(places), dtype=np.bool_) if match is None else match(places)


def _of_text(test: Text | TextIn, low: str, high: str) -> tuple[bool, bool]:
    """Return whether all and whether any strings from `low` to `high`, both cut to PREFIX, may match."""
    # What is shorter than PREFIX was not cut: bounds that are equal are the only value.
    only = low == high and len(low) < PREFIX
    if isinstance(test, TextIn):
        cut = sorted({value[:PREFIX] for value in test.values})
        place = bisect_left(cut, low)
        some = place < len(cut) and cut[place] <= high
        return only and low in test.values, some
    op, value = test.op, test.value
    cut_value = value[:PREFIX]
    if op == "$eq":
        return only and low == value, low <= cut_value <= high
    if op == "$startsWith":
        n = len(cut_value)
        inside = low.startswith(value) and high.startswith(value)
        return inside, low[:n] <= cut_value <= high[:n]
    if op in ("$gt", "$gte"):
        return (low > value if op == "$gt" else low >= value), high >= cut_value
    if op in ("$lt", "$lte"):
        # A high that was cut stands for anything that it begins.
        return high < cut_value or (only and op == "$lte" and high <= value), low <= value
    return False, True
