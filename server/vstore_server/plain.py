"""The quick reading of a `Search` that is as most are: known fields of their very types, and no filter.

Whatever is not exactly so is left to the general reading (`messages.Reader`), which takes it or says what is
wrong with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vstore.types import Float32s
from vstore_server.codec import Limits, Message

_FIELDS = frozenset({"collection", "query", "k", "recall", "ef", "filter", "at_least"})
_FLOAT32 = np.dtype("<f4")


class PlainSearch(NamedTuple):
    """The fields of such a search."""

    collection: str
    query: Float32s
    k: int
    recall: float
    ef: int | None
    at_least: str | None


def plain_search(message: Message, limits: Limits) -> PlainSearch | None:
    """Return the fields of a plain search, within the limits; None for any other."""
    if not _FIELDS.issuperset(message) or message.get("filter") is not None:
        return None
    name, k, recall = message.get("collection"), message.get("k", 10), message.get("recall", 0.95)
    ef, at_least = message.get("ef"), message.get("at_least")
    if (
        type(name) is not str
        or type(k) is not int
        or k > limits.k
        or type(recall) is not float
        or (ef is not None and (type(ef) is not int or ef > limits.ef))
        or (at_least is not None and type(at_least) is not str)
    ):
        return None
    query = _vector(message.get("query"))
    return None if query is None else PlainSearch(name, query, k, recall, ef, at_least)


def _vector(value: Any) -> Float32s | None:
    if type(value) is not dict or len(value) != 3 or value.get("dtype") != "float32":
        return None
    shape, data = value.get("shape"), value.get("data")
    if type(shape) is not list or len(shape) != 1 or type(data) is not bytes:
        return None
    if type(shape[0]) is not int or 4 * shape[0] != len(data):
        return None
    return np.frombuffer(data, _FLOAT32)
