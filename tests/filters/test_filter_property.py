"""Every filter, in both syntaxes, equals its row-by-row evaluation in plain Python."""

from __future__ import annotations

import math
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest
from filter_oracle import (
    EDGES,
    FIELDS,
    SCHEMA,
    TERMS,
    Term,
    as_dict,
    as_expression,
    matches,
    rows,
    values_for,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vstore.filters import F, compile_filter, evaluate
from vstore.filters.check import ALLOWED
from vstore.format.columns import Column, column_from_values

PAIRS = [(name, op) for name, kind in FIELDS.items() for op in ALLOWED[kind]]
QUIET = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def columns_of(data: list[dict[str, Any]]) -> dict[str, Column]:
    return {
        name: column_from_values(kind, [row[name] for row in data], name) for name, kind in FIELDS.items()
    }


def assert_same(term: Term, data: list[dict[str, Any]]) -> None:
    columns, n = columns_of(data), len(data)
    expected = [matches(term, row) for row in data]
    by_f = compile_filter(as_expression(term), SCHEMA)
    by_dict = compile_filter(as_dict(term), SCHEMA)
    for found in (by_f, by_dict):
        assert found.evaluate(columns, n).tolist() == expected, found.describe()
    # Its two renderings mean the same.
    assert compile_filter(by_f.to_dict(), SCHEMA).evaluate(columns, n).tolist() == expected
    if "..." not in by_f.describe():
        read = eval(by_f.describe(), {"F": F, "inf": float("inf")})
        assert compile_filter(read, SCHEMA).evaluate(columns, n).tolist() == expected
    # It reads no more columns than it says.
    needed = {name: columns[name] for name in by_f.fields}
    assert by_f.evaluate(needed, n).tolist() == expected


@pytest.mark.parametrize(("name", "op"), PAIRS)
@settings(QUIET, max_examples=15)
@given(data=st.data())
def test_every_operator_on_every_type(name: str, op: str, data: st.DataObject) -> None:
    value = data.draw(values_for(FIELDS[name], op))
    assert_same(Term(op, name, value), data.draw(rows(12)))


@settings(QUIET, max_examples=200)
@given(term=TERMS, data=rows())
def test_random_trees(term: Term, data: list[dict[str, Any]]) -> None:
    assert_same(term, data)


@settings(QUIET, max_examples=100)
@given(
    term=TERMS,
    data=rows(),
    chunk=st.integers(1, 9),
    few=st.integers(0, 2),
    span=st.sampled_from([0, 4, 1 << 20]),
)
def test_chunks_and_every_way_to_look_up_a_set(
    term: Term, data: list[dict[str, Any]], chunk: int, few: int, span: int
) -> None:
    with (
        mock.patch.object(evaluate, "CHUNK_ROWS", chunk),
        mock.patch.object(evaluate, "_FEW_VALUES", few),
        mock.patch.object(evaluate, "_TABLE_SPAN", span),
    ):
        assert_same(term, data)


@settings(QUIET, max_examples=60)
@given(term=TERMS, data=rows())
def test_not_is_the_exact_complement(term: Term, data: list[dict[str, Any]]) -> None:
    columns, n = columns_of(data), len(data)
    expression = as_expression(term)
    plain = compile_filter(expression, SCHEMA).evaluate(columns, n)
    for negated in (~expression, {"$not": as_dict(term)}):
        assert (compile_filter(negated, SCHEMA).evaluate(columns, n) == ~plain).all()


HELD_FLOATS = [
    0.0,
    -0.0,
    1.0,
    1.5,
    2.0**53,
    2.0**53 + 2,
    2.0**63,
    -(2.0**63),
    sys.float_info.max,
    math.inf,
    5e-324,
]
ASKED_NUMBERS = [
    *(sign * value for value in (*HELD_FLOATS, *EDGES, 10**400, 2**63 - 1, 2**63, 2**64) for sign in (1, -1)),
    *(2**53 + i for i in range(4)),
]


@pytest.mark.parametrize("op", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"])
@pytest.mark.parametrize("name", ["i", "x"])
def test_numbers_at_the_edges(name: str, op: str) -> None:
    held = (
        [*EDGES, 2, 2**53 + 2] if name == "i" else [sign * value for value in HELD_FLOATS for sign in (1, -1)]
    )
    columns, n = {name: column_from_values(FIELDS[name], held)}, len(held)
    for asked in ASKED_NUMBERS:
        value = (asked,) if op in ("$in", "$nin") else asked
        term = Term(op, name, value)
        found = compile_filter(as_dict(term), SCHEMA).evaluate(columns, n)
        assert found.tolist() == [matches(term, {name: number}) for number in held], asked


@pytest.mark.parametrize("spread", [1, 1000, 10**12])
def test_large_in(spread: int) -> None:
    rng = np.random.default_rng(7)
    wanted = np.unique(rng.integers(0, 50_000, 20_000)) * spread
    held = rng.integers(0, 50_000, 70_000) * spread
    data = {
        "i": column_from_values("int", held),
        "x": column_from_values("float", held.astype(np.float64)),
        "s": column_from_values("str", [str(value) for value in held]),
        "nums": column_from_values("list[int]", np.stack([held, held[::-1]], axis=1)),
    }
    expected = np.isin(held, wanted)
    n = len(held)
    for name, values in (("i", wanted), ("x", wanted), ("s", [str(value) for value in wanted])):
        assert (compile_filter(F[name].isin(values), SCHEMA).evaluate(data, n) == expected).all()
        assert (compile_filter(F[name].notin(values), SCHEMA).evaluate(data, n) == ~expected).all()
    found = compile_filter(F.nums.isin(wanted), SCHEMA).evaluate(data, n)
    assert (found == (expected | expected[::-1])).all()


def test_nothing_is_written_to_the_columns() -> None:
    data = columns_of([{"i": 1, "x": 1.0, "b": True, "s": "a", "t": None, "words": ["a"], "nums": []}] * 3)
    before = {name: (column.present.copy(), column.values.copy()) for name, column in data.items()}
    for column in data.values():
        column.present.setflags(write=False)
        column.values.setflags(write=False)
    anything = ~F.b.exists() | ~(F.b == True) | (F.i != 1) | F.words.exists(False)  # noqa: E712
    compile_filter(anything, SCHEMA).evaluate(data, 3)[:] = True
    for name, (present, values) in before.items():
        assert (data[name].present == present).all()
        assert (data[name].values == values).all()
