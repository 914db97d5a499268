"""Keys and row batches as values: take, concatenate, own, weigh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vstore.format.columns import Column, concat_columns, take_column
from vstore.format.rows import RowBatch
from vstore.types import Document, IdKind, Int64s, Key

Keys = Int64s | tuple[str, ...]
"""Callers' ids of one kind: int64[m] or m strings."""

Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


def kind_of(keys: Keys) -> IdKind:
    """Return whether the keys are "int" or "str"."""
    return "int" if isinstance(keys, np.ndarray) else "str"


def take_keys(keys: Keys, index: npt.NDArray[np.integer]) -> Keys:
    """Return the keys at `index` (integers [m]), in that order."""
    if isinstance(keys, np.ndarray):
        taken: Int64s = keys[index]
        return taken
    return tuple(keys[i] for i in index.tolist())


def concat_keys(parts: Sequence[Keys]) -> Keys:
    """Return the keys of all parts, in order. At least one part; all of one kind."""
    if len(parts) == 1:
        return parts[0]
    joined: list[str] = []
    arrays: list[Int64s] = []
    for part in parts:
        if isinstance(part, np.ndarray):
            arrays.append(part)
        else:
            joined.extend(part)
    return np.concatenate(arrays) if arrays else tuple(joined)


def last_rows(keys: Keys) -> Int64s | None:
    """Return int64[u], ascending: the last row of each distinct key; None where all are distinct."""
    n = len(keys)
    if isinstance(keys, np.ndarray):
        _, backwards = np.unique(keys[::-1], return_index=True)
        return None if len(backwards) == n else np.sort(n - 1 - backwards)
    last: dict[Key, int] = {key: row for row, key in enumerate(keys)}
    return None if len(last) == n else np.sort(np.fromiter(last.values(), np.int64, len(last)))


def distinct_keys(keys: Keys) -> Keys:
    """Return each key once, at its last place."""
    rows = last_rows(keys)
    return keys if rows is None else take_keys(keys, rows)


def take_rows(rows: RowBatch, index: Int64s) -> RowBatch:
    """Return the rows at `index` (int64[m]), in that order, in arrays of their own."""
    return RowBatch(
        take_keys(rows.keys, index),
        rows.id_kind,
        np.ascontiguousarray(rows.vectors[index]),
        {name: take_column(column, index) for name, column in rows.columns.items()},
        None if rows.documents is None else [rows.documents[i] for i in index.tolist()],
    )


def concat_rows(parts: Sequence[RowBatch]) -> RowBatch:
    """Return the rows of all parts, in order. At least one part; all of one collection."""
    if len(parts) == 1:
        return parts[0]
    documents: list[Document | None] | None = None
    if any(part.documents is not None for part in parts):
        documents = []
        for part in parts:
            documents.extend(part.documents if part.documents is not None else [None] * part.n)
    return RowBatch(
        concat_keys([part.keys for part in parts]),
        parts[0].id_kind,
        np.concatenate([part.vectors for part in parts]),
        {name: concat_columns([part.columns[name] for part in parts]) for name in parts[0].columns},
        documents,
    )


def owned(rows: RowBatch) -> RowBatch:
    """Return the rows, each key once (its last), in arrays that no caller can change afterwards."""
    last = last_rows(rows.keys)
    if last is not None:
        return take_rows(rows, last)
    keys = rows.keys.copy() if isinstance(rows.keys, np.ndarray) else rows.keys
    columns = {name: _owned_column(column) for name, column in rows.columns.items()}
    documents = None if rows.documents is None else [None if d is None else dict(d) for d in rows.documents]
    return RowBatch(keys, rows.id_kind, np.array(rows.vectors, np.float32, order="C"), columns, documents)


def _owned_column(column: Column) -> Column:
    return replace(
        column,
        present=column.present.copy(),
        values=column.values.copy(),
        offsets=None if column.offsets is None else column.offsets.copy(),
    )


def size_bytes(rows: RowBatch) -> int:
    """Return about how many bytes the rows take in memory."""
    total = rows.vectors.nbytes
    total += rows.keys.nbytes if isinstance(rows.keys, np.ndarray) else sum(map(len, rows.keys))
    for column in rows.columns.values():
        total += column.present.nbytes + column.values.nbytes
        total += 0 if column.offsets is None else column.offsets.nbytes
        total += sum(map(len, column.dictionary or ()))
    for document in rows.documents or ():
        for part in (document or {}).values():
            total += len(part) if isinstance(part, (str, bytes)) else 0
    return total
