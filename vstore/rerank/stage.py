"""The re-ranking stage: settings, cascades, and the one function that applies them to an answer.

Scores of different models do not compare, so every hit that a stage was given carries that stage's
score, or NaN where it has none; only what lies deeper keeps the score it came with.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vstore.errors import InvalidSetting, RerankError, VstoreError, nearest
from vstore.rerank import scores as arithmetic
from vstore.rerank.callables import as_reranker, name_of
from vstore.rerank.documents import candidate_of, check_query
from vstore.settings import require
from vstore.types import Candidate, Hit, Reranker, RerankReport

DEFAULT_DEPTH = 50
MAX_DEPTH = 100_000

Needs = Literal["nothing", "document", "text", "image"]
OnError = Literal["raise", "keep"]
_NEEDS: tuple[Needs, ...] = ("nothing", "document", "text", "image")
_ON_ERROR: tuple[OnError, ...] = ("raise", "keep")
_DEFAULTS: dict[str, Any] = {"blend": 0.0, "normalize": "min_max", "needs": "nothing"}


@dataclass(frozen=True, slots=True)
class Rerank:
    """A re-ranker and how a search uses it.

    Where `blend`, `normalize` or `needs` is None, the model's own `rerank_defaults` (a mapping of those
    names) decides if it has one, and else the default below.

    Raises:
        InvalidSetting: a value outside its limits, or a model that is no re-ranker.
    """

    model: Any
    """An object with `.score(query, documents)`, or a callable of those arguments."""
    depth: int | None = None
    """How many hits are re-ranked; at least k always are. Default: 50, or half of the stage before."""
    blend: float | None = None
    """Weight of the vector stage's score, from 0 (the model alone, the default) to 1 (no change)."""
    normalize: arithmetic.Normalize | None = None
    """The common scale of a blend: "min_max" (the default) or "z_score", over the scored documents."""
    needs: Needs | None = None
    """What a document must have to be given to the model: "nothing" (the default: the model sees all and
    answers NaN for what it cannot score), "document" (a text or an image), "text" or "image"."""
    on_error: OnError = "raise"
    """What becomes of a search whose model raises: "raise", or "keep" the order that the stage was
    given, and report it."""

    def __post_init__(self) -> None:
        as_reranker(self.model)
        if self.depth is not None:
            object.__setattr__(self, "depth", check_depth(self.depth, "depth"))
        defaults = {**_DEFAULTS, **_hints(self.model)}
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        weight = self.blend
        require(
            isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0.0 <= weight <= 1.0,
            f"blend is {weight!r}; it must be from 0 (the model alone) to 1 (the vector score alone)",
        )
        _check_choice("normalize", self.normalize, arithmetic.NORMALIZERS)
        _check_choice("needs", self.needs, _NEEDS)
        _check_choice("on_error", self.on_error, _ON_ERROR)


@dataclass(frozen=True, slots=True)
class Stage:
    """A `Rerank` with everything decided, as `as_stages` makes it."""

    reranker: Reranker
    name: str
    depth: int
    blend: float
    normalize: arithmetic.Normalize
    needs: Needs
    on_error: OnError


def as_stages(rerank: Any, rerank_depth: int | None = None) -> tuple[Stage, ...]:
    """Return what a search's `rerank` and `rerank_depth` ask for; nothing for None.

    Args:
        rerank: None; a re-ranker, a callable or a `Rerank`; or a list of them, a cascade: each stage
            re-ranks the best of the one before, and no deeper.
        rerank_depth: the depth of the first stage, where its `Rerank` does not say.

    Raises:
        InvalidSetting: no re-ranker, a depth outside its limits or said twice, or a depth that rises.
    """
    given = () if rerank is None else tuple(rerank) if isinstance(rerank, (list, tuple)) else (rerank,)
    if rerank_depth is not None:
        rerank_depth = check_depth(rerank_depth, "rerank_depth")
        require(len(given) > 0, f"rerank_depth is {rerank_depth} and rerank is {rerank!r}; pass rerank= too")
    stages: list[Stage] = []
    for position, item in enumerate(given):
        settings = item if isinstance(item, Rerank) else Rerank(item)
        depth = settings.depth
        if position == 0:
            require(
                depth is None or rerank_depth is None or depth == rerank_depth,
                f"rerank_depth is {rerank_depth} and the Rerank's depth is {depth}; give one of them",
            )
            depth = depth or rerank_depth or DEFAULT_DEPTH
        else:
            above = stages[-1]
            depth = depth or (above.depth + 1) // 2
            require(
                depth <= above.depth,
                f"stage {position} of the cascade has depth {depth} and the one before it, {above.name}, has "
                f"{above.depth}; depths must not rise: a stage sees what the one before re-ranked",
            )
        stages.append(_stage(settings, depth))
    return tuple(stages)


def depth_of(stages: Sequence[Stage], k: int) -> int:
    """Return how many hits the vector stage must find for `k` re-ranked answers."""
    return max(k, stages[0].depth) if stages else k


def apply(
    stages: Sequence[Stage], query_document: Any, hits: Sequence[Hit], k: int
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

    Raises:
        InvalidInput: query_document is missing, or is nothing that can be read.
        RerankError: a model broke its contract, or failed.
    """
    ranked = list(hits)
    if not stages:
        return ranked[:k], []
    check_query(query_document)
    reports: list[RerankReport] = []
    for stage in stages:
        depth = max(stage.depth, k)
        ranked[:depth], report = _apply_one(stage, query_document, ranked[:depth])
        reports.append(report)
    return ranked[:k], reports


def check_depth(depth: Any, name: str) -> int:
    """Return a depth as an int.

    Raises:
        InvalidSetting: not a whole number from 1 to MAX_DEPTH.
    """
    try:
        value = -1 if isinstance(depth, bool) else operator.index(depth)
    except TypeError:
        value = -1
    require(
        1 <= value <= MAX_DEPTH,
        f"{name} is {depth!r}; it must be a whole number from 1 to {MAX_DEPTH}, "
        f"and {DEFAULT_DEPTH} suits most models",
    )
    return value


def _apply_one(stage: Stage, query: Any, window: list[Hit]) -> tuple[list[Hit], RerankReport]:
    started = time.perf_counter()
    candidates = [candidate_of(hit) for hit in window]
    try:
        scores = _score(stage, query, candidates)
    except RerankError as error:
        if stage.on_error == "raise":
            raise
        latency_ms = (time.perf_counter() - started) * 1e3
        return window, RerankReport(stage.name, 0, len(window), 0, latency_ms, [str(error)])
    first = np.array([hit.first_score for hit in window], dtype=np.float64)
    fused = arithmetic.blend(scores, first, stage.blend, stage.normalize)
    places = arithmetic.order(fused).tolist()
    failed = np.flatnonzero(np.isnan(fused)).tolist()
    report = RerankReport(
        model=stage.name,
        n_scored=len(window) - len(failed),
        n_failed=len(failed),
        n_moved=sum(place != position for position, place in enumerate(places)),
        latency_ms=(time.perf_counter() - started) * 1e3,
        failures=[_why(stage, candidates[i]) for i in failed],
    )
    return [replace(window[i], score=float(fused[i])) for i in places], report


def _score(stage: Stage, query: Any, documents: list[Candidate]) -> arithmetic.Float64s:
    """Return float64[n], NaN for what was not scored."""
    suited = [i for i, document in enumerate(documents) if _has(document, stage.needs)]
    try:
        return _ask(stage, query, documents, suited)
    except VstoreError:
        raise
    except Exception as error:
        failure = error
    # Most often it fell over a document without text: such a one must not sink the others.
    readable = [i for i in suited if _has(documents[i], "document")]
    if 0 < len(readable) < len(suited):
        try:
            return _ask(stage, query, documents, readable)
        except VstoreError:
            raise
        except Exception as error:
            failure = error
    raise RerankError(
        f"{stage.name} failed on {len(readable or suited)} documents: {type(failure).__name__}: {failure}; "
        'repair the model or what it is given, or pass Rerank(..., on_error="keep") to keep the order '
        "of the stage before"
    ) from failure


def _ask(stage: Stage, query: Any, documents: list[Candidate], rows: list[int]) -> arithmetic.Float64s:
    scores = np.full(len(documents), np.nan)
    if rows:
        answer = stage.reranker.score(query, [documents[i] for i in rows])
        scores[rows] = arithmetic.as_scores(answer, len(rows), stage.name)
    return scores


def _stage(settings: Rerank, depth: int) -> Stage:
    # Rerank.__post_init__ has replaced every None.
    assert settings.blend is not None
    assert settings.normalize is not None
    assert settings.needs is not None
    reranker = as_reranker(settings.model)
    return Stage(
        reranker=reranker,
        name=name_of(reranker),
        depth=depth,
        blend=float(settings.blend),
        normalize=settings.normalize,
        needs=settings.needs,
        on_error=settings.on_error,
    )


def _has(document: Candidate, needs: Needs) -> bool:
    if needs == "text":
        return document.text is not None
    if needs == "image":
        return document.image is not None
    return needs == "nothing" or document.text is not None or document.image is not None


def _why(stage: Stage, document: Candidate) -> str:
    if not _has(document, "document"):
        return f"{document.id!r}: no text or image was stored"
    if not _has(document, stage.needs):
        return f"{document.id!r}: no {stage.needs} was stored"
    return f"{document.id!r}: the model gave it no score"


def _hints(model: Any) -> Mapping[str, Any]:
    hints = getattr(model, "rerank_defaults", None)
    if hints is None:
        return {}
    require(
        isinstance(hints, Mapping),
        f"{name_of(model)}.rerank_defaults is a {type(hints).__name__}; "
        f"it must be a mapping of {', '.join(_DEFAULTS)}",
    )
    for key in hints:
        require(
            key in _DEFAULTS,
            f"{name_of(model)}.rerank_defaults has {key!r}{nearest(str(key), _DEFAULTS)}; "
            f"known: {', '.join(_DEFAULTS)}",
        )
    checked: Mapping[str, Any] = hints
    return checked


def _check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        choices = ", ".join(repr(choice) for choice in known)
        raise InvalidSetting(f"{name} is {value!r}{nearest(str(value), known)}; it must be one of {choices}")
