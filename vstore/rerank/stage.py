"""The re-ranking stage: the one function that applies `Rerank`s to an answer.

Scores of different models do not compare, so every hit that a stage was given carries that stage's
score, or NaN where it has none; only what lies deeper keeps the score it came with.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from vstore.cancel import check_cancelled
from vstore.errors import RerankError, StorageError, VstoreError
from vstore.rerank import scores as arithmetic
from vstore.rerank.documents import candidate_of, check_query, document_text
from vstore.rerank.images import STORE_SCHEME
from vstore.rerank.plan import DEFAULT_DEPTH, Needs, Rerank, Stage, as_stages, check_depth, depth_of
from vstore.rerank.work import DeadlinePassed, Work, recording
from vstore.types import Candidate, Hit, RerankReport

__all__ = ["DEFAULT_DEPTH", "Rerank", "Stage", "apply", "as_stages", "check_depth", "depth_of"]

Images = dict[str, bytes]


class ReadsObjects(Protocol):
    """What the stage asks of a store: one object's bytes, from several threads."""

    def get(self, key: str) -> bytes:
        """Return an object whole, or raise a StorageError."""
        ...


def apply(
    stages: Sequence[Stage],
    query_document: Any,
    hits: Sequence[Hit],
    k: int,
    store: ReadsObjects | None = None,
) -> tuple[list[Hit], list[RerankReport]]:
    """Re-rank an answer, stage after stage, and return its k best and a report of each stage.

    A stage re-orders the first max(depth, k) hits and leaves the rest behind them as they were. Ties
    keep their order. A document that the model could not score, or that lacks what the stage needs,
    keeps its place with the score NaN and is reported. `first_score` and `first_rank` stay.

    Args:
        stages: from `as_stages`.
        query_document: the query's own text or image, or a dict of both.
        hits: best first; not modified.
        k: answers wanted.
        store: where `store://` image references are read, those of a stage in one parallel round.

    Raises:
        InvalidInput: query_document is missing, or is nothing that can be read.
        RerankError: a model broke its contract, or failed.
    """
    ranked = list(hits)
    if not stages:
        return ranked[:k], []
    check_query(query_document)
    reports: list[RerankReport] = []
    images: Images = {}
    for position, stage in enumerate(stages):
        check_cancelled()
        depth = max(stage.depth, k)
        ranked[:depth], report = _apply_one(stage, query_document, ranked[:depth], store, images)
        reports.append(report)
        if position + 1 < len(stages) and _is_settled(stage, ranked, k):
            report.stopped_early = True
            break
    return ranked[:k], reports


def _is_settled(stage: Stage, ranked: Sequence[Hit], k: int) -> bool:
    """Return whether the scores above the k-th place, and the next, lie apart by the stage's margin."""
    if stage.stop_margin is None:
        return False
    scores = np.array([hit.score for hit in ranked[: min(k + 1, stage.depth)]])
    return not np.isnan(scores).any() and bool((-np.diff(scores) >= stage.stop_margin).all())


def _apply_one(
    stage: Stage, query: Any, window: list[Hit], store: ReadsObjects | None, images: Images
) -> tuple[list[Hit], RerankReport]:
    started = time.perf_counter()
    work = Work()
    if stage.deadline_ms is not None:
        work.deadline_s = started + stage.deadline_ms / 1e3
    report = RerankReport(stage.name, 0, 0, 0, 0.0)
    candidates: list[Candidate] = []

    def ask() -> arithmetic.Float64s:
        candidates[:] = [_candidate(hit, stage, images) for hit in window]
        if store is not None and stage.needs != "text":
            _read_images(candidates, store, images)
        with recording(work):
            return _score(stage, query, candidates, work)

    try:
        raw = _within(stage, ask, work)
    except DeadlinePassed:
        report.deadline_passed = True
        report.failures = [f"the deadline of {stage.deadline_ms:g} ms passed: the order was kept"]
        report.latency_ms = (time.perf_counter() - started) * 1e3
        return window, report
    except RerankError as error:
        if stage.on_error == "raise":
            raise
        report.n_failed, report.failures = len(window), [str(error)]
        report.latency_ms = (time.perf_counter() - started) * 1e3
        return window, report
    ranked = _ordered(stage, raw, window, candidates, work, report)
    _fill(report, work)
    report.latency_ms = (time.perf_counter() - started) * 1e3
    return ranked, report


def _ordered(
    stage: Stage,
    raw: arithmetic.Float64s,
    window: list[Hit],
    candidates: list[Candidate],
    work: Work,
    report: RerankReport,
) -> list[Hit]:
    first = np.array([hit.first_score for hit in window], dtype=np.float64)
    fused = arithmetic.blend(raw, first, stage.blend, stage.normalize)
    places = arithmetic.order(fused).tolist()
    failed = np.flatnonzero(np.isnan(fused)).tolist()
    report.n_scored = len(window) - len(failed)
    report.n_failed = len(failed)
    report.n_moved = sum(place != position for position, place in enumerate(places))
    report.failures = [_why(stage, candidates[i], work.failures.get(i)) for i in failed]
    dropped = set(failed) if stage.keep == "scored" else set()
    if stage.min_score is not None:
        dropped |= set(np.flatnonzero(raw < stage.min_score).tolist())
    report.n_dropped = len(dropped)
    return [replace(window[i], score=float(fused[i])) for i in places if i not in dropped]


def _fill(report: RerankReport, work: Work) -> None:
    report.n_pairs = work.n_pairs
    report.n_cached = work.n_cached
    report.n_batches = work.n_batches
    report.n_tokens = work.n_tokens
    report.padding_share = work.padding_share
    report.n_queries_merged = work.n_queries_merged
    report.decode_ms = work.decode_ms
    report.wait_ms = work.wait_ms
    report.forward_ms = work.forward_ms


def _within(stage: Stage, ask: Callable[[], arithmetic.Float64s], work: Work) -> arithmetic.Float64s:
    """Return what `ask` returns, or raise DeadlinePassed once the stage's time is over.

    A model that knows nothing of deadlines cannot be stopped: it ends on a thread of its own, unheard.
    """
    if stage.deadline_ms is None:
        return ask()
    answers: list[arithmetic.Float64s] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name=f"rerank {stage.name}", daemon=True)
    thread.start()
    thread.join(work.left_s())
    if thread.is_alive() or (answers and work.left_s() == 0.0):
        raise DeadlinePassed
    if errors:
        raise errors[0]
    return answers[0]


def _candidate(hit: Hit, stage: Stage, images: Images) -> Candidate:
    candidate = candidate_of(hit)
    if stage.fields:
        candidate = replace(candidate, text=document_text(candidate, stage.fields))
    image = candidate.image
    return (
        replace(candidate, image=images[image]) if isinstance(image, str) and image in images else candidate
    )


def _read_images(candidates: list[Candidate], store: ReadsObjects, images: Images) -> None:
    """Replace `store://` references by bytes; what cannot be read stays, and the model reports it."""
    wanted = sorted(
        {c.image for c in candidates if isinstance(c.image, str) and c.image.startswith(STORE_SCHEME)}
    )
    if not wanted:
        return

    def read(reference: str) -> bytes | None:
        try:
            return store.get(reference.removeprefix(STORE_SCHEME))
        except (StorageError, ValueError):
            return None

    with ThreadPoolExecutor(min(len(wanted), 32)) as pool:
        found = zip(wanted, pool.map(read, wanted), strict=True)
        images.update({reference: data for reference, data in found if data is not None})
    for position, candidate in enumerate(candidates):
        if isinstance(candidate.image, str) and candidate.image in images:
            candidates[position] = replace(candidate, image=images[candidate.image])


def _score(stage: Stage, query: Any, documents: list[Candidate], work: Work) -> arithmetic.Float64s:
    """Return float64[n], NaN for what was not scored."""
    suited = [i for i, document in enumerate(documents) if _has(document, stage.needs)]
    try:
        return _ask(stage, query, documents, suited, work)
    except (VstoreError, DeadlinePassed):
        raise
    except Exception as error:
        failure = error
    # Most often it fell over a document without text: such a one must not sink the others.
    readable = [i for i in suited if _has(documents[i], "document")]
    if 0 < len(readable) < len(suited):
        try:
            return _ask(stage, query, documents, readable, work)
        except (VstoreError, DeadlinePassed):
            raise
        except Exception as error:
            failure = error
    raise RerankError(
        f"{stage.name} failed on {len(readable or suited)} documents: {type(failure).__name__}: {failure}; "
        'repair the model or what it is given, or pass Rerank(..., on_error="keep") to keep the order '
        "of the stage before"
    ) from failure


def _ask(
    stage: Stage, query: Any, documents: list[Candidate], rows: list[int], work: Work
) -> arithmetic.Float64s:
    scores = np.full(len(documents), np.nan)
    if rows:
        work.failures = {}
        answer = stage.reranker.score(query, [documents[i] for i in rows])
        scores[rows] = arithmetic.as_scores(answer, len(rows), stage.name)
        # The model counts from the first document that it was given.
        work.failures = {rows[i]: reason for i, reason in work.failures.items() if i < len(rows)}
    return scores


def _has(document: Candidate, needs: Needs) -> bool:
    if needs == "text":
        return document.text is not None
    if needs == "image":
        return document.image is not None
    return needs == "nothing" or document.text is not None or document.image is not None


def _why(stage: Stage, document: Candidate, reason: str | None) -> str:
    if not _has(document, "document"):
        return f"{document.id!r}: no text or image was stored"
    if not _has(document, stage.needs):
        return f"{document.id!r}: no {stage.needs} was stored"
    return f"{document.id!r}: {reason or 'the model gave it no score'}"
