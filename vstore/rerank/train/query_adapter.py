"""What a re-ranker knows, put into query vectors by margin-MSE; stored rows stay as they are.

Margin-MSE: Hofstaetter et al. 2020, section 3. For one query the sum of (teacher's margin - student's
margin)^2 over all pairs of its candidates is the squared error of the scores, each centred over the
candidates, times a constant; so with a linear student the fit is a ridge regression, solved exactly by
conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import CorruptData, DimensionMismatch, InvalidInput
from vstore.progress import Report, progress_of
from vstore.rerank import metrics
from vstore.rerank.documents import candidate_of
from vstore.rerank.train.queries import Searched, TrainQuery, check_queries, split
from vstore.settings import require
from vstore.types import Float32s, Float64s, Metric

_FORMAT = 1
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths of the pull towards the identity, in units of the data's own mean square."""
N_ITERATIONS = 200
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Distilled:
    """What `distill` measured, on queries that the fit never saw. Recall is NaN where none had positives."""

    n_trained: int
    n_held_out: int
    n_pairs: int
    """(query, candidate) pairs that the re-ranker scored."""
    ridge: float
    margin_mse_before: float
    """Of the held-out queries' candidates, in units of the first stage's score."""
    margin_mse_after: float
    depth: int
    recall_before: float
    """Recall at `depth`, `recall_at` of the call, of the first stage, filters on."""
    recall_after: float


class QueryAdapter:
    """vectors + vectors A: applied to query vectors before a search.

    Args:
        matrix: float32[dim, dim], A; zeros change nothing.
        result: what `distill` measured.

    Raises:
        InvalidInput: not a square matrix of finite numbers.
    """

    def __init__(self, matrix: npt.ArrayLike, result: Distilled | None = None) -> None:
        self.matrix: Float32s = np.ascontiguousarray(matrix, dtype=np.float32)
        shape = self.matrix.shape
        if len(shape) != 2 or shape[0] != shape[1] or not np.isfinite(self.matrix).all():
            raise InvalidInput(f"an adapter of shape {shape}; it must be square, of finite numbers")
        self.result = result

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(self.matrix.shape[0])

    def __repr__(self) -> str:
        return f"QueryAdapter(dim={self.dim})"

    def __call__(self, vectors: npt.ArrayLike) -> Float32s:
        """Return float32 of the same shape, (dim,) or (n, dim).

        Raises:
            DimensionMismatch: vectors of another length.
        """
        given = np.asarray(vectors, dtype=np.float32)
        if given.ndim not in (1, 2) or given.shape[-1] != self.dim:
            raise DimensionMismatch(
                f"vectors of shape {given.shape} for an adapter of {self.dim} dimensions; "
                f"give ({self.dim},) or (n, {self.dim})"
            )
        adapted: Float32s = given + given @ self.matrix
        return adapted

    def save(self, path: str | Path) -> None:
        """Write it as one file, a numpy .npz, under exactly this name."""
        result = {} if self.result is None else asdict(self.result)
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file,
                format=np.int64(_FORMAT),
                matrix=self.matrix,
                names=np.array(list(result), dtype=np.str_),
                values=np.array(list(result.values()), dtype=np.float64),
            )

    @classmethod
    def load(cls, path: str | Path) -> QueryAdapter:
        """Read what `save` wrote.

        Raises:
            CorruptData: the file is something else.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as found:
                if int(found["format"]) != _FORMAT:
                    raise ValueError(f"format {int(found['format'])}, expected {_FORMAT}")
                values = dict(zip(found["names"].tolist(), found["values"].tolist(), strict=True))
                result = None
                if values:
                    for name in ("n_trained", "n_held_out", "n_pairs", "depth"):
                        values[name] = int(values[name])
                    result = Distilled(**values)
                return cls(found["matrix"], result)
        except Exception as error:  # zip and numpy raise what they like over bad bytes.
            raise CorruptData(
                f"{path} is no query adapter ({type(error).__name__}: {error}); "
                "give what QueryAdapter.save wrote"
            ) from error


@dataclass(frozen=True, slots=True)
class _Scored:
    """One query's candidates: rows and teacher's scores, both centred over them."""

    query: Float64s
    rows: Float64s
    teacher: Float64s
    student: Float64s


def distill(
    reranker: Any,
    collection: Searched,
    queries: Sequence[TrainQuery],
    *,
    depth: int = 50,
    recall_at: int | None = None,
    held_out: float | Sequence[TrainQuery] = 0.2,
    scale: float = 1.0,
    ridges: Sequence[float] = RIDGES,
    seed: int = 0,
    progress: bool | Report | None = True,
) -> QueryAdapter:
    """Return an adapter with which the first stage finds more of what the re-ranker would put first.

    The first `depth` hits of each query under its filter are scored by the re-ranker. The adapter makes the
    first stage's margins between them like the re-ranker's, in the first stage's units, and stays near the
    identity. A fifth of the trained queries chooses the ridge; nothing of `held_out` takes part in that.

    Args:
        reranker: `score(query, documents) -> n numbers`; its NaNs are left out.
        collection: the documents, searched and read through its public face; nothing is written.
        queries: `positives` may be empty: they are used for recall on those held out, and nowhere else.
        depth: hits that are scored. What lies deeper teaches nothing, so that a filter's whole slice is best.
        recall_at: where recall is measured; `depth` by default.
        held_out: queries for `result`, or which share of `queries`.
        scale: of the re-ranker's margins against the first stage's own; above 1 trusts it more.
        ridges: strengths to choose from; more stays nearer to the identity.
        seed: of the splits.
        progress: True for a bar on a terminal, or a function of (queries scored, of all).

    Raises:
        InvalidInput: queries that cannot be used, or too few.
        RerankError: the re-ranker failed.
    """
    check_queries(queries, "distill", labelled=False)
    require(depth >= 2, f"depth is {depth!r}; margins need 2 hits or more")
    measured = depth if recall_at is None else recall_at
    require(measured >= 1, f"recall_at is {recall_at!r}; it must be 1 or more")
    require(scale > 0, f"scale is {scale!r}; it must be above 0")
    require(bool(ridges) and min(ridges) > 0, f"ridges are {ridges!r}; each must be above 0")
    trained, held = split(queries, held_out, seed)
    scored = _score_all(reranker, collection, [*trained, *held], depth, progress)
    fitted = [each for each in scored[: len(trained)] if each is not None]
    judged = [each for each in scored[len(trained) :] if each is not None]
    if len(fitted) < 2:
        raise InvalidInput(
            f"{len(fitted)} of {len(trained)} queries have two scored hits or more; at least 2 are needed"
        )
    # The re-ranker's scores have a unit of their own: their spread becomes the first stage's.
    unit = scale * _spread(each.student for each in fitted) / max(_spread(e.teacher for e in fitted), 1e-12)
    fitted, judged = ([_with_unit(each, unit) for each in part] for part in (fitted, judged))
    ridge = _choose(fitted, ridges, seed)
    matrix = _fit(fitted, ridge)
    adapter = QueryAdapter(matrix)
    before, after = (_recall(collection, held, measured, each) for each in (None, adapter))
    zero = np.zeros_like(matrix)
    adapter.result = Distilled(
        n_trained=len(fitted),
        n_held_out=len(held),
        n_pairs=sum(len(each.teacher) for each in (*fitted, *judged)),
        ridge=ridge,
        margin_mse_before=margin_mse(judged, zero),
        margin_mse_after=margin_mse(judged, matrix),
        depth=measured,
        recall_before=before,
        recall_after=after,
    )
    return adapter


def _score_all(
    reranker: Any,
    collection: Searched,
    queries: Sequence[TrainQuery],
    depth: int,
    progress: bool | Report | None,
) -> list[_Scored | None]:
    metric: Metric = collection.schema.metric
    scored = []
    with progress_of(progress, "scoring", "queries") as report:
        for query in queries:
            scored.append(_score(reranker, collection, query, depth, metric))
            report(len(scored), len(queries))
    return scored


def _score(
    reranker: Any, collection: Searched, query: TrainQuery, depth: int, metric: Metric
) -> _Scored | None:
    hits = collection.search(query.vector, k=depth, filter=query.filter)
    if len(hits) < 2:
        return None
    scores = np.asarray(reranker.score(query.document, [candidate_of(hit) for hit in hits]), dtype=np.float64)
    records = collection.get([hit.id for hit in hits])
    good = [
        i
        for i, record in enumerate(records)
        if record is not None and i < len(scores) and np.isfinite(scores[i])
    ]
    if len(good) < 2:
        return None
    vectors = {i: record.vector for i, record in enumerate(records) if record is not None}
    rows = np.array([vectors[i] for i in good], dtype=np.float64)
    vector = np.asarray(query.vector, dtype=np.float64)
    if metric == "cosine":
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    # Under l2 the order of rows is that of q.x - |x|^2 / 2: the second part no adapter touches.
    own = rows @ vector - (0.5 * (rows**2).sum(axis=1) if metric == "l2" else 0.0)
    teacher = scores[good]
    return _Scored(vector, rows - rows.mean(axis=0), teacher - teacher.mean(), own - own.mean())


def _with_unit(each: _Scored, unit: float) -> _Scored:
    return _Scored(each.query, each.rows, each.teacher * unit, each.student)


def _spread(parts: Iterable[Float64s]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(list(parts)) ** 2)))


def margin_mse(scored: Sequence[_Scored], matrix: npt.NDArray[np.floating[Any]]) -> float:
    """Return the mean over queries of the mean squared difference of margins; NaN for no queries."""
    found = []
    for each in scored:
        wrong = each.student + each.rows @ (each.query @ matrix) - each.teacher
        # The mean over all ordered pairs, each with itself included, is twice the variance.
        found.append(2.0 * float(np.mean(wrong**2)))
    return float(np.mean(found)) if found else float("nan")


def _choose(fitted: Sequence[_Scored], ridges: Sequence[float], seed: int) -> float:
    """Return the ridge whose fit to four fifths has the least margin-MSE on the last."""
    if len(ridges) == 1:
        return ridges[0]
    order = np.random.default_rng([seed, 4]).permutation(len(fitted)).tolist()
    n = max(len(order) // 5, 1)
    part, rest = [fitted[i] for i in order[:n]], [fitted[i] for i in order[n:]]
    return min(ridges, key=lambda ridge: margin_mse(part, _fit(rest, ridge)))


def _fit(scored: Sequence[_Scored], ridge: float) -> Float64s:
    """Return float64[dim, dim], the A of least margin-MSE plus ridge |A|^2, by conjugate gradients.

    Hestenes & Stiefel 1952; every query weighs the same.
    """
    dim = len(scored[0].query)
    unit = float(np.mean([(each.rows**2).sum() / len(each.rows) * (each.query**2).sum() for each in scored]))
    pull = ridge * max(unit / dim, 1e-12)

    def normal(matrix: Float64s) -> Float64s:
        total = pull * matrix
        queries = np.array([each.query for each in scored])
        moved = queries @ matrix
        back = np.array(
            [
                each.rows.T @ (each.rows @ one) / len(each.rows)
                for each, one in zip(scored, moved, strict=True)
            ]
        )
        total += queries.T @ back / len(scored)
        return total

    wanted = np.zeros((dim, dim))
    for each in scored:
        pulled = each.rows.T @ (each.teacher - each.student) / len(each.rows)
        wanted += np.outer(each.query, pulled) / len(scored)
    matrix = np.zeros((dim, dim))
    left = wanted
    direction = left.copy()
    size = float((left**2).sum())
    first = size
    for _ in range(N_ITERATIONS):
        if size <= TOLERANCE**2 * first:
            break
        step = normal(direction)
        length = size / float((direction * step).sum())
        matrix += length * direction
        left = left - length * step
        grown = float((left**2).sum())
        direction = left + (grown / size) * direction
        size = grown
    return matrix


def _recall(
    collection: Searched, queries: Sequence[TrainQuery], depth: int, adapter: QueryAdapter | None
) -> float:
    found = []
    for query in queries:
        if len(query.positives):
            vector = query.vector if adapter is None else adapter(query.vector)
            ids = [hit.id for hit in collection.search(vector, k=depth, filter=query.filter)]
            found.append(metrics.recall(ids, dict.fromkeys(query.positives, 1.0), depth))
    return float(np.mean(found)) if found else float("nan")
