"""docs/FILTERS.md says what is true: its examples run, its tables are the code's."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vstore.filters import MAX_DEPTH, MAX_TERMS, MAX_VALUES, OPERATORS, FilterLike, compile_filter
from vstore.filters.check import ALLOWED
from vstore.format.columns import column_from_values
from vstore.types import FieldType, Schema

PAGE = Path(__file__).parents[2] / "docs" / "FILTERS.md"


def example(fields: Mapping[str, FieldType], rows: list[dict[str, Any]]) -> Callable[[FilterLike], list[int]]:
    schema = Schema(dim=2, metric="l2", fields=fields)
    columns = {
        name: column_from_values(kind, [row.get(name) for row in rows]) for name, kind in fields.items()
    }

    def matching(filter: FilterLike) -> list[int]:
        found = compile_filter(filter, schema)
        assert found is not None
        return found.evaluate(columns, len(rows)).nonzero()[0].tolist()

    return matching


def test_examples_run() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False, globs={"example": example})
    assert result.failed == 0
    assert result.attempted > 20


def test_type_table_is_the_codes() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Types")[1].split("```")[0]
    found = {}
    for kinds, operators in re.findall(r"^\| ([\w\[\], ]+) \| `(\$[^`]*)` \|", section, flags=re.MULTILINE):
        for kind in kinds.split(", "):
            found[kind] = tuple(operators.split())
    assert found == dict(ALLOWED)


def test_every_operator_and_limit_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.split("## Operators")[1].split("```")[0]
    for operator in (*OPERATORS, "$and", "$or", "$not"):
        assert operator in table, operator
    for name, limit in (("MAX_DEPTH", MAX_DEPTH), ("MAX_TERMS", MAX_TERMS), ("MAX_VALUES", MAX_VALUES)):
        assert re.search(rf"`{name}`\) \| {limit:,} \|", page), name
