"""Synthetic clustered vectors of low intrinsic dimension, 128 wide, any number of them, seeded.

Points are drawn in 24 dimensions round a centre for every 500 of them. The centres' weights fall off as a
power of their rank, and their spreads differ. One random linear map carries the points to 128 dimensions,
where all get a little noise. The first rows of a larger set are not the rows of a smaller one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .cache import save

N_ROWS = 1_000_000
N_QUERIES = 2_000
DIM = 128
INTRINSIC = 24
ROWS_PER_CENTRE = 500
WEIGHT_POWER = 0.7
CENTRE_SPREAD = 1.5
NOISE = 0.05
SEED = 3


def make(folder: Path, n: int | None = None) -> None:
    """Write X.npy float32[n, 128] and Q.npy float32[2000, 128], drawn alike, to `folder`."""
    n_rows = N_ROWS if n is None else n
    points = draw(n_rows + N_QUERIES, np.random.default_rng(SEED))
    save(folder / "Q.npy", points[n_rows:])
    save(folder / "X.npy", points[:n_rows])


def draw(n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return float32[n, 128]: independent draws, so any of them can serve as held-out queries."""
    n_centres = max(8, n // ROWS_PER_CENTRE)
    weights = 1.0 / np.arange(1, n_centres + 1) ** WEIGHT_POWER
    labels = rng.choice(n_centres, n, p=weights / weights.sum())
    centres = rng.standard_normal((n_centres, INTRINSIC), np.float32) * CENTRE_SPREAD
    spreads = rng.uniform(0.5, 1.2, n_centres).astype(np.float32)
    linear = rng.standard_normal((INTRINSIC, DIM), np.float32)
    latent = rng.standard_normal((n, INTRINSIC), np.float32)
    latent *= spreads[labels, None]
    latent += centres[labels]
    points = latent @ linear
    points += NOISE * rng.standard_normal((n, DIM), np.float32)
    return points
