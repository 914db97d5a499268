"""What a training leaves behind when it stops, and how it is known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vstore.errors import CorruptData, InvalidSetting
from vstore.rerank.documents import query_parts
from vstore.rerank.score_cache import digest
from vstore.rerank.train.mining import Mined
from vstore.rerank.train.settings import TrainSettings

FILE = "checkpoint.pt"
_FORMAT = 1


@dataclass(slots=True)
class Progress:
    """Where a training is. `weights` are by name, those that are trained alone."""

    step: int = 0
    best_step: int = 0
    best_ndcg: float = -1.0
    best_weights: dict[str, Any] = field(default_factory=dict)
    averaged: dict[str, Any] = field(default_factory=dict)
    """The moving average of the weights; empty without one."""
    n_stale: int = 0
    """Measurements since the best."""
    history: list[tuple[int, float, float]] = field(default_factory=list)
    """(step, mean loss since the last measurement, nDCG@10 of the held-out queries or NaN)."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last measurement."""
    seconds: float = 0.0


def fingerprint(
    path: str, settings: TrainSettings, mined: Sequence[Mined], held: Sequence[Mined], shapes: Sequence[str]
) -> str:
    """Return what must not change between a stop and going on: settings, model, queries, what was mined."""
    hashed = hashlib.blake2b(digest_size=16)
    hashed.update(repr((path, settings, tuple(shapes))).encode())
    for each in (*mined, *held):
        hashed.update(digest(*query_parts(each.query.document)))
        hashed.update(np.asarray(each.query.vector, dtype=np.float32).tobytes())
        ids = [[c.id for c in part] for part in (each.positives, each.negatives, each.ranked)]
        hashed.update(repr((each.query.filter, ids, sorted(map(repr, each.doubtful)))).encode())
    return hashed.hexdigest()


def save(
    torch: Any, folder: Path, mark: str, progress: Progress, weights: dict[str, Any], optimizer: Any
) -> None:
    """Replace the folder's checkpoint; one that is interrupted leaves the former whole."""
    state = {name: getattr(progress, name) for name in Progress.__slots__}
    written = folder / f"{FILE}.new"
    torch.save(
        {
            "format": _FORMAT,
            "fingerprint": mark,
            "progress": state,
            "weights": {name: weight.detach().cpu() for name, weight in weights.items()},
            "optimizer": optimizer.state_dict(),
        },
        written,
    )
    os.replace(written, folder / FILE)


def load(torch: Any, folder: Path, mark: str, weights: dict[str, Any], optimizer: Any) -> Progress | None:
    """Put a checkpoint's state into `weights` and `optimizer`, and return where it was; None where none is.

    Raises:
        CorruptData: it cannot be read.
        InvalidSetting: it is of another training.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}, expected {_FORMAT}")
        known = found["fingerprint"]
    except Exception as error:  # Pickle raises what it likes over bad bytes.
        raise CorruptData(
            f"{file} is no checkpoint ({type(error).__name__}: {error}); remove it to begin again"
        ) from error
    if known != mark:
        raise InvalidSetting(
            f"{file} is of a training with another model, other settings, queries or stored rows; "
            "give what it began with, or remove it to begin again"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(found["weights"][name])
    optimizer.load_state_dict(found["optimizer"])
    state = found["progress"]
    return Progress(**{**state, "history": [tuple(each) for each in state["history"]]})
