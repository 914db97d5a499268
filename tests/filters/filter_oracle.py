"""What a filter means, row by row in plain Python, and random filters and rows to try it on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from vstore.filters import Expression, F
from vstore.filters.check import ALLOWED
from vstore.types import Schema

FIELDS = {
    "i": "int",
    "x": "float",
    "b": "bool",
    "s": "str",
    "t": "datetime",
    "words": "list[str]",
    "nums": "list[int]",
}
SCHEMA = Schema(dim=2, metric="l2", fields=FIELDS)


@dataclass(frozen=True)
class Term:
    """A condition, or "and" / "or" / "not" of parts; its own type so that the oracle shares no code."""

    op: str
    field: str = ""
    value: Any = None
    parts: tuple[Term, ...] = ()


def instant(value: Any) -> datetime:
    """Return a datetime, date or ISO string as an aware datetime."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def matches(term: Term, row: Mapping[str, Any]) -> bool:
    """Return whether the row matches, as docs/FILTERS.md says."""
    if term.op == "and":
        return all(matches(part, row) for part in term.parts)
    if term.op == "or":
        return any(matches(part, row) for part in term.parts)
    if term.op == "not":
        return not matches(term.parts[0], row)
    held, wanted = row[term.field], term.value
    if term.op == "$exists":
        return (held is not None) == wanted
    if term.op == "$ne":
        return not matches(Term("$eq", term.field, wanted), row)
    if term.op == "$nin":
        return not matches(Term("$in", term.field, wanted), row)
    if held is None:
        return False
    if FIELDS[term.field] == "datetime":
        held = instant(held)
        wanted = [instant(v) for v in wanted] if term.op == "$in" else instant(wanted)
    if isinstance(held, list):
        return any(item in wanted for item in held) if term.op == "$in" else wanted in held
    return {
        "$eq": lambda: held == wanted,
        "$gt": lambda: held > wanted,
        "$gte": lambda: held >= wanted,
        "$lt": lambda: held < wanted,
        "$lte": lambda: held <= wanted,
        "$in": lambda: held in wanted,
        "$contains": lambda: wanted in held,
        "$startsWith": lambda: held.startswith(wanted),
    }[term.op]()


def as_expression(term: Term) -> Expression:
    """Return the term as an F expression."""
    if term.op == "not":
        return ~as_expression(term.parts[0])
    if term.op in ("and", "or"):
        first, *rest = map(as_expression, term.parts)
        for part in rest:
            first = first & part if term.op == "and" else first | part
        return first
    field, value = F[term.field], term.value
    return {
        "$eq": lambda: field == value,
        "$ne": lambda: field != value,
        "$gt": lambda: field > value,
        "$gte": lambda: value <= field if isinstance(value, (int, float)) else field >= value,
        "$lt": lambda: field < value,
        "$lte": lambda: field <= value,
        "$in": lambda: field.isin(value),
        "$nin": lambda: field.notin(value),
        "$exists": lambda: field.exists(value),
        "$contains": lambda: field.contains(value),
        "$startsWith": lambda: field.startswith(value),
    }[term.op]()


def as_dict(term: Term) -> dict[str, Any]:
    """Return the term in the dict language, in its short forms where it has one."""
    if term.op in ("and", "or"):
        parts = [as_dict(part) for part in term.parts]
        keys = [key for part in parts for key in part]
        if term.op == "and" and len(set(keys)) == len(keys):
            return {key: value for part in parts for key, value in part.items()}
        fields = {part.field for part in term.parts}
        operators = [part.op for part in term.parts]
        if (
            term.op == "and"
            and len(fields) == 1
            and "" not in fields
            and len(set(operators)) == len(operators)
        ):
            return {fields.pop(): {part.op: part.value for part in term.parts}}
        return {f"${term.op}": parts}
    if term.op == "not":
        part = term.parts[0]
        if part.field:
            return {part.field: {"$not": {part.op: part.value}}}
        return {"$not": as_dict(part)}
    if term.op == "$eq":
        return {term.field: term.value}
    return {term.field: {term.op: list(term.value) if isinstance(term.value, tuple) else term.value}}


EDGES = [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
TEXTS = st.text(alphabet="abé\U0001f600", max_size=3)
INTS = st.integers(-3, 8) | st.sampled_from(EDGES)
FLOATS = st.sampled_from(
    [
        0.0,
        -0.0,
        0.5,
        1.0,
        -1.5,
        5e-324,
        2.0**53,
        2.0**63,
        -(2.0**63),
        1.7976931348623157e308,
        math.inf,
        -math.inf,
    ]
) | st.floats(-3, 3, allow_nan=False)
INSTANTS = st.builds(
    lambda hours, micros: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hours, microseconds=micros),
    st.integers(-30, 30),
    st.integers(0, 2),
)
NUMBERS = INTS | FLOATS | st.sampled_from([2**63, -(2**63) - 1, 10**30, -(10**400), 10**400, 2.5])
MOMENTS = (
    INSTANTS
    | INSTANTS.map(lambda t: t.astimezone(timezone(timedelta(hours=5, minutes=30))))
    | INSTANTS.map(lambda t: t.replace(tzinfo=None))
    | INSTANTS.map(lambda t: t.isoformat())
    | INSTANTS.map(lambda t: t.isoformat().replace("+00:00", "Z"))
    | st.sampled_from([date(2024, 1, 1), date(2023, 12, 31), "2024-01-01"])
)
HELD = {
    "int": INTS,
    "float": FLOATS,
    "bool": st.booleans(),
    "str": TEXTS,
    "datetime": INSTANTS,
    "list[str]": st.lists(TEXTS, max_size=3),
    "list[int]": st.lists(INTS, max_size=3),
}
ASKED = {"int": NUMBERS, "float": NUMBERS, "bool": st.booleans(), "str": TEXTS, "datetime": MOMENTS}


def rows(max_size: int = 25) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return rows with about a third of the values absent."""
    row = st.fixed_dictionaries({name: HELD[kind] | st.none() for name, kind in FIELDS.items()})
    return st.lists(row, max_size=max_size)


def values_for(kind: str, op: str) -> st.SearchStrategy[Any]:
    """Return values that the operator takes on the type."""
    asked = ASKED[kind[5:-1] if kind.startswith("list[") else kind]
    if op == "$exists":
        return st.booleans()
    return st.lists(asked, max_size=9).map(tuple) if op in ("$in", "$nin") else asked


CONDITIONS = st.sampled_from([(name, op) for name, kind in FIELDS.items() for op in ALLOWED[kind]]).flatmap(
    lambda pair: values_for(FIELDS[pair[0]], pair[1]).map(lambda value: Term(pair[1], pair[0], value))
)
TERMS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: Term("and", parts=tuple(parts))),
        st.lists(inner, min_size=1, max_size=4).map(lambda parts: Term("or", parts=tuple(parts))),
        inner.map(lambda part: Term("not", parts=(part,))),
    ),
    max_leaves=8,
)
