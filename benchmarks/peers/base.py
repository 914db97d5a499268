"""What a peer's adapter is. Adapters hold calls of a peer's own API and nothing else.

They are imported by a process that has the peer and numpy, perhaps not vstore: only its own imports that.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

M = 16
EF_CONSTRUCTION = 200
EFS = (10, 16, 24, 40, 64, 96, 160, 256, 512, 1024)

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Param = dict[str, Any]
Columns = dict[str, npt.NDArray[np.int32]]


class Passing:
    """A filter as it reaches an adapter: its clauses for stores, its rows for libraries.

    Attributes:
        clauses: (field, "le" | "not_le" | "in", value), all of which must hold.
        mask: bool[n].
    """

    def __init__(self, clauses: Sequence[tuple[str, str, Any]], mask: npt.NDArray[np.bool_]) -> None:
        self.clauses = clauses
        self.mask = mask

    def sql(self) -> str:
        """Return the filter as SQL stores read it."""
        parts = []
        for field, op, value in self.clauses:
            if op == "in":
                parts.append(f"{field} in ({', '.join(map(str, value))})")
            else:
                parts.append(f"{field} {'<=' if op == 'le' else '>'} {value}")
        return " and ".join(parts)


class Peer:
    """One way of one library to answer queries. Distances are L2; rows are named 0 to n - 1."""

    package: ClassVar[str] = ""
    """Its name among Python packages, for the version."""
    filters: ClassVar[bool] = False
    """Whether it takes a filter at all."""
    note: ClassVar[str] = ""
    """How it is called, for the report."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="peer-", dir=os.environ.get("BENCH_SCRATCH") or None))

    def version(self) -> str:
        """Return the installed version."""
        return importlib.metadata.version(self.package)

    def params(self, filtered: bool) -> list[Param]:
        """Return the sweep, cheap to dear."""
        return [{"ef": ef} for ef in EFS]

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        """Index float32[n, d] and int32[n] columns."""
        raise NotImplementedError

    def one_thread(self) -> None:
        """Search with one thread from now on."""

    def prepare(self, passing: Passing) -> Any:
        """Return what `search` takes for a filter; outside the clock."""
        raise NotImplementedError

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        """Return int64[m, k], missing ones -1. `handle` is None without a filter."""
        raise NotImplementedError

    def size_bytes(self) -> int | None:
        """Return what the index takes in memory or on disk, where the peer tells."""
        return None


def pad(rows: Iterable[Iterable[Any]], k: int) -> Ids:
    """Return int64[m, k] of ragged rows, -1 where one is short."""
    listed = [list(row)[:k] for row in rows]
    out = np.full((len(listed), k), -1, np.int64)
    for i, row in enumerate(listed):
        out[i, : len(row)] = row
    return out


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
