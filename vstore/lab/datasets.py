"""Data sets of experiments: generated, Fashion-MNIST from its files, or vectors in a file of one's own."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from vstore.errors import InvalidInput, InvalidSetting
from vstore.types import Float32s, Metric

FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
FASHION_VARIABLE: Final = "VSTORE_BENCH_FASHION"
N_QUERIES: Final = 2000
_CHUNK_ROWS: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Rows, and queries that are none of them."""

    vectors: Float32s
    """float32[n, d]."""
    queries: Float32s
    """float32[m, d]."""
    metric: Metric = "l2"


def clustered(rows: int = 20_000, dim: int = 64, seed: int = 3, intrinsic: int = 16) -> Dataset:
    """Return clusters of unequal weights and spreads in few dimensions, mapped linearly to `dim`."""
    rng = np.random.default_rng(seed)
    n = rows + N_QUERIES
    n_centres = max(8, rows // 500)
    weights = 1.0 / np.arange(1, n_centres + 1) ** 0.7
    labels = rng.choice(n_centres, n, p=weights / weights.sum())
    centres = rng.standard_normal((n_centres, intrinsic)) * 1.5
    spreads = rng.uniform(0.5, 1.2, n_centres)
    latent = rng.standard_normal((n, intrinsic)) * spreads[labels, None] + centres[labels]
    directions = rng.standard_normal((intrinsic, dim))
    table: Float32s = np.empty((n, dim), np.float32)
    for start in range(0, n, _CHUNK_ROWS):
        part = latent[start : start + _CHUNK_ROWS]
        points = 0.05 * rng.standard_normal((len(part), dim))
        # Not a matrix product: its last bits, and so the data, would differ from machine to machine.
        for along in range(intrinsic):
            points += part[:, along, None] * directions[along]
        table[start : start + _CHUNK_ROWS] = points
    return Dataset(table[:rows], table[rows:])


def fashion(rows: int = 60_000) -> Dataset:
    """Return Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), 784 wide, of Debian's dataset-fashion-mnist.

    Raises:
        InvalidInput: its files are not there, or there are fewer rows.
    """
    folder = Path(os.environ.get(FASHION_VARIABLE) or FASHION)
    images, held_out = (_images(folder / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k"))
    if rows > len(images):
        raise InvalidInput(f"Fashion-MNIST has {len(images)} rows, {rows} are asked: ask for no more")
    chosen = np.random.default_rng(7).permutation(len(held_out))[:N_QUERIES]
    return Dataset(images[:rows], np.ascontiguousarray(held_out[chosen]))


def from_file(path: str, rows: int | None = None, metric: Metric = "cosine", seed: int = 0) -> Dataset:
    """Return vectors of a .npy file (float[n, d]); up to 2,000 of them, by the seed, are the queries.

    Raises:
        InvalidInput: no such file, or no table of vectors.
    """
    if not Path(path).is_file():
        raise InvalidInput(f"data file {path!r} does not exist: name a .npy file of vectors")
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    if stored.ndim != 2 or len(stored) < 20:
        raise InvalidInput(f"{path}: an array of shape {stored.shape}; float[n, d] with n >= 20 is needed")
    mixed = np.random.default_rng(seed).permutation(len(stored))
    n_queries = min(N_QUERIES, len(stored) // 10)
    chosen = np.sort(mixed[n_queries:][:rows])
    return Dataset(
        np.ascontiguousarray(stored[chosen], np.float32),
        np.ascontiguousarray(stored[np.sort(mixed[:n_queries])], np.float32),
        metric,
    )


KINDS: Final[dict[str, Callable[..., Dataset]]] = {
    "clustered": clustered,
    "fashion": fashion,
    "file": from_file,
}
"""Every kind of data set by name."""


def load(described: dict[str, Any]) -> Dataset:
    """Return the data set that a table of an experiment file describes: `kind`, and that kind's arguments.

    Raises:
        InvalidSetting: an unknown kind or argument.
        InvalidInput: what it is made from is not there.
    """
    arguments = dict(described)
    kind = arguments.pop("kind", None)
    if kind not in KINDS:
        raise InvalidSetting(f"data kind {kind!r} is none of {', '.join(KINDS)}")
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise InvalidSetting(f"data of kind {kind!r}: {error}") from None


def _images(path: Path) -> Float32s:
    if not path.is_file():
        raise InvalidInput(
            f"{path} does not exist: install the Debian package dataset-fashion-mnist, "
            f"or set {FASHION_VARIABLE}"
        )
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 28 * 28).astype(np.float32)
