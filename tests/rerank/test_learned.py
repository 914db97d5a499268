"""Learned fusion finds the signal that matters, on queries that it never saw, and reads click logs fairly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vstore.errors import CorruptData, InvalidInput, InvalidSetting, MissingDependency
from vstore.rerank import apply, as_stages
from vstore.rerank.fusion import FirstStage, Popularity
from vstore.rerank.learned import Click, LearnedFusion, RankedQuery, from_clicks, train
from vstore.testing.reranker_suite import RerankerSuite
from vstore.types import Candidate, Hit

SIGNALS: dict[str, Any] = {
    "vector": FirstStage(),
    "clicks": Popularity("clicks"),
    "noise": Popularity("noise"),
}


def candidates(rng: Any, n: int = 12) -> list[Candidate]:
    scores = np.sort(rng.random(n))[::-1]
    return [
        Candidate(
            i,
            None,
            None,
            {"clicks": int(rng.integers(0, 100)), "noise": int(rng.integers(0, 100))},
            float(s),
            i,
        )
        for i, s in enumerate(scores)
    ]


def queries(n: int, seed: int = 0) -> list[RankedQuery]:
    """The popular third is relevant."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        shown = candidates(rng)
        popular = sorted(shown, key=lambda c: -c.attributes["clicks"])[:4]
        found.append(RankedQuery(f"q{i}", shown, {c.id: 1.0 for c in popular}))
    return found


def test_without_lightgbm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingDependency, match=r"pip install 'vstore\[learn\]'"):
        train(SIGNALS, queries(20))


@pytest.fixture(scope="module")
def learned() -> LearnedFusion:
    pytest.importorskip("lightgbm", reason="needs the learn extra: pip install 'vstore[learn]'")
    return train(SIGNALS, queries(80))


def test_it_learns_what_matters_and_is_judged_on_other_queries(learned: LearnedFusion) -> None:
    result = learned.result
    assert result is not None
    assert (result.n_trained, result.n_held_out) == (60, 20)
    assert result.ndcg_learned > 0.95 > 0.75 > result.ndcg_first
    assert result.interval_95[0] > 0.1
    fresh = queries(10, seed=9)
    for each in fresh:
        best = np.argsort(-learned.score(each.query, each.candidates))[:4]
        assert len({each.candidates[i].id for i in best} & set(each.gains)) >= 3


def test_it_comes_back_as_it_was_and_runs_as_a_stage(learned: LearnedFusion, tmp_path: Path) -> None:
    learned.save(tmp_path / "fusion.json")
    again = LearnedFusion.load(tmp_path / "fusion.json", SIGNALS)
    assert again.result == learned.result
    shown = candidates(np.random.default_rng(3))
    np.testing.assert_array_equal(again.score("q", shown), learned.score("q", shown))
    hits = [Hit(c.id, c.first_score, 0.0, c.attributes, None, c.first_score, c.first_rank) for c in shown]
    ranked, _ = apply(as_stages(again), "q", hits, 12)
    assert ranked[0].attributes["clicks"] > 60
    with pytest.raises(InvalidSetting, match="trained on the signals vector, clicks, noise"):
        LearnedFusion.load(tmp_path / "fusion.json", {"vector": FirstStage()})
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CorruptData, match="no learned fusion"):
        LearnedFusion.load(tmp_path / "bad.json", SIGNALS)


class TestLearned(RerankerSuite):
    pointwise = False

    @pytest.fixture
    def reranker(self, learned: LearnedFusion) -> LearnedFusion:
        return learned


def test_few_queries_are_refused(learned: LearnedFusion) -> None:
    alike = [RankedQuery("q", each.candidates, {}) for each in queries(30)]
    with pytest.raises(InvalidInput, match="7 of 37 queries"):
        train(SIGNALS, [*alike, *queries(7)])


# Clicks.


def test_a_click_counts_by_its_dwell_and_its_place() -> None:
    shown = {"q": candidates(np.random.default_rng(0))}
    log = [
        Click("q", 0, 0, 60.0),
        Click("q", 1, 1, 15.0),
        Click("q", 2, 4, 30.0),
        Click("q", 3, 99, 30.0),
        Click("q", 4, 0, None),
        Click("q", 0, 0, None),
    ]
    (found,) = from_clicks(log, shown)
    assert found.gains == {0: 0.5, 1: 1.0, 2: 5.0, 3: 10.0, 4: 0.0}
    (plain,) = from_clicks(log, shown, bias=0.0)
    assert plain.gains == {0: 0.5, 1: 0.5, 2: 1.0, 3: 1.0, 4: 0.0}


def test_the_correction_undoes_what_places_do_to_clicks() -> None:
    rng = np.random.default_rng(1)
    shown = {"q": candidates(rng, 5)}
    # Document 4 is twice as good as 0 and always shown last: it is clicked less.
    chance = {0: 0.4, 4: 0.8}
    log = []
    for _ in range(4000):
        for key, place in ((0, 0), (4, 4)):
            looked = rng.random() < 1 / (place + 1)
            log.append(Click("q", key, place, 30.0 if looked and rng.random() < chance[key] else None))
    (raw,) = from_clicks(log, shown, bias=0.0)
    (corrected,) = from_clicks(log, shown)
    assert raw.gains[4] < raw.gains[0]
    assert corrected.gains[4] / corrected.gains[0] == pytest.approx(2.0, rel=0.15)


def test_logs_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no candidates"):
        from_clicks([Click("q", 0, 0, 1.0)], {})
    with pytest.raises(InvalidInput, match="place -1"):
        from_clicks([Click("q", 0, -1, 1.0)], {"q": []})
    with pytest.raises(InvalidSetting, match="long_s is 0"):
        from_clicks([], {}, long_s=0)
