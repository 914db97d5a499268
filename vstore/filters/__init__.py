"""Filters: F expressions and the dict language, typed against a schema, evaluated on columns."""

from vstore.filters.ast import MAX_DEPTH, MAX_TERMS, MAX_VALUES, OPERATORS
from vstore.filters.expressions import Expression, F, Field
from vstore.filters.filter import Filter, FilterLike, compile_filter

__all__ = [
    "MAX_DEPTH",
    "MAX_TERMS",
    "MAX_VALUES",
    "OPERATORS",
    "Expression",
    "F",
    "Field",
    "Filter",
    "FilterLike",
    "compile_filter",
]
