"""Late interaction: for each query vector the best of a document's vectors, summed (ColBERT's MaxSim)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.jit import kernel
from vstore_kernels.sums import product_sum


def max_sim(
    query: NDArray[np.float32], documents: NDArray[np.float32], offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return float32 [n]: sum over query vectors of the greatest inner product with a document's vectors.

    Khattab & Zaharia 2020, equation 3. A document without vectors scores NaN.

    Args:
        query: float32 [q, dim].
        documents: float32 [total, dim]; document i has the rows from offsets[i] to offsets[i + 1].
        offsets: int64 [n + 1], from 0 to total, never falling.

    Raises:
        TypeError: no arrays, or another dtype.
        ValueError: another shape, not C-contiguous, no query vector, or offsets that do not cover the rows.
    """
    gate.array("query", query, np.float32, 2)
    gate.array("documents", documents, np.float32, 2)
    gate.array("offsets", offsets, np.int64, 1)
    if query.shape[1] != documents.shape[1]:
        raise ValueError(
            f"query has dim {query.shape[1]} and documents {documents.shape[1]}; expected the same"
        )
    if len(query) == 0:
        raise ValueError("query has no vectors; at least 1 is needed")
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(documents):
        raise ValueError(f"offsets must run from 0 to the {len(documents)} rows of documents")
    if (np.diff(offsets) < 0).any():
        raise ValueError("offsets fall; they must rise or stay")
    scores = np.empty(len(offsets) - 1, dtype=np.float32)
    _max_sim(query, documents, offsets, np.empty(len(query), dtype=np.float32), scores)
    return scores


@kernel()
def _max_sim(
    query: NDArray[np.float32],
    documents: NDArray[np.float32],
    offsets: NDArray[np.int64],
    best: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    d = query.shape[1]
    first, start = np.int64(query.ctypes.data), np.int64(documents.ctypes.data)
    for document in range(scores.shape[0]):
        if offsets[document] == offsets[document + 1]:
            scores[document] = np.nan
            continue
        best[:] = -np.inf
        # A document's row stays in the cache while all query vectors pass over it.
        for row in range(offsets[document], offsets[document + 1]):
            for part in range(query.shape[0]):
                total = np.float32(product_sum(first + part * d * 4, start + row * d * 4, d))
                if total > best[part]:
                    best[part] = total
        whole = np.float32(0.0)
        for part in range(query.shape[0]):
            whole += best[part]
        scores[document] = whole
