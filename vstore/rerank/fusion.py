"""Several signals as one score: reciprocal rank, weighted z-score or min-max, with attributes as signals.

A signal gives each candidate a number, larger is better, or NaN where it has nothing to say. Fused over the
candidates of one search, so a fused score means something only beside the others of its answer.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vstore.errors import InvalidSetting
from vstore.rerank import scores as arithmetic
from vstore.rerank.callables import as_reranker, name_of
from vstore.settings import Clock, require, system_clock
from vstore.types import Candidate, Float32s

Float64s = npt.NDArray[np.float64]
How = Literal["rrf", "z_score", "min_max"]
HOWS: tuple[How, ...] = ("rrf", "z_score", "min_max")
RRF_K = 60.0
"""The constant of reciprocal rank fusion, as published."""


class Signal(Protocol):
    """Something about a candidate; it need not read the query."""

    def score(self, query: Any, documents: Sequence[Candidate]) -> npt.ArrayLike:
        """Return float[n], larger is better, NaN where it has nothing to say."""


class FirstStage:
    """The vector stage's own score."""

    name = "vector"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float64s:
        """Return float64[n]."""
        return np.array([document.first_score for document in documents], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Recency:
    """0.5 ** (age / half-life): 1 for now, 0.5 a half-life ago; the future counts as now.

    Raises:
        InvalidSetting: a half-life of 0 or less.
    """

    field: str
    """Of type datetime, or seconds since 1970."""
    half_life_days: float
    clock: Clock = system_clock

    def __post_init__(self) -> None:
        require(self.half_life_days > 0, f"half_life_days is {self.half_life_days!r}; it must be above 0")

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float64s:
        """Return float64[n], from 0 to 1."""
        seconds = np.array([_seconds(d.attributes.get(self.field)) for d in documents], dtype=np.float64)
        age_days = np.maximum(self.clock() - seconds, 0.0) / 86_400.0
        aged: Float64s = np.exp2(-age_days / self.half_life_days)
        return aged


@dataclass(frozen=True, slots=True)
class Popularity:
    """log(1 + count): the tenth thousand counts less than the first."""

    field: str
    """Of type int or float, 0 or more."""

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float64s:
        """Return float64[n], 0 or more; NaN where the attribute is absent or negative."""
        values = np.array([_number(d.attributes.get(self.field)) for d in documents], dtype=np.float64)
        return np.log1p(np.where(values >= 0, values, np.nan))


class FusionReranker:
    """A weighted fusion of signals, each a re-ranker, a callable, or an attribute's signal.

    "rrf" adds weight / (60 + rank) over the signals (Cormack, Clarke & Büttcher 2009): only orders count, and
    equal scores share the mean of their ranks. "z_score" and "min_max" add weight x the score on a common
    scale over the candidates. A signal that says nothing about a document adds nothing in "rrf", and its mean
    otherwise; a document about which no signal says anything scores NaN.

    Args:
        signals: (signal, weight) by name; weights are 0 or more, and one is above 0.
        how: "rrf", "z_score" or "min_max".

    Raises:
        InvalidSetting: no signal, a weight outside its limits, or one that cannot score.
    """

    def __init__(self, signals: Mapping[str, tuple[Any, float]], how: How = "rrf") -> None:
        require(how in HOWS, f"how is {how!r}; it must be one of {', '.join(HOWS)}")
        require(len(signals) > 0, "signals is empty; give at least one, as {'vector': (FirstStage(), 1.0)}")
        self._signals: dict[str, tuple[Any, float]] = {}
        for name, given in signals.items():
            if not (isinstance(given, tuple) and len(given) == 2):
                raise InvalidSetting(f"signal {name!r} is {given!r:.60}; it must be (signal, weight)")
            signal, weight = given
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            require(
                number and 0.0 <= weight < float("inf"),
                f"the weight of signal {name!r} is {weight!r}; it must be a number of 0 or more",
            )
            self._signals[name] = (as_reranker(signal), float(weight))
        require(
            any(weight > 0 for _, weight in self._signals.values()),
            "every weight is 0; one signal at least must count",
        )
        self.how: How = how
        self.members = {name: signal for name, (signal, _) in self._signals.items()}
        self.weights = {name: weight for name, (_, weight) in self._signals.items()}
        self.name = f"fusion ({how}) of {', '.join(signals)}"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], the fused scores."""
        found = self.signals(query, documents)
        weights = np.array([weight for _, weight in self._signals.values()])
        return fuse(found, weights, self.how).astype(np.float32)

    def signals(self, query: Any, documents: Sequence[Candidate]) -> Float64s:
        """Return float64[signals, n], as each signal gives them."""
        rows = [
            arithmetic.as_scores(signal.score(query, documents), len(documents), name_of(signal))
            for signal, _ in self._signals.values()
        ]
        return np.array(rows).reshape(len(rows), len(documents))


def fuse(signals: Float64s, weights: Float64s, how: How) -> Float64s:
    """Return float64[n]: one score of several.

    Args:
        signals: float64[s, n], NaN where a signal has nothing to say.
        weights: float64[s].
        how: as of `FusionReranker`.
    """
    known = ~np.isnan(signals)
    total = np.zeros(signals.shape[1])
    for row, weight in enumerate(weights):
        scored = known[row]
        if how == "rrf":
            total[scored] += weight / (RRF_K + _ranks(signals[row, scored]))
        else:
            # The middle of the scale: 0 of z-scores, and of min-max the mean of what is known.
            scaled = arithmetic.normalize(signals[row, scored], how)
            total[scored] += weight * scaled
            total[~scored] += weight * (float(scaled.mean()) if len(scaled) else 0.0)
    total[~known[weights > 0].any(axis=0)] = np.nan
    return total


def _ranks(scores: Float64s) -> Float64s:
    """Return float64[n], ranks from 1, best first; equal scores share the mean of theirs."""
    _, inverse, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Float64s = (last - (counts - 1) / 2.0)[inverse]
    return middle


def _seconds(value: Any) -> float:
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    return _number(value)


def _number(value: Any) -> float:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return float(value) if number else float("nan")
