"""Types a filter tree against a schema: each condition becomes a test that needs no more checks.

Comparisons are exact, as Python's: an int field against 2.5 or 10**30 and a float field against
2**53 + 1 become inclusive intervals of the values that the field can hold.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vstore.errors import FilterError, UnknownField, nearest
from vstore.filters.ast import COMPARISONS, Condition, Node, steps
from vstore.format.scalars import INT64_MAX, INT64_MIN, datetime_micros, kind_of, short
from vstore.types import FieldType

_ORDERED = (*COMPARISONS, "$in", "$nin", "$exists")
_UNORDERED = ("$eq", "$ne", "$in", "$nin", "$exists")
ALLOWED: Mapping[FieldType, tuple[str, ...]] = {
    "int": _ORDERED,
    "float": _ORDERED,
    "bool": _UNORDERED,
    "str": (*_ORDERED, "$contains", "$startsWith"),
    "datetime": _ORDERED,
    "list[str]": (*_UNORDERED, "$contains"),
    "list[int]": (*_UNORDERED, "$contains"),
}
"""The operators of each field type, as docs/FILTERS.md tables them."""

_WANTED: Mapping[str, str] = {
    "int": "give a number",
    "float": "give a number",
    "bool": "give true or false",
    "str": "give a str",
    "datetime": "give a datetime, a date or an ISO 8601 string",
}


@dataclass(frozen=True, slots=True)
class Exists:
    """The row has a value."""


@dataclass(frozen=True, slots=True)
class Interval:
    """`low <= value <= high`; None is no bound. Ints for int and datetime fields, floats for float."""

    low: int | float | None
    high: int | float | None


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value is in `values`: int64 or float64, ascending, unique; may be empty."""

    values: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A comparison, $contains or $startsWith of a str with `value`."""

    op: str
    value: str


@dataclass(frozen=True, slots=True)
class TextIn:
    """The str is one of `values`."""

    values: frozenset[str]


Test = Exists | Interval | OneOf | Text | TextIn


@dataclass(frozen=True, slots=True)
class Leaf:
    """A typed condition: `test` holds for the row's value (any item of a list), complemented if `negated`."""

    field: str
    test: Test
    negated: bool = False


TypedStep = Leaf | Literal["and", "or", "not"]


def type_tree(tree: Node, fields: Mapping[str, FieldType]) -> tuple[TypedStep, ...]:
    """Return the tree as typed steps of a stack machine (see `ast.steps`).

    Raises:
        UnknownField: the schema has no such field; names the nearest.
        FilterError: an operator or value that the field's type does not allow.
    """
    return tuple(
        type_condition(step, fields) if isinstance(step, Condition) else step for step in steps(tree)
    )


def type_condition(condition: Condition, fields: Mapping[str, FieldType]) -> Leaf:
    """Return the typed condition. Raises as `type_tree`."""
    field, op, value = condition.field, condition.op, condition.value
    kind = fields.get(field)
    if kind is None:
        known = ", ".join(fields) or "none"
        raise UnknownField(
            f"the filter names field {field!r} ({op} {short(value)}), which the collection does not have"
            f" (fields: {known}){nearest(field, fields)}"
        )
    allowed = ALLOWED[kind]
    if op not in allowed:
        raise FilterError(
            f"field {field!r} is {kind}, which has no {op} (value {short(value)}); "
            f"it has {', '.join(allowed)}{nearest(op, allowed)}"
        )
    if op == "$exists":
        return Leaf(field, Exists(), negated=not value)
    item_kind = kind[5:-1] if kind.startswith("list[") else kind
    what = f"field {field!r} ({kind}), {op}"
    if op in ("$in", "$nin"):
        return Leaf(field, _one_of(item_kind, value, what), negated=op == "$nin")
    if item_kind != kind and op == "$contains":
        op = "$eq"
    _check_value(item_kind, value, what)
    negated = op == "$ne"
    return Leaf(field, _comparison(item_kind, "$eq" if negated else op, value, what), negated)


def _check_value(kind: str, value: Any, what: str) -> None:
    if kind in ("int", "float"):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif kind == "bool":
        fits = isinstance(value, bool)
    elif kind == "str":
        fits = isinstance(value, str)
    else:
        fits = isinstance(value, (date, str))
    if not fits:
        raise FilterError(f"{what}: {short(value)} is {kind_of(value)}; {_WANTED[kind]}")


def _micros(value: Any, what: str) -> int:
    try:
        return datetime_micros(value)
    except ValueError as error:
        raise FilterError(f"{what}: {error}") from None


def _comparison(kind: str, op: str, value: Any, what: str) -> Test:
    if kind == "str":
        return Text(op, value)
    if kind == "datetime":
        value = _micros(value, what)
    if kind == "float":
        return _float_interval(op, value)
    return _int_interval(op, value)


def _int_interval(op: str, value: int | float) -> Test:
    """Return which int64 values stand in `op` to `value`, a bool, int or float."""
    if isinstance(value, float) and math.isinf(value):
        return Interval(None, None) if (value > 0) == (op in ("$lt", "$lte")) and op != "$eq" else _nothing()
    low, high = math.ceil(value), math.floor(value)
    if op == "$eq":
        return Interval(low, low) if low == high and INT64_MIN <= low <= INT64_MAX else _nothing()
    if op in ("$gt", "$gte"):
        bound = high + 1 if op == "$gt" else low
        return _nothing() if bound > INT64_MAX else Interval(bound if bound > INT64_MIN else None, None)
    bound = low - 1 if op == "$lt" else high
    return _nothing() if bound < INT64_MIN else Interval(None, bound if bound < INT64_MAX else None)


def _float_interval(op: str, value: int | float) -> Test:
    """Return which float64 values stand in `op` to `value`, an int or float."""
    low, high = _least_float(value), _greatest_float(value)
    if op == "$eq":
        return Interval(low, low) if low == high else _nothing()
    if op == "$gte":
        return Interval(low, None)
    if op == "$lte":
        return Interval(None, high)
    if op == "$gt":
        return _nothing() if high == math.inf else Interval(math.nextafter(high, math.inf), None)
    return _nothing() if low == -math.inf else Interval(None, math.nextafter(low, -math.inf))


def _least_float(value: int | float) -> float:
    """Return the least float64 that is not below `value`."""
    nearby = _nearby_float(value)
    return nearby if nearby >= value else math.nextafter(nearby, math.inf)


def _greatest_float(value: int | float) -> float:
    """Return the greatest float64 that is not above `value`."""
    nearby = _nearby_float(value)
    return nearby if nearby <= value else math.nextafter(nearby, -math.inf)


def _nearby_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _nothing() -> OneOf:
    return OneOf(np.empty(0, dtype=np.int64))


def _one_of(kind: str, values: tuple[Any, ...], what: str) -> Test:
    """Return the test of $in; every value is checked, those that the field cannot hold match nothing."""
    plain_type = {"int": int, "float": float, "str": str}.get(kind)
    if plain_type is None or set(map(type, values)) != {plain_type}:
        for i, value in enumerate(values):
            _check_value(kind, value, f"{what}, value {i}")
    if kind == "str":
        return TextIn(frozenset(values))
    if kind == "datetime":
        values = tuple(_micros(value, f"{what}, value {i}") for i, value in enumerate(values))
    numbers = _floats(values) if kind == "float" else _ints(values)
    return OneOf(np.unique(numbers))


def _ints(values: Iterable[int | float]) -> npt.NDArray[np.int64]:
    held = (value for value in values if INT64_MIN <= value <= INT64_MAX)
    return np.array([int(value) for value in held if int(value) == value], dtype=np.int64)


def _floats(values: Iterable[int | float]) -> npt.NDArray[np.float64]:
    held = [_nearby_float(value) for value in values if _nearby_float(value) == value]
    return np.array(held, dtype=np.float64)


def codes_of(test: Text | TextIn, dictionary: tuple[str, ...]) -> Interval | OneOf:
    """Return the test on dictionary codes that equals `test` on the (sorted, unique) strings.

    Comparisons and prefixes are two binary searches; $contains looks at each distinct string once.
    """
    if isinstance(test, TextIn):
        return OneOf(_codes_in(test.values, dictionary))
    op, value, end = test.op, test.value, len(dictionary)
    if op == "$contains":
        found = np.fromiter((value in text for text in dictionary), dtype=np.bool_, count=end)
        return OneOf(np.flatnonzero(found))
    if op == "$startsWith":
        start = bisect_left(dictionary, value)
        stop = bisect_right(dictionary, value, lo=start, key=lambda text: text[: len(value)])
    else:
        left, right = bisect_left(dictionary, value), bisect_right(dictionary, value)
        start = {"$eq": left, "$gte": left, "$gt": right}.get(op, 0)
        stop = {"$eq": right, "$lt": left, "$lte": right}.get(op, end)
    return Interval(start, stop - 1) if start < stop else _nothing()


def _codes_in(values: frozenset[str], dictionary: tuple[str, ...]) -> npt.NDArray[np.int64]:
    if len(values) * 16 > len(dictionary):
        found = np.fromiter((text in values for text in dictionary), dtype=np.bool_, count=len(dictionary))
        return np.flatnonzero(found)
    codes = [
        code
        for value in values
        if (code := bisect_left(dictionary, value)) < len(dictionary) and dictionary[code] == value
    ]
    return np.array(sorted(codes), dtype=np.int64)
