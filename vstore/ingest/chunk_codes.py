"""Codes for rows of the memtable: made where searches have paid for them, scanned instead of the vectors.

A row's 8-bit code is a quarter of its vector, so a scan reads a quarter; what the error of its estimates
leaves undecided is scored exactly. Making a chunk's codes costs what they save in about 32 scans, so they
are made after so many: a memtable that nobody searches pays nothing, and one that is searched pays at most
about twice the least it could. A graph over so few rows saves little more and loses neighbours on
data without clusters (docs/DURABILITY.md has the figures).
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from vstore.types import Float32s, Metric
from vstore_kernels.answer import ResidentShard
from vstore_kernels.build import UpperLevels
from vstore_kernels.codes import encode, train_codes
from vstore_kernels.layout import NO_NODE
from vstore_kernels.tables import BlockTables

CODED_ROWS: Final = 1_024
"""A chunk of fewer rows is always scored exactly."""
SCANS_BEFORE_CODES: Final = 32
NO_LEVELS: Final = UpperLevels(
    np.zeros(1, np.int32), np.array([0, 1], np.int64), np.full((1, 1), NO_NODE, np.int32), 0, 1
)
"""Upper levels of rows that are only scanned. Never written to."""
_BITS: Final = 8
_WHOLE: Final = 30
"""log2 of the rows of a block that holds any chunk whole."""


class ChunkCodes:
    """The codes of one chunk's vectors, once they are worth having. Thread-safe.

    A chunk and those that differ from it in dead rows alone share one, for their vectors are the same.
    """

    __slots__ = ("_codes", "_lock", "_n_scans")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_scans = 0
        self._codes: ResidentShard | None = None

    def for_scan(self, vectors: Float32s, metric: Metric) -> ResidentShard | None:
        """Return the codes as a kernel takes them, or None where this scan is to be exact.

        Args:
            vectors: float32[n, d] of the chunk, C-contiguous, never written to; the caller keeps them.
            metric: the collection's.
        """
        if self._codes is not None or len(vectors) < CODED_ROWS:
            return self._codes
        # Counted without the lock: a scan more or less changes nothing.
        self._n_scans += 1
        if self._n_scans > SCANS_BEFORE_CODES and self._lock.acquire(blocking=False):
            # Whoever comes meanwhile scans the vectors.
            try:
                if self._codes is None:
                    self._codes = coded(vectors, metric)
            finally:
                self._lock.release()
        return self._codes


def coded(vectors: Float32s, metric: Metric) -> ResidentShard:
    """Return rows with codes and no links: what `vstore_kernels.answer` scans.

    Args:
        vectors: float32[n, d], C-contiguous; the caller keeps them alive.
        metric: of the scan.
    """
    n, d = vectors.shape
    params = train_codes(vectors, metric, _BITS)
    codes = encode(vectors, params)
    return ResidentShard(
        BlockTables.of_arrays(np.full((n, 1), NO_NODE, np.int32), codes, _WHOLE),
        NO_LEVELS,
        codes[:1],
        np.zeros((1, d + (metric == "dot")), np.float32),
        np.array([0, n], np.int64),
        params,
        np.array([vectors.ctypes.data], np.int64),
        _WHOLE,
    )
