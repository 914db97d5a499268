"""One shard, checked byte by byte and part against part, with a few blocks in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from vstore.cache import BlockKey
from vstore.errors import FormatError, ObjectNotFound
from vstore.format.columns import Column, column_values
from vstore.format.manifest import Extent
from vstore.format.rows_codec import hash_keys
from vstore.format.shard_file import FILE_MAGIC, TRAILER_BYTES, read_trailer
from vstore.format.zones import bloom_blocks, encode_zones, summarize
from vstore.ingest.batches import Keys, last_rows
from vstore.shard import sections
from vstore.shard.head import ShardHead
from vstore.shard.payload import PayloadRow, unpack_attributes
from vstore.shard.reader import Shard
from vstore.storage.base import ByteRange
from vstore.types import Float32s, UInt8s
from vstore.upkeep.report import Findings
from vstore_kernels import codes

READ_BYTES = 8 << 20
"""Blocks are read about this many bytes at a time."""


def check_shard(shard: Shard, findings: Findings) -> Keys | None:
    """Check a shard's file whole; return its keys, or None where they cannot be read.

    Args:
        shard: what the manifest says of it; its cache is not used.
        findings: is told what does not hold.
    """
    check = _ShardCheck(shard, findings)
    return check.run()


class _ShardCheck:
    def __init__(self, shard: Shard, findings: Findings) -> None:
        self.shard = shard
        self.key = shard.entry.key
        self.findings = findings
        self.head: ShardHead | None = None

    def run(self) -> Keys | None:
        entry = self.shard.entry
        info = self.shard.store.head(self.key)
        if info is None:
            self.findings.add(self.key, "the object is missing")
            return None
        self.findings.expect(
            info.size_bytes == entry.size_bytes,
            self.key,
            f"has {info.size_bytes} bytes; the manifest says {entry.size_bytes}",
        )
        self._check_ends(info.size_bytes)
        with self.findings.of(self.key):
            stored = self._read([ByteRange(self.key, entry.head.start, entry.head.length)])[0]
            self.head = self.shard.decode(self._block_key(sections.HEAD), stored, None).value
        if self.head is None:
            return None
        self._take_dropped_columns_in(self.head)
        if not self._check_layout(self.head, info.size_bytes):
            return None
        keys: Keys | None = self._whole(sections.KEYS)
        self._check_keys(keys)
        columns = {name: self._column(name, kind) for name, kind in self.head.fields}
        for _ in self._blocks(sections.LISTS):
            # Decoding checks the bounds of every link.
            pass
        if self.head.sketch_params is not None:
            for _ in self._blocks(sections.SKETCHES):
                # Read for its checksum and shape: no answer is more than a guess by a sketch.
                pass
        self._check_codes(self.head)
        self._check_payload(self.head, keys, columns)
        return keys

    def _block_key(self, section: str, block: int = sections.WHOLE) -> BlockKey:
        return BlockKey(self.shard.shard_id, section, block)

    def _read(self, ranges: list[ByteRange]) -> list[bytes]:
        stored = self.shard.store.get_many(ranges)
        self.findings.read_bytes(sum(map(len, stored)))
        return stored

    def _check_ends(self, size_bytes: int) -> None:
        with self.findings.of(self.key):
            n_tail = min(TRAILER_BYTES, size_bytes)
            magic, trailer = self._read(
                [
                    ByteRange(self.key, 0, min(len(FILE_MAGIC), size_bytes)),
                    ByteRange(self.key, size_bytes - n_tail, n_tail),
                ]
            )
            self.findings.expect(
                magic == FILE_MAGIC, self.key, f"magic {magic!r} at offset 0; expected {FILE_MAGIC!r}"
            )
            head = read_trailer(trailer, size_bytes, self.shard.where)
            self.findings.expect(
                head == self.shard.entry.head, self.key, "the trailer and the manifest disagree on the head"
            )

    def _take_dropped_columns_in(self, head: ShardHead) -> None:
        """Check columns too that the manifest no longer names: their fields were dropped since."""
        entry, file, schema = self.shard.entry, head.file, self.shard.schema
        found = dict(entry.sections)
        for name, _ in head.fields:
            for section in sections.field_sections(name):
                if section in file.sections and section not in entry.sections:
                    first = file.block_extent(section, 0)
                    last = file.block_extent(section, file.n_blocks(section) - 1)
                    found[section] = Extent(first.start, last.start + last.length - first.start)
        if len(found) > len(entry.sections):
            whole = replace(entry, sections=found)
            self.shard = Shard(whole, schema, self.shard.id_kind, self.shard.store, self.shard.cache)

    def _check_layout(self, head: ShardHead, size_bytes: int) -> bool:
        """Check that sections cover the file without a gap and have the blocks that the rows need."""
        entry, file = self.shard.entry, head.file
        n_before = len(self.findings.report.problems)
        if set(file.sections) != set(entry.sections):
            self.findings.add(self.key, "the head and the manifest name different sections")
            return False
        at = len(FILE_MAGIC)
        for name, extent in sorted(entry.sections.items(), key=lambda item: item[1].start):
            n_blocks = file.n_blocks(name)
            first, last = file.block_extent(name, 0), file.block_extent(name, n_blocks - 1)
            self.findings.expect(
                extent.start == at == first.start
                and extent.start + extent.length == last.start + last.length,
                self.key,
                f"section {name!r} is not where the manifest, the head and its neighbours say",
            )
            at = extent.start + extent.length
            wanted = -(-head.n // _block_rows(name, head))
            self.findings.expect(
                n_blocks == wanted,
                self.key,
                f"section {name!r} has {n_blocks} blocks; {head.n} rows need {wanted}",
            )
        end = entry.head.start + entry.head.length + TRAILER_BYTES
        self.findings.expect(
            at == entry.head.start and end == size_bytes,
            self.key,
            "sections, head and trailer do not cover the file",
        )
        known = {sections.column_section(name) for name, _ in head.fields} | _SECTIONS
        if head.column_block_rows and head.n > head.column_block_rows:
            known |= {sections.zones_section(name) for name, _ in head.fields}
        missing = known - set(entry.sections)
        self.findings.expect(not missing, self.key, f"sections are missing: {', '.join(sorted(missing))}")
        return len(self.findings.report.problems) == n_before

    def _whole(self, section: str) -> Any:
        """Return a section that is read in one piece, or None where it does not hold."""
        key = self._block_key(section)
        with self.findings.of(self.key):
            stored = self._read([self.shard.range_of(key, self.head)])[0]
            return self.shard.decode(key, stored, self.head).value
        return None

    def _column(self, name: str, kind: str) -> Column | None:
        column: Column | None = self._whole(sections.column_section(name))
        if column is None:
            return None
        fits = column.n == self.shard.n and column.type == kind
        self.findings.expect(
            fits,
            self.key,
            f"column {name!r} is {column.n} rows of {column.type}, not {self.shard.n} of {kind}",
        )
        if fits and self.shard.has_zones(name):
            self._check_summary(name, column)
        return column if fits else None

    def _check_summary(self, name: str, column: Column) -> None:
        """Make zones and Bloom filters again: what they rule out wrongly, no filter would find."""
        assert self.head is not None
        zones = self._whole(sections.zones_section(name))
        if zones is not None:
            self.findings.expect(
                encode_zones(zones) == encode_zones(summarize(column, self.head.zone_starts)),
                self.key,
                f"the summary of column {name!r} is not that of its rows",
            )
        if self.shard.has_blooms(name):
            blooms = self._whole(sections.bloom_section(name))
            wanted = bloom_blocks(column, self.head.column_block_rows)
            self.findings.expect(
                blooms is None or [bloom.tobytes() for bloom in blooms] == list(wanted),
                self.key,
                f"the Bloom filters of column {name!r} are not those of its rows",
            )

    def _check_keys(self, keys: Keys | None) -> None:
        index = self._whole(sections.KEY_INDEX)
        if keys is None:
            return
        self.findings.expect(last_rows(keys) is None, self.key, "holds a key twice")
        if index is None:
            return
        hashes, node_ids = index
        self.findings.expect(
            not (hashes[1:] < hashes[:-1]).any(), self.key, "the key index is not sorted: lookups would miss"
        )
        found = np.zeros(self.shard.n, np.bool_)
        found[node_ids[hash_keys(keys)[node_ids] == hashes]] = True
        n_lost = self.shard.n - int(found.sum())
        self.findings.expect(not n_lost, self.key, f"the key index does not find {n_lost} of the keys")

    def _blocks(self, section: str) -> Iterator[tuple[int, Any]]:
        """Yield each block's number and value, None where it does not hold; ends where reading fails."""
        assert self.head is not None
        n_blocks = self.head.file.n_blocks(section)
        at = 0
        while at < n_blocks:
            keys: list[BlockKey] = []
            ranges: list[ByteRange] = []
            weight = 0
            while at + len(keys) < n_blocks and (not keys or weight < READ_BYTES):
                keys.append(self._block_key(section, at + len(keys)))
                ranges.append(self.shard.range_of(keys[-1], self.head))
                weight += ranges[-1].length or 0
            try:
                stored = self._read(ranges)
            except (FormatError, ObjectNotFound) as error:
                self.findings.add(self.key, f"section {section!r} cannot be read: {error}")
                return
            for key, data in zip(keys, stored, strict=True):
                value = None
                with self.findings.of(self.key):
                    value = self.shard.decode(key, data, self.head).value
                yield key.block, value
            at += len(keys)

    def _check_codes(self, head: ShardHead) -> None:
        """Encode every vector again, and compare with the codes, and those with their copies in the graph."""
        upper = self._whole(sections.UPPER)
        stored_blocks = self._blocks(sections.CODES)
        stored_start, stored_end, stored = 0, 0, None
        wrong: set[int] = set()
        for block, vectors in self._blocks(sections.VECTORS):
            at = block * head.vector_block_rows
            end = min(at + head.vector_block_rows, head.n)
            if vectors is not None:
                self._check_vectors(vectors, end - at, at)
            while at < end:
                if at >= stored_end:
                    number, stored = next(stored_blocks, (None, None))
                    if number is None:
                        return
                    stored_start, stored_end = number * head.block_rows, (number + 1) * head.block_rows
                    if stored is not None and upper is not None:
                        self._check_upper(upper, stored, stored_start)
                stop = min(end, stored_end)
                if vectors is not None and stored is not None and len(vectors) >= stop - at:
                    first = at - block * head.vector_block_rows
                    with self.findings.of(self.key):
                        rows = vectors[first : first + stop - at]
                        if not _agree(stored[at - stored_start : stop - stored_start], rows, head):
                            wrong.add(stored_start // head.block_rows)
                at = stop
        for number in sorted(wrong):
            self.findings.add(self.key, f"codes {number} are not those of the vectors")

    def _check_vectors(self, vectors: Float32s, n: int, at: int) -> None:
        usable = np.isfinite(vectors).all(axis=1)
        if self.shard.schema.metric == "cosine":
            usable &= vectors.any(axis=1)
        self.findings.expect(
            len(vectors) == n and bool(usable.all()),
            self.key,
            f"the vectors from row {at} on are not {n} rows of usable numbers",
        )

    def _check_upper(self, upper: Any, stored: UInt8s, start: int) -> None:
        nodes = upper.levels.nodes
        first, last = np.searchsorted(nodes, [start, start + len(stored)])
        self.findings.expect(
            np.array_equal(upper.codes[first:last], stored[nodes[first:last] - start]),
            self.key,
            f"codes of the upper graph differ from those of the rows from {start} on",
        )

    def _check_payload(self, head: ShardHead, keys: Keys | None, columns: dict[str, Column | None]) -> None:
        for block, rows in self._blocks(sections.PAYLOAD):
            if rows is None:
                continue
            at = block * head.payload_block_rows
            end = min(at + head.payload_block_rows, head.n)
            if len(rows) != end - at:
                self.findings.add(
                    self.key, f"payload {block} has {len(rows)} rows; it should have {end - at}"
                )
                continue
            with self.findings.of(self.key):
                if keys is not None:
                    held = keys[at:end]
                    plain = held.tolist() if isinstance(held, np.ndarray) else list(held)
                    self.findings.expect(
                        [row.key for row in rows] == plain, self.key, f"payload {block} has other keys"
                    )
                self._check_values(head, block, rows, columns, np.arange(at, end))

    def _check_values(
        self,
        head: ShardHead,
        block: int,
        rows: tuple[PayloadRow, ...],
        columns: dict[str, Column | None],
        index: Any,
    ) -> None:
        shown = [unpack_attributes(row, head.fields) for row in rows]
        for name, column in columns.items():
            if column is not None:
                self.findings.expect(
                    [row.get(name) for row in shown] == column_values(column, index),
                    self.key,
                    f"payload {block} has other values of {name!r} than its column",
                )


_SECTIONS = {
    sections.UPPER,
    sections.LISTS,
    sections.CODES,
    sections.VECTORS,
    sections.PAYLOAD,
    sections.KEYS,
    sections.KEY_INDEX,
}


def _block_rows(section: str, head: ShardHead) -> int:
    """Return how many rows a block of the section holds; all of them where it has one block."""
    if section.startswith(("column:", "bloom:")):
        return head.column_block_rows or head.n
    sketched = head.sketch_params
    return {
        sections.LISTS: head.block_rows,
        sections.CODES: head.block_rows,
        sections.VECTORS: head.vector_block_rows,
        sections.PAYLOAD: head.payload_block_rows,
        sections.KEYS: sections.KEY_BLOCK_ROWS,
        sections.SKETCHES: sections.SKETCH_BLOCK_ROWS if sketched is None else sketched.block_rows,
    }.get(section, head.n)


def _agree(stored: UInt8s, vectors: Float32s, head: ShardHead) -> bool:
    """Return whether the codes are the vectors', give or take the rounding of another machine."""
    params = head.code_params
    if params.bits < 8:
        return _narrow_agree(stored, vectors, params)
    again = codes.encode(np.ascontiguousarray(vectors), params)
    have = stored[:, : params.d].view(np.int8).astype(np.int16)
    want = again[:, : params.d].view(np.int8).astype(np.int16)
    if np.abs(have - want).max(initial=0) > 1:
        return False
    if params.metric != "l2":
        return True
    bias = np.ascontiguousarray(stored[:, params.d :]).view("<f4")[:, 0]
    exact = ((have * params.scale.astype(np.float64)) ** 2).sum(axis=1)
    return bool(np.allclose(bias, exact, rtol=1e-3, atol=1e-30))


def _narrow_agree(stored: UInt8s, vectors: Float32s, params: codes.CodeParams) -> bool:
    """As `_agree`: another machine may round a sum, and so the grid of a row, differently."""
    true = codes.residuals(np.ascontiguousarray(vectors), params)
    have = codes.decode(np.ascontiguousarray(stored), params)
    factors = np.ascontiguousarray(stored[:, params.bias_at :]).view("<f4").astype(np.float64)
    steps = np.abs(factors[:, 1]) / (2 if params.metric == "l2" else 1)
    errors = np.sqrt(((true - have) ** 2).mean(axis=1, dtype=np.float64))
    lengths = np.sqrt((true**2).mean(axis=1, dtype=np.float64))
    if (errors > _ERRORS_ALLOWED * params.scale[0] * steps + 1e-3 * lengths).any():
        return False
    if params.metric == "l2":
        return bool(np.allclose(factors[:, 0], (true.astype(np.float64) ** 2).sum(axis=1), rtol=1e-3))
    mean = codes.rotated_center(params).astype(np.float64)
    return bool(np.allclose(factors[:, 0], -(true @ mean), rtol=1e-3, atol=1e-3 * float(mean @ mean + 1)))


_ERRORS_ALLOWED = 1.7
"""How many times its usual error a row's code may have; another row's code has more at every width."""
