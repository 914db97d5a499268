"""The adapter of vstore itself: its public face and nothing behind it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .base import EF_CONSTRUCTION, Columns, Floats, Ids, M, Param, Passing, Peer, folder_bytes

RECALLS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
DEFAULT: Param = {"recall": 0.95}
"""What a caller gets who asks for nothing."""


class Vstore(Peer):
    """connect, create_collection, upsert, flush, search_batch. Attributes are int fields."""

    package = "vstore"
    filters = True
    note = "search_batch over a batch, filter as an F expression inside the clock; recall= and ef= swept"

    def params(self, filtered: bool) -> list[Param]:
        efs = (10, 12, 16, 20, 24, 32, 48, 64, 96, 160, 256)
        by_recall = [{"recall": recall} for recall in RECALLS]
        # The default comes first, so that no sweep stops before it.
        rest = [param for param in by_recall if param != DEFAULT]
        return [DEFAULT, *rest, *({"ef": ef} for ef in efs)]

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import vstore

        n = len(points)
        # One flush of everything: what a bulk load does.
        settings = vstore.Settings(
            n_threads=threads, memtable_rows=n + 1, memtable_bytes=points.nbytes * 4, cache_bytes=8 << 30
        )
        with vstore.connect(self.folder / "store", settings=settings) as database:
            collection = database.create_collection(
                "rows",
                dim=points.shape[1],
                metric="l2",
                fields=dict.fromkeys(columns, "int"),
                index=vstore.IndexSettings(
                    M=M, ef_construction=EF_CONSTRUCTION, shard_rows=max(n, 1_000_000)
                ),
            )
            values = {name: column.tolist() for name, column in columns.items()}
            step = 50_000
            for start in range(0, n, step):
                stop = min(start + step, n)
                collection.upsert(
                    np.arange(start, stop),
                    points[start:stop],
                    {name: column[start:stop] for name, column in values.items()} or None,
                    progress=False,
                )
            collection.flush(progress=False)
        self.one_thread()

    def one_thread(self) -> None:
        import vstore

        settings = vstore.Settings(n_threads=1, cache_bytes=8 << 30)
        self.collection = vstore.connect(self.folder / "store", settings=settings, read_only=True).collection(
            "rows"
        )
        # Exact vectors too: every peer has its vectors in memory.
        self.collection.warm(progress=False, vectors=True)

    def prepare(self, passing: Passing) -> Any:
        from vstore import F

        parts = []
        for field, op, value in passing.clauses:
            if op == "in":
                parts.append(F[field].isin(value))
            else:
                below = F[field] <= value
                parts.append(below if op == "le" else ~below)
        return functools.reduce(lambda left, right: left & right, parts)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        return np.asarray(self.collection.search_batch(queries, k, handle, **param).ids)

    def size_bytes(self) -> int | None:
        return folder_bytes(self.folder)
