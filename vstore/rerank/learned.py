"""Learned fusion: LightGBM's lambdarank over signals, from judgments or clicks, judged on held-out queries.

LambdaMART: Burges 2010. Clicks are read with their dwell time and divided by the chance that anybody looked
at the place they were shown at (Joachims, Swaminathan & Schnabel 2017, inverse propensity).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import CorruptData, InvalidInput, InvalidSetting, MissingDependency
from vstore.rerank import metrics
from vstore.rerank.fusion import FusionReranker
from vstore.settings import require
from vstore.types import Candidate, Float32s, Key

_FORMAT = 1
_HELD_OUT_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One query's candidates, best of the vector stage first, with gains by id (absent is 0)."""

    query: Any
    candidates: Sequence[Candidate]
    gains: Mapping[Key, float]


@dataclass(frozen=True, slots=True)
class Click:
    """One document that was shown, and what became of it. `place` counts from 0."""

    query: str
    id: Key
    place: int
    dwell_s: float | None
    """Seconds on the document; None where it was not clicked."""


@dataclass(frozen=True, slots=True)
class LearnedResult:
    """nDCG@10 on queries that training never saw, of the vector stage and of the learned fusion."""

    n_trained: int
    n_held_out: int
    ndcg_first: float
    ndcg_learned: float
    interval_95: tuple[float, float]
    """Of the difference."""


class LearnedFusion:
    """A re-ranker whose score LightGBM learned from signals. Made by `train` or `load`.

    Args:
        signals: re-rankers and attribute signals by name, as in training.
        model: LightGBM's model as text.
        result: what `train` measured.

    Raises:
        MissingDependency: lightgbm cannot be imported.
        InvalidSetting: other signals than the model was trained on.
    """

    def __init__(self, signals: Mapping[str, Any], model: str, result: LearnedResult | None = None) -> None:
        lightgbm = _import_lightgbm()
        self._signals = FusionReranker({name: (signal, 1.0) for name, signal in signals.items()})
        self._text = model
        self._booster = lightgbm.Booster(model_str=model)
        known = list(self._booster.feature_name())
        require(
            known == list(signals),
            f"the model was trained on the signals {', '.join(known)}, and these are {', '.join(signals)}",
        )
        self.names = tuple(signals)
        self.signals = dict(signals)
        self.result = result
        self.name = f"learned fusion of {', '.join(signals)}"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n]; a signal that says nothing is a missing value, which the trees know."""
        if not len(documents):
            return np.empty(0, dtype=np.float32)
        features = _scaled(self._signals.signals(query, documents))
        scores: Float32s = self._booster.predict(features, num_threads=1).astype(np.float32)
        return scores

    def save(self, path: str | Path) -> None:
        """Write the model, the names of its signals and what was measured as one JSON file."""
        described = {"format": _FORMAT, "signals": self.names, **self.described()}
        Path(path).write_text(json.dumps(described))

    def described(self) -> dict[str, Any]:
        """Return `result` and `model` as plain values; `of` makes a fusion of them again."""
        result = None
        if self.result is not None:
            result = {name: getattr(self.result, name) for name in LearnedResult.__slots__}
        return {"result": result, "model": self._text}

    @classmethod
    def of(cls, described: Mapping[str, Any], signals: Mapping[str, Any], where: str) -> LearnedFusion:
        """Make a fusion of what `described` returned.

        Args:
            described: read from `where`.
            signals: as in training.
            where: for messages.

        Raises:
            CorruptData: it is something else.
            InvalidSetting: other signals than it was trained on.
        """
        try:
            found, result = None, described["result"]
            if result is not None:
                found = LearnedResult(**{**result, "interval_95": tuple(result["interval_95"])})
            model = str(described["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"{where} is no learned fusion ({type(error).__name__}: {error})") from error
        return cls(signals, model, found)

    @classmethod
    def load(cls, path: str | Path, signals: Mapping[str, Any]) -> LearnedFusion:
        """Read what `save` wrote.

        Raises:
            CorruptData: the file is something else.
            InvalidSetting: other signals than it was trained on.
        """
        try:
            described = json.loads(Path(path).read_text())
            if described["format"] != _FORMAT:
                raise ValueError(f"format {described['format']}, expected {_FORMAT}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"{path} is no learned fusion ({type(error).__name__}: {error})") from error
        return cls.of(described, signals, str(path))


def train(
    signals: Mapping[str, Any],
    queries: Sequence[RankedQuery],
    *,
    n_trees: int = 100,
    learning_rate: float = 0.1,
    n_leaves: int = 15,
    seed: int = 0,
) -> LearnedFusion:
    """Return a fusion learned on three quarters of the queries and measured on the rest.

    Args:
        signals: re-rankers, callables and attribute signals, by name.
        queries: at least 8, with gains; from judgments, or from `from_clicks`.
        n_trees, learning_rate, n_leaves: of LightGBM.
        seed: of the split and of the trees.

    Raises:
        MissingDependency: lightgbm cannot be imported.
        InvalidInput: too few queries with a gain and a candidate without.
    """
    lightgbm = _import_lightgbm()
    useful = [each for each in queries if _tells_apart(each)]
    if len(useful) < 8:
        raise InvalidInput(
            f"{len(useful)} of {len(queries)} queries tell candidates apart; at least 8 are needed"
        )
    order = np.random.default_rng(seed).permutation(len(useful)).tolist()
    n_held_out = max(int(len(useful) * _HELD_OUT_SHARE), 2)
    held_out, trained = ([useful[i] for i in part] for part in (order[:n_held_out], order[n_held_out:]))
    fusion = FusionReranker({name: (signal, 1.0) for name, signal in signals.items()})
    features = np.concatenate([_scaled(fusion.signals(q.query, q.candidates)) for q in trained])
    gains = np.concatenate([[max(q.gains.get(c.id, 0.0), 0.0) for c in q.candidates] for q in trained])
    levels = _levels(gains)
    data = lightgbm.Dataset(
        features,
        label=levels,
        group=[len(q.candidates) for q in trained],
        feature_name=list(signals),
        free_raw_data=False,
    )
    settings = {
        "objective": "lambdarank",
        "learning_rate": learning_rate,
        "num_leaves": n_leaves,
        "min_data_in_leaf": max(min(20, len(features) // 20), 1),
        "label_gain": list(range(int(levels.max()) + 1)),
        "seed": seed,
        "deterministic": True,
        "num_threads": 1,
        "verbose": -1,
    }
    booster = lightgbm.train(settings, data, num_boost_round=n_trees)
    learned = LearnedFusion(signals, booster.model_to_string())
    learned.result = _measure(learned, held_out, len(trained))
    return learned


def from_clicks(
    clicks: Sequence[Click],
    candidates: Mapping[str, Sequence[Candidate]],
    *,
    long_s: float = 30.0,
    bias: float = 1.0,
    most: float = 10.0,
) -> list[RankedQuery]:
    """Return queries with gains from a click log.

    A click counts min(dwell / long_s, 1), divided by the chance that its place was looked at,
    (1 / (place + 1)) ** bias, at most `most`; the mean over the times that the document was shown.

    Args:
        clicks: what was shown, clicked or not.
        candidates: of each query of the log, best of the vector stage first.
        long_s: a dwell that counts whole, seconds.
        bias: 0 ignores the place, 1 is the published default.
        most: limit of the correction, so that one click far below does not outweigh everything.

    Raises:
        InvalidInput: a query of the log without candidates, or a negative place.
        InvalidSetting: a limit that is not above 0.
    """
    if not (long_s > 0 and most >= 1 and bias >= 0):
        raise InvalidSetting(
            f"long_s is {long_s}, most {most} and bias {bias}; long_s above 0, most 1 or more, bias 0 or more"
        )
    gained: dict[str, dict[Key, list[float]]] = {}
    for click in clicks:
        if click.query not in candidates:
            raise InvalidInput(f"the log has the query {click.query!r:.60}, which has no candidates")
        if click.place < 0:
            raise InvalidInput(f"the log has the place {click.place}; places count from 0")
        dwell = 0.0 if click.dwell_s is None else min(max(click.dwell_s, 0.0) / long_s, 1.0)
        corrected = dwell * min((click.place + 1.0) ** bias, most)
        gained.setdefault(click.query, {}).setdefault(click.id, []).append(corrected)
    return [
        RankedQuery(query, candidates[query], {key: float(np.mean(each)) for key, each in found.items()})
        for query, found in gained.items()
    ]


def _measure(learned: LearnedFusion, held_out: Sequence[RankedQuery], n_trained: int) -> LearnedResult:
    before, after = [], []
    for each in held_out:
        ids = [candidate.id for candidate in each.candidates]
        order = np.argsort(-learned.score(each.query, each.candidates), kind="stable")
        before.append(metrics.ndcg(ids, each.gains))
        after.append(metrics.ndcg([ids[i] for i in order], each.gains))
    return LearnedResult(
        n_trained,
        len(held_out),
        float(np.mean(before)),
        float(np.mean(after)),
        metrics.paired_interval(np.array(after) - np.array(before)),
    )


def _tells_apart(query: RankedQuery) -> bool:
    gains = {max(query.gains.get(candidate.id, 0.0), 0.0) for candidate in query.candidates}
    return len(gains) > 1


def _scaled(signals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return float64[n, signals], each from 0 to 1 over the candidates: queries must be comparable."""
    low = np.nanmin(np.where(np.isnan(signals), np.inf, signals), axis=1, keepdims=True)
    high = np.nanmax(np.where(np.isnan(signals), -np.inf, signals), axis=1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    scaled: npt.NDArray[np.float64] = ((signals - np.where(np.isfinite(low), low, 0.0)) / spread).T
    return scaled


def _levels(gains: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return gains as whole numbers from 0 to 30, which is what lambdarank takes."""
    if (gains == np.round(gains)).all() and gains.max() <= 30:
        return gains.astype(np.int64)
    levels: npt.NDArray[np.int64] = np.ceil(gains / gains.max() * 30).astype(np.int64)
    return levels


def _import_lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:
        raise MissingDependency(
            f"learned fusion needs lightgbm ({error}); run: pip install 'vstore[learn]'"
        ) from error
    return lightgbm
