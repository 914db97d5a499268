"""A scan of the passing rows' codes: no graph, no seeds, every passing row is looked at."""

from __future__ import annotations

from typing import Final

import numpy as np

from vstore.cancel import check_cancelled
from vstore.traverse.base import Found, GraphView, Walk, WalkParams, Wants
from vstore.types import Bitmap, Float32s
from vstore_kernels import bitmap, layout
from vstore_kernels.codes import prepare_query
from vstore_kernels.scan import scan_codes

PIECE_ROWS: Final = 250_000
"""So many codes are scored between two looks at whether anybody still waits: some 10 ms."""


class CodeScan:
    """Scores the codes of all passing rows and keeps the best `ef`."""

    name = "scan"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`."""
        rows = np.arange(graph.n, dtype=np.int32) if passing is None else bitmap.indices(passing)
        if not len(rows):
            return Found.nothing()
        yield Wants(codes=layout.blocks_of(rows, graph.tables.block_shift))
        code = prepare_query(query, graph.code_params)
        found = rows
        if len(rows) > PIECE_ROWS:
            # A row that is kept of all is kept of its piece; what the pieces kept is scanned once more.
            kept = []
            for start in range(0, len(rows), PIECE_ROWS):
                check_cancelled()
                kept.append(
                    scan_codes(code, graph.tables, rows[start : start + PIECE_ROWS], params.ef, params.k)[0]
                )
            found = np.sort(np.concatenate(kept))
        node_ids, distances = scan_codes(code, graph.tables, found, params.ef, params.k)
        return Found(node_ids, distances, n_distances=len(rows))
