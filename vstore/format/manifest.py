"""The manifest: one immutable version of what a collection is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vstore.settings import IndexSettings
from vstore.types import IdKind, Schema


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes from `start` of an object."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: where its bytes are and how many rows it holds.

    `head` is the part of the object that one read brings before anything else: section table,
    block directories, centroids. `sections` names every section's extent, so that filter columns
    can be read in the same round as the head. `dead_key` names the object that holds the bitmap
    of rows deleted or replaced since the shard was built (`n_dead` of them), if any.
    """

    shard_id: str
    key: str
    size_bytes: int
    n_rows: int
    head: Extent
    sections: Mapping[str, Extent]
    dead_key: str | None = None
    n_dead: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of a collection. Published by one create-only put of `manifest/<version>`.

    Log records with a sequence number below `log_start` are in the shards (or were superseded);
    replay begins there. `writer_epoch` fences writers: a writer whose epoch is lower has lost the
    collection. `write_id` is unique to the put, so that a lost answer can be settled. A manifest with
    `dropped` set is a tombstone: the collection does not exist, and the next version may create it anew.
    """

    version: int
    collection_id: str
    name: str
    schema: Schema
    index: IndexSettings
    writer_epoch: int
    log_start: int
    created_at: float
    write_id: str
    id_kind: IdKind | None = None
    shards: tuple[ShardEntry, ...] = ()
    dropped: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)
