"""Clauses of a filter as rows of a table; numpy alone, for workers and for the grid alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def clause_mask(column: npt.NDArray[np.int32], op: str, value: Any) -> npt.NDArray[np.bool_]:
    """Return bool[n]: `column <= value` for "le", its opposite for "not_le", membership for "in".

    Raises:
        ValueError: another operator.
    """
    if op == "in":
        return np.isin(column, value)
    if op not in ("le", "not_le"):
        raise ValueError(f"operator {op!r}: one of le, not_le, in is needed")
    below: npt.NDArray[np.bool_] = column <= value
    return below if op == "le" else ~below


def mask_of(
    clauses: Sequence[tuple[str, str, Any]], columns: Mapping[str, npt.NDArray[np.int32]]
) -> npt.NDArray[np.bool_]:
    """Return bool[n], the rows that hold every clause (field, operator, value)."""
    field, op, value = clauses[0]
    passing = clause_mask(columns[field], op, value)
    for field, op, value in clauses[1:]:
        passing = passing & clause_mask(columns[field], op, value)
    return passing
