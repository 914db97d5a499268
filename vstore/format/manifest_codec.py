"""Manifests as bytes: a frame of one msgpack map."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from vstore.errors import CorruptData, InvalidSetting
from vstore.format.frame import decode_frame, decoding, encode_frame, natural, pack, text, unpack
from vstore.format.manifest import Extent, Manifest, ShardEntry
from vstore.settings import IndexSettings
from vstore.types import FIELD_TYPES, METRICS, Schema

MAGIC: Final = b"VSTMANI\x01"
_INDEX_TYPES: Final = {"codes": (int, str), "codes_recall": (int, float), "calibrate": (bool,)}
"""The settings of an index that are not whole numbers."""


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as a frame."""
    stored = {
        "version": manifest.version,
        "collection_id": manifest.collection_id,
        "name": manifest.name,
        "schema": {
            "dim": manifest.schema.dim,
            "metric": manifest.schema.metric,
            "fields": [[name, kind] for name, kind in manifest.schema.fields.items()],
        },
        "index": dataclasses.asdict(manifest.index),
        "writer_epoch": manifest.writer_epoch,
        "log_start": manifest.log_start,
        "created_at": manifest.created_at,
        "write_id": manifest.write_id,
        "id_kind": manifest.id_kind,
        "shards": [_stored_entry(entry) for entry in manifest.shards],
        "dropped": manifest.dropped,
        "properties": dict(manifest.properties),
    }
    return encode_frame(MAGIC, pack(stored))


def _stored_entry(entry: ShardEntry) -> dict[str, Any]:
    return {
        "shard_id": entry.shard_id,
        "key": entry.key,
        "size_bytes": entry.size_bytes,
        "n_rows": entry.n_rows,
        "head": [entry.head.start, entry.head.length],
        "sections": {name: [part.start, part.length] for name, part in entry.sections.items()},
        "dead_key": entry.dead_key,
        "n_dead": entry.n_dead,
    }


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest that the object `where` holds.

    Raises:
        CorruptData, UnsupportedVersion: it holds none that this version reads.
    """
    stored = unpack(decode_frame(data, MAGIC, where), where)
    with decoding(where):
        schema = stored["schema"]
        fields = {text(name): kind for name, kind in schema["fields"]}
        if schema["metric"] not in METRICS or any(kind not in FIELD_TYPES for kind in fields.values()):
            raise CorruptData(f"{where}: unknown metric or field type in {schema!r}")
        if len(fields) != len(schema["fields"]) or natural(schema["dim"]) == 0:
            raise CorruptData(f"{where}: a field twice, or no dimensions, in {schema!r}")
        if stored["id_kind"] not in (None, "int", "str"):
            raise CorruptData(f"{where}: id kind {stored['id_kind']!r}; it is int, str or null")
        return Manifest(
            version=natural(stored["version"]),
            collection_id=text(stored["collection_id"]),
            name=text(stored["name"]),
            schema=Schema(natural(schema["dim"]), schema["metric"], fields),
            index=_index(stored["index"], where),
            writer_epoch=natural(stored["writer_epoch"]),
            log_start=natural(stored["log_start"]),
            created_at=_seconds(stored["created_at"]),
            write_id=text(stored["write_id"]),
            id_kind=stored["id_kind"],
            shards=tuple(_entry(entry, where) for entry in stored["shards"]),
            dropped=_flag(stored["dropped"]),
            properties={text(name): text(value) for name, value in stored["properties"].items()},
        )


def _index(stored: dict[str, Any], where: str) -> IndexSettings:
    # Settings that a newer vstore added and this one may ignore.
    known = {part.name for part in dataclasses.fields(IndexSettings)}
    values = {name: value for name, value in stored.items() if name in known}
    wrong = [name for name, value in values.items() if type(value) not in _INDEX_TYPES.get(name, (int,))]
    if wrong:
        raise CorruptData(f"{where}: index setting {wrong[0]} is {values[wrong[0]]!r}, of the wrong kind")
    try:
        return IndexSettings(**values)
    except InvalidSetting as error:
        raise CorruptData(f"{where}: {error}") from error


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} stands where true or false belongs")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} stands where seconds belong")
    return float(value)


def _entry(stored: dict[str, Any], where: str) -> ShardEntry:
    entry = ShardEntry(
        shard_id=text(stored["shard_id"]),
        key=text(stored["key"]),
        size_bytes=natural(stored["size_bytes"]),
        n_rows=natural(stored["n_rows"]),
        head=Extent(*map(natural, stored["head"])),
        sections={text(name): Extent(*map(natural, part)) for name, part in stored["sections"].items()},
        dead_key=None if stored["dead_key"] is None else text(stored["dead_key"]),
        n_dead=natural(stored["n_dead"]),
    )
    for name, part in (("head", entry.head), *entry.sections.items()):
        if part.start < 0 or part.length < 0 or part.start + part.length > entry.size_bytes:
            raise CorruptData(
                f"{where}: {name} of shard {entry.shard_id} lies outside its {entry.size_bytes} bytes"
            )
    if entry.n_dead > entry.n_rows:
        raise CorruptData(f"{where}: shard {entry.shard_id} has {entry.n_dead} dead rows of {entry.n_rows}")
    return entry
