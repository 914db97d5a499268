"""Held-out queries, synthetic filters, and which rows a search should have found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vstore.shard.calibration.curves import KS, Walk
from vstore.shard.calibration.guide import Guide
from vstore.types import Bitmap, Bools, Float32s, Float64s, Int32s, Int64s
from vstore_kernels import bitmap
from vstore_kernels.parallel import run_chunks

GROUPS: Final = 8
"""Filters of one kind and share: each has its own queries, those near to its pivot."""
_TOLERANCE: Final = 1e-6
_LEAST_ERROR: Final = 0.05
_CHUNK_KEYS: Final = 1 << 24
"""Distances of queries to rows held at once by a thread."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A query under a filter, and its answer.

    `query` float32[d]; `passing` uint64 bitmap without the held-out rows, or None where all may be returned,
    and `n_passing`;
    `rows` int32[t] ascending: every row that is no farther than the last of KS, ties included; `keys`
    float64[t] theirs,
    nearer when smaller; `limits` float64[len(KS)]: the key of the k-th row; `n_true` int64[len(KS)]: min(k,
    passing).
    """

    query: Float32s
    passing: Bitmap | None
    n_passing: int
    rows: Int32s
    keys: Float32s
    limits: Float64s
    n_true: Int64s

    def found(self, candidates: Int32s) -> Float64s:
        """Return float[len(KS)]: the share of the true k, ties counted as equals, among candidates
        (int32[m])."""
        if not len(self.rows):
            return np.ones(len(KS))
        at = np.minimum(np.searchsorted(self.rows, candidates), len(self.rows) - 1)
        keys = self.keys[at[self.rows[at] == candidates]]
        hits = (keys[:, None] <= self.limits).sum(axis=0)
        shares: Float64s = np.minimum(hits, self.n_true) / self.n_true
        return shares

    def lost_after(self, candidates: Int32s, kept: Int64s) -> Float64s:
        """Return float[len(KS), c]: the share of the true k that is among candidates, but not the first
        `kept`.

        `kept` is int64[len(KS), c].
        """
        keys = np.full(len(candidates), np.inf)
        at = np.minimum(np.searchsorted(self.rows, candidates), len(self.rows) - 1)
        known = self.rows[at] == candidates
        keys[known] = self.keys[at[known]]
        out = np.zeros(kept.shape)
        for column, limit in enumerate(self.limits):
            most = self.n_true[column]
            places = np.flatnonzero(keys <= limit)
            first = np.minimum(np.searchsorted(places, kept[column]), most)
            out[column] = (min(len(places), most) - first) / most
        return out


def lowered(shares: Float64s, confidence: float) -> Float64s:
    """Return the mean of shares (float64[m, ...], of m questions) less `confidence` standard errors.

    Nothing missed by m questions does not mean that nothing ever is: a little is added to the error, over m.
    """
    spread = shares.std(axis=0) / np.sqrt(len(shares)) + _LEAST_ERROR / len(shares)
    bound: Float64s = np.clip(shares.mean(axis=0) - confidence * spread, 0, 1)
    return bound


class TruthMaker:
    """Makes questions from held-out rows; the same for any number of threads.

    Args:
        guide: the shard, its graph without the held-out rows.
        held_out: int32[m] ascending.
        seed: chooses pivots and filters.
        n_threads: threads that compare queries with rows.
    """

    def __init__(self, guide: Guide, held_out: Int32s, seed: int, n_threads: int) -> None:
        self._guide, self._held_out, self._n_threads = guide, held_out, n_threads
        self._rng = np.random.default_rng([seed, 7])
        self._hidden = np.zeros(guide.n, np.bool_)
        self._hidden[held_out] = True
        self._points = guide.points

    def unfiltered(self, queries: Float32s) -> list[Question]:
        """Return a question for each of `queries` (float32[m, d], raw)."""
        questions: list[Question | None] = [None] * len(queries)
        chunk = max(8, min(64, _CHUNK_KEYS // self._guide.n))

        def answer(start: int) -> None:
            keys = self._keys(queries[start : start + chunk])
            for i, row in enumerate(keys):
                questions[start + i] = self._question(queries[start + i], row, None, None)

        run_chunks(answer, range(0, len(queries), chunk), self._n_threads)
        return [question for question in questions if question is not None]

    def filtered(
        self, cells: list[tuple[Walk, float]], n_queries: int
    ) -> dict[tuple[Walk, float], list[Question]]:
        """Return about `n_queries` questions for each cell: (kind of filter, share that passes)."""
        per_group = max(1, n_queries // GROUPS)
        pivots = self._rng.choice(len(self._held_out), min(GROUPS, len(self._held_out)), replace=False)
        space = self._guide.space[self._held_out].astype(np.float64)
        seeds = self._rng.integers(0, 2**31, len(pivots))
        out: list[dict[tuple[Walk, float], list[Question]]] = [{} for _ in pivots]

        def group(g: int) -> None:
            gaps = ((space - space[pivots[g]]) ** 2).sum(axis=1)
            gaps[pivots[g]] = -1
            near = self._held_out[np.argsort(gaps, kind="stable")[:per_group]]
            keys = self._keys(self._guide.vectors[near])
            pivot = keys[0]
            rng = np.random.default_rng(int(seeds[g]))
            for cell in cells:
                flags = self._flags(cell, pivot, rng)
                passing, rows = bitmap.pack(flags), np.flatnonzero(flags)
                out[g][cell] = [
                    self._question(self._guide.vectors[row], keys[i], passing, rows)
                    for i, row in enumerate(near)
                ]

        run_chunks(group, range(len(pivots)), self._n_threads)
        return {cell: [question for part in out for question in part[cell]] for cell in cells}

    def strange(self, n_queries: int) -> Float32s:
        """Return float32[n_queries, d]: queries unlike the rows.

        Each is a held-out row moved by as much as it lies from the mean of the rows: a third of them all in
        one
        direction drawn at random, a third along the difference of two other rows; the last third are
        mirrored at the mean.
        """
        vectors = self._guide.vectors
        rows = vectors[self._rng.choice(self._held_out, n_queries)].astype(np.float64)
        others = vectors[self._rng.choice(self._held_out, (2, n_queries))].astype(np.float64)
        sample = self._rng.choice(len(vectors), min(len(vectors), 1024), replace=False)
        mean = vectors[sample].mean(axis=0, dtype=np.float64)
        reach = np.linalg.norm(rows - mean, axis=1, keepdims=True)
        direction = others[0] - others[1]
        third = n_queries // 3
        direction[:third] = self._rng.standard_normal(vectors.shape[1])
        lengths = np.linalg.norm(direction, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        moved = rows + direction / lengths * reach
        moved[third : 2 * third] = 2 * mean - rows[third : 2 * third]
        return np.asarray(moved, np.float32)

    def _keys(self, queries: Float32s) -> Float32s:
        """Return float32[m, n]: keys that order the rows by distance to raw queries; held-out rows last."""
        points, bias = self._points
        if self._guide.metric == "cosine":
            norms = np.linalg.norm(queries, axis=1, keepdims=True)
            norms[norms == 0] = 1
            queries = np.asarray(queries / norms, np.float32)
        scale = np.float32(-2 if self._guide.metric == "l2" else -1)
        keys = np.asarray((np.ascontiguousarray(queries, np.float32) * scale) @ points.T, np.float32)
        keys += bias
        keys[:, self._hidden] = np.inf
        return keys

    def _question(
        self, query: Float32s, keys: Float32s, passing: Bitmap | None, rows: Int64s | None
    ) -> Question:
        held = keys if rows is None else keys[rows]
        n = int(np.isfinite(held).sum())
        n_true = np.minimum(KS, n)
        if n == 0:
            none = np.empty(0, np.int32)
            return Question(query, passing, 0, none, none.astype(np.float32), np.zeros(len(KS)), n_true)
        last = int(n_true[-1]) - 1
        limits = np.sort(np.partition(held, last)[: last + 1])[n_true - 1].astype(np.float64)
        # Sums in another order differ in the last bits, and copies of a row must count as equals.
        slack = _TOLERANCE * (np.abs(limits) + self._guide.magnitude)
        within = np.flatnonzero(held <= limits[-1] + slack[-1])
        found = within if rows is None else rows[within]
        return Question(query, passing, n, found.astype(np.int32), held[within], limits + slack, n_true)

    def _flags(self, cell: tuple[Walk, float], pivot: Float32s, rng: np.random.Generator) -> Bools:
        walk, share = cell
        n = self._guide.n
        wanted = max(1, int(n * share))
        if walk == "none":
            flags = rng.random(n) < share
        elif walk == "near":
            flags = pivot <= np.partition(pivot, wanted - 1)[wanted - 1]
        elif walk == "far":
            shown = np.where(self._hidden, -np.inf, pivot)
            flags = shown >= np.partition(shown, n - wanted)[n - wanted]
        else:
            flags = self._islands(pivot, wanted, rng)
        flags &= ~self._hidden
        return flags

    def _islands(self, pivot: Float32s, wanted: int, rng: np.random.Generator) -> Bools:
        """Return whole clusters at random, but those of the rows nearest to the pivot."""
        offsets = self._guide.cluster_offsets
        nearest = np.argpartition(pivot, min(64, len(pivot) - 1))[:64]
        own = np.unique(np.searchsorted(offsets, nearest, side="right") - 1)
        flags = np.zeros(self._guide.n, np.bool_)
        n_set = 0
        for cluster in rng.permutation(np.setdiff1d(np.arange(len(offsets) - 1), own)):
            if n_set >= wanted:
                break
            flags[offsets[cluster] : offsets[cluster + 1]] = True
            n_set += int(offsets[cluster + 1] - offsets[cluster])
        return flags
