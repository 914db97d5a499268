"""An export: a folder of plain files that any language reads, with checksums of them.

    collection.json   what the collection is, and the size and CRC32C of the other two; written last
    vectors.npy       float32[n, dim], little-endian
    rows.jsonl        one object a line, in the order of the vectors: id, attributes, document

A datetime is ISO 8601 in UTC, an infinite float "inf" or "-inf", image bytes {"base64": "..."}; an attribute
that is absent is null. docs/OPERATIONS.md describes it for users.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import crc32c

from vstore.errors import CorruptData, InvalidInput, InvalidSetting, UnsupportedVersion
from vstore.format.frame import decoding
from vstore.settings import IndexSettings
from vstore.types import FIELD_TYPES, METRICS, Attributes, Document, FieldType, Key, Schema

FORMAT: Final = "vstore-export"
VERSION: Final = 1
COLLECTION: Final = "collection.json"
VECTORS: Final = "vectors.npy"
ROWS: Final = "rows.jsonl"
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A file's size and the CRC32C of its bytes."""

    size_bytes: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Export:
    """What `collection.json` says."""

    collection: str
    schema: Schema
    index: IndexSettings
    n_rows: int
    files: Mapping[str, FileCheck]
    fusions: Mapping[str, bytes] = field(default_factory=dict)
    """Learned fusions as they are stored, with their checksums, by name."""


def encode_export(export: Export) -> bytes:
    """Return the bytes of `collection.json`."""
    stored = {
        "format": FORMAT,
        "version": VERSION,
        "collection": export.collection,
        "dim": export.schema.dim,
        "metric": export.schema.metric,
        "fields": [[name, kind] for name, kind in export.schema.fields.items()],
        "index": asdict(export.index),
        "n_rows": export.n_rows,
        "files": {name: asdict(check) for name, check in export.files.items()},
        "fusions": {name: base64.b64encode(data).decode() for name, data in export.fusions.items()},
    }
    return json.dumps(stored, indent=2).encode() + b"\n"


def read_export(path: Path) -> Export:
    """Return what an export is, from its `collection.json`.

    Raises:
        InvalidInput: the folder is no export, or one that was never finished.
        CorruptData, UnsupportedVersion: its description does not hold, or is of a newer vstore.
    """
    where = path / COLLECTION
    try:
        stored = json.loads(where.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"{path} holds no readable {COLLECTION} ({error.strerror}): it is no export, or one that was not "
            "finished; make one with `vstore export`"
        ) from error
    except ValueError as error:
        raise CorruptData(f"{where} is no JSON: {error}") from error
    with decoding(str(where)):
        if stored["format"] != FORMAT:
            raise InvalidInput(f"{where} says format {stored['format']!r}; an export says {FORMAT!r}")
        if stored["version"] != VERSION:
            raise UnsupportedVersion(
                f"{where} says version {stored['version']}; this vstore reads {VERSION}: upgrade it"
            )
        fields: dict[str, FieldType] = {str(name): kind for name, kind in stored["fields"]}
        if stored["metric"] not in METRICS or not set(fields.values()) <= set(FIELD_TYPES):
            raise CorruptData(f"{where}: unknown metric or field type")
        try:
            index = IndexSettings(**stored["index"])
        except InvalidSetting as error:
            raise CorruptData(f"{where}: {error}") from error
        return Export(
            str(stored["collection"]),
            Schema(int(stored["dim"]), stored["metric"], fields),
            index,
            int(stored["n_rows"]),
            {name: FileCheck(**stored["files"][name]) for name in (VECTORS, ROWS)},
            {
                str(name): base64.b64decode(data, validate=True)
                for name, data in stored.get("fusions", {}).items()
            },
        )


def check_file(path: Path, wanted: FileCheck) -> None:
    """Read a file and raise CorruptData where it is not the one that was exported."""
    size, check = 0, 0
    try:
        with open(path, "rb") as file:
            while data := file.read(_READ_BYTES):
                size += len(data)
                check = crc32c.crc32c(data, check)
    except OSError as error:
        raise CorruptData(f"{path} cannot be read ({error.strerror}); export again") from error
    if (size, check) != (wanted.size_bytes, wanted.crc32c):
        raise CorruptData(
            f"{path} has {size} bytes with CRC32C {check:#010x}; {COLLECTION} says {wanted.size_bytes} and "
            f"{wanted.crc32c:#010x}: it is damaged or was changed; nothing was imported"
        )


def encode_row(key: Key, attributes: Mapping[str, Any], document: Document | None) -> bytes:
    """Return one line of `rows.jsonl`."""
    values = {name: _plain(value) for name, value in attributes.items()}
    image = None if document is None else document.get("image")
    if isinstance(image, bytes):
        document = {**(document or {}), "image": {"base64": base64.b64encode(image).decode()}}
    line = json.dumps({"id": key, "attributes": values, "document": document}, allow_nan=False)
    return line.encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value


def decode_row(line: bytes, schema: Schema, where: str) -> tuple[Key, Attributes, Document | None]:
    """Return the row of one line.

    Raises:
        CorruptData: the line is none.
    """
    with decoding(where):
        try:
            row = json.loads(line)
            key, attributes, document = row["id"], dict(row["attributes"]), row["document"]
            for name, value in attributes.items():
                kind = schema.fields[name]
                if value is not None and kind == "datetime":
                    attributes[name] = dt.datetime.fromisoformat(value)
                elif value is not None and kind == "float":
                    attributes[name] = float(value)
            if document is not None and isinstance(document.get("image"), dict):
                image = base64.b64decode(document["image"]["base64"], validate=True)
                document = {**document, "image": image}
        except binascii.Error as error:
            raise CorruptData(f"{where}: an image is no base64: {error}") from error
        return key, attributes, document
