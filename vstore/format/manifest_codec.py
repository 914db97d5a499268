"""Manifests as bytes: a frame of one msgpack map."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from vstore.errors import CorruptData, InvalidSetting
from vstore.format.frame import decode_frame, decoding, encode_frame, pack, unpack
from vstore.format.manifest import Extent, Manifest, ShardEntry
from vstore.settings import IndexSettings
from vstore.types import FIELD_TYPES, METRICS, Schema

MAGIC: Final = b"VSTMANI\x01"


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
        fields = {str(name): kind for name, kind in schema["fields"]}
        if schema["metric"] not in METRICS or any(kind not in FIELD_TYPES for kind in fields.values()):
            raise CorruptData(f"{where}: unknown metric or field type in {schema!r}")
        if stored["id_kind"] not in (None, "int", "str"):
            raise CorruptData(f"{where}: id kind {stored['id_kind']!r}; it is int, str or null")
        try:
            index = IndexSettings(**stored["index"])
        except InvalidSetting as error:
            raise CorruptData(f"{where}: {error}") from error
        return Manifest(
            version=int(stored["version"]),
            collection_id=str(stored["collection_id"]),
            name=str(stored["name"]),
            schema=Schema(int(schema["dim"]), schema["metric"], fields),
            index=index,
            writer_epoch=int(stored["writer_epoch"]),
            log_start=int(stored["log_start"]),
            created_at=float(stored["created_at"]),
            write_id=str(stored["write_id"]),
            id_kind=stored["id_kind"],
            shards=tuple(_entry(entry, where) for entry in stored["shards"]),
            dropped=bool(stored["dropped"]),
            properties={str(name): str(value) for name, value in stored["properties"].items()},
        )


def _entry(stored: dict[str, Any], where: str) -> ShardEntry:
    entry = ShardEntry(
        shard_id=str(stored["shard_id"]),
        key=str(stored["key"]),
        size_bytes=int(stored["size_bytes"]),
        n_rows=int(stored["n_rows"]),
        head=Extent(*map(int, stored["head"])),
        sections={str(name): Extent(*map(int, part)) for name, part in stored["sections"].items()},
        dead_key=None if stored["dead_key"] is None else str(stored["dead_key"]),
        n_dead=int(stored["n_dead"]),
    )
    for name, part in (("head", entry.head), *entry.sections.items()):
        if part.start < 0 or part.length < 0 or part.start + part.length > entry.size_bytes:
            raise CorruptData(
                f"{where}: {name} of shard {entry.shard_id} lies outside its {entry.size_bytes} bytes"
            )
    if not 0 <= entry.n_dead <= entry.n_rows:
        raise CorruptData(f"{where}: shard {entry.shard_id} has {entry.n_dead} dead rows of {entry.n_rows}")
    return entry
