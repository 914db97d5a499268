"""Attributes changed alone: the rows are read, changed, and written whole, with no write between.

A row in the log and in shards is always whole, so that a filter, a hit and a replay never have to put a
row together from parts; an update therefore costs what an upsert of the same rows costs, less sending them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from vstore.errors import InvalidInput, InvalidSetting, UnknownField, nearest
from vstore.format.columns import Column, concat_columns, take_column
from vstore.format.rows import RowBatch
from vstore.ingest.batches import Keys, concat_rows, take_rows
from vstore.ingest.inputs import as_columns
from vstore.ingest.view import CollectionView, S
from vstore.types import Bools, Int64s, Schema

Missing = Literal["error", "ignore"]


@dataclass(frozen=True, slots=True)
class Changes:
    """New values for n rows: `columns` of the fields that change, each with `given` bool[n].

    A row whose `given` is False keeps what it has; one whose value is null loses it.
    """

    columns: Mapping[str, Column]
    given: Mapping[str, Bools]

    def applied(self, rows: RowBatch, index: Int64s) -> RowBatch:
        """Return the rows with the changes at `index` (int64[rows.n])."""
        columns = dict(rows.columns)
        for name, column in self.columns.items():
            given = self.given[name][index]
            # Row i of the new values stands at n + index[i] once both columns are one.
            source = np.where(given, rows.n + index, np.arange(rows.n))
            columns[name] = take_column(concat_columns([columns[name], column]), source)
        return replace(rows, columns=columns)


def as_changes(attributes: Any, schema: Schema, n: int) -> Changes:
    """Return the changes that row dicts, or a dict of columns, ask for.

    Args:
        attributes: n dicts of new values (or None, which changes nothing), or a dict of columns of n
            values. A value of None clears the field.
        schema: the collection's.
        n: the rows.

    Raises:
        InvalidInput: no attributes, or another number of rows than n.
        UnknownField, FieldTypeError: as for an upsert.
    """
    if attributes is None:
        raise InvalidInput("update needs attributes: a dict for each id, or a dict of columns")
    if not isinstance(attributes, Mapping):
        attributes = list(attributes)
    columns = as_columns(attributes, schema, n)
    given: dict[str, Bools] = {}
    for name in schema.fields:
        if isinstance(attributes, Mapping):
            given[name] = np.full(n, name in attributes)
        else:
            given[name] = np.fromiter((row is not None and name in row for row in attributes), np.bool_, n)
    changed = [name for name in schema.fields if given[name].any()]
    return Changes({name: columns[name] for name in changed}, {name: given[name] for name in changed})


def check_missing(missing: Any) -> Missing:
    """Return what to do with ids that do not exist.

    Raises:
        InvalidSetting: neither "error" nor "ignore".
    """
    known = get_args(Missing)
    if missing not in known:
        raise InvalidSetting(
            f"missing is {missing!r}{nearest(str(missing), known)}; it is 'error', which refuses ids that do "
            "not exist, or 'ignore', which leaves them out"
        )
    return "ignore" if missing == "ignore" else "error"


def updated_rows(view: CollectionView[S], keys: Keys, changes: Changes, missing: Missing) -> RowBatch | None:
    """Return the changed rows, whole, or None where none of the keys exists. Reads shards.

    Args:
        view: where the rows are.
        keys: distinct.
        changes: for each of the keys.
        missing: "error" refuses a key that does not exist, "ignore" leaves it out.

    Raises:
        InvalidInput: a key does not exist; names its row. InvalidId: keys of the other kind.
        UnknownField: a field was dropped since the changes were checked.
    """
    for name, column in changes.columns.items():
        if view.schema.fields.get(name) != column.type:
            raise UnknownField(
                f"field {name!r} was dropped, or became another one, while the update was on its way; "
                "nothing was written: look at the collection's schema"
            )
    located = view.locate(keys)
    absent = np.flatnonzero(located.part < 0)
    if len(absent) and missing == "error":
        row = int(absent[0])
        key = int(keys[row]) if isinstance(keys, np.ndarray) else keys[row]
        raise InvalidInput(
            f"id {row} is {key!r}, which collection {view.manifest.name!r} does not have "
            f"({len(absent)} of {len(keys)} ids are missing); nothing was written: upsert such rows, or "
            "give missing='ignore'"
        )
    n_shards = len(view.shards)
    parts: list[RowBatch] = []
    for part in np.unique(located.part[located.part >= 0]).tolist():
        positions = np.flatnonzero(located.part == part)
        rows = located.row[positions]
        if part >= n_shards:
            found = take_rows(view.memtable.chunks[part - n_shards].rows, rows)
        else:
            found = view.shards[part].shard.rows(rows)
        parts.append(changes.applied(found, positions))
    return concat_rows(parts) if parts else None
