"""Both syntaxes give the same tree, and whatever is no filter is refused with what to write instead."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest

from vstore.errors import (
    FieldTypeError,
    FilterError,
    InvalidInput,
    UnknownField,
    UnknownOperator,
    VstoreError,
)
from vstore.filters import MAX_DEPTH, MAX_TERMS, MAX_VALUES, Expression, F, compile_filter
from vstore.filters.ast import And, Condition, Not, Or
from vstore.filters.check import ALLOWED
from vstore.format.columns import column_from_values
from vstore.types import FIELD_TYPES, Schema

SCHEMA = Schema(
    dim=2,
    metric="l2",
    fields={
        "year": "int",
        "price": "float",
        "public": "bool",
        "topic": "str",
        "taken": "datetime",
        "tags": "list[str]",
        "pages": "list[int]",
        "my field": "str",
        "_hidden": "int",
    },
)
A, B, C = (Condition("year", "$eq", value) for value in (1, 2, 3))


def tree(filter: Any) -> Any:
    return compile_filter(filter, SCHEMA).tree


@pytest.mark.parametrize(
    ("expression", "document"),
    [
        (F.year == 1, {"year": 1}),
        (F.year == 1, {"year": {"$eq": 1}}),
        (F["my field"] != "x", {"my field": {"$ne": "x"}}),
        (F.year > 1, {"year": {"$gt": 1}}),
        (np.int64(1) < F.year, {"year": {"$gt": 1}}),
        (F.year >= 1, {"year": {"$gte": 1}}),
        (F.year < 1, {"year": {"$lt": 1}}),
        (np.int64(1) >= F.year, {"year": {"$lte": 1}}),
        (F.year.isin([1, 2]), {"year": {"$in": [1, 2]}}),
        (F.year.isin(range(3)), {"year": {"$in": [0, 1, 2]}}),
        (F.year.isin({3, 1, 2}), {"year": {"$in": (1, 2, 3)}}),
        (F.year.isin(np.array([1, 2])), {"year": {"$in": [1, 2]}}),
        (F.year.isin(i for i in (1, 2)), {"year": {"$in": [1, 2]}}),
        (F.topic.notin([]), {"topic": {"$nin": []}}),
        (F.tags.contains("a"), {"tags": {"$contains": "a"}}),
        (F.topic.startswith("a"), {"topic": {"$startsWith": "a"}}),
        (F.topic.exists(), {"topic": {"$exists": True}}),
        (F.topic.exists(False), {"topic": {"$exists": False}}),
        ((F.year >= 1) & (F.year < 9), {"year": {"$gte": 1, "$lt": 9}}),
        ((F.year == 1) & (F.topic == "a"), {"year": 1, "topic": "a"}),
        ((F.year == 1) | (F.topic == "a"), {"$or": [{"year": 1}, {"topic": "a"}]}),
        ((F.year == 1) & (F.year == 2), {"$and": [{"year": 1}, {"year": 2}]}),
        (~(F.year > 1), {"$not": {"year": {"$gt": 1}}}),
        (~(F.year > 1), {"year": {"$not": {"$gt": 1}}}),
        (~((F.year > 1) & (F.year < 3)), {"year": {"$not": {"$gt": 1, "$lt": 3}}}),
        (~~(F.year > 1), {"year": {"$not": {"$not": {"$gt": 1}}}}),
        (F.year == 1, {"$and": [{"$or": [{"year": 1}]}]}),
        (F.taken >= np.datetime64("2024-01-01"), {"taken": {"$gte": datetime(2024, 1, 1, tzinfo=UTC)}}),
        (F.price < np.float32(0.5), {"price": {"$lt": 0.5}}),
    ],
)
def test_both_syntaxes_give_one_tree(expression: Expression, document: dict[str, Any]) -> None:
    assert tree(expression) == tree(document)
    assert repr(expression) == compile_filter(document, SCHEMA).describe()
    if "taken" not in document:  # datetimes become ISO strings
        assert tree(expression.to_dict()) == tree(expression)


def test_nested_and_or_are_lifted() -> None:
    a, b, c = (F.year == 1), (F.year == 2), (F.year == 3)
    assert tree((a & b) & c) == tree(a & (b & c)) == And((A, B, C))
    assert tree((a | b) | c) == tree(a | (b | c)) == Or((A, B, C))
    assert tree(a | b & c) == Or((A, And((B, C))))
    assert tree(~a & b) == And((Not(A), B))
    assert tree({"$and": [{"$and": [{"year": 1}, {"year": 2}]}, {"year": 3}]}) == And((A, B, C))


def test_fields_and_texts() -> None:
    found = compile_filter(
        (F.year >= 2020) & (F.tags.contains("bird") | ~F["my field"].isin(["abc"])), SCHEMA
    )
    assert found.fields == {"year", "tags", "my field"}
    assert found.describe() == "(F.year >= 2020) & (F.tags.contains('bird') | ~F['my field'].isin(['abc']))"
    assert compile_filter(F["_hidden"] == 1, SCHEMA).describe() == "F['_hidden'] == 1"
    long = compile_filter(F.year.isin(range(5000)), SCHEMA)
    assert long.describe() == "F.year.isin([0, 1, 2, 3, 4, 5, 6, 7, ... 4,992 more])"
    when = compile_filter(F.taken == date(2024, 1, 2), SCHEMA)
    assert when.describe() == "F.taken == '2024-01-02'"
    assert when.to_dict() == {"taken": {"$eq": "2024-01-02"}}
    assert compile_filter(found, SCHEMA) == found
    assert hash(compile_filter(found.to_dict(), SCHEMA)) == hash(found)
    assert compile_filter(None, SCHEMA) is None


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: (F.year > 1) and (F.year < 3),
        lambda: (F.year > 1) or (F.year < 3),
        lambda: not (F.year > 1),
        lambda: 1 < F.year < 3,
        lambda: 1 if F.year == 1 else 2,
        lambda: (F.year == 1) in [F.year == 2],
    ],
)
def test_python_logic_is_refused(misuse: Any) -> None:
    with pytest.raises(FilterError, match=r"&.*\|.*~|joined with"):
        misuse()


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda: F.year >= 2020 & F.public == True, "parentheses"),  # noqa: E712
        (lambda: F.public & (F.year > 1), r"F\.public is a field, not a condition"),
        (lambda: (F.year > 1) & F.public, "parentheses"),
        (lambda: (F.year > 1) & True, "joins two conditions, and True is a bool"),
        (lambda: True | (F.year > 1), "joins two conditions"),
        (lambda: ~F.public, "not a condition"),
        (lambda: not F.public, "not a condition"),
        (lambda: (F.year > 1) == True, "is compared with True"),  # noqa: E712
        (lambda: F.year == F.price, r"F\.year, \$eq: compared with F\.price"),
        (lambda: "a" in F.tags, r"write F\.tags\.contains\('a'\)"),
        (lambda: F.topic.isin("abc"), r"'topic', \$in: 'abc' is a str; give a list"),
        (lambda: F.topic.isin(3), "give a list"),
        (lambda: F.topic == None, r"'topic', \$eq: None is no value.*\$exists"),  # noqa: E711
        (lambda: F.price > float("nan"), r"'price', \$gt: nan equals nothing"),
        (lambda: F.price.isin([1.0, np.nan]), r"\$in, value 1: nan"),
        (lambda: F.taken > np.datetime64("NaT"), "NaT"),
        (lambda: F.tags == ["a", "b"], r"one value is wanted.*\$in"),
        (lambda: F.year == 1j, "is a complex"),
        (lambda: F.year == b"a", "is a bytes"),
        (lambda: F.topic.exists("yes"), "give true or false"),
        (lambda: F.topic.startswith(3), "give a str"),
        (lambda: F[0], "a field's name is a str"),
        (lambda: list(F), "not iterable"),
        (lambda: F.year.isin(range(MAX_VALUES + 1)), "more than 100,000 values"),
    ],
)
def test_misuse_of_f(misuse: Any, says: str) -> None:
    with pytest.raises((FilterError, TypeError), match=says) as caught:
        misuse()
    assert isinstance(caught.value, VstoreError) or "iterable" in says


def test_attributes_of_fields_and_f() -> None:
    with pytest.raises(AttributeError, match=r"F\.meta has no 'year'.*F\['meta\.year'\]"):
        _ = F.meta.year
    with pytest.raises(AttributeError, match=r"F\['_hidden'\]"):
        _ = F._hidden
    assert repr(copy.copy(F.year)) == "F.year"
    expression = F.year == 1
    assert pickle.loads(pickle.dumps(expression)).tree == expression.tree == copy.deepcopy(expression).tree
    assert repr(F) == "F"


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ({}, FilterError, "filter: the filter is empty"),
        ({"$and": []}, FilterError, r"filter\.\$and: the list is empty"),
        ({"$or": ()}, FilterError, r"filter\.\$or: the list is empty"),
        ({"$or": {"year": 1}}, FilterError, "give a list of filters"),
        ({"$or": [{"year": 1}, {}]}, FilterError, r"filter\.\$or\[1\]: the filter is empty"),
        ({"$or": [1]}, FilterError, r"filter\.\$or\[0\]: 1 is an int"),
        ({"$not": [{"year": 1}]}, FilterError, r"filter\.\$not: .* is a list"),
        ({"year": {}}, FilterError, r"filter\.year: the operators are empty"),
        ({1: 2}, FilterError, "the key 1 is an int"),
        ({"$eq": 5}, FilterError, r"\$eq stands without a field"),
        ({"$nor": [{"year": 1}]}, UnknownOperator, r"no operator '\$nor'; .*did you mean '\$or'"),
        ({"year": {"gte": 1}}, UnknownOperator, r"filter\.year: .*'gte'; .*did you mean '\$gte'"),
        ({"year": {"$startswith": 1}}, UnknownOperator, r"did you mean '\$startsWith'"),
        ({"year": {"$gte": 1, "x": 2}}, UnknownOperator, "no operator 'x'"),
        ({"year": {3: 2}}, UnknownOperator, "no operator 3"),
        ({"year": {"$or": [1]}}, FilterError, r"\$or stands around filters"),
        ({"year": {"$not": 5}}, FilterError, r"use \$ne"),
        ({"year": None}, FilterError, r"filter\.year: .*None is no value"),
        ({"tags": ["a", "b"]}, FilterError, r"\$in"),
        ({"year": {"$eq": {"$gt": 1}}}, FilterError, "not a filter"),
        ({"yeer": 1}, UnknownField, r"'yeer' \(\$eq 1\).*fields: year, price.*did you mean 'year'"),
    ],
)
def test_malformed_dicts(document: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        compile_filter(document, SCHEMA)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (F.public, r"is the field F\.public alone"),
        (False, "comparisons of plain values"),
        ('{"year": 1}', "a str; give an F expression"),
        ([], "a list; give"),
    ],
)
def test_what_is_no_filter(given: Any, says: str) -> None:
    with pytest.raises(FilterError, match=says):
        compile_filter(given, SCHEMA)


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        (F.topic == 3, r"'topic' \(str\), \$eq: 3 is an int; give a str"),
        (F.topic.isin(["a", 3]), r"'topic' \(str\), \$in, value 1: 3 is an int"),
        (F.year == "2020", r"'year' \(int\), \$eq: '2020' is a str; give a number"),
        (F.year == True, r"'year' \(int\), \$eq: True is a bool"),  # noqa: E712
        (F.year.isin([1, True]), "value 1: True is a bool"),
        (F.price > False, "False is a bool"),
        (F.public == 1, r"'public' \(bool\), \$eq: 1 is an int; give true or false"),
        (F.public > True, r"'public' is bool, which has no \$gt"),
        (F.taken > 1.5, r"'taken' \(datetime\), \$gt: 1\.5 is a float; give a datetime"),
        (F.taken > "yesterday", "not ISO 8601"),
        (F.taken.isin(["2024-01-01", "x"]), r"\$in, value 1: 'x' is not ISO 8601"),
        (F.taken > "2024-01-01T00:00:00.0000001", "finer than a microsecond"),
        (F.tags.contains(3), r"'tags' \(list\[str\]\), \$contains: 3 is an int"),
        (F.pages.contains("a"), "give a number"),
        (F.tags.startswith("a"), r"has no \$startsWith"),
        (F.tags > "a", r"has no \$gt"),
        (F.year.contains(2), r"'year' is int, which has no \$contains \(value 2\).*it has \$eq"),
    ],
)
def test_ill_typed(filter: Expression, says: str) -> None:
    for form in (filter, filter.to_dict()):
        with pytest.raises(FilterError, match=says):
            compile_filter(form, SCHEMA)


def test_every_type_has_its_operators() -> None:
    assert set(ALLOWED) == set(FIELD_TYPES)


def test_depth() -> None:
    columns = {"year": column_from_values("int", [1, None, 3])}
    expression, document = F.year == 1, {"year": 1}
    for _ in range(MAX_DEPTH):
        expression, document = ~expression, {"$not": document}
    for filter in (expression, document):
        found = compile_filter(filter, SCHEMA)
        assert found.evaluate(columns, 3).tolist() == [True, False, False]
        assert found.describe().startswith("~~~~")
    with pytest.raises(FilterError, match="more than 1,000 deep"):
        compile_filter({"$not": document}, SCHEMA)
    for _ in range(200_000):
        expression = ~expression
    with pytest.raises(FilterError, match="more than 1,000 deep"):
        compile_filter(expression, SCHEMA)
    assert "1,000 deep" in repr(expression)
    cyclic: dict[str, Any] = {}
    cyclic["$not"] = cyclic
    with pytest.raises(FilterError, match="more than 1,000 deep"):
        compile_filter(cyclic, SCHEMA)


def test_alternating_depth_on_either_side() -> None:
    columns = {"year": column_from_values("int", list(range(10)))}
    left = right = F.year < 5
    for i in range(MAX_DEPTH // 2):
        term = F.year != i % 10
        left = (left | term) & (F.year < 9)
        right = (F.year < 9) & (term | right)
    expected = [True] * 9 + [False]
    assert compile_filter(left, SCHEMA).evaluate(columns, 10).tolist() == expected
    assert compile_filter(right, SCHEMA).evaluate(columns, 10).tolist() == expected


def test_number_of_terms() -> None:
    columns = {"year": column_from_values("int", list(range(3)))}
    wide = {"$or": [{"year": i} for i in range(1, MAX_TERMS)]}
    assert compile_filter(wide, SCHEMA).evaluate(columns, 3).tolist() == [False, True, True]
    with pytest.raises(FilterError, match="more than 10,000 terms"):
        compile_filter({"$or": [{"year": i} for i in range(MAX_TERMS)]}, SCHEMA)
    doubling = F.year == 1
    for _ in range(13):
        doubling = doubling & doubling
    with pytest.raises(FilterError, match="more than 10,000 terms"):
        _ = doubling & doubling
    shared = F.year == 1
    for _ in range(60):
        shared = ~(shared & shared)
    with pytest.raises(FilterError, match="more than 10,000 terms"):
        compile_filter(shared, SCHEMA)
    assert "10,000 terms" in repr(shared)
    nested: dict[str, Any] = {"year": 1}
    for _ in range(60):
        nested = {"$and": [nested, nested]}
    with pytest.raises(FilterError, match="more than 10,000 terms"):
        compile_filter(nested, SCHEMA)


def test_evaluate_checks_its_columns() -> None:
    found = compile_filter(F.year > 1, SCHEMA)
    with pytest.raises(UnknownField, match="'year'"):
        found.evaluate({}, 3)
    with pytest.raises(FieldTypeError, match="is str; the schema says int"):
        found.evaluate({"year": column_from_values("str", ["a"])}, 1)
    with pytest.raises(InvalidInput, match="has 1 rows; the others have 3"):
        found.evaluate({"year": column_from_values("int", [1])}, 3)
    assert found.evaluate({"year": column_from_values("int", [])}, 0).tolist() == []
