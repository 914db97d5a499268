"""The data sets of the benchmarks, each with held-out queries and exact neighbours, made once and kept.

`load("fashion")`, `load("clustered")`, `load("sentences")`; another size by `rows`. Kept in the folder that
`cache.root` names: <name>-<rows>/X.npy, Q.npy, truth-<k>.npy and what the set's own module adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import clustered, fashion, sentences
from .cache import kept, root, save
from .truth import Floats, Rows, nearest

TRUTH_K = 100
NAMES = ("fashion", "clustered", "sentences")
MAKERS: dict[str, tuple[Callable[[Path, int | None], None], int]] = {
    "fashion": (fashion.make, fashion.N_ROWS),
    "clustered": (clustered.make, clustered.N_ROWS),
    "sentences": (sentences.make, sentences.N_ROWS),
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows and held-out queries, float32, C-contiguous; distances are L2 (sentences have unit length)."""

    name: str
    folder: Path
    points: Floats
    queries: Floats

    def truth(self, k: int = TRUTH_K) -> Rows:
        """Return int32[n_queries, k], the exact nearest rows of each query by (distance, row)."""
        path = self.folder / f"truth-{TRUTH_K}.npy"
        return kept(path, lambda: nearest(self.points, self.queries, TRUTH_K)[0])[:, :k]


def load(name: str, rows: int | None = None) -> Dataset:
    """Return a data set, making it first where it is not kept yet.

    Args:
        name: one of `NAMES`.
        rows: its number of rows; None is the set's own (60,000, 1,000,000, 60,000).

    Raises:
        ValueError: no such data set, or rows below 1.
        RuntimeError: what it is made from is not installed; the message says what to install.
    """
    if name not in MAKERS:
        raise ValueError(f"dataset={name!r}: one of {', '.join(NAMES)} is needed")
    make, full = MAKERS[name]
    n_rows = full if rows is None else rows
    if n_rows < 1:
        raise ValueError(f"rows={n_rows}: at least 1 is needed")
    folder = root() / f"{name}-{n_rows}"
    # X.npy is written last, so it stands for the whole folder.
    if not (folder / "X.npy").exists():
        whole = root() / f"{name}-{full}"
        if name != "clustered" and n_rows < full and (whole / "X.npy").exists():
            # An image or a sentence is the same in any size of set; to embed again would take minutes.
            save(folder / "Q.npy", np.load(whole / "Q.npy"))
            save(folder / "X.npy", np.load(whole / "X.npy")[:n_rows])
        else:
            make(folder, n_rows)
    points, queries = np.load(folder / "X.npy"), np.load(folder / "Q.npy")
    return Dataset(name, folder, np.ascontiguousarray(points), np.ascontiguousarray(queries))


__all__ = ["NAMES", "TRUTH_K", "Dataset", "load"]
