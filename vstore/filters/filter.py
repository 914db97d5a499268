"""The single entry: an F expression or a dict, parsed and typed against a schema, ready to evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vstore.errors import FilterError
from vstore.filters import ast, describe, evaluate
from vstore.filters.check import TypedStep, type_tree
from vstore.filters.expressions import Expression, Field
from vstore.filters.parse import parse_filter
from vstore.filters.zones import Summary, ZonedRows, asks_for_values
from vstore.format.columns import Column
from vstore.format.scalars import kind_of, short
from vstore.types import Bools, FieldType, Int64s, Schema


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that fits a schema. Immutable; threads may share it.

    `fields` are the names of the columns that evaluating it needs.
    """

    tree: ast.Node
    fields: frozenset[str]
    _types: Mapping[str, FieldType] = field(repr=False, compare=False)
    _steps: tuple[TypedStep, ...] = field(repr=False, compare=False)

    def evaluate(self, columns: Mapping[str, Column], n: int) -> Bools:
        """Return bool[n], a fresh array: which of n rows match.

        Args:
            columns: a column of n rows for each name in `fields` (`null_column` where there is none).
            n: number of rows.

        Raises:
            UnknownField: a column is missing.
            FieldTypeError: a column of another type than the schema's.
            InvalidInput: a column of another number of rows.
        """
        return evaluate.evaluate(self._steps, columns, self._types, n)

    def by_zones(
        self,
        starts: Int64s,
        n: int,
        block_rows: int,
        whole: Mapping[str, Column],
        summaries: Mapping[str, Summary],
    ) -> ZonedRows:
        """Return what is decided of n rows where only some columns are here; arguments as of `ZonedRows`."""
        return ZonedRows(self._steps, self._types, starts, n, block_rows, whole, summaries)

    def asks_for_values(self, field: str) -> bool:
        """Return whether the filter asks the field for few given values, which Bloom filters can tell."""
        return asks_for_values(self._steps, field)

    def describe(self) -> str:
        """Return the filter as an F expression on one line, long $in shortened."""
        return describe.describe(self.tree)

    def to_dict(self) -> dict[str, Any]:
        """Return the filter in the dict language; datetimes are ISO strings."""
        return describe.to_dict(self.tree)


FilterLike = Expression | Mapping[str, Any] | Filter | None
"""What every `filter=` argument takes."""


def compile_filter(filter: FilterLike, schema: Schema) -> Filter | None:
    """Return the filter parsed and typed, or None for None.

    Raises:
        UnknownField: a field that the schema does not have.
        UnknownOperator: an operator that the language does not have.
        FilterError: anything else that makes no filter; says what to write.
    """
    if filter is None:
        return None
    if isinstance(filter, (Expression, Filter)):
        tree = filter.tree
    elif isinstance(filter, Mapping):
        tree = parse_filter(filter)
    else:
        raise _no_filter(filter)
    ast.check_limits(tree)
    fields = ast.fields_of(tree)
    steps = type_tree(tree, schema.fields)
    return Filter(tree, fields, {name: schema.fields[name] for name in fields}, steps)


def _no_filter(given: object) -> FilterError:
    if isinstance(given, Field):
        return FilterError(f"the filter is the field {given!r} alone; compare it, as in {given!r} == True")
    if isinstance(given, bool):
        return FilterError(
            f"the filter is {given!r}; comparisons of plain values give a bool: write F.name or F['name'] "
            "for the field"
        )
    return FilterError(
        f"the filter is {short(given)}, {kind_of(given)}; give an F expression, as F.year >= 2020, "
        'or a dict, as {"year": {"$gte": 2020}}'
    )
