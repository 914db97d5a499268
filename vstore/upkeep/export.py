"""Writes a collection's live rows as a folder of plain files, a batch of rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from vstore.cache import BlockCache
from vstore.catalog import Catalog, layout
from vstore.catalog.pins import At, find_snapshot
from vstore.errors import InvalidInput, StorageError, VstoreError
from vstore.format.columns import column_values
from vstore.format.manifest import Manifest, ShardEntry
from vstore.format.rows import RowBatch
from vstore.ingest.batches import take_rows
from vstore.ingest.reader import load_view, open_snapshot
from vstore.ingest.view import CollectionView
from vstore.progress import Report
from vstore.rerank.stored import FusionShelf
from vstore.settings import Settings
from vstore.shard import sections
from vstore.shard.reader import Shard
from vstore.types import Attributes, Document, Float32s, Key
from vstore.upkeep.folder import COLLECTION, ROWS, VECTORS, Export, FileCheck, encode_export, encode_row

ExportBatch = tuple[Float32s, list[tuple[Key, Attributes, Document | None]]]
"""float32[n, dim], and of each row its id, attributes and document."""

BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 4096
CACHE_BYTES = 256 << 20
"""Keeps the keys and columns of a shard between its batches; exported rows must not push others out."""


def export_collection(
    catalog: Catalog,
    name: str,
    path: str | os.PathLike[str],
    settings: Settings,
    progress: Report | None,
    at: At | None = None,
) -> int:
    """Write the collection, as it is now or as a snapshot has it, to a new folder; return the number of rows.

    Args:
        catalog: of the store.
        name: the collection.
        path: a folder that does not exist, or is empty.
        settings: how many requests are in flight.
        progress: called with (rows written, rows in all).
        at: a version, a tag or a time; None: now.

    Raises:
        CollectionNotFound: there is none of that name.
        SnapshotNotFound: there is no such snapshot, or it was collected.
        InvalidInput: the folder is not empty, or is none.
        StorageError: the folder cannot be written, or the store failed.
        FormatError: an object of the collection is damaged; the folder is no complete export.
    """
    cache = BlockCache(CACHE_BYTES)

    def open_shard(entry: ShardEntry, manifest: Manifest) -> Shard:
        return Shard(entry, manifest.schema, manifest.id_kind, catalog.store, cache)

    if at is None:
        view = load_view(catalog, name, settings, open_shard=open_shard)
    else:
        view = open_snapshot(catalog, find_snapshot(catalog, name, at), settings, open_shard=open_shard)
    manifest = view.manifest
    shelf = FusionShelf(catalog.store, layout.fusion_prefix(manifest.name, manifest.collection_id))
    fusions = {fusion: shelf.get_bytes(fusion) for fusion in shelf.names()}
    described = Export(manifest.name, view.schema, manifest.index, view.n_live, {}, fusions)
    return write_export(described, _row_batches(view), path, progress)


def write_export(
    described: Export, batches: Iterable[ExportBatch], path: str | os.PathLike[str], progress: Report | None
) -> int:
    """Write rows to a new folder; return their number.

    Args:
        described: name, schema, index settings and number of the rows; the files are still to be written.
        batches: the rows.
        path: a folder that does not exist, or is empty.
        progress: called with (rows written, rows in all).

    Raises:
        InvalidInput: the folder is not empty, or is none.
        StorageError: the folder cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty; an export needs a new or empty folder")
        return _write(described, batches, folder, progress or (lambda done, total: None))
    except VstoreError:
        raise
    except FileExistsError as error:
        raise InvalidInput(f"{folder} is a file; an export needs a new or empty folder") from error
    except OSError as error:
        raise StorageError(f"the export to {folder} cannot be written: {error}") from error


def _write(described: Export, batches: Iterable[ExportBatch], folder: Path, progress: Report) -> int:
    n_done, n_rows, fields = 0, described.n_rows, tuple(described.schema.fields)
    progress(0, n_rows)
    with _Output(folder / VECTORS) as vectors, _Output(folder / ROWS) as rows:
        vectors.write(_npy_header(n_rows, described.schema.dim))
        for matrix, batch in batches:
            vectors.write(np.ascontiguousarray(matrix, dtype="<f4").tobytes())
            for key, attributes, document in batch:
                rows.write(encode_row(key, {name: attributes.get(name) for name in fields}, document))
            n_done += len(batch)
            progress(n_done, n_rows)
        checks = {VECTORS: vectors.finish(), ROWS: rows.finish()}
    with _Output(folder / COLLECTION) as description:
        description.write(encode_export(replace(described, n_rows=n_done, files=checks)))
        description.finish()
    return n_done


def _row_batches(view: CollectionView[Shard]) -> Iterator[ExportBatch]:
    for batch in _batches(view):
        names = list(batch.columns)
        columns = [column_values(batch.columns[name]) for name in names]
        keys = batch.keys.tolist() if isinstance(batch.keys, np.ndarray) else batch.keys
        values = zip(*columns, strict=True) if columns else [()] * batch.n
        documents = batch.documents or [None] * batch.n
        attributes = (dict(zip(names, row, strict=True)) for row in values)
        yield batch.vectors, list(zip(keys, attributes, documents, strict=True))


def _batches(view: CollectionView[Shard]) -> Iterator[RowBatch]:
    """Yield the live rows of shards and memtable, a bounded number of bytes at a time."""
    vector_bytes = view.schema.dim * 4
    for live in view.shards:
        payload = live.shard.entry.sections.get(sections.PAYLOAD)
        # Stored bytes are compressed; four times as many are a fair guess of what they hold.
        row_bytes = vector_bytes + (0 if payload is None else 4 * payload.length // live.shard.n)
        ids, step = live.live_ids(), _batch_rows(row_bytes)
        for start in range(0, len(ids), step):
            yield live.shard.rows(ids[start : start + step])
    for chunk in view.memtable.chunks:
        alive = np.flatnonzero(chunk.alive)
        step = _batch_rows(max(vector_bytes, chunk.size_bytes // max(chunk.n, 1)))
        for start in range(0, len(alive), step):
            yield take_rows(chunk.rows, alive[start : start + step])


def _batch_rows(row_bytes: int) -> int:
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))


def _npy_header(n: int, dim: int) -> bytes:
    """Return the header of a .npy file, version 1.0, of float32[n, dim] in C order (numpy's NEP 1)."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {dim}), }}"
    padded = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("latin-1")


class _Output:
    """A new file that knows its size and checksum."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb")  # noqa: SIM115 - closed by __exit__
        self._size_bytes = 0
        self._check = 0

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._size_bytes += len(data)
        self._check = crc32c.crc32c(data, self._check)

    def finish(self) -> FileCheck:
        """Make the file durable; return what it holds."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return FileCheck(self._size_bytes, self._check)
