"""Keeps built indexes in files, so that every process and every later run finds them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

import vstore_kernels
from vstore.lab.index import LabIndex
from vstore_kernels.build import UpperLevels
from vstore_kernels.codes import CodeParams

_LAB: Final = Path(__file__).parent


def name_of(described: Any) -> str:
    """Return a short name of a JSON value: equal values have equal names."""
    text = json.dumps(described, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sources_name() -> str:
    """Return a name of the sources that results are made by: what was kept of others is not used."""
    return _digest(sorted(_LAB.rglob("*.py")))


def build_sources_name() -> str:
    """Return a name of the sources that indexes are made by: an index outlives a change of the rest."""
    return _digest([_LAB / name for name in ("datasets.py", "gamma.py", "index.py", "keep.py")])


def _digest(sources: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in (*sorted(Path(vstore_kernels.__path__[0]).glob("*.py")), *sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def save_index(index: LabIndex, path: Path) -> None:
    """Write an index as one .npz; a reader never sees half of it."""
    upper, params = index.upper, index.code_params
    arrays: dict[str, Any] = {
        "rows": index.rows, "vectors": index.vectors, "neighbors": index.neighbors, "codes": index.codes,
        "centroids": index.centroids, "cluster_of": index.cluster_of,
        "upper_nodes": upper.nodes, "upper_rows": upper.rows, "upper_links": upper.links,
    }  # fmt: skip
    arrays |= {f"code_{name}": array for name, array in params.to_arrays().items()}
    facts = {
        "metric": index.metric, "block_shift": index.block_shift, "by_nearness": index.by_nearness,
        "entry_rank": upper.entry_rank, "max_level": upper.max_level, "bits": params.bits,
    }  # fmt: skip
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
    part.replace(path)


def load_index(path: Path) -> LabIndex:
    """Read what `save_index` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        codes = {
            name.removeprefix("code_"): stored[name] for name in stored.files if name.startswith("code_")
        }
        upper = UpperLevels(
            stored["upper_nodes"],
            stored["upper_rows"],
            stored["upper_links"],
            facts["entry_rank"],
            facts["max_level"],
        )
        return LabIndex(
            facts["metric"],
            stored["rows"],
            stored["vectors"],
            stored["neighbors"],
            upper,
            stored["codes"],
            CodeParams.from_arrays(facts["bits"], facts["metric"], codes),
            stored["centroids"],
            stored["cluster_of"],
            facts["block_shift"],
            facts["by_nearness"],
        )


def kept(path: Path, make: Callable[[], LabIndex]) -> LabIndex:
    """Return the index at `path`, made and written by `make` where it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_index(make(), path)
    return load_index(path)
