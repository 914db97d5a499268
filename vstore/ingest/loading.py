"""`Collection.bulk_load`: arrays, memory maps or an iterator of batches, as many as there are, to shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from vstore.errors import InvalidInput
from vstore.format.rows import RowBatch
from vstore.ingest.bulk import BulkWriter
from vstore.ingest.inputs import row_batch
from vstore.progress import progress_of
from vstore.types import Schema

BATCH_BYTES = 8 << 20
"""Arrays are read about this many bytes of vectors at a time."""


class BulkLoads(ABC):
    """What a handle with a writer needs to load rows in bulk."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The collection's name."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Dimension, metric and fields."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[BulkWriter[Any]]: ...

    def bulk_load(
        self,
        ids: Any,
        vectors: Any,
        attributes: Any = None,
        documents: Any = None,
        *,
        progress: bool | Callable[[int, int], None] = True,
    ) -> int:
        """Add new rows straight as shards, past the log: for more rows than memory holds, and faster.

        Rows are read a slice at a time (so a numpy memory map will do), built into shards of at most
        `IndexSettings.shard_rows` and about `Settings.shard_bytes` of codes and lists, and uploaded while
        they are built. All appear by one commit at the end; where anything fails, none does, and what was
        uploaded is deleted.

        Args:
            ids: n int or str that the collection does not have; anything with a length and slices.
            vectors: (n, dim) numbers with slices: an array, a memory map, a torch tensor.
            attributes: n dicts (or None), or a dict of columns of n values.
            documents: n texts or {"text", "image"} dicts (or None).
            progress: True shows a bar on a terminal; a callable gets (rows done, rows in all).

        Returns:
            The number of rows added.

        Raises:
            InvalidInput (DuplicateId where an id comes twice or is there), FieldError, WriterFenced,
            StorageError: nothing was added.
        """
        n = len(ids)
        for what, given in (("vectors", vectors), ("attributes", attributes), ("documents", documents)):
            columns = given if isinstance(given, Mapping) else {what: given}
            for name, values in columns.items():
                if values is not None and len(values) != n:
                    raise InvalidInput(f"there are {n} ids and {len(values)} {name}; give one for each id")
        rows = max(1, BATCH_BYTES // (4 * self.schema.dim))
        batches = (
            tuple(_sliced(part, slice(at, at + rows)) for part in (ids, vectors, attributes, documents))
            for at in range(0, n, rows)
        )
        return self.bulk_load_batches(batches, n_rows=n, progress=progress)

    def bulk_load_batches(
        self,
        batches: Iterable[Sequence[Any]],
        *,
        n_rows: int | None = None,
        progress: bool | Callable[[int, int], None] = True,
    ) -> int:
        """Add new rows straight as shards, as `bulk_load` does, from an iterable of batches.

        Args:
            batches: each (ids, vectors), and attributes and documents behind them where there are any, as
                `upsert` takes them; asked for one after another.
            n_rows: how many rows there will be, if that is known: for the bar, and for shards of even size.
            progress: as for `bulk_load`.

        Returns, Raises: as `bulk_load`.
        """
        with self._writing() as writer, progress_of(progress, f"loading {self.name}") as report:
            return writer.load(lambda: self._checked(batches, writer), n_rows, report)

    def _checked(self, batches: Iterable[Sequence[Any]], writer: BulkWriter[Any]) -> Iterator[RowBatch]:
        kind = writer.view().id_kind
        for number, batch in enumerate(batches):
            if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 4:
                raise InvalidInput(
                    f"batch {number} is a {type(batch).__name__}; give (ids, vectors), and attributes and "
                    "documents behind them where there are any"
                )
            ids, vectors, attributes, documents = (*batch, None, None)[:4]
            try:
                rows = row_batch(ids, vectors, attributes, documents, schema=self.schema, kind=kind)
            except InvalidInput as error:
                error.add_note(f"in batch {number}")
                raise
            if rows.n:
                kind = rows.id_kind
            yield rows


def _sliced(values: Any, part: slice) -> Any:
    if isinstance(values, Mapping):
        return {name: _sliced(column, part) for name, column in values.items()}
    return None if values is None else values[part]
