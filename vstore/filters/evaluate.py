"""Typed steps on columns: one vectorised pass over chunks of rows that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import FieldTypeError, InvalidInput, UnknownField
from vstore.filters.check import Exists, Interval, Leaf, OneOf, Text, TextIn, TypedStep, codes_of
from vstore.format.columns import Column
from vstore.types import Bools, FieldType

CHUNK_ROWS = 1 << 15
_FEW_VALUES = 4
_TABLE_SPAN = 1 << 22
"""A set of ints spread over at most this many is looked up in a table of bools."""

Matcher = Callable[[npt.NDArray[Any]], Bools]
"""Which values of an array match, as a fresh array."""
Bound = Callable[[int, int], Bools]
"""Which rows from start to stop match, as a fresh array."""


def evaluate(
    steps: Sequence[TypedStep],
    columns: Mapping[str, Column],
    types: Mapping[str, FieldType],
    n: int,
) -> Bools:
    """Return bool[n], a fresh array: the rows that match.

    Raises:
        UnknownField: a field that the steps need is not in `columns`.
        FieldTypeError: a column of another type than `types` says.
        InvalidInput: a column of another number of rows than n.
    """
    program = [bind(step, columns, types, n) if isinstance(step, Leaf) else step for step in steps]
    result = np.empty(n, dtype=np.bool_)
    for start in range(0, n, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, n)
        stack: list[Bools] = []
        for step in program:
            if step == "not":
                np.logical_not(stack[-1], out=stack[-1])
            elif step == "and":
                top = stack.pop()
                np.logical_and(stack[-1], top, out=stack[-1])
            elif step == "or":
                top = stack.pop()
                np.logical_or(stack[-1], top, out=stack[-1])
            else:
                stack.append(step(start, stop))
        result[start:stop] = stack[0]
    return result


def bind(leaf: Leaf, columns: Mapping[str, Column], types: Mapping[str, FieldType], n: int) -> Bound:
    """Return the test of one condition on rows of its column. Raises as `evaluate`."""
    column = columns.get(leaf.field)
    if column is None:
        raise UnknownField(f"the filter needs the column of field {leaf.field!r}, which was not given")
    if column.type != types[leaf.field]:
        raise FieldTypeError(
            f"the column of field {leaf.field!r} is {column.type}; the schema says {types[leaf.field]}"
        )
    if column.n != n:
        raise InvalidInput(f"the column of field {leaf.field!r} has {column.n} rows; the others have {n}")
    matches = _bind_test(leaf, column)
    if not leaf.negated:
        return matches

    def complement(start: int, stop: int) -> Bools:
        found = matches(start, stop)
        return np.logical_not(found, out=found)

    return complement


def _bind_test(leaf: Leaf, column: Column) -> Bound:
    present, values, offsets, test = column.present, column.values, column.offsets, leaf.test
    if isinstance(test, Exists):
        return lambda start, stop: present[start:stop].copy()
    if isinstance(test, (Text, TextIn)):
        test = codes_of(test, column.dictionary or ())
    match = matcher(test, values.dtype)
    if match is None:
        return lambda start, stop: np.zeros(stop - start, dtype=np.bool_)
    if offsets is not None:
        # A null row has no items, so that nothing matches in it.
        return lambda start, stop: _any_item(match, values, offsets[start : stop + 1])

    def rows(start: int, stop: int) -> Bools:
        found = match(values[start:stop])
        return np.logical_and(found, present[start:stop], out=found)

    return rows


def _any_item(match: Matcher, values: npt.NDArray[Any], bounds: npt.NDArray[np.int64]) -> Bools:
    first, last = int(bounds[0]), int(bounds[-1])
    n_matching = np.zeros(last - first + 1, dtype=np.int32)
    np.cumsum(match(values[first:last]), dtype=np.int32, out=n_matching[1:])
    before = n_matching[bounds - first]
    matching: Bools = before[1:] != before[:-1]
    return matching


def matcher(test: Interval | OneOf, dtype: np.dtype[Any]) -> Matcher | None:
    """Return the matcher of a test on numbers, or None where nothing can match."""
    if isinstance(test, Interval):
        return _interval(test, dtype)
    wanted = test.values
    if len(wanted) == 0:
        return None
    if dtype != np.bool_:
        wanted = wanted.astype(dtype)
        if dtype != np.float64 and int(wanted[-1]) - int(wanted[0]) == len(wanted) - 1:
            return _interval(Interval(wanted[0], wanted[-1]), dtype)
    if len(wanted) <= _FEW_VALUES:
        return lambda values: _few(wanted, values)
    if dtype != np.float64 and int(wanted[-1]) - int(wanted[0]) < _TABLE_SPAN:
        return _table(wanted)

    def search(values: npt.NDArray[Any]) -> Bools:
        places = np.searchsorted(wanted, values)
        np.minimum(places, len(wanted) - 1, out=places)
        found: Bools = wanted[places] == values
        return found

    return search


def _interval(test: Interval, dtype: np.dtype[Any]) -> Matcher:
    low = None if test.low is None else dtype.type(test.low)
    high = None if test.high is None else dtype.type(test.high)
    if low is not None and high is not None:
        if low == high:
            return lambda values: np.equal(values, low)

        def between(values: npt.NDArray[Any]) -> Bools:
            found: Bools = np.greater_equal(values, low)
            np.logical_and(found, np.less_equal(values, high), out=found)
            return found

        return between
    if low is not None:
        return lambda values: np.greater_equal(values, low)
    if high is not None:
        return lambda values: np.less_equal(values, high)
    return lambda values: np.ones(len(values), dtype=np.bool_)


def _few(wanted: npt.NDArray[Any], values: npt.NDArray[Any]) -> Bools:
    found: Bools = np.equal(values, wanted[0])
    for value in wanted[1:]:
        np.logical_or(found, np.equal(values, value), out=found)
    return found


def _table(wanted: npt.NDArray[Any]) -> Matcher:
    """Return the matcher that looks ints up in bools over the span of `wanted` (ascending)."""
    low, high = wanted[0], wanted[-1]
    table = np.zeros(int(high) - int(low) + 1, dtype=np.bool_)
    table[wanted - low] = True

    def look_up(values: npt.NDArray[Any]) -> Bools:
        inside = np.clip(values, low, high)
        found: Bools = table[inside - low]
        np.logical_and(found, inside == values, out=found)
        return found

    return look_up
