"""`vstore info`: what a store holds, from manifests and a count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vstore.catalog import Catalog
from vstore.cli.connection import Place
from vstore.cli.output import size, table
from vstore.storage import open_store
from vstore.types import Schema


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """One collection: `n_rows` counts live rows, those still in the log included; `n_bytes` its shards."""

    name: str
    schema: Schema
    n_rows: int
    n_shards: int
    n_dead: int
    n_bytes: int
    manifest_version: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "dim": self.schema.dim,
            "metric": self.schema.metric,
            "fields": dict(self.schema.fields),
            "n_rows": self.n_rows,
            "n_shards": self.n_shards,
            "n_dead": self.n_dead,
            "n_bytes": self.n_bytes,
            "manifest_version": self.manifest_version,
        }


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store and its collections, or the one that was asked for."""

    url: str
    collections: tuple[CollectionInfo, ...]

    @property
    def n_rows(self) -> int:
        """Live rows."""
        return sum(one.n_rows for one in self.collections)

    @property
    def n_shards(self) -> int:
        """Shards that the latest manifests name."""
        return sum(one.n_shards for one in self.collections)

    @property
    def n_bytes(self) -> int:
        """Bytes of those shards."""
        return sum(one.n_bytes for one in self.collections)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"url": self.url, "collections": [one.as_dict() for one in self.collections]}

    def as_text(self) -> str:
        """Return it for people."""
        if not self.collections:
            return f"{self.url}: no collections"
        rows = [
            [
                one.name,
                one.n_rows,
                one.schema.dim,
                one.schema.metric,
                one.n_shards,
                one.n_dead,
                size(one.n_bytes),
            ]
            for one in self.collections
        ]
        lines = [self.url, table(["collection", "rows", "dim", "metric", "shards", "dead", "size"], rows)]
        for one in self.collections:
            fields = ", ".join(f"{name}: {kind}" for name, kind in one.schema.fields.items())
            lines.append(f"{one.name} fields: {fields or 'none'}")
        return "\n".join(lines)


def describe_store(place: Place, collection: str | None = None) -> StoreInfo:
    """Read what a store holds.

    Raises:
        CollectionNotFound: `collection` does not exist.
        NotAStore, BucketNotFound, AccessDenied: there is no store, or none that opens.
    """
    with place.open(read_only=True) as db:
        names = db.collections() if collection is None else [collection]
        store = open_store(place.uri, settings=db.settings, **place.options)
        try:
            catalog = Catalog(store)
            found = []
            for name in names:
                manifest = catalog.require(name)
                found.append(
                    CollectionInfo(
                        name=name,
                        schema=manifest.schema,
                        n_rows=len(db.collection(name)),
                        n_shards=len(manifest.shards),
                        n_dead=sum(entry.n_dead for entry in manifest.shards),
                        n_bytes=sum(entry.size_bytes for entry in manifest.shards),
                        manifest_version=manifest.version,
                    )
                )
        finally:
            store.close()
        return StoreInfo(db.url, tuple(found))
