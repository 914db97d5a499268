"""What a search's `rerank` asks for: settings, checked when they are made, and cascades of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vstore.errors import InvalidSetting, nearest
from vstore.rerank import scores as arithmetic
from vstore.rerank.callables import as_reranker, name_of
from vstore.rerank.documents import check_fields
from vstore.settings import require
from vstore.types import Reranker

DEFAULT_DEPTH = 50
MAX_DEPTH = 100_000

Needs = Literal["nothing", "document", "text", "image"]
OnError = Literal["raise", "keep"]
Keep = Literal["all", "scored"]
_NEEDS: tuple[Needs, ...] = ("nothing", "document", "text", "image")
_ON_ERROR: tuple[OnError, ...] = ("raise", "keep")
_KEEP: tuple[Keep, ...] = ("all", "scored")
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
    """An object with `.score(query, documents)`, a callable of those arguments, or a registered name."""
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
    fields: Sequence[str] = ()
    """Attributes of type str or list[str] that are put before the document's text, for any model."""
    min_score: float | None = None
    """Documents that the model itself scores lower leave the answer, which may then have fewer than k."""
    deadline_ms: float | None = None
    """Milliseconds that the stage may take; after that the order stays, and the report says so."""
    keep: Keep = "all"
    """What becomes of documents without a score: "all" keeps their places, "scored" leaves them out."""
    stop_margin: float | None = None
    """In a cascade: the later stages are skipped where this stage's scores of the best k and the next lie at
    least so far apart, each from the next. None (the default) never skips."""

    def __post_init__(self) -> None:
        if isinstance(self.model, str):
            object.__setattr__(self, "model", as_reranker(self.model))
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
        _check_choice("keep", self.keep, _KEEP)
        object.__setattr__(self, "fields", check_fields(self.fields))
        _check_number("min_score", self.min_score, positive=False)
        _check_number("deadline_ms", self.deadline_ms, positive=True)
        _check_number("stop_margin", self.stop_margin, positive=True)


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
    fields: tuple[str, ...] = ()
    min_score: float | None = None
    deadline_ms: float | None = None
    keep: Keep = "all"
    stop_margin: float | None = None


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
        fields=tuple(settings.fields),
        min_score=settings.min_score,
        deadline_ms=settings.deadline_ms,
        keep=settings.keep,
        stop_margin=settings.stop_margin,
    )


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


def _check_number(name: str, value: Any, *, positive: bool) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    require(
        number and (value > 0 or not positive),
        f"{name} is {value!r}; it must be a finite number{' above 0' if positive else ''}, or None",
    )
