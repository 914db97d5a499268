"""Where data sets are kept between runs: a folder outside the repository, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER_VARIABLE = "VSTORE_BENCH_DATA"


def root() -> Path:
    """Return the folder of all data sets: $VSTORE_BENCH_DATA, or vstore-bench in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "vstore-bench"


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one array as `path`; a run that breaks leaves no half of it under that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.save(file, array)
    os.replace(file.name, path)


def save_text(path: Path, text: str) -> None:
    """Write a text file as `save` writes an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def kept(path: Path, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the array at `path`, made and written by `make` where it is not there yet."""
    if not path.exists():
        save(path, make())
    array: npt.NDArray[Any] = np.load(path)
    return array
