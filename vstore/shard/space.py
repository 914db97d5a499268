"""The space that a shard's graph and clusters are built in: always Euclidean.

| metric | row in the space                          | query in the space |
|--------|-------------------------------------------|--------------------|
| l2     | x                                         | q                  |
| cosine | x / |x|                                   | q / |q|            |
| dot    | (x, sqrt(R^2 - |x|^2)), R the largest |x| | (q, 0)             |

The last is the reduction of maximum inner product to nearest neighbour of Bachrach et al. 2014
("Speeding up the Xbox recommender system using a Euclidean transformation for inner-product
spaces", section 4): distances in it order rows exactly as the inner product does, and unlike the inner
product itself they obey the triangle inequality that neighbour selection relies on.
"""

from __future__ import annotations

import numpy as np

from vstore.types import Float32s, Metric
from vstore_kernels.sums import wide_row_squares


def to_space(vectors: Float32s, metric: Metric) -> Float32s:
    """Return float32[n, d'] rows of the space; d' is d, and d + 1 for dot. May alias `vectors`."""
    if metric == "l2":
        return np.ascontiguousarray(vectors, dtype=np.float32)
    squares = wide_row_squares(np.ascontiguousarray(vectors, dtype=np.float32))
    if metric == "cosine":
        norms = np.sqrt(squares)
        norms[norms == 0] = 1.0
        return np.ascontiguousarray(vectors / norms[:, None], dtype=np.float32)
    rest = np.sqrt(np.maximum(squares.max(initial=0.0) - squares, 0.0))
    return np.ascontiguousarray(np.column_stack([vectors, rest]), dtype=np.float32)


def query_to_space(query: Float32s, metric: Metric) -> Float32s:
    """Return float32[d']: the query as a point of the space."""
    if metric == "l2":
        return query
    if metric == "cosine":
        norm = float(np.sqrt(wide_row_squares(np.ascontiguousarray(query[None]))[0]))
        return query / np.float32(norm) if norm > 0 else query
    return np.append(query, np.float32(0))
