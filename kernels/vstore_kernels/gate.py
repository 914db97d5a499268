"""The checks of the Python gates: dtype, shape, contiguity, metric."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import kernel
from vstore_kernels.layout import MAX_NODES, METRICS

FLOAT32: Final = np.dtype(np.float32)
"""The one object of that type: who has it needs no comparison."""


def array(name: str, value: Any, dtype: Any, ndim: int) -> NDArray[Any]:
    """Return `value` when it is a C-contiguous, aligned ndarray of `dtype` and `ndim`.

    Raises:
        TypeError: not an ndarray, or another dtype.
        ValueError: another number of dimensions, or not C-contiguous.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}; pass a numpy array of {np.dtype(dtype)}")
    if value.dtype != dtype:
        raise TypeError(f"{name} has dtype {value.dtype}; it must be {np.dtype(dtype)}")
    if value.ndim != ndim:
        raise ValueError(f"{name} has {value.ndim} dimensions; it must have {ndim}")
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise ValueError(f"{name} is not C-contiguous; pass numpy.ascontiguousarray({name})")
    return value


def metric(value: str) -> str:
    """Return `value` when it names a metric.

    Raises:
        ValueError: it does not.
    """
    if value not in METRICS:
        raise ValueError(f"metric is {value!r}; it must be one of {', '.join(METRICS)}")
    return value


def node_ids(name: str, value: Any, n: int) -> NDArray[np.int32]:
    """Return `value` (integers [m]) as C-contiguous int32 when every id lies in [0, n).

    Raises:
        TypeError: not integers.
        ValueError: not one-dimensional, or an id out of range.
    """
    if not (isinstance(value, np.ndarray) and value.dtype == np.int32 and value.flags.c_contiguous):
        value = _as_int32(name, value)
    if value.ndim != 1:
        raise ValueError(f"{name} has {value.ndim} dimensions; it must have 1")
    if not _in_range(value, n):
        low, high = int(value.min()), int(value.max())
        raise ValueError(f"{name} holds {low if low < 0 else high}; node ids must be from 0 to {n - 1}")
    ids: NDArray[np.int32] = value
    return ids


def _as_int32(name: str, value: Any) -> NDArray[np.int32]:
    ids = np.asarray(value)
    if ids.size == 0:
        return np.empty(ids.shape, np.int32)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {ids.dtype}; it must hold integers")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= MAX_NODES:
        raise ValueError(
            f"{name} holds {low if low < 0 else high}; node ids must be from 0 to {MAX_NODES - 1}"
        )
    return np.ascontiguousarray(ids, dtype=np.int32)


@kernel()
def _in_range(ids: NDArray[np.int32], n: int) -> bool:
    inside = True
    for t in range(ids.shape[0]):
        inside &= 0 <= ids[t] < n
    return inside
