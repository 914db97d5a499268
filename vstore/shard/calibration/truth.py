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
_SORTED_KEYS: Final = 1 << 18
"""Of these, how many are put in order at once: a few queries of a small shard, one of a large shard."""


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
        at = np.minimum(self.rows.searchsorted(candidates), len(self.rows) - 1)
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
        chunk = max(8, min(64, _CHUNK_KEYS // self._guide.n))
        parts = [queries[start : start + chunk] for start in range(0, len(queries), chunk)]
        answered: list[list[Question]] = [[] for _ in parts]

        def answer(at: int) -> None:
            answered[at] = self._questions(list(parts[at]), self._keys(parts[at]), None, None)

        run_chunks(answer, range(len(parts)), self._n_threads)
        return [question for part in answered for question in part]

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
            own = self._guide.vectors[near]
            keys, queries = self._keys(own), list(own)
            pivot = keys[0]
            rng = np.random.default_rng(int(seeds[g]))
            for cell in cells:
                flags = self._flags(cell, pivot, rng)
                passing, rows = bitmap.pack(flags), np.flatnonzero(flags)
                out[g][cell] = self._questions(queries, keys[:, rows], passing, rows)

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

    def _questions(
        self, queries: list[Float32s], keys: Float32s, passing: Bitmap | None, rows: Int64s | None
    ) -> list[Question]:
        """Return the questions of queries under one filter: as `_some`, a bounded number at once."""
        step = max(1, _SORTED_KEYS // max(keys.shape[1], 1))
        parts = [slice(start, start + step) for start in range(0, len(queries), step)]
        return [
            question for part in parts for question in self._some(queries[part], keys[part], passing, rows)
        ]

    def _some(
        self, queries: list[Float32s], keys: Float32s, passing: Bitmap | None, rows: Int64s | None
    ) -> list[Question]:
        """Return the questions of queries under one filter.

        Args:
            queries: float32[d] each, raw.
            keys: float32[m, p] of the passing rows, infinite where they are held out.
            passing: as in `Question`.
            rows: int64[p], which rows pass; None for all.
        """
        n_finite = np.isfinite(keys).sum(axis=1)
        last = int(min(KS[-1], n_finite.max(initial=0))) - 1
        if last < 0:
            none = np.empty(0, np.int32)
            nothing = none, none.astype(np.float32), np.zeros(len(KS)), np.zeros(len(KS), np.int64)
            return [Question(query, passing, 0, *nothing) for query in queries]
        n_true = np.minimum(KS, n_finite[:, None])
        nearest = np.sort(np.partition(keys, last, axis=1)[:, : last + 1], axis=1)
        limits = np.take_along_axis(nearest, np.maximum(n_true - 1, 0), axis=1).astype(np.float64)
        # Sums in another order differ in the last bits, and copies of a row must count as equals.
        limits += _TOLERANCE * (np.abs(limits) + self._guide.magnitude)
        near = keys <= limits[:, -1:]
        questions = []
        for i, query in enumerate(queries):
            within = np.flatnonzero(near[i])
            found = within if rows is None else rows[within]
            questions.append(
                Question(
                    query,
                    passing,
                    int(n_finite[i]),
                    found.astype(np.int32),
                    keys[i, within],
                    limits[i],
                    n_true[i],
                )
            )
        return questions

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
