"""Payload rows: all that a hit shows, its key, attributes and document, in one place.

Filters read columns; a hit reads one payload row. The values are the same, kept twice, because a
query filters millions of rows by a few fields and shows ten rows with all of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from vstore.errors import CorruptData
from vstore.format.columns import column_values
from vstore.format.frame import decoding, pack, unpack
from vstore.format.rows import RowBatch
from vstore.shard import sections
from vstore.types import Attributes, Document, FieldType, Key

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

Fields = tuple[tuple[str, FieldType], ...]
Shown = tuple[tuple[str | None, FieldType], ...]
"""The fields of a shard's payload rows, in their order; None where the collection has dropped the field."""


class PayloadRow(NamedTuple):
    """One row: `values` follows the shard's own fields, None where absent."""

    key: Key
    values: Sequence[Any]
    document: Document | None


def payload_block_rows(rows: RowBatch) -> int:
    """Return the rows of a payload block: a power of two, so that a block is small to read for one hit."""
    n_bytes = sum(len(part) for document in rows.documents or () if document for part in document.values())
    # Keys and attributes count too, at a rough 16 bytes a value: only the order of magnitude matters.
    row_bytes = n_bytes / rows.n + 16 * (1 + len(rows.columns))
    block_rows = sections.MAX_PAYLOAD_BLOCK_ROWS
    while block_rows > 1 and block_rows * row_bytes > sections.PAYLOAD_BLOCK_BYTES:
        block_rows //= 2
    return block_rows


def payload_blocks(rows: RowBatch, fields: Fields, block_rows: int) -> Iterator[bytes]:
    """Yield the payload of every `block_rows` rows, in order, as msgpack."""
    for start in range(0, rows.n, block_rows):
        index = np.arange(start, min(start + block_rows, rows.n), dtype=np.int64)
        columns = [
            [_packed(value) for value in column_values(rows.columns[name], index)] for name, _ in fields
        ]
        keys = rows.keys[start : start + block_rows]
        documents = (
            [None] * len(index) if rows.documents is None else rows.documents[start : start + block_rows]
        )
        values = zip(*columns, strict=True) if columns else [()] * len(index)
        plain = keys.tolist() if isinstance(keys, np.ndarray) else keys
        yield pack([[key, list(row), doc] for key, row, doc in zip(plain, values, documents, strict=True)])


def decode_payload(data: bytes, n_fields: int, where: str) -> tuple[PayloadRow, ...]:
    """Return the rows of one payload block.

    Raises:
        CorruptData: the bytes are no such rows.
    """
    stored = unpack(data, where)
    with decoding(where):
        rows = tuple(PayloadRow(key, values, document) for key, values, document in stored)
        if any(len(row.values) != n_fields or not isinstance(row.key, (int, str)) for row in rows):
            raise CorruptData(f"{where}: a payload row does not have {n_fields} values and a key")
    return rows


def unpack_attributes(row: PayloadRow, fields: Shown) -> Attributes:
    """Return the row's attributes as a dict; absent and dropped fields are left out."""
    return {
        name: _EPOCH + value * _MICROSECOND if kind == "datetime" else value
        for (name, kind), value in zip(fields, row.values, strict=True)
        if value is not None and name is not None
    }


@lru_cache(maxsize=256)
def unpacker(fields: Shown) -> Callable[[PayloadRow], Attributes]:
    """Return `unpack_attributes` for these fields, quicker where every value is as it is stored."""
    names = _plain_names(fields)
    if names is None:
        return lambda row: unpack_attributes(row, fields)

    def unpack_plain(row: PayloadRow) -> Attributes:
        values = row.values
        return unpack_attributes(row, fields) if None in values else dict(zip(names, values, strict=True))

    return unpack_plain


def attributes_of(rows: Sequence[PayloadRow], values: Sequence[Any], fields: Shown) -> list[Attributes]:
    """Return `unpack_attributes` of rows, whose `values` these are."""
    names = _plain_names(fields)
    if names is None or None in chain.from_iterable(values):
        return [unpack_attributes(row, fields) for row in rows]
    if len(names) == 1:
        (name,) = names
        return [{name: value} for (value,) in values]
    return [dict(zip(names, own, strict=True)) for own in values]


@lru_cache(maxsize=256)
def _plain_names(fields: Shown) -> tuple[str, ...] | None:
    """Return the names of fields that are all shown as they are stored, or None."""
    if any(kind == "datetime" for _, kind in fields):
        return None
    names = tuple(name for name, _ in fields if name is not None)
    return names if len(names) == len(fields) else None


def _packed(value: Any) -> Any:
    return (value - _EPOCH) // _MICROSECOND if isinstance(value, dt.datetime) else value
