"""Recall against width, measured with rows that are not in the graph yet.

The rows that a build inserts last are the queries: they are as much like the shard's rows as a query of the
same
distribution, and unlike rows of the graph no link leads to them. Each curve climbs a ladder of widths until
nothing is left to find, or until a scan of all passing rows would be cheaper anyway.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from vstore.shard.calibration import costs, inverted
from vstore.shard.calibration.curves import (
    CLUSTER_SHARES,
    KS,
    OVERSAMPLING,
    SHARES,
    Calibration,
    Coarse,
    Curve,
    Walk,
)
from vstore.shard.calibration.guide import Guide
from vstore.shard.calibration.truth import Question, TruthMaker, lowered
from vstore.shard.threads import threads_for
from vstore.types import Float32s, Float64s, Int32s, Int64s
from vstore_kernels.parallel import run_chunks

LEAST_ROWS: Final = 4_096
"""Smaller shards are not calibrated: a scan of them costs no more than a traversal."""
HNSW_LADDER: Final = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 480, 720, 1080, 1600)
STRANGE_LADDER: Final = (14, 28, 56, 112, 224, 480, 1080)
ACORN_LADDER: Final = (16, 32, 64, 128, 256, 512, 1024, 2048)
FILTERED_QUERIES: Final = 32
OTHER_QUERIES: Final = 48
"""Questions to each cell under a filter; unlike the rows, and about re-scoring."""
MAX_SEEDS: Final = 4_096
_WIDE: Final = 400
_MOST_KEPT: Final = 1_600
"""Candidates beyond these are not told apart."""
_LEAST_WALK: Final = (200.0, 16.0, 1_000.0, 100.0)
"""About what the narrowest filtered walk counts: distances, hops, filter checks, lists."""
_SATURATED: Final = 0.9992
_CONFIDENCE: Final[dict[str, float]] = {
    "hnsw": 1.0,
    "strange": 2.0,
    "none": 1.0,
    "far": 2.0,
    "islands": 2.0,
    "near": 2.0,
}
"""Standard errors by which a mean is lowered: more where questions may be stranger than the measured."""
_USUAL: Final = 0.95
"""The share of held-out rows that count as like the rest; the others have wider searches."""
_FAR: Final[tuple[Walk, float]] = ("far", 0.2)
_CHUNK: Final = 16
_PAST_SCAN: Final = 1.5


def n_held_out(n_rows: int) -> int:
    """Return how many rows of a shard are held out as queries."""
    return 0 if n_rows < LEAST_ROWS else min(max(n_rows // 400, 64), 256)


def seeds_for(ef: int) -> int:
    """Return how many seeds a cluster-seeded walk of this width starts from."""
    return min(max(4 * ef, 64), MAX_SEEDS)


def calibrate(guide: Guide, held_out: Int32s, *, seed: int, n_threads: int) -> Calibration:
    """Measure a shard whose graph lacks the held-out rows.

    Args:
        guide: the shard; only read.
        held_out: int32[m], at least 1, ascending.
        seed: chooses the filters.
        n_threads: the result does not depend on it.
    """
    n_threads = threads_for(guide.n, n_threads)
    maker = TruthMaker(guide, held_out, seed, n_threads)
    run = _Measure(guide, n_threads)
    own = np.ascontiguousarray(guide.vectors[held_out])
    novelty = Coarse(guide.centroids, guide.metric).novelty(own)
    beyond = float(np.quantile(novelty, _USUAL))
    questions = maker.unfiltered(own)
    usual = [question for question, found in zip(questions, novelty, strict=True) if found <= beyond]
    strange = maker.unfiltered(maker.strange(min(OTHER_QUERIES, len(held_out))))
    curves = [run.climb("hnsw", 1.0, usual), run.climb("strange", 1.0, strange)]
    cells = [(walk, share) for walk, shares in SHARES.items() for share in shares]
    worth = [cell for cell in cells if run.worth(*cell)]
    scanned = [
        (walk, share)
        for walk, shares in CLUSTER_SHARES.items()
        for share in shares
        if run.worth_clusters(share)
    ]
    asked = maker.filtered(
        list(dict.fromkeys([*worth, _FAR, *scanned])),
        min(FILTERED_QUERIES, len(held_out)),
    )
    curves += [run.climb(*cell, asked[cell]) for cell in worth]
    curves += [run.clusters(*cell, asked[cell]) for cell in scanned]
    curves.append(run.clusters("none", 1.0, usual))
    some = usual[:: max(len(usual) // OTHER_QUERIES, 1)]
    return Calibration(
        n_queries=len(held_out),
        curves=tuple(curves),
        lost=np.stack([run.lost(some), run.lost(strange), run.lost(asked[_FAR])]),
        row_bytes=guide.params.row_bytes,
        centroid_bytes=guide.centroids.nbytes,
        novel_beyond=beyond,
    )


class _Measure:
    def __init__(self, guide: Guide, n_threads: int) -> None:
        self._guide, self._n_threads = guide, n_threads
        self._reading = inverted.Reading(guide)
        self._row_bytes = guide.params.row_bytes
        self._least_ns = costs.walk_ns(_LEAST_WALK, self._row_bytes)

    def worth(self, walk: Walk, share: float) -> bool:
        """Return whether a walk under such a filter could beat a scan."""
        return costs.scan_ns(share * self._guide.n, self._row_bytes) > self._seeding_ns() + self._least_ns

    def worth_clusters(self, share: float) -> bool:
        """Return whether a scan of the nearest clusters under such a filter could beat one of all rows."""
        least = costs.near_scan_ns(inverted.LEAST_BUDGET, self._row_bytes, self._guide.centroids.nbytes)
        return costs.scan_ns(share * self._guide.n, self._row_bytes) > least

    def climb(self, walk: Walk, share: float, questions: list[Question]) -> Curve:
        """Return the curve of one kind of question."""
        filtered = walk not in ("hnsw", "strange")
        ladder = ACORN_LADDER if filtered else HNSW_LADDER if walk == "hnsw" else STRANGE_LADDER
        limit_ns = _PAST_SCAN * costs.scan_ns(share * self._guide.n, self._row_bytes)
        rungs: list[tuple[int, Float64s, Float64s]] = []
        for ef in ladder:
            shares, counts = self._rung(questions, ef, seeds_for(ef) if filtered else 0)
            reached = lowered(shares, _CONFIDENCE[walk])
            rungs.append((ef, reached, counts.mean(axis=0)))
            taken = costs.walk_ns(counts.mean(axis=0).tolist(), self._row_bytes)
            if reached.min() >= _SATURATED or taken + filtered * self._seeding_ns() > limit_ns:
                break
        widths = [rung[0] for rung in rungs]
        return Curve(
            walk,
            share,
            np.array(widths, np.int32),
            np.array([seeds_for(ef) if filtered else 1 for ef in widths], np.int32),
            np.array([rung[1] for rung in rungs], np.float32),
            np.array([rung[2] for rung in rungs], np.float32),
        )

    def clusters(self, walk: Walk, share: float, questions: list[Question]) -> Curve:
        """Return the curve of a cluster scan for one kind of question."""
        return inverted.climb(self._guide, walk, share, questions, _CONFIDENCE[walk], self._reading)

    def lost(self, questions: list[Question]) -> Float32s:
        """Return float32[len(KS), len(OVERSAMPLING)]: how much of the true k ranks too low to be
        re-scored."""
        kept = np.minimum(np.ceil(np.outer(KS, OVERSAMPLING)), _MOST_KEPT).astype(np.int64)
        out = np.zeros((len(questions), *kept.shape))

        def ask(part: list[int]) -> None:
            first = questions[part[0]]
            queries = np.stack([questions[i].query for i in part])
            if first.passing is None:
                beams = self._guide.walk(queries, _WIDE)
            else:
                beams = self._guide.scan(queries, first.passing, first.n_passing, int(kept.max()))
            for i, beam in zip(part, beams, strict=True):
                out[i] = questions[i].lost_after(beam, kept)

        run_chunks(ask, _alike(questions), self._n_threads)
        return np.asarray(out.mean(axis=0), np.float32)

    def _rung(self, questions: list[Question], ef: int, n_seeds: int) -> tuple[Float64s, Int64s]:
        shares = np.zeros((len(questions), len(KS)))
        counts = np.zeros((len(questions), 4), np.int64)
        parts = _alike(questions)

        def ask(part: list[int]) -> None:
            first = questions[part[0]]
            queries = np.stack([questions[i].query for i in part])
            ids, counts[part] = self._guide.nearest(
                queries, first.passing, first.n_passing or self._guide.n, ef, n_seeds, KS[-1]
            )
            for i, row in zip(part, ids, strict=True):
                shares[i] = questions[i].found(row)

        run_chunks(ask, parts, self._n_threads)
        return shares, counts

    def _seeding_ns(self) -> float:
        return costs.seeding_ns(self._guide.centroids.nbytes)


def _alike(questions: list[Question]) -> list[list[int]]:
    """Return the positions of the questions in runs of one filter."""
    parts: list[list[int]] = []
    for i, question in enumerate(questions):
        if parts and len(parts[-1]) < _CHUNK and questions[parts[-1][0]].passing is question.passing:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts
