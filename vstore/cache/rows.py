"""Where a shard's resident exact vectors and payload are, block by block: what a resident answer needs."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vstore.types import Int64s

VECTORS: Final = "vectors"
PAYLOAD: Final = "payload"


class RowTables:
    """Addresses of a shard's resident vector blocks, and its resident payload blocks; keeps them alive.

    Who holds tables holds their blocks. A block may be added while others read; one is taken away only from a
    copy that nobody has seen yet.

    Args:
        n_vector_blocks: of the shard.
        n_payload_blocks: of the shard.
    """

    __slots__ = ("_vectors", "payload", "vector_table")

    def __init__(self, n_vector_blocks: int, n_payload_blocks: int) -> None:
        self.vector_table: Int64s = np.zeros(n_vector_blocks, np.int64)
        """int64[n]: the address of each block of exact vectors, float32[rows, dim]; 0 where it is absent."""
        self.payload: list[Any] = [None] * n_payload_blocks
        """The decoded payload blocks; None where one is absent."""
        self._vectors: list[Any] = [None] * n_vector_blocks

    def put(self, section: str, block: int, value: Any) -> None:
        """Make a block resident; an array must be C-contiguous and is not to be changed any more."""
        if section == VECTORS:
            # The array before its address: a reader that sees the address holds the array with it.
            self._vectors[block] = value
            self.vector_table[block] = value.ctypes.data
        else:
            self.payload[block] = value

    def clear(self, section: str, block: int) -> None:
        """Take a block away; only in a copy that is not published yet."""
        if section == VECTORS:
            self.vector_table[block] = 0
            self._vectors[block] = None
        else:
            self.payload[block] = None

    def copy(self) -> RowTables:
        """Return tables of the same blocks that change independently."""
        other = RowTables(0, 0)
        other.vector_table, other._vectors = self.vector_table.copy(), self._vectors.copy()
        other.payload = self.payload.copy()
        return other
