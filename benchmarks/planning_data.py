"""Rows, held-out queries and strange queries for the benchmarks of calibration and planner."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .datasets import NAMES as BASIC
from .datasets import load
from .planning import Floats

NAMES = (*BASIC, "duplicates", "gauss", "spread")


def load_points(name: str, rows: int | None) -> tuple[Floats, Floats, dict[str, Floats]]:
    """Return rows float32[n, d], held-out queries float32[m, d], and named queries unlike the rows."""
    if name in BASIC:
        data = load(name, rows)
        points, queries = np.ascontiguousarray(data.points), np.ascontiguousarray(data.queries[:1000])
    else:
        points, queries = _MADE[name](rows or 60_000)
    rng = np.random.default_rng(3)
    some = queries[:200].astype(np.float64)
    spread = points[:2000].std(axis=0, dtype=np.float64)
    strange = {
        "shifted": some + 2 * np.linalg.norm(spread) * _direction(rng, points.shape[1]),
        "negated": 2 * points[:2000].mean(axis=0, dtype=np.float64) - some,
        "noise": points[:2000].mean(axis=0, dtype=np.float64) + rng.standard_normal(some.shape) * spread,
        "halved": some / 2,
    }
    if name == "fashion":
        strange["inverted"] = 255 - some
        strange["transposed"] = some.reshape(-1, 28, 28).transpose(0, 2, 1).reshape(len(some), -1)
    return points, queries, {key: np.ascontiguousarray(value, np.float32) for key, value in strange.items()}


def _direction(rng: np.random.Generator, d: int) -> np.ndarray:
    found = rng.standard_normal(d)
    return np.asarray(found / np.linalg.norm(found))


def _duplicates(n: int) -> tuple[Floats, Floats]:
    """Half of the rows are copies of 200 vectors."""
    rng = np.random.default_rng(5)
    basis, centers = rng.standard_normal((16, 64)), rng.standard_normal((40, 16)) * 2
    made = (centers[rng.integers(0, 40, n + 1000)] + rng.standard_normal((n + 1000, 16))) @ basis
    made[: n // 2] = made[rng.integers(0, 200, n // 2)]
    order = rng.permutation(n)
    return np.ascontiguousarray(made[:n][order], np.float32), np.ascontiguousarray(made[n:], np.float32)


def _gauss(n: int) -> tuple[Floats, Floats]:
    """48 independent dimensions: no structure at all."""
    made = np.random.default_rng(6).standard_normal((n + 1000, 48)).astype(np.float32)
    return made[:n].copy(), made[n:].copy()


def _spread(n: int) -> tuple[Floats, Floats]:
    """Clusters of very different size and width, and norms that vary a thousandfold."""
    rng = np.random.default_rng(7)
    weights = rng.pareto(1.0, 300) + 0.01
    labels = rng.choice(300, n + 1000, p=weights / weights.sum())
    centers, widths = (
        rng.standard_normal((300, 96)) * rng.lognormal(0, 1, (300, 1)),
        rng.lognormal(-1, 1, (300, 1)),
    )
    made = (centers[labels] + rng.standard_normal((n + 1000, 96)) * widths[labels]).astype(np.float32)
    return made[:n].copy(), made[n:].copy()


_MADE: dict[str, Callable[[int], tuple[Floats, Floats]]] = {
    "duplicates": _duplicates,
    "gauss": _gauss,
    "spread": _spread,
}
