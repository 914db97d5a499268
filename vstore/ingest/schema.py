"""Fields that come and go: the manifest that follows, and rows of an older schema under the present one.

No row is rewritten. A field that is dropped loses its column section in every shard's entry, and one that
is added has none yet; so a shard whose entry has no section for a field holds null there, whatever a
dropped field of the same name had left in its bytes. Records of the log can be older than a field too: the
manifest says from which one on a field that was added counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from vstore.errors import CorruptData, FieldTypeError, InvalidInput, InvalidSetting, UnknownField, nearest
from vstore.format.columns import Column, null_column
from vstore.format.manifest import Manifest
from vstore.format.rows import RowBatch
from vstore.ingest.memtable import MemtableView
from vstore.shard.sections import field_sections
from vstore.types import FIELD_TYPES, FieldType, Schema

PROPERTY: Final = "fields_since"
"""JSON of a manifest whose fields were changed: the log record from which on each added field counts."""
MAX_FIELDS: Final = 1_000

Since = dict[str, int]


def check_field(name: Any, kind: Any) -> FieldType:
    """Return the type of a field that may be created.

    Raises:
        InvalidSetting: no such name may be given.
        FieldTypeError: no such type.
    """
    if not isinstance(name, str) or not 1 <= _size_bytes(name) <= 256 or name.startswith("$"):
        raise InvalidSetting(
            f"field name {name!r}: names are str of 1 to 256 bytes of UTF-8 and do not begin with '$'"
        )
    for known in FIELD_TYPES:
        if kind == known:
            return known
    raise FieldTypeError(
        f"field {name!r} has type {kind!r}{nearest(str(kind), FIELD_TYPES)} (one of {', '.join(FIELD_TYPES)})"
    )


def _size_bytes(name: str) -> int:
    try:
        return len(name.encode())
    except UnicodeEncodeError:
        return 0


def with_field(manifest: Manifest, name: Any, kind: Any, seq: int) -> Manifest:
    """Return the manifest with a field more; it counts from log record `seq` on.

    Raises:
        InvalidSetting: a name that may not be given, or too many fields.
        FieldTypeError: no such type, or the field exists with another one.
        InvalidInput: the field exists.
    """
    checked = check_field(name, kind)
    fields = manifest.schema.fields
    there = fields.get(name)
    if there is not None and there != checked:
        raise FieldTypeError(
            f"collection {manifest.name!r} has field {name!r} of type {there}; a field's type does not "
            f"change: add a field of type {checked} under another name and fill it with update, or "
            "drop_field first, which loses its values"
        )
    if there is not None:
        raise InvalidInput(f"collection {manifest.name!r} has field {name!r} already, of type {there}")
    if len(fields) >= MAX_FIELDS:
        raise InvalidSetting(f"there are {len(fields)} fields; a collection has at most {MAX_FIELDS}")
    return _changed(manifest, {**fields, name: checked}, {**since_of(manifest), name: seq})


def without_field(manifest: Manifest, name: Any) -> Manifest:
    """Return the manifest without a field; its shards are read as if they never had it.

    Raises:
        UnknownField: there is none of that name.
    """
    fields = dict(manifest.schema.fields)
    if not isinstance(name, str) or name not in fields:
        raise UnknownField(
            f"collection {manifest.name!r} has no field {name!r}{nearest(str(name), fields)} "
            f"(fields: {', '.join(fields) or 'none'})"
        )
    del fields[name]
    gone = field_sections(name)
    shards = tuple(
        replace(entry, sections={part: extent for part, extent in entry.sections.items() if part not in gone})
        for entry in manifest.shards
    )
    since = {other: seq for other, seq in since_of(manifest).items() if other != name}
    return _changed(replace(manifest, shards=shards), fields, since)


def _changed(manifest: Manifest, fields: Mapping[str, FieldType], since: Since) -> Manifest:
    properties = {**manifest.properties, PROPERTY: json.dumps(since, sort_keys=True)}
    return replace(manifest, schema=replace(manifest.schema, fields=dict(fields)), properties=properties)


def since_of(manifest: Manifest) -> dict[str, int]:
    """Return the log record from which on a field counts, for fields that older records could seem to hold.

    Raises:
        CorruptData: the property is no map of numbers.
    """
    try:
        stored = json.loads(manifest.properties.get(PROPERTY, "{}"))
        return {str(name): int(seq) for name, seq in stored.items()}
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise CorruptData(
            f"manifest {manifest.version} of collection {manifest.name!r}: {PROPERTY} does not read: {error}"
        ) from None


def was_changed(manifest: Manifest) -> bool:
    """Return whether fields were ever added or dropped, so that older records may hold others."""
    return PROPERTY in manifest.properties


def rows_under(rows: RowBatch, schema: Schema, since: Since, seq: int) -> RowBatch:
    """Return rows of log record `seq` as the schema has them: null where a field is younger than they are.

    Raises:
        CorruptData: a field has another type than the schema says.
    """
    held = {name: column for name, column in rows.columns.items() if seq >= since.get(name, 0)}
    for name, kind in schema.fields.items():
        if name in held and held[name].type != kind:
            raise CorruptData(
                f"log record {seq} holds field {name!r} as {held[name].type}; the collection's is {kind}: "
                "restore the log from a backup"
            )
    return _with_columns(rows, schema, held)


def rows_to_write(rows: RowBatch, schema: Schema) -> RowBatch:
    """Return rows that were checked under another schema, where fields came or went meanwhile.

    Raises:
        UnknownField: they have values of a field that is gone.
        FieldTypeError: they have values of another type.
    """
    for name, column in rows.columns.items():
        kind = schema.fields.get(name)
        if kind is None and column.present.any():
            raise UnknownField(
                f"field {name!r} was dropped while the rows were on their way; nothing was written: "
                "leave it out"
            )
        if kind is not None and kind != column.type:
            raise FieldTypeError(
                f"field {name!r} became {kind} while the rows, which have it as {column.type}, were on their "
                "way; nothing was written: give values of the new type"
            )
    return _with_columns(rows, schema, rows.columns)


def memtable_under(memtable: MemtableView, schema: Schema) -> MemtableView:
    """Return the memtable with the schema's fields: those that are new are null."""
    return MemtableView(
        tuple(
            replace(chunk, rows=_with_columns(chunk.rows, schema, chunk.rows.columns))
            for chunk in memtable.chunks
        )
    )


def _with_columns(rows: RowBatch, schema: Schema, held: Mapping[str, Column]) -> RowBatch:
    if list(rows.columns) == list(schema.fields) and held.keys() == rows.columns.keys():
        return rows
    columns = {
        name: held[name] if name in held else null_column(kind, rows.n)
        for name, kind in schema.fields.items()
    }
    return replace(rows, columns=columns)
