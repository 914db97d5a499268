"""An open shard: where its blocks are, how they decode, and lookups by key. Holds no block itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from vstore.cache import Block, BlockCache, BlockKey
from vstore.errors import CorruptData
from vstore.format.column_codec import decode_column
from vstore.format.columns import Column, concat_columns, null_column
from vstore.format.frame import decoding, unpack
from vstore.format.manifest import ShardEntry
from vstore.format.rows import RowBatch
from vstore.format.rows_codec import decode_keys, hash_keys
from vstore.format.zones import decode_zones
from vstore.shard import sections
from vstore.shard.head import ShardHead, decode_head
from vstore.shard.payload import Fields, Shown, decode_payload
from vstore.shard.regraph import OldGraph, worth_extending
from vstore.shard.sketches import decode_sketches
from vstore.storage.base import ByteRange, ObjectStore, SparseRange
from vstore.traverse.base import UpperGraph
from vstore.types import IdKind, Int32s, Int64s, Key, Schema, UInt8s
from vstore_kernels import lists
from vstore_kernels.build import HNSWGraph, UpperLevels


class Shard:
    """One immutable shard. Opening reads nothing; thread-safe.

    Args:
        entry: what the manifest says of it.
        schema: the collection's.
        id_kind: the kind of its keys.
        store: holds it.
        cache: keeps its blocks.
    """

    def __init__(
        self, entry: ShardEntry, schema: Schema, id_kind: IdKind | None, store: ObjectStore, cache: BlockCache
    ) -> None:
        self.entry = entry
        self.schema = schema
        self.id_kind: IdKind = id_kind or "int"
        self.store = store
        self.cache = cache
        self.where = f"{store.url}: {entry.key}"
        self._shown: Shown | None = None

    @property
    def shard_id(self) -> str:
        """The shard's unique name."""
        return self.entry.shard_id

    @property
    def n(self) -> int:
        """Rows of the shard, dead ones included."""
        return self.entry.n_rows

    @property
    def fields(self) -> Fields:
        """The schema's fields, in its order."""
        return tuple(self.schema.fields.items())

    def has_column(self, field: str) -> bool:
        """Return whether the shard was built with this field, and it was not dropped since."""
        return sections.column_section(field) in self.entry.sections

    def has_zones(self, field: str) -> bool:
        """Return whether the shard has a summary of the field's column."""
        return sections.zones_section(field) in self.entry.sections

    def has_blooms(self, field: str) -> bool:
        """Return whether the shard has Bloom filters of the field's column."""
        return sections.bloom_section(field) in self.entry.sections

    def shown(self, head: ShardHead) -> Shown:
        """Return what the values of the shard's payload rows are called now."""
        if self._shown is None:
            known = self.schema.fields
            self._shown = tuple(
                (name if name in known and self.has_column(name) else None, kind)
                for name, kind in head.fields
            )
        return self._shown

    def reading_id(self, fields: Collection[str]) -> str:
        """Return a name for the shard as these fields read in it: others once one of them came or went."""
        lacking = sorted(name for name in fields if not self.has_column(name))
        return f"{self.shard_id} without {lacking}" if lacking else self.shard_id

    def range_of(self, key: BlockKey, head: ShardHead | None) -> ByteRange:
        """Return the part of the object that holds a block; single blocks need the head."""
        if key.section == sections.HEAD:
            return ByteRange(self.entry.key, self.entry.head.start, self.entry.head.length)
        if key.block == sections.WHOLE:
            part = self.entry.sections.get(key.section)
            if part is None:
                raise CorruptData(f"{self.where}: the manifest names no section {key.section!r}")
            return ByteRange(self.entry.key, part.start, part.length)
        if head is None:
            raise ValueError(f"block {key.block} of {key.section!r} was asked for before the head was read")
        extent = head.file.block_extent(key.section, key.block)
        kind = SparseRange if key.section == sections.SKETCHES else ByteRange
        return kind(self.entry.key, extent.start, extent.length)

    def decode(self, key: BlockKey, stored: bytes, head: ShardHead | None) -> Block:
        """Return the decoded block that `stored` holds.

        Raises:
            CorruptData: it fails its checksum, or does not decode.
        """
        if key.section == sections.HEAD:
            decoded = decode_head(stored, self.where, self.entry.head.start)
            if decoded.n != self.n or decoded.dim != self.schema.dim or decoded.metric != self.schema.metric:
                raise CorruptData(f"{self.where}: the head describes another shard than the manifest")
            return Block(key, decoded, len(stored))
        if head is None:
            raise ValueError(f"section {key.section!r} cannot be decoded before the head")
        if key.block == sections.WHOLE:
            blocks = head.file.decode_section(key.section, stored)
        else:
            blocks = [head.file.decode_block(key.section, key.block, stored)]
        where = f"{self.where}: {key.section} {key.block}"
        value = self._value(key, blocks, head, where)
        size_bytes = value.nbytes if isinstance(value, np.ndarray) else 2 * sum(map(len, blocks))
        return Block(key, value, size_bytes)

    def _value(self, key: BlockKey, blocks: list[bytes], head: ShardHead, where: str) -> Any:
        with decoding(where):
            if key.section == sections.LISTS:
                base, rows = key.block * head.block_rows, head.block_of(key.block)
                return lists.decode_lists(np.frombuffer(blocks[0], np.uint8), base, rows, head.M0, head.n)
            if key.section == sections.CODES:
                codes = np.frombuffer(blocks[0], np.uint8).copy()
                return codes.reshape(head.block_of(key.block), head.code_params.row_bytes)
            if key.section == sections.VECTORS:
                # Kernels read by address: a block of another size than the head's must not get there.
                rows = min(head.vector_block_rows, head.n - key.block * head.vector_block_rows)
                return np.frombuffer(blocks[0], "<f4").astype(np.float32).reshape(rows, head.dim)
            if key.section == sections.SKETCHES:
                return decode_sketches(blocks[0], key.block, head, where)
            if key.section == sections.PAYLOAD:
                return decode_payload(blocks[0], len(head.fields), where)
            if key.section == sections.KEYS:
                return self._decoded_keys(blocks, where)
            if key.section == sections.KEY_INDEX:
                return _decoded_index(blocks[0], head.n, where)
            if key.section == sections.UPPER:
                return _decoded_upper(blocks[0], head, where)
            if key.section.startswith("zones:"):
                rows_of = np.diff(np.append(head.zone_starts, head.n))
                return decode_zones(blocks[0], rows_of, where)
            if key.section.startswith("bloom:"):
                return _decoded_blooms(blocks, where)
            return _decoded_columns(blocks, key.block, head, where)

    def _decoded_keys(self, blocks: list[bytes], where: str) -> Int64s | tuple[str, ...]:
        parts = []
        for block, data in enumerate(blocks):
            rows = min(sections.KEY_BLOCK_ROWS, self.n - block * sections.KEY_BLOCK_ROWS)
            parts.append(decode_keys(data, self.id_kind, rows, where))
        if self.id_kind == "int":
            return np.concatenate(parts)
        return tuple(key for part in parts for key in part)

    # What ingest asks of a shard; each call reads what it lacks.

    def lookup(self, keys: Int64s | tuple[str, ...]) -> Int64s:
        """Return int64[m]: the node id of each key, -1 where the shard has no such row."""
        session = self._session()
        session.fetch([session.key(s) for s in (sections.HEAD, sections.KEY_INDEX, sections.KEYS)])
        hashes, node_ids = session.get(sections.KEY_INDEX)
        held = session.get(sections.KEYS)
        wanted = hash_keys(keys)
        first = np.searchsorted(hashes, wanted, side="left")
        found = np.full(len(wanted), -1, dtype=np.int64)
        for i in np.flatnonzero(hashes[np.minimum(first, len(hashes) - 1)] == wanted).tolist():
            at = int(first[i])
            while at < len(hashes) and hashes[at] == wanted[i]:
                if held[node_ids[at]] == keys[i]:
                    found[i] = node_ids[at]
                    break
                at += 1
        return found

    def keys(self, node_ids: Int32s | Int64s) -> list[Key]:
        """Return the keys of rows."""
        session = self._session()
        session.fetch([session.key(sections.HEAD), session.key(sections.KEYS)])
        held = session.get(sections.KEYS)
        if isinstance(held, np.ndarray):
            found: list[Key] = held[node_ids].tolist()
            return found
        return [held[node_id] for node_id in node_ids.tolist()]

    def old_graph(self, live_ids: Int64s, M: int) -> OldGraph | None:
        """Return the graph for a merge to begin with, or None where it would not do.

        Args:
            live_ids: int64[m], ascending: the rows that are alive, which come first in the merge.
            M: links of a node in the new graph.
        """
        session = self._session()
        session.fetch([session.key(sections.HEAD), session.key(sections.UPPER)])
        head = session.head
        n_lost = head.n_lost + head.n - len(live_ids)
        # Under dot the space itself depends on the longest vector of all.
        if head.M0 != 2 * M or head.metric == "dot" or not worth_extending(len(live_ids), n_lost, 0):
            return None
        keys = session.keys(sections.LISTS, range(len(session.tables.list_table)))
        # Past the cache: the shard is about to be replaced.
        stored = self.store.get_many([self.range_of(key, head) for key in keys])
        lists_of = [self.decode(key, data, head).value for key, data in zip(keys, stored, strict=True)]
        upper = session.upper.levels
        graph = HNSWGraph(
            np.concatenate(lists_of), upper.nodes, upper.rows, upper.links, upper.entry_rank, upper.max_level
        )
        return OldGraph(graph, live_ids, n_lost)

    def rows(self, node_ids: Int64s) -> RowBatch:
        """Return whole rows, in the order asked for: what compaction rewrites."""
        from vstore.format.columns import take_column

        session = self._session()
        session.fetch([session.key(sections.HEAD)])
        head = session.head
        blocks = np.unique(node_ids // head.vector_block_rows)
        payload = np.unique(node_ids // head.payload_block_rows)
        names = [name for name, _ in self.fields if self.has_column(name)]
        session.fetch(
            [session.key(sections.KEYS)]
            + [session.key(sections.column_section(name)) for name in names]
            + session.keys(sections.VECTORS, blocks)
            + session.keys(sections.PAYLOAD, payload)
        )
        columns: dict[str, Column] = {
            name: take_column(session.get(sections.column_section(name)), node_ids)
            if name in names
            else null_column(kind, len(node_ids))
            for name, kind in self.fields
        }
        documents = []
        for node_id in node_ids.tolist():
            block, offset = divmod(node_id, head.payload_block_rows)
            documents.append(session.get(sections.PAYLOAD, block)[offset].document)
        held = session.get(sections.KEYS)
        keys = held[node_ids] if isinstance(held, np.ndarray) else tuple(held[i] for i in node_ids.tolist())
        any_document = any(document is not None for document in documents)
        return RowBatch(
            keys, self.id_kind, session.vector_rows(node_ids), columns, documents if any_document else None
        )

    def _session(self) -> Any:
        from vstore.shard.session import ShardSession

        return ShardSession(self, self.cache)


def _decoded_columns(blocks: list[bytes], first: int, head: ShardHead, where: str) -> Column:
    """Return the column that consecutive blocks hold; `first` is the number of the first, or WHOLE."""
    columns = [decode_column(data, where) for data in blocks]
    block_rows, at = head.column_block_rows or head.n, max(first, 0)
    for block, column in enumerate(columns, at):
        rows = min(block_rows, head.n - block * block_rows)
        if column.n != rows or column.type != columns[0].type:
            raise CorruptData(
                f"{where}: block {block} has {column.n} rows of {column.type}; it should have {rows} "
                f"of {columns[0].type}"
            )
    return concat_columns(columns)


def _decoded_blooms(blocks: list[bytes], where: str) -> tuple[UInt8s, ...]:
    if not all(blocks):
        raise CorruptData(f"{where}: a Bloom filter is empty")
    return tuple(np.frombuffer(data, np.uint8) for data in blocks)


def _decoded_index(data: bytes, n: int, where: str) -> tuple[Any, Int32s]:
    if len(data) != 12 * n:
        raise CorruptData(f"{where}: {len(data)} bytes of key index; {n} rows need {12 * n}")
    hashes = np.frombuffer(data, "<u8", count=n).astype(np.uint64)
    node_ids = np.frombuffer(data, "<i4", offset=8 * n).astype(np.int32)
    if ((node_ids < 0) | (node_ids >= n)).any():
        raise CorruptData(f"{where}: the key index names rows outside the {n} of the shard")
    return hashes, node_ids


def _decoded_upper(data: bytes, head: ShardHead, where: str) -> UpperGraph:
    stored = unpack(data, where)
    M = head.M0 // 2
    levels = UpperLevels(
        np.frombuffer(stored["nodes"], "<i4").astype(np.int32),
        np.frombuffer(stored["rows"], "<i8").astype(np.int64),
        np.frombuffer(stored["links"], "<i4").astype(np.int32).reshape(-1, M),
        int(stored["entry_rank"]),
        int(stored["max_level"]),
    )
    levels.check(head.n)
    codes = (
        np.frombuffer(stored["codes"], np.uint8).copy().reshape(len(levels.nodes), head.code_params.row_bytes)
    )
    return UpperGraph(levels, codes)
