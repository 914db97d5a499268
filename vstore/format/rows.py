"""A batch of rows as arrays: what an upsert brings and a shard is built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vstore.format.columns import Column
from vstore.types import Document, Float32s, IdKind, Int64s


@dataclass(frozen=True, slots=True)
class RowBatch:
    """n rows: keys are int64[n] or n strings, `vectors` float32[n, d], a column for every field.

    `documents` has n entries, or is None where no row has one. Arrays are not written to.
    """

    keys: Int64s | tuple[str, ...]
    id_kind: IdKind
    vectors: Float32s
    columns: Mapping[str, Column]
    documents: Sequence[Document | None] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.keys)
