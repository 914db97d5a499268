"""Reads a collection whole and checks it: manifests, log, dead rows, shards, and each against the others.

Nothing is written, and nothing is taken from the cache: what counts is what the store holds. A writer may
go on meanwhile; what it replaced and collected in the meantime is no problem, and is left out at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vstore.cache import BlockCache
from vstore.catalog import Catalog, layout
from vstore.catalog.fences import fences_of
from vstore.catalog.invariants import check_manifest, check_succession
from vstore.errors import CollectionNotFound, CorruptData, ObjectNotFound, nearest
from vstore.format.dead_rows import decode_dead
from vstore.format.log_record import LogRecord, UpsertBatch, decode_log_record
from vstore.format.manifest import Manifest, ShardEntry
from vstore.format.manifest_codec import decode_manifest
from vstore.format.rows import RowBatch
from vstore.format.rows_codec import hash_keys
from vstore.ingest.batches import Keys, kind_of, take_keys
from vstore.ingest.schema import since_of, was_changed
from vstore.progress import Report
from vstore.rerank.stored import decode as decode_fusion
from vstore.settings import Settings
from vstore.shard.reader import Shard
from vstore.types import Int64s
from vstore.upkeep.report import Findings, VerifyReport
from vstore.upkeep.shard_check import check_shard
from vstore_kernels import bitmap


def verify_store(
    catalog: Catalog, name: str | None, settings: Settings, progress: Report | None = None
) -> VerifyReport:
    """Check one collection, or all of them.

    Args:
        catalog: of the store.
        name: the collection; None for every one that exists.
        settings: `retention_s` and `clock` say which older manifests must still be whole.
        progress: called with (bytes read, bytes in all that are known of).

    Raises:
        CollectionNotFound: there is none of that name.
        StoreUnavailable, AccessDenied: the store does not let itself be read; damage is reported instead.
    """
    report = VerifyReport()
    findings = Findings(report, progress or (lambda done, total: None))
    stored = _stored_names(catalog)
    if name is not None and layout.check_name(name) not in stored:
        raise _not_found(catalog, name, stored)
    for one in stored if name is None else [name]:
        check = _CollectionCheck(catalog, one, settings, findings)
        if check.run():
            report.collections.append(one)
        elif name is not None:
            raise _not_found(catalog, name, [])
    return report


def _stored_names(catalog: Catalog) -> list[str]:
    # Not Catalog.collections, which raises at the first manifest that does not decode.
    found = {info.key[len(layout.CATALOG) :].partition("/") for info in catalog.store.list(layout.CATALOG)}
    return sorted({name for name, _, version in found if version.isdecimal()})


def _not_found(catalog: Catalog, name: str, known: list[str]) -> CollectionNotFound:
    return CollectionNotFound(f"{catalog.store.url}: there is no collection {name!r}{nearest(name, known)}")


@dataclass(slots=True)
class _LiveKeys:
    """The hashes of the keys that are alive in each shard of the latest manifest."""

    entries: list[ShardEntry] = field(default_factory=list)
    hashes: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    rows: list[Int64s] = field(default_factory=list)


class _CollectionCheck:
    def __init__(self, catalog: Catalog, name: str, settings: Settings, findings: Findings) -> None:
        self.catalog = catalog
        self.store = catalog.store
        self.name = name
        self.settings = settings
        self.findings = findings
        self.report = findings.report

    def run(self) -> bool:
        """Check everything; return False where the collection was dropped and nothing is wrong."""
        n_before = len(self.report.problems)
        # The log is listed before the manifests are read, so that no record is newer than they know.
        first = self._latest(self._manifests())
        if first is None or first.dropped:
            return len(self.report.problems) > n_before
        prefix = layout.data_prefix(self.name, first.collection_id)
        stored = {info.key: info.size_bytes for info in self.store.list(prefix)}
        manifests = self._manifests()
        latest = self._latest(manifests)
        if latest is None or latest.collection_id != first.collection_id or latest.dropped:
            return len(self.report.problems) > n_before
        mine = [m for m in manifests.values() if m.collection_id == latest.collection_id and not m.dropped]
        self.report.n_manifests += len(manifests)
        log_prefix = layout.log_prefix(self.name, latest.collection_id)
        numbered = {key: layout.number_of(key[len(log_prefix) :]) for key in stored if "/log/" in key}
        log = {seq: key for key, seq in numbered.items() if seq is not None}
        pins = [key for key in stored if key.startswith(layout.pin_prefix(self.name, latest.collection_id))]
        known = {m.version for m in mine}
        mine += [m for m in self._tagged(pins) if m.version not in known]
        named = {key for manifest in mine for entry in manifest.shards for key in _objects_of(entry)}
        self.findings.expect_bytes(sum(stored.get(key, 0) for key in {*named, *log.values()}))
        fusion_prefix = layout.fusion_prefix(self.name, latest.collection_id)
        fusions = {key for key in stored if key.startswith(fusion_prefix)}
        self.report.n_unnamed += len(set(stored) - named - set(log.values()) - set(pins) - fusions)
        self._check_fusions(sorted(fusions))
        self._check_log(log, latest)
        self._check_shards(mine, latest)
        self._forget_what_was_collected(n_before)
        return True

    def _check_fusions(self, keys: list[str]) -> None:
        for key in keys:
            with self.findings.of(key), suppress(ObjectNotFound):
                data = self.store.get(key)
                self.findings.read_bytes(len(data))
                decode_fusion(data, f"{self.store.url}: {key}")

    # Manifests.

    def _tagged(self, pins: list[str]) -> list[Manifest]:
        """Return the manifests that tags keep; those that cannot be read become problems."""
        found = []
        for key in pins:
            if not key.rpartition("/")[2].startswith("tag."):
                continue
            with self.findings.of(key), suppress(ObjectNotFound):
                data = self.store.get(key)
                self.findings.read_bytes(len(data))
                found.append(decode_manifest(data, f"{self.store.url}: {key}"))
        return found

    def _manifests(self) -> dict[int, Manifest]:
        """Return the manifests that can be read, by version; the others become problems."""
        found: dict[int, Manifest] = {}
        versions = self.catalog.stored_versions(self.name)
        for version in versions:
            key = layout.manifest_key(self.name, version)
            try:
                data = self.store.get(key)
            except ObjectNotFound:
                # Collected since it was listed.
                continue
            with self.findings.of(key):
                manifest = decode_manifest(data, f"{self.store.url}: {key}")
                if (manifest.version, manifest.name) != (version, self.name):
                    raise CorruptData(f"holds version {manifest.version} of {manifest.name!r}")
                check_manifest(manifest)
                fences_of(manifest)
                found[version] = manifest
        for before, after in itertools.pairwise(versions):
            self.findings.expect(
                after == before + 1,
                layout.manifest_key(self.name, before + 1),
                f"is missing, yet versions {before} and {after} exist",
            )
            if before in found and after in found:
                with self.findings.of(layout.manifest_key(self.name, after)):
                    check_succession(found[before], found[after])
        return found

    def _latest(self, manifests: Mapping[int, Manifest]) -> Manifest | None:
        return manifests[max(manifests)] if manifests else None

    def _required(self, manifests: Iterable[Manifest]) -> set[str]:
        """Return the keys that garbage collection must have left: of the latest and of those in retention."""
        ordered = sorted(manifests, key=lambda manifest: manifest.version)
        oldest = self.settings.clock() - self.settings.retention_s
        kept = ordered[-1:] + [
            old for old, successor in itertools.pairwise(ordered) if successor.created_at >= oldest
        ]
        return {key for manifest in kept for entry in manifest.shards for key in _objects_of(entry)}

    def _forget_what_was_collected(self, n_before: int) -> None:
        """Drop the problems of objects that a writer replaced and collected while they were checked."""
        problems = self.report.problems[n_before:]
        if not problems:
            return
        found = self._manifests()
        latest = self._latest(found)
        if latest is None:
            return
        required = self._required(m for m in found.values() if m.collection_id == latest.collection_id)
        prefix = layout.data_prefix(self.name, latest.collection_id)
        log_prefix = layout.log_prefix(self.name, latest.collection_id)
        fences = fences_of(latest)

        def gone(key: str) -> bool:
            if not key.startswith(prefix) or key in required or self.store.head(key) is not None:
                return False
            if key.startswith(log_prefix):
                seq = int(key[len(log_prefix) :])
                return seq < latest.log_start and seq not in fences
            return True

        self.report.problems[n_before:] = [p for p in self.report.problems[n_before:] if not gone(p.object)]

    # The log.

    def _check_log(self, log: Mapping[int, str], latest: Manifest) -> None:
        prefix = layout.log_prefix(self.name, latest.collection_id)
        epoch = 0
        fences = set()
        for seq in sorted(log):
            key = log[seq]
            with self.findings.of(key):
                data = self.store.get(key)
                self.findings.read_bytes(len(data))
                record = decode_log_record(data, f"{self.store.url}: {key}")
                self._check_record(record, seq, key, latest)
                self.findings.expect(
                    record.epoch >= epoch, key, f"epoch {record.epoch} comes after epoch {epoch}"
                )
                epoch = max(epoch, record.epoch)
                if record.kind == "fence":
                    fences.add(seq)
                self.report.n_records += 1
        unflushed = [seq for seq in log if seq >= latest.log_start]
        for seq in range(latest.log_start, max(unflushed, default=0)):
            self.findings.expect(
                seq in log, f"{prefix}{seq:020d}", "the log record is missing, yet later ones exist"
            )
        for seq in fences_of(latest):
            key = f"{prefix}{seq:020d}"
            if seq in log:
                self.findings.expect(seq in fences, key, "the manifest names it as a fence, which it is not")
            elif self.store.head(key) is None:
                self.findings.add(key, "the fence that the manifest names is missing")

    def _check_record(self, record: LogRecord, seq: int, key: str, latest: Manifest) -> None:
        self.findings.expect(record.seq == seq, key, f"holds record {record.seq}")
        self.findings.expect(
            record.epoch <= latest.writer_epoch,
            key,
            f"has epoch {record.epoch}; the newest manifest's is {latest.writer_epoch}",
        )
        for batch in record.batches:
            keys = batch.rows.keys if isinstance(batch, UpsertBatch) else batch.keys
            if len(keys) and latest.id_kind is not None:
                self.findings.expect(
                    kind_of(keys) == latest.id_kind,
                    key,
                    f"holds {kind_of(keys)} ids; the collection's are {latest.id_kind}",
                )
            if isinstance(batch, UpsertBatch) and batch.rows.n:
                self._check_rows(batch.rows, seq, key, latest)

    def _check_rows(self, rows: RowBatch, seq: int, key: str, latest: Manifest) -> None:
        schema = latest.schema
        self.findings.expect(
            rows.vectors.shape[1] == schema.dim and bool(np.isfinite(rows.vectors).all()),
            key,
            f"holds vectors that are not {schema.dim} finite numbers each",
        )
        held = {name: column.type for name, column in rows.columns.items()}
        fits = held == dict(schema.fields)
        if was_changed(latest):
            # The record may be older than a field, and newer than one that was dropped.
            since = since_of(latest)
            known = {name: kind for name, kind in held.items() if seq >= since.get(name, 0)}
            fits = all(schema.fields.get(name, kind) == kind for name, kind in known.items())
        self.findings.expect(fits, key, f"holds fields {held}, not the collection's")

    # Shards and their dead rows.

    def _check_shards(self, manifests: list[Manifest], latest: Manifest) -> None:
        required = self._required(manifests)
        # Newest first: of a shard that several manifests name, the newest knows most.
        ordered = sorted(manifests, key=lambda manifest: -manifest.version)
        seen: set[str] = set()
        live = _LiveKeys()
        dead_seen: set[str] = set()
        for manifest in ordered:
            for entry in manifest.shards:
                if entry.shard_id not in seen:
                    seen.add(entry.shard_id)
                    keys = self._check_shard(entry, manifest, required)
                    if manifest is latest:
                        self._note_live(live, entry, keys)
                if entry.dead_key is not None and entry.dead_key not in dead_seen:
                    dead_seen.add(entry.dead_key)
                    if entry.dead_key in required or self.store.head(entry.dead_key) is not None:
                        self.report.n_dead_bitmaps += 1
                        self._dead_rows(entry)
        self._check_live(live, latest)

    def _check_shard(self, entry: ShardEntry, manifest: Manifest, required: set[str]) -> Keys | None:
        if entry.key not in required and self.store.head(entry.key) is None:
            return None
        self.report.n_shards += 1
        self.report.n_rows += entry.n_rows
        return check_shard(self._open(entry, manifest), self.findings)

    def _open(self, entry: ShardEntry, manifest: Manifest) -> Shard:
        return Shard(entry, manifest.schema, manifest.id_kind, self.store, BlockCache(0))

    def _dead_rows(self, entry: ShardEntry) -> npt.NDArray[np.uint64] | None:
        """Return the bitmap of an entry's dead rows, or None where it does not hold."""
        assert entry.dead_key is not None
        with self.findings.of(entry.dead_key):
            data = self.store.get(entry.dead_key)
            self.findings.read_bytes(len(data))
            rows = decode_dead(data, f"{self.store.url}: {entry.dead_key}", entry.n_rows)
            n_dead = bitmap.popcount(rows)
            if n_dead != entry.n_dead:
                raise CorruptData(f"marks {n_dead} rows as dead; the manifest says {entry.n_dead}")
            return rows
        return None

    def _note_live(self, live: _LiveKeys, entry: ShardEntry, keys: Keys | None) -> None:
        if keys is None:
            return
        rows = np.arange(entry.n_rows)
        if entry.dead_key is not None:
            dead = self._dead_rows(entry)
            if dead is None:
                return
            rows = np.flatnonzero(~bitmap.unpack(dead, entry.n_rows))
        live.entries.append(entry)
        live.hashes.append(hash_keys(take_keys(keys, rows)))
        live.rows.append(rows)

    def _check_live(self, live: _LiveKeys, latest: Manifest) -> None:
        """Check that no key is alive in two shards; 8 bytes a row decide which keys must be looked at."""
        if not live.entries:
            return
        hashes = np.concatenate(live.hashes)
        distinct, counts = np.unique(hashes, return_counts=True)
        suspects = distinct[counts > 1]
        if not len(suspects):
            return
        seen: dict[object, str] = {}
        for entry, of_shard, rows in zip(live.entries, live.hashes, live.rows, strict=True):
            places = rows[np.isin(of_shard, suspects)]
            if not len(places):
                continue
            for key in self._open(entry, latest).keys(places):
                if key in seen:
                    self.findings.add(entry.key, f"key {key!r} is alive here and in {seen[key]} too")
                seen[key] = entry.key


def _objects_of(entry: ShardEntry) -> list[str]:
    return [entry.key] if entry.dead_key is None else [entry.key, entry.dead_key]
