"""Makes a collection of an export: everything is checked before it, and rows go in a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vstore.collection import Collection
from vstore.errors import CorruptData, VstoreError
from vstore.progress import Report
from vstore.types import Float32s
from vstore.upkeep.folder import ROWS, VECTORS, Export, check_file, decode_row, read_export

BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 4096

Row = tuple[Any, Any, Any]


def import_export(
    path: str | os.PathLike[str],
    create: Callable[[Export], Collection],
    drop: Callable[[], None],
    progress: Report | None = None,
) -> Collection:
    """Make a collection of the export in a folder and return it, its index built.

    Args:
        path: the folder.
        create: creates the collection that the export describes.
        drop: drops it again where its rows do not all go in.
        progress: called with (rows written, rows in all).

    Raises:
        InvalidInput: the folder is no complete export.
        CorruptData, UnsupportedVersion: a file is damaged, or of a newer vstore; nothing was created.
    """
    folder = Path(path)
    export = read_export(folder)
    for name, check in export.files.items():
        check_file(folder / name, check)
    vectors = _vectors(folder / VECTORS, export)
    collection = create(export)
    try:
        n_done = 0
        for rows in _batches(folder / ROWS, export):
            keys, attributes, documents = zip(*rows, strict=True)
            part = np.array(vectors[n_done : n_done + len(rows)])
            collection.upsert(list(keys), part, list(attributes), list(documents))
            n_done += len(rows)
            if progress is not None:
                progress(n_done, export.n_rows)
        if n_done != export.n_rows:
            raise CorruptData(f"{folder / ROWS} holds {n_done} rows; {export.n_rows} were exported")
        collection.flush()
        for name, data in export.fusions.items():
            collection.put_fusion_bytes(name, data)
    except BaseException:
        # A part of a collection under the whole one's name would pass for it.
        with suppress(VstoreError):
            drop()
        raise
    return collection


def _vectors(path: Path, export: Export) -> Float32s:
    """Return the matrix of vectors, read through a memory map."""
    shape = (export.n_rows, export.schema.dim)
    if not export.n_rows:
        return np.empty(shape, np.float32)
    try:
        vectors: Float32s = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # numpy reads the header as a Python literal, and raises what Python's own parser does.
        raise CorruptData(f"{path} is no .npy file: {error}") from error
    if vectors.shape != shape or vectors.dtype != np.dtype("<f4"):
        raise CorruptData(f"{path} holds {vectors.dtype}{list(vectors.shape)}, not float32{list(shape)}")
    return vectors


def _batches(path: Path, export: Export) -> Iterator[list[Row]]:
    rows: list[Row] = []
    weight = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            rows.append(decode_row(line, export.schema, f"{path}, line {number}"))
            weight += len(line) + 4 * export.schema.dim
            if weight >= BATCH_BYTES or len(rows) >= MAX_BATCH_ROWS:
                yield rows
                rows, weight = [], 0
    if rows:
        yield rows
