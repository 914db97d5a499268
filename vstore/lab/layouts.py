"""Block layouts: which stored unit each block lies in, where, and how large it is.

A unit is what is read and cached as one. Units of one object that lie near are read by one request, by the
engine's own rule (`storage.coalesce`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from vstore.cache import BlockKey
from vstore.lab.index import LabIndex
from vstore.shard.sections import WHOLE
from vstore.types import Int64s

LISTS, CODES, VECTORS, UPPER = "lists", "codes", "vectors", "upper"
OBJECT: Final = "shard"
SECTIONS: Final = (LISTS, CODES, VECTORS, UPPER)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where an index's blocks lie in one object."""

    unit_of: dict[str, Int64s]
    """Of each section: int64[blocks], the unit that holds each block."""
    starts: Int64s
    """int64[U]: the offset of each unit."""
    sizes: Int64s
    """int64[U]: its bytes."""
    keys: tuple[BlockKey, ...]
    """Of each unit: what caches know it by, the first of its sections and its block."""

    @classmethod
    def of_units(cls, sizes: dict[str, Int64s], together: tuple[tuple[str, ...], ...]) -> Placement:
        """Return the placement of groups of sections, one after another; a group's blocks of one number share
        a unit.

        Args:
            sizes: of each section, the bytes of its blocks.
            together: the groups; every section in one of them, all of a group with as many blocks.
        """
        unit_of: dict[str, Int64s] = {}
        unit_bytes = []
        keys: list[BlockKey] = []
        first = 0
        for group in together:
            total = np.sum([sizes[section] for section in group], axis=0).astype(np.int64)
            for section in group:
                unit_of[section] = first + np.arange(len(total), dtype=np.int64)
            unit_bytes.append(total)
            first += len(total)
            # What exists once is a whole section, as in the engine: it has no neighbours to read ahead.
            blocks = range(len(total)) if group[0] != UPPER else (WHOLE,)
            keys.extend(BlockKey(OBJECT, group[0], block) for block in blocks)
        flat = np.concatenate(unit_bytes)
        starts = np.zeros(len(flat), np.int64)
        np.cumsum(flat[:-1], out=starts[1:])
        return cls(unit_of, starts, flat, tuple(keys))


class Layout(Protocol):
    """Lays the blocks of an index out."""

    def __call__(self, index: LabIndex) -> Placement:
        """Return where every block of every one of SECTIONS lies."""
        ...


def block_sizes(index: LabIndex) -> dict[str, Int64s]:
    """Return the bytes of every block, by section."""
    return {
        LISTS: index.list_bytes(),
        CODES: index.code_bytes(),
        VECTORS: index.vector_bytes(),
        UPPER: np.array([index.upper_bytes()], np.int64),
    }


def separate(index: LabIndex) -> Placement:
    """Lists and codes in units of their own, as in the engine's format."""
    return Placement.of_units(block_sizes(index), ((UPPER,), (LISTS,), (CODES,), (VECTORS,)))


def inline(index: LabIndex) -> Placement:
    """A block's lists and codes in one unit: who wants one reads both, as in DiskANN's sectors."""
    return Placement.of_units(block_sizes(index), ((UPPER,), (LISTS, CODES), (VECTORS,)))


LAYOUTS: Final[dict[str, Layout]] = {"separate": separate, "inline": inline}
"""Every shipped layout by name."""
