"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), 60,000 x 784, from Debian's package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .cache import save

FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "VSTORE_BENCH_FASHION"
N_ROWS = 60_000
N_QUERIES = 2_000
SIDE = 28
SEED = 7


def make(folder: Path, n: int | None = None) -> None:
    """Write X.npy (training images), Q.npy (2,000 of the test images) and labels.npy to `folder`.

    Raises:
        RuntimeError: the files are not where they are looked for.
    """
    n_rows = N_ROWS if n is None else n
    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, SIDE * SIDE)
    labels = read("train-labels-idx1-ubyte.gz", 8)
    if n_rows > len(images):
        raise RuntimeError(f"Fashion-MNIST has {len(images)} rows, {n_rows} are asked: ask for no more")
    held_out = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, SIDE * SIDE)
    chosen = np.random.default_rng(SEED).permutation(len(held_out))[:N_QUERIES]
    save(folder / "labels.npy", labels[:n_rows].astype(np.int32))
    save(folder / "Q.npy", held_out[chosen].astype(np.float32))
    save(folder / "X.npy", images[:n_rows].astype(np.float32))


def source_folder() -> Path:
    """Return $VSTORE_BENCH_FASHION, or the folder that the Debian package installs."""
    return Path(os.environ.get(FOLDER_VARIABLE) or FOLDER)


def read(name: str, header_bytes: int) -> npt.NDArray[np.uint8]:
    """Return the bytes behind the header of an IDX file."""
    path = source_folder() / name
    if not path.exists():
        raise RuntimeError(
            f"Fashion-MNIST is not at {path.parent}: apt-get install dataset-fashion-mnist, "
            f"or set {FOLDER_VARIABLE} to a folder that holds {name}"
        )
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)
