"""Filters of the grid: attribute columns that the data defines, and exact neighbours under each filter.

A column holds small integers. `near`, `far` and `none` order the rows (by distance from the pivot that a
group of queries lies round, by its reverse, at random) and write down the band that a row's place falls into:
band 0 is the first 0.1 %, band 1 ends at 0.5 %, and so on as `SHARES`. So `near <= 3` passes the 2 % nearest.
`cell` is the nearest of 64 rows, a category as text has topics.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .clauses import mask_of
from .datasets import Dataset
from .datasets.cache import kept
from .datasets.truth import nearest

SHARES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
COLUMNS = ("near", "far", "none", "cell")
N_CELLS = 64
N_GROUP = 500
"""Queries of a grid: the nearest to a pivot among the held-out ones, so that near and far mean something."""
SEED = 17
K = 10

Columns = dict[str, npt.NDArray[np.int32]]
Operator = Literal["le", "not_le", "in"]


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition: `field <= value`, not (`field <= value`), or `field` in `value`."""

    field: str
    op: Operator
    value: int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Clauses that must all hold, under the name of the grid's cell."""

    name: str
    clauses: tuple[Clause, ...]

    def mask(self, columns: Columns) -> npt.NDArray[np.bool_]:
        """Return bool[n], the rows that pass."""
        return mask_of([(each.field, each.op, each.value) for each in self.clauses], columns)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "name": self.name,
            "clauses": [[clause.field, clause.op, clause.value] for clause in self.clauses],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Filter:
        """Return the filter that `to_json` wrote."""
        clauses = tuple(
            Clause(field, op, tuple(value) if isinstance(value, list) else value)
            for field, op, value in stored["clauses"]
        )
        return cls(stored["name"], clauses)


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns int32[n] by name, the group's queries int64[m] (rows of the data set's queries), the folder."""

    folder: Path
    columns: Columns
    group: npt.NDArray[np.int64]

    def truth(self, dataset: Dataset, chosen: Filter) -> npt.NDArray[np.int32]:
        """Return int32[m, min(k, passing)], the group's exact nearest among the rows that pass; kept."""
        queries = dataset.queries[self.group]
        return kept(
            self.truth_path(chosen),
            lambda: nearest(dataset.points, queries, K, chosen.mask(self.columns))[0],
        )

    def truth_path(self, chosen: Filter) -> Path:
        """Return where `truth` keeps its answer: named by what the filter says, so never an old one's."""
        digest = hashlib.sha256(json.dumps(chosen.to_json()["clauses"]).encode()).hexdigest()[:12]
        return self.folder / f"truth-{digest}.npy"


def share_name(share: float) -> str:
    """Return "2%" for 0.02."""
    return f"{100 * share:g}%"


def grid_of(dataset: Dataset, seed: int = SEED) -> Grid:
    """Return the columns and the query group of a data set, made once for a seed and kept beside it."""
    folder = dataset.folder / f"grid-{seed}"
    rng = np.random.default_rng(seed)
    pivot_query = dataset.queries[int(rng.integers(len(dataset.queries)))]
    n_group = min(N_GROUP, max(1, len(dataset.queries) // 4))
    group = np.argsort(_squared(dataset.queries, pivot_query), kind="stable")[:n_group]
    pivot = dataset.queries[group].mean(axis=0)
    by_distance = np.argsort(_squared(dataset.points, pivot), kind="stable")
    orders = {"near": by_distance, "far": by_distance[::-1], "none": rng.permutation(len(dataset.points))}
    centres = dataset.points[
        rng.choice(len(dataset.points), min(N_CELLS, len(dataset.points)), replace=False)
    ]
    columns = {
        name: kept(folder / f"{name}.npy", lambda order=order: bands(order)) for name, order in orders.items()
    }
    columns["cell"] = kept(folder / "cell.npy", lambda: nearest(centres, dataset.points, 1)[0][:, 0])
    return Grid(folder, columns, group.astype(np.int64))


def bands(order: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return int32[n]: the band of each row, by its place in `order` (int[n], the rows in order)."""
    n = len(order)
    ends = np.maximum(1, np.rint(np.asarray(SHARES) * n)).astype(np.int64)
    column = np.empty(n, np.int32)
    column[order] = np.searchsorted(ends, np.arange(n), side="right")
    return column


def grid_filters(shares: tuple[float, ...] = SHARES[::-1]) -> list[Filter]:
    """Return one filter for each share and each of far, none, near."""
    return [
        Filter(f"{correlation} {share_name(share)}", (Clause(correlation, "le", SHARES.index(share)),))
        for correlation in ("far", "none", "near")
        for share in shares
    ]


def crossed_filters(grid: Grid, seed: int = SEED) -> list[Filter]:
    """Return filters that cut across attributes: AND of two, NOT, IN."""
    rng = np.random.default_rng(seed)
    cells = np.unique(grid.columns["cell"])
    some = tuple(int(cell) for cell in np.sort(rng.choice(cells, min(6, len(cells)), replace=False)))
    half, fifth, tenth = (SHARES.index(share) for share in (0.5, 0.2, 0.1))
    return [
        Filter("far 50% and none 10%", (Clause("far", "le", half), Clause("none", "le", tenth))),
        Filter("near 20% and none 20%", (Clause("near", "le", fifth), Clause("none", "le", fifth))),
        Filter("not near 10%", (Clause("near", "not_le", tenth),)),
        Filter("not near 50% and none 20%", (Clause("near", "not_le", half), Clause("none", "le", fifth))),
        Filter("in 6 of 64 cells", (Clause("cell", "in", some),)),
        Filter(
            "in 6 of 64 cells, not near 10%", (Clause("cell", "in", some), Clause("near", "not_le", tenth))
        ),
    ]


def _squared(points: npt.NDArray[np.float32], pivot: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    gaps = points - pivot
    return np.einsum("ij,ij->i", gaps, gaps, dtype=np.float64)
