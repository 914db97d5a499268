"""The arithmetic of a re-ranking stage, on plain arrays: check, normalise, blend, order."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vstore.errors import RerankError

Float64s = npt.NDArray[np.float64]
Normalize = Literal["min_max", "z_score"]
NORMALIZERS: tuple[Normalize, ...] = ("min_max", "z_score")


def as_scores(values: Any, n: int, model: str) -> Float64s:
    """Return a model's answer as float64[n], each finite or NaN.

    Args:
        values: a list, numpy array or torch tensor (any device and precision); None in a list is NaN.
        n: the number of documents that the model was given.
        model: its name, for the message.

    Raises:
        RerankError: not numbers, not n of them in one dimension, or infinite.
    """
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RerankError(
            f"{model} gave a {type(values).__name__} that is not {n} numbers ({error}); "
            "return one score for each document, in their order"
        ) from error
    if scores.shape != (n,):
        got = f"{scores.shape[0]} scores" if scores.ndim == 1 else f"scores of shape {scores.shape}"
        raise RerankError(
            f"{model} gave {got} for {n} documents; expected shape ({n},): "
            "return one score for each document, in their order, and NaN for one that cannot be scored"
        )
    if np.isinf(scores).any():
        position = int(np.argmax(np.isinf(scores)))
        raise RerankError(
            f"{model} gave {scores[position]} for document {position} of {n}; "
            "scores are finite, or NaN for a document that cannot be scored"
        )
    return scores


def normalize(scores: Float64s, how: Normalize) -> Float64s:
    """Return finite scores on a common scale; equal scores become zeros.

    "min_max" maps the least to 0 and the greatest to 1; "z_score" gives mean 0 and deviation 1.
    """
    if len(scores) == 0:
        return scores
    # Scaled first, so that neither the range nor the squares overflow.
    largest = float(np.abs(scores).max())
    if largest == 0.0:
        return np.zeros_like(scores)
    unit = scores / largest
    low, high = float(unit.min()), float(unit.max())
    if high == low:
        return np.zeros_like(scores)
    if how == "min_max":
        return (unit - low) / (high - low)
    centred: Float64s = unit - unit.mean()
    deviation = float(centred.std())
    return centred / deviation if deviation > 0.0 else np.zeros_like(scores)


def blend(scores: Float64s, first: Float64s, weight: float, how: Normalize) -> Float64s:
    """Return (1 - weight) * normalised scores + weight * normalised first-stage scores.

    Both are normalised over the documents that were scored; NaN stays NaN. Weight 0 returns the
    scores as they are.

    Args:
        scores: float64[n], finite or NaN.
        first: float64[n], the first stage's scores, finite.
        weight: from 0 to 1.
        how: the common scale.
    """
    if weight == 0.0:
        return scores
    scored = ~np.isnan(scores)
    fused = np.full_like(scores, np.nan)
    fused[scored] = (1.0 - weight) * normalize(scores[scored], how) + weight * normalize(first[scored], how)
    return fused


def order(scores: Float64s) -> npt.NDArray[np.int64]:
    """Return int64[n]: the position in `scores` of each place of the new order.

    Best first and stable on ties; what is NaN keeps its place, and the rest are ordered around it.
    """
    result = np.arange(len(scores), dtype=np.int64)
    scored = np.flatnonzero(~np.isnan(scores))
    result[scored] = scored[np.argsort(-scores[scored], kind="stable")]
    return result
