"""Block tables: where the kernels find a shard's neighbour lists and codes, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.layout import BLOCK_SHIFT, MAX_NODES, NO_NODE, n_blocks


class BlockTables:
    """Addresses of a shard's resident blocks; keeps the arrays alive, so that addresses stay valid.

    Block b holds the rows of the node ids [b << block_shift, (b + 1) << block_shift), the last one fewer.
    Arrays are kept by reference and must not be written to afterwards. Not synchronised: a thread may add
    blocks while others search with the same object, but may take blocks away only from a copy of its own.

    Args:
        n: rows of the shard.
        M0: columns of a neighbour block.
        row_bytes: columns of a code block.
        block_shift: log2 of the rows of a block.

    Raises:
        ValueError: a size out of range.
    """

    __slots__ = (
        "M0",
        "_code_arrays",
        "_codes_left",
        "_list_arrays",
        "_lists_left",
        "block_shift",
        "code_table",
        "list_table",
        "n",
        "row_bytes",
    )

    def __init__(self, n: int, M0: int, row_bytes: int, block_shift: int = BLOCK_SHIFT) -> None:
        if not 1 <= n < MAX_NODES or M0 < 1 or row_bytes < 1 or not 0 <= block_shift <= 30:
            raise ValueError(
                f"n is {n}, M0 {M0}, row_bytes {row_bytes}, block_shift {block_shift}; "
                f"n must be from 1 to {MAX_NODES - 1}, M0 and row_bytes at least 1, block_shift from 0 to 30"
            )
        self.n, self.M0, self.row_bytes, self.block_shift = n, M0, row_bytes, block_shift
        count = n_blocks(n, block_shift)
        self.list_table = np.zeros(count, np.int64)
        """int64 [n_blocks]: the address of each list block, 0 where it is absent."""
        self.code_table = np.zeros(count, np.int64)
        """int64 [n_blocks]: the address of each code block, 0 where it is absent."""
        self._list_arrays: list[NDArray[Any] | None] = [None] * count
        self._code_arrays: list[NDArray[Any] | None] = [None] * count
        self._lists_left = self._codes_left = count

    @classmethod
    def of_arrays(
        cls, neighbors: NDArray[np.int32], codes: NDArray[np.uint8], block_shift: int = BLOCK_SHIFT
    ) -> BlockTables:
        """Return tables over whole arrays: neighbors int32 [n, M0] and codes uint8 [n, row_bytes].

        Raises:
            TypeError: a wrong dtype.
            ValueError: shapes that do not agree, or a neighbour out of range.
        """
        gate.array("neighbors", neighbors, np.int32, 2)
        gate.array("codes", codes, np.uint8, 2)
        tables = cls(neighbors.shape[0], neighbors.shape[1], codes.shape[1], block_shift)
        tables.set_all_lists(neighbors)
        tables.set_all_codes(codes)
        return tables

    def set_lists(self, block: int, neighbors: NDArray[np.int32]) -> None:
        """Make a block of neighbour lists (int32 [rows, M0], -1 padded) resident.

        Raises:
            TypeError: a wrong dtype.
            ValueError: a wrong shape, or a neighbour out of range.
        """
        self._check(block, gate.array("neighbors", neighbors, np.int32, 2), self.M0)
        _check_neighbors(neighbors, self.n)
        self._list_arrays[block] = neighbors
        self.list_table[block] = neighbors.ctypes.data
        self._lists_left = int(np.count_nonzero(self.list_table == 0))

    def set_codes(self, block: int, codes: NDArray[np.uint8]) -> None:
        """Make a block of codes (uint8 [rows, row_bytes]) resident.

        Raises:
            TypeError: a wrong dtype.
            ValueError: a wrong shape.
        """
        self._check(block, gate.array("codes", codes, np.uint8, 2), self.row_bytes)
        self._code_arrays[block] = codes
        self.code_table[block] = codes.ctypes.data
        self._codes_left = int(np.count_nonzero(self.code_table == 0))

    def set_all_lists(self, neighbors: NDArray[np.int32]) -> None:
        """Make all lists resident from one array, int32 [n, M0].

        Raises:
            TypeError: a wrong dtype.
            ValueError: a wrong shape, or a neighbour out of range.
        """
        self._check_whole(gate.array("neighbors", neighbors, np.int32, 2), self.M0)
        _check_neighbors(neighbors, self.n)
        self._list_arrays = [neighbors] * self.list_table.size
        self.list_table[:] = self._addresses(neighbors)
        self._lists_left = 0

    def set_all_codes(self, codes: NDArray[np.uint8]) -> None:
        """Make all codes resident from one array, uint8 [n, row_bytes].

        Raises:
            TypeError: a wrong dtype.
            ValueError: a wrong shape.
        """
        self._check_whole(gate.array("codes", codes, np.uint8, 2), self.row_bytes)
        self._code_arrays = [codes] * self.code_table.size
        self.code_table[:] = self._addresses(codes)
        self._codes_left = 0

    def clear_lists(self, block: int) -> None:
        """Take a block of lists away; its array may be freed."""
        self.list_table[block] = 0
        self._lists_left = int(np.count_nonzero(self.list_table == 0))
        self._list_arrays[block] = None

    def clear_codes(self, block: int) -> None:
        """Take a block of codes away; its array may be freed."""
        self.code_table[block] = 0
        self._codes_left = int(np.count_nonzero(self.code_table == 0))
        self._code_arrays[block] = None

    def has_lists(self, block: int) -> bool:
        """Return whether the lists of `block` are resident."""
        return bool(self.list_table[block] != 0)

    def has_codes(self, block: int) -> bool:
        """Return whether the codes of `block` are resident."""
        return bool(self.code_table[block] != 0)

    @property
    def codes_resident(self) -> bool:
        """Whether every code block is resident."""
        return self._codes_left == 0

    @property
    def resident(self) -> bool:
        """Whether every block is resident; the kernels then check none."""
        return self._lists_left == 0 and self._codes_left == 0

    def copy(self) -> BlockTables:
        """Return tables of the same blocks that change independently."""
        other = BlockTables(self.n, self.M0, self.row_bytes, self.block_shift)
        # Tables before arrays: a block that another thread adds in between is then absent, not dangling.
        other.list_table, other.code_table = self.list_table.copy(), self.code_table.copy()
        other._list_arrays, other._code_arrays = self._list_arrays.copy(), self._code_arrays.copy()
        other._lists_left = int(np.count_nonzero(other.list_table == 0))
        other._codes_left = int(np.count_nonzero(other.code_table == 0))
        return other

    def _rows(self, block: int) -> int:
        if not 0 <= block < self.list_table.size:
            raise ValueError(f"block {block} is not one of {self.list_table.size}")
        return min(1 << self.block_shift, self.n - (block << self.block_shift))

    def _check(self, block: int, array: NDArray[Any], columns: int) -> None:
        rows = self._rows(block)
        if array.shape != (rows, columns):
            raise ValueError(f"block {block} has shape {array.shape}; it must be ({rows}, {columns})")

    def _check_whole(self, array: NDArray[Any], columns: int) -> None:
        if array.shape != (self.n, columns):
            raise ValueError(f"the array has shape {array.shape}; it must be ({self.n}, {columns})")

    def _addresses(self, array: NDArray[Any]) -> NDArray[np.int64]:
        stride = array.strides[0] << self.block_shift
        return array.ctypes.data + np.arange(self.list_table.size, dtype=np.int64) * stride


def _check_neighbors(neighbors: NDArray[np.int32], n: int) -> None:
    low, high = int(neighbors.min()), int(neighbors.max())
    if low < NO_NODE or high >= n:
        raise ValueError(f"a neighbour is {low if low < NO_NODE else high}; ids must be from 0 to {n - 1}")
