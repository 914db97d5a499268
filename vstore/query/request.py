"""What one search asks, checked once."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from vstore.errors import InvalidSetting
from vstore.filters import Filter, compile_filter
from vstore.ingest.inputs import as_query
from vstore.types import Float32s, Schema


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A checked query: `query` is float32[dim]; `ef` of None leaves the beam width to `recall`."""

    query: Float32s
    k: int
    filter: Filter | None
    recall: float
    ef: int | None


def check_k(k: Any, name: str = "k") -> int:
    """Return k as an int.

    Raises:
        InvalidSetting: it is no whole number of 1 or more.
    """
    if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
        raise InvalidSetting(f"{name} is {k!r}; it must be a whole number of 1 or more")
    return int(k)


def check_recall(recall: Any) -> float:
    """Return the recall asked for.

    Raises:
        InvalidSetting: it is no number in (0, 1].
    """
    if isinstance(recall, bool) or not isinstance(recall, (int, float, np.floating)) or not 0 < recall <= 1:
        raise InvalidSetting(
            f"recall is {recall!r}; it must be above 0 and at most 1 "
            "(1 searches exactly, 0.95 is the default)"
        )
    return float(recall)


def search_request(query: Any, k: Any, filter: Any, recall: Any, ef: Any, schema: Schema) -> SearchRequest:
    """Check everything that a search was given.

    Raises:
        InvalidSetting: k, recall or ef out of range.
        DimensionMismatch, InvalidVector: the query.
        FilterError, UnknownField, FieldTypeError: the filter.
    """
    return SearchRequest(
        query=as_query(query, dim=schema.dim, metric=schema.metric),
        k=check_k(k),
        filter=compile_filter(filter, schema),
        recall=check_recall(recall),
        ef=None if ef is None else check_k(ef, "ef"),
    )
