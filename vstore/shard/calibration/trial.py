"""Which codes a shard gets: the width asked for, or the narrowest that finds enough; then its calibration."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from vstore.settings import IndexSettings
from vstore.shard.calibration.curves import KS, Calibration
from vstore.shard.calibration.guide import Guide
from vstore.shard.calibration.measure import calibrate
from vstore.shard.calibration.truth import Question, TruthMaker
from vstore.types import Float32s, Int32s, Metric, UInt8s
from vstore_kernels import codes
from vstore_kernels.build import HNSWGraph
from vstore_kernels.clusters import ClusterOrder
from vstore_kernels.codes import CodeParams

WIDEST: Final = 8
NARROW: Final = 4
NARROW_FROM: Final = 64
"""Dimensions from which codes of NARROW bits are the default: below, they are padded to as many bytes."""
_EF: Final = 128
_CANDIDATES: Final = 40
_QUERIES: Final = 64


class CodeTrial:
    """Chooses a shard's codes and calibrates it, from within the build of its graph.

    Args:
        vectors: float32[n, d] in cluster order.
        space: float32[n, d'], what the graph is built on.
        metric: the collection's.
        order: clusters of the rows.
        index: which codes, which recall, whether to calibrate.
        n_threads: the result does not depend on it.
    """

    def __init__(
        self,
        vectors: Float32s,
        space: Float32s,
        metric: Metric,
        order: ClusterOrder,
        index: IndexSettings,
        n_threads: int,
    ) -> None:
        self._vectors, self._space, self._metric = vectors, space, metric
        self._order, self._index, self._n_threads = order, index, n_threads
        self._chosen: tuple[CodeParams, UInt8s] | None = None
        self.calibration: Calibration | None = None
        """What was measured, once `measure` was called."""

    @property
    def wanted(self) -> bool:
        """Whether the build must hold rows out."""
        return self._index.calibrate or self._index.codes == "auto"

    def measure(self, graph: HNSWGraph, held_out: Int32s) -> None:
        """Choose and calibrate: `build_hnsw`'s `on_prefix`."""
        found: list[tuple[int, float]] = []
        if self._index.codes == "auto":
            questions: list[Question] | None = None
            for bits in sorted(codes.BITS):
                guide = self._guide(graph, bits)
                if questions is None:
                    rows = held_out[:: max(len(held_out) // _QUERIES, 1)]
                    maker = TruthMaker(guide, held_out, self._index.seed, self._n_threads)
                    questions = maker.unfiltered(np.ascontiguousarray(self._vectors[rows]))
                found.append((bits, _recall(guide, questions)))
                if found[-1][1] >= self._index.codes_recall:
                    break
        else:
            guide = self._guide(graph, self._bits())
        self._chosen = guide.params, guide.encoded
        if self._index.calibrate:
            measured = calibrate(guide, held_out, seed=self._index.seed, n_threads=self._n_threads)
            self.calibration = dataclasses.replace(measured, code_recall=tuple(found))

    def codes(self) -> tuple[CodeParams, UInt8s]:
        """Return the code parameters and uint8[n, row_bytes]; "auto" without a measurement takes the
        widest."""
        if self._chosen is None:
            params = codes.train_codes(self._vectors, self._metric, self._bits())
            self._chosen = params, codes.encode(self._vectors, params)
        return self._chosen

    def _bits(self) -> int:
        """Return the width of codes that no measurement chooses."""
        wanted = self._index.codes
        if wanted == "default":
            return NARROW if self._vectors.shape[1] >= NARROW_FROM else WIDEST
        return WIDEST if wanted == "auto" else wanted

    def _guide(self, graph: HNSWGraph, bits: int) -> Guide:
        params = codes.train_codes(self._vectors, self._metric, bits)
        encoded = codes.encode(self._vectors, params)
        return Guide(
            self._vectors,
            self._space,
            self._metric,
            graph,
            params,
            encoded,
            self._order.centroids,
            self._order.offsets,
        )


def _recall(guide: Guide, questions: list[Question]) -> float:
    """Return recall@10 of a walk by codes of which a bounded number of candidates is re-scored exactly."""
    column = KS.index(10)
    beams = guide.walk(np.stack([question.query for question in questions]), _EF)
    return float(
        np.mean(
            [
                question.found(beam[:_CANDIDATES])[column]
                for question, beam in zip(questions, beams, strict=True)
            ]
        )
    )
