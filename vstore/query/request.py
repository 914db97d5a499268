"""What one search asks, checked once."""

from __future__ import annotations

import math
import numbers
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from vstore.errors import InvalidSetting
from vstore.filters import Expression, Filter, FilterLike, ast, compile_filter
from vstore.filters.parse import parse_filter
from vstore.ingest.inputs import as_query
from vstore.types import Float32s, Schema
from vstore_kernels.gate import FLOAT32

REMEMBERED_FILTERS: Final = 256
SURELY_POSITIVE: Final = 1e-30
"""A sum of squares above this did not come from rounding."""


class SearchRequest(NamedTuple):
    """A checked query: `query` is float32[dim]; `ef` of None leaves the beam width to `recall`."""

    query: Float32s
    k: int
    filter: Filter | None
    recall: float
    ef: int | None


class CompiledFilters:
    """Filters as they were compiled against one schema, the least recently used out first. Thread-safe.

    Equal filters give the same `Filter` object. Values of different types are different filters, even where
    Python calls them equal: `F.a == True` is an error where `F.a == 1` is none.

    Args:
        schema: what the filters are typed against.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._lock = threading.Lock()
        self._known: OrderedDict[Any, Filter] = OrderedDict()
        self._last: tuple[FilterLike, Filter | None] = (None, None)

    def get(self, filter: FilterLike) -> Filter | None:
        """Return the filter, compiled; None for None.

        Raises: as `compile_filter`.
        """
        given, compiled = self._last
        if filter is given:
            return compiled
        if filter is None:
            return None
        if isinstance(filter, Mapping):
            # Not remembered as the last: it may have changed when it comes again.
            return self._get(Expression(parse_filter(filter)))
        compiled = self._get(filter)
        self._last = (filter, compiled)
        return compiled

    def _get(self, filter: Expression | Filter) -> Filter:
        try:
            key = _filter_key(filter.tree)
            with self._lock:
                known = self._known.get(key)
                if known is not None:
                    self._known.move_to_end(key)
                    return known
        except (AttributeError, RecursionError, TypeError):
            # No filter, too deep, or a value without a hash: compiling says what is wrong, if anything is.
            return self._compiled(filter)
        compiled = self._compiled(filter)
        with self._lock:
            compiled = self._known.setdefault(key, compiled)
            while len(self._known) > REMEMBERED_FILTERS:
                self._known.popitem(last=False)
        return compiled

    def _compiled(self, filter: Expression | Filter) -> Filter:
        compiled = compile_filter(filter, self.schema)
        assert compiled is not None
        return compiled


def _filter_key(node: ast.Node) -> Any:
    if isinstance(node, ast.Condition):
        value = node.value
        kind = tuple(map(type, value)) if type(value) is tuple else type(value)
        return node.field, node.op, kind, value
    if isinstance(node, ast.Not):
        return ast.Not, _filter_key(node.part)
    return type(node), *[_filter_key(part) for part in node.parts]


def check_k(k: Any, name: str = "k") -> int:
    """Return k as an int.

    Raises:
        InvalidSetting: it is no whole number of 1 or more.
    """
    if type(k) is int and k > 0:
        return k
    if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
        raise InvalidSetting(f"{name} is {k!r}; it must be a whole number of 1 or more")
    return int(k)


def check_recall(recall: Any) -> float:
    """Return the recall asked for.

    Raises:
        InvalidSetting: it is no number in (0, 1].
    """
    if type(recall) is float and 0 < recall <= 1:
        return recall
    if isinstance(recall, bool) or not isinstance(recall, (int, float, np.floating)) or not 0 < recall <= 1:
        raise InvalidSetting(
            f"recall is {recall!r}; it must be above 0 and at most 1 "
            "(1 searches exactly, 0.95 is the default)"
        )
    return float(recall)


def check_query(query: Any, schema: Schema) -> Float32s:
    """Return a query as float32[dim], C-contiguous, a copy: receipts look at it later.

    Raises:
        DimensionMismatch, InvalidVector: as `as_query`.
    """
    if type(query) is np.ndarray and query.dtype is FLOAT32 and query.shape == (schema.dim,):
        # It is finite only where every component is; what it leaves open is looked at closely.
        square = float(query.dot(query))
        if math.isfinite(square) and (square > SURELY_POSITIVE or schema.metric != "cosine"):
            return query.copy()
    return as_query(query, dim=schema.dim, metric=schema.metric).copy()


def check_queries(queries: Float32s, schema: Schema) -> Float32s | None:
    """Return queries as `check_query` returns each, a copy; None where one of them must be looked at closely.

    Args:
        queries: float32[m, d], at least one.
        schema: of the collection.
    """
    if queries.dtype is not FLOAT32 or queries.shape[1] != schema.dim:
        return None
    squares: list[float] = np.einsum("ij,ij->i", queries, queries).tolist()
    # The sum is finite only where every one is: none is below zero.
    if not math.isfinite(sum(squares)) or (schema.metric == "cosine" and min(squares) <= SURELY_POSITIVE):
        return None
    return queries.copy()


def search_request(
    query: Any, k: Any, filter: FilterLike, recall: Any, ef: Any, schema: Schema, filters: CompiledFilters
) -> SearchRequest:
    """Check everything that a search was given.

    Raises:
        InvalidSetting: k, recall or ef out of range.
        DimensionMismatch, InvalidVector: the query.
        FilterError, UnknownField, FieldTypeError: the filter.
    """
    return SearchRequest(
        check_query(query, schema),
        check_k(k),
        filters.get(filter),
        check_recall(recall),
        None if ef is None else check_k(ef, "ef"),
    )
