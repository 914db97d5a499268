"""The filter tree: what both syntaxes are parsed to. It knows the language, not any schema.

Nothing here recurses, so that a filter may nest as deep as MAX_DEPTH allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, TypeVar

import numpy as np

from vstore.errors import FilterError, UnknownOperator, nearest
from vstore.format.scalars import datetime_micros, kind_of, micros_datetime, short

MAX_DEPTH = 1_000
"""A filter nests $and, $or and $not at most this deep."""
MAX_TERMS = 10_000
"""A filter has at most this many conditions, $and, $or and $not together."""
MAX_VALUES = 100_000
"""One $in or $nin has at most this many values."""

COMPARISONS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
OPERATORS = (*COMPARISONS, "$in", "$nin", "$exists", "$contains", "$startsWith")
LOGICAL = ("$and", "$or", "$not")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one field. `value` is a plain Python value, a tuple of them for $in and $nin."""

    field: str
    op: str
    value: Any


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more parts, none of which is an And."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of two or more parts, none of which is an Or."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The exact complement of its part."""

    part: Node


Node = Condition | And | Or | Not
Step = Condition | Literal["and", "or", "not"]


def condition(field: str, op: str, value: Any) -> Condition:
    """Return the condition, its value checked as far as no schema is needed.

    Raises:
        UnknownOperator: no such operator.
        FilterError: a value that the operator takes on no field.
    """
    if op not in OPERATORS:
        raise UnknownOperator(
            f"field {field!r} has operator {short(op)}; "
            f"the operators are {', '.join(OPERATORS)}{nearest(str(op), OPERATORS)}"
        )
    what = f"field {field!r}, {op}"
    if op in ("$in", "$nin"):
        return Condition(field, op, _values(value, what))
    value = _plain(value, what)
    if op == "$exists" and not isinstance(value, bool):
        raise FilterError(f"{what}: {short(value)} is {kind_of(value)}; give true or false")
    if op == "$startsWith" and not isinstance(value, str):
        raise FilterError(f"{what}: {short(value)} is {kind_of(value)}; give a str")
    return Condition(field, op, value)


def _values(values: Any, what: str) -> tuple[Any, ...]:
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iufbU":
        values = values.tolist()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise FilterError(f"{what}: {short(values)} is {kind_of(values)}; give a list of values")
    ordered: Iterable[Any] = values
    if isinstance(values, (set, frozenset)):
        # A set's order differs from run to run; one of mixed types stays as it is.
        try:
            ordered = sorted(values)
        except TypeError:
            ordered = values
    result: list[Any] = []
    for value in ordered:
        result.append(value)
        if len(result) > MAX_VALUES:
            raise FilterError(
                f"{what} has more than {MAX_VALUES:,} values; split it into several searches, "
                "or store the group itself as a field"
            )
    if set(map(type, result)) in ({int}, {str}):
        return tuple(result)
    return tuple(_plain(value, f"{what}, value {i}") for i, value in enumerate(result))


def _plain(value: Any, what: str) -> Any:
    """Return one value without numpy's types; refuse what no field can be compared with."""
    if isinstance(value, np.datetime64):
        try:
            return micros_datetime(datetime_micros(value))
        except ValueError as error:
            raise FilterError(f"{what}: {error}") from None
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        raise FilterError(
            f"{what}: None is no value; to ask for absent fields use $exists (F.x.exists(False))"
        )
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        raise FilterError(
            f"{what}: {short(value)} is {kind_of(value)}, and one value is wanted; "
            "for any of several use $in (F.x.isin), for all of them join conditions with $and"
        )
    if isinstance(value, Mapping):
        raise FilterError(
            f"{what}: {short(value)} is {kind_of(value)}; an operator takes a value, not a filter"
        )
    if not isinstance(value, (bool, int, float, str, date)):
        raise FilterError(
            f"{what}: {short(value)} is {kind_of(value)}; a field is compared with a bool, int, float, str, "
            "datetime or date"
        )
    if (isinstance(value, float) and math.isnan(value)) or (isinstance(value, datetime) and value != value):
        raise FilterError(f"{what}: {short(value)} equals nothing; to ask for absent fields use $exists")
    return value


def all_of(parts: Iterable[Node]) -> Node:
    """Return the conjunction of one or more parts, with nested ones lifted into it."""
    flat = _lift(And, parts)
    return flat[0] if len(flat) == 1 else And(flat)


def any_of(parts: Iterable[Node]) -> Node:
    """Return the disjunction of one or more parts, with nested ones lifted into it."""
    flat = _lift(Or, parts)
    return flat[0] if len(flat) == 1 else Or(flat)


def _lift(kind: type[And] | type[Or], parts: Iterable[Node]) -> tuple[Node, ...]:
    flat: list[Node] = []
    for part in parts:
        if isinstance(part, (And, Or)) and isinstance(part, kind):
            flat.extend(part.parts)
        else:
            flat.append(part)
    if len(flat) > MAX_TERMS:
        raise _too_many()
    return tuple(flat)


def _too_many() -> FilterError:
    return FilterError(
        f"the filter has more than {MAX_TERMS:,} terms; write many equalities on one field as one $in"
    )


def too_deep() -> FilterError:
    """Return the error for a filter nested beyond MAX_DEPTH."""
    return FilterError(f"the filter nests more than {MAX_DEPTH:,} deep; flatten its $and, $or and $not")


def children(node: Node) -> tuple[Node, ...]:
    """Return the parts of a node, none for a condition."""
    if isinstance(node, Condition):
        return ()
    return (node.part,) if isinstance(node, Not) else node.parts


def check_limits(tree: Node) -> None:
    """Raise FilterError where the tree exceeds MAX_DEPTH or MAX_TERMS."""
    n_terms, stack = 0, [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        n_terms += 1
        if n_terms > MAX_TERMS:
            raise _too_many()
        below = children(node)
        if below and depth >= MAX_DEPTH:
            raise too_deep()
        stack.extend((child, depth + 1) for child in below)


def fold(tree: Node, leaf: Callable[[Condition], T], join: Callable[[And | Or | Not, list[T]], T]) -> T:
    """Return the tree's value from the bottom up: `leaf` of each condition, `join` of each node's parts."""
    stack: list[tuple[Node, bool]] = [(tree, False)]
    results: list[T] = []
    while stack:
        node, joined = stack.pop()
        if isinstance(node, Condition):
            results.append(leaf(node))
        elif joined:
            n = len(children(node))
            parts = results[-n:]
            del results[-n:]
            results.append(join(node, parts))
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(children(node)))
    return results[0]


def steps(tree: Node) -> Iterator[Step]:
    """Yield the tree for a stack machine: a condition pushes, "and" and "or" join the two on top.

    A part is joined as soon as it is there, so that the stack is as deep as the tree, not as wide.
    """
    stack: list[Node | Literal["and", "or", "not"]] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, (str, Condition)):
            yield node
        elif isinstance(node, Not):
            stack += ("not", node.part)
        else:
            join: Literal["and", "or"] = "and" if isinstance(node, And) else "or"
            for part in reversed(node.parts[1:]):
                stack += (join, part)
            stack.append(node.parts[0])


def conditions(tree: Node) -> Iterator[Condition]:
    """Yield the tree's conditions from left to right."""
    return (step for step in steps(tree) if isinstance(step, Condition))


def fields_of(tree: Node) -> frozenset[str]:
    """Return the names of the fields that the tree looks at."""
    return frozenset(found.field for found in conditions(tree))
