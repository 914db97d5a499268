"""Columns: values go in and come back, join and are taken; what a type cannot hold is named."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from filter_oracle import HELD
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.errors import FieldTypeError, InvalidInput
from vstore.format.columns import (
    Column,
    column_from_values,
    column_values,
    concat_columns,
    null_column,
    take_column,
)
from vstore.types import FIELD_TYPES, FieldType

QUIET = settings(deadline=None, derandomize=True, max_examples=60)


def assert_well_formed(column: Column) -> None:
    """The invariants of Column's docstring."""
    n = column.n
    assert column.present.dtype == np.bool_
    dtypes = {"float": np.float64, "bool": np.bool_, "str": np.int32, "list[str]": np.int32}
    assert column.values.dtype == dtypes.get(column.type, np.int64)
    if column.type.startswith("list"):
        assert column.offsets.dtype == np.int64
        assert column.offsets[0] == 0
        assert column.offsets[-1] == len(column.values)
        lengths = np.diff(column.offsets)
        assert (lengths >= 0).all()
        assert not lengths[~column.present].any()
        used = column.values
    else:
        assert column.offsets is None
        assert len(column.values) == n
        assert not column.values[~column.present].any()
        used = column.values[column.present]
    if column.type in ("str", "list[str]"):
        assert list(column.dictionary) == sorted(set(column.dictionary))
        assert set(used.tolist()) == set(range(len(column.dictionary)))
    else:
        assert column.dictionary is None


@pytest.mark.parametrize("kind", FIELD_TYPES)
@QUIET
@given(data=st.data())
def test_round_trip_take_and_concat(kind: FieldType, data: st.DataObject) -> None:
    values = st.lists(HELD[kind] | st.none(), max_size=12)
    parts = data.draw(st.lists(values, min_size=1, max_size=4))
    columns = [column_from_values(kind, part) for part in parts]
    for column, part in zip(columns, parts, strict=True):
        assert_well_formed(column)
        assert column_values(column) == part
    whole = concat_columns([*columns, null_column(kind, 2)])
    everything = [value for part in parts for value in part] + [None, None]
    assert_well_formed(whole)
    assert column_values(whole) == everything
    index = np.array(data.draw(st.lists(st.integers(0, len(everything) - 1), max_size=15)), dtype=np.int64)
    taken = take_column(whole, index)
    assert_well_formed(taken)
    assert column_values(taken) == column_values(whole, index) == [everything[i] for i in index]


@pytest.mark.parametrize("kind", FIELD_TYPES)
def test_null_column(kind: FieldType) -> None:
    column = null_column(kind, 3)
    assert_well_formed(column)
    assert column_values(column) == [None] * 3
    assert column_values(null_column(kind, 0)) == []
    assert column_values(take_column(column, np.array([2, 0]))) == [None, None]


class Color(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


PLUS_TWO = timezone(timedelta(hours=2))
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("int", [np.int8(3), None, 2**63 - 1, Level.HIGH], [3, None, 2**63 - 1, 3]),
        ("int", np.array([1, 2], dtype=np.uint8), [1, 2]),
        ("int", np.array([1, 2], dtype=">i2"), [1, 2]),
        ("int", range(3), [0, 1, 2]),
        ("int", np.ma.array([1, 2, 3], mask=[0, 1, 0]), [1, None, 3]),
        ("float", [1, 2.5, np.float32(0.5), None, float("inf")], [1.0, 2.5, 0.5, None, float("inf")]),
        ("float", np.array([1, 2]), [1.0, 2.0]),
        ("float", np.array([0.5], dtype=np.float16), [0.5]),
        ("float", np.array([1.0, None], dtype=object), [1.0, None]),
        ("bool", [np.True_, False, None], [True, False, None]),
        ("bool", np.array([True, False]), [True, False]),
        ("str", [Color.RED, np.str_("b"), None, ""], ["red", "b", None, ""]),
        ("str", np.array(["b", "a", "b"]), ["b", "a", "b"]),
        ("str", ["ä", "\U0001f600", "\uffff"], ["ä", "\U0001f600", "\uffff"]),
        (
            "datetime",
            [NOON.astimezone(PLUS_TWO), NOON.replace(tzinfo=None), "2024-05-01T12:00:00Z"],
            [NOON] * 3,
        ),
        ("datetime", [date(2024, 5, 1), "2024-05-01"], [datetime(2024, 5, 1, tzinfo=UTC)] * 2),
        ("datetime", [np.datetime64("NaT"), np.datetime64("2024-05-01T12", "h"), None], [None, NOON, None]),
        ("datetime", np.array(["2024-05-01T12", "NaT"], dtype="M8[ns]"), [NOON, None]),
        ("datetime", np.array(["2024"], dtype="M8[Y]"), [datetime(2024, 1, 1, tzinfo=UTC)]),
        ("datetime", ["2024-05-01T12:00:00.000000000+00:00"], [NOON]),
        (
            "datetime",
            [datetime.min, datetime.max],
            [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)],
        ),
        (
            "list[str]",
            [["a"], ("b", "a"), None, [], {"c", "a", "b"}],
            [["a"], ["b", "a"], None, [], ["a", "b", "c"]],
        ),
        ("list[str]", [np.array(["x", "y"])], [["x", "y"]]),
        ("list[int]", [[1, np.int64(2)], np.array([3]), None], [[1, 2], [3], None]),
        ("list[int]", np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ("list[int]", np.empty((2, 0), dtype=np.int64), [[], []]),
    ],
)
def test_what_is_taken(kind: FieldType, given: Any, expected: list[Any]) -> None:
    column = column_from_values(kind, given)
    assert_well_formed(column)
    found = column_values(column)
    assert found == expected
    for value in found:
        assert value is None or type(value) in (int, float, bool, str, datetime, list)


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        ("int", [1, True], "row 1: True is a bool, not an int"),
        ("int", [1, None, 2.0], r"row 2: 2\.0 is a float"),
        ("int", ["7"], "row 0: '7' is a str"),
        ("int", [0, 2**63], "row 1: 9223372036854775808 does not fit 64 bits"),
        ("int", [None, -(2**63) - 1], "row 1"),
        ("int", np.array([1, 2**63], dtype=np.uint64), "row 1"),
        ("int", np.array([1.0]), r"row 0: .*not an int"),
        ("float", [0.5, float("nan")], "row 1: it is NaN; use None"),
        ("float", np.array([0.5, np.nan]), "row 1: it is NaN"),
        ("float", [True], "is a bool"),
        ("float", np.array([True]), "is a bool"),
        ("float", [2**53 + 1], "not exact in float64"),
        ("float", np.array([1, 2**53 + 1]), "row 1: .*not exact"),
        ("float", [10**400], "beyond float64"),
        ("bool", [1], "row 0: 1 is an int, not a bool"),
        ("str", ["a", 3], "row 1: 3 is an int"),
        ("str", ["a", b"b"], "row 1: .* is a bytes"),
        ("str", ["a", "\ud800"], "row 1: .*lone surrogate"),
        ("datetime", [1714564800], "row 0: 1714564800 is an int"),
        ("datetime", ["May 1st"], "not ISO 8601"),
        ("datetime", ["2024-05-01T12:00:00.0000001"], "finer than a microsecond"),
        ("datetime", np.array([0, 1], dtype="M8[ns]"), "row 1: .*finer than a microsecond"),
        ("datetime", np.array([2**62], dtype="M8[us]"), "outside the years"),
        ("datetime", np.array([2**62], dtype="M8[D]"), "row 0"),
        ("datetime", [datetime.min.replace(tzinfo=PLUS_TWO)], "outside the years"),
        ("list[str]", ["abc"], "row 0: 'abc' is a str; give a list of str"),
        ("list[str]", [["a"], ["b", 3]], "row 1: item 1: 3 is an int"),
        ("list[str]", [["a"], ["b", None]], "row 1: item 1: None is no item"),
        ("list[str]", [[], None, ["\ud800"]], "row 2: item 0: .*lone surrogate"),
        ("list[int]", [[1], [True]], "row 1: item 0: True is a bool"),
        ("list[int]", [{1, "a"}], "row 0: item"),
        ("list[int]", [3], "give a list of int"),
        ("list[int]", np.array([1, 2]), "give a list of int"),
        ("int", np.array([[1]]), r"shape \(1, 1\)"),
        ("int", np.array(1), r"shape \(\)"),
        ("text", [], "type 'text'.*the types are int"),
    ],
)
def test_what_is_refused(kind: Any, given: Any, says: str) -> None:
    with pytest.raises(FieldTypeError, match=rf"field 'f' .*{says}"):
        column_from_values(kind, given, "f")


def test_a_column_owns_its_arrays() -> None:
    for kind, array in (("int", np.arange(3)), ("float", np.ones(3)), ("bool", np.ones(3, dtype=bool))):
        column = column_from_values(kind, array)
        assert not np.shares_memory(column.values, array)
    pairs = np.ones((2, 2), dtype=np.int64)
    assert not np.shares_memory(column_from_values("list[int]", pairs).values, pairs)


def test_concat_refuses() -> None:
    with pytest.raises(InvalidInput, match="0 columns"):
        concat_columns([])
    with pytest.raises(FieldTypeError, match="'int' and 'str'"):
        concat_columns([null_column("int", 1), null_column("str", 1)])
