"""Metrics against ir-measures, the evaluation against itself done by hand, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vstore
from vstore.cli.app import main
from vstore.errors import InvalidInput, InvalidSetting
from vstore.rerank import metrics
from vstore.rerank.evaluation import EvalQuery, costs, draw, evaluate, page, read_queries
from vstore.types import Hit


def some_rankings(n: int, seed: int = 0) -> tuple[list[list[str]], list[dict[str, int]]]:
    rng = np.random.default_rng(seed)
    ranked, judged = [], []
    for _ in range(n):
        documents = [f"d{i}" for i in rng.permutation(40)]
        ranked.append(documents[:25])
        judged.append(
            {f"d{i}": int(rng.integers(0, 4)) for i in rng.choice(40, int(rng.integers(1, 15)), False)}
        )
        judged[-1]["d99"] = 1
    return ranked, judged


def test_metrics_agree_with_ir_measures() -> None:
    ir = pytest.importorskip("ir_measures", reason="needs ir-measures: pip install ir-measures")
    ranked, judged = some_rankings(30)
    qrels = [ir.Qrel(str(q), d, g) for q, gains in enumerate(judged) for d, g in gains.items()]
    run = [
        ir.ScoredDoc(str(q), d, 100.0 - place) for q, ids in enumerate(ranked) for place, d in enumerate(ids)
    ]
    ours = {
        ir.nDCG @ 10: lambda i, g: metrics.ndcg(i, g, 10),
        ir.nDCG @ 20: lambda i, g: metrics.ndcg(i, g, 20),
        ir.RR @ 10: lambda i, g: metrics.reciprocal_rank(i, g, 10),
        ir.R @ 20: lambda i, g: metrics.recall(i, g, 20),
        ir.AP @ 20: lambda i, g: metrics.average_precision(i, g, 20),
    }
    found = {(str(m.measure), m.query_id): m.value for m in ir.iter_calc(list(ours), qrels, run)}
    for measure, function in ours.items():
        for q, (ids, gains) in enumerate(zip(ranked, judged, strict=True)):
            assert function(ids, gains) == pytest.approx(found[str(measure), str(q)], abs=1e-9)


def test_metrics_by_hand() -> None:
    gains = {"a": 2.0, "b": 1.0, "c": 0.0, "x": -1.0}
    ideal = 2 + 1 / math.log2(3)
    assert metrics.ndcg(["c", "b", "a", "x"], gains) == pytest.approx((1 / math.log2(3) + 2 / 2) / ideal)
    assert metrics.ndcg(["a", "b"], gains) == pytest.approx(1.0)
    assert metrics.reciprocal_rank(["c", "z", "b"], gains) == pytest.approx(1 / 3)
    assert metrics.reciprocal_rank(["c", "z", "b"], gains, 2) == 0.0
    assert metrics.recall(["b", "c"], gains) == 0.5
    assert metrics.average_precision(["c", "b", "a"], gains) == pytest.approx((1 / 2 + 2 / 3) / 2)
    for function in (metrics.ndcg, metrics.recall, metrics.reciprocal_rank, metrics.average_precision):
        assert function(["a"], {}) == 0.0
    assert metrics.changes([0.1, 0.5, 0.5], [0.2, 0.4, 0.5]) == (1, 1, 1)


def test_the_interval_covers_the_mean_and_narrows() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = metrics.paired_interval(rng.normal(0.1, 0.3, 60), n_samples=500, seed=seed)
        covered += low <= 0.1 <= high
    assert covered >= 85
    wide, narrow = (metrics.paired_interval(rng.normal(0, 1, n)) for n in (20, 2000))
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3
    assert metrics.paired_interval([0.2] * 5) == pytest.approx((0.2, 0.2))


def first_stage(query: EvalQuery, depth: int) -> list[Hit]:
    return [Hit(i, 1 - i / 100, 0.0, {}, {"text": f"t {i}"}, 1 - i / 100, i) for i in range(min(depth, 30))]


def queries(n: int = 6) -> list[EvalQuery]:
    return [EvalQuery(str(i), None, "q", {8 + i: 1.0, 0: 1.0, 77: 1.0}) for i in range(n)]


def test_evaluation_is_what_one_counts_by_hand() -> None:
    def backwards(query: Any, documents: Any) -> list[float]:
        return [float(each.id) for each in documents]

    found = evaluate(first_stage, queries(), backwards, k=10, depths=(10, 20))
    for depth, result in zip((10, 20), found.depths, strict=True):
        after = [*range(depth - 1, -1, -1), *range(depth, 30)]
        wanted = [metrics.ndcg(after, q.relevant, 10) for q in queries()]
        before = [metrics.ndcg(list(range(30)), q.relevant, 10) for q in queries()]
        assert result.ndcg_after == pytest.approx(np.mean(wanted))
        assert result.ndcg_before == pytest.approx(np.mean(before))
        assert result.ndcg_difference == pytest.approx(np.mean(wanted) - np.mean(before))
        assert result.interval_95[0] <= result.ndcg_difference <= result.interval_95[1]
        ceiling = [metrics.recall(list(range(depth)), q.relevant) for q in queries()]
        assert result.recall_at_depth == pytest.approx(np.mean(ceiling))
        assert result.n_helped + result.n_hurt + result.n_unchanged == 6
        assert result.pairs_per_s > 0
    assert found.n_queries == 6


def test_nothing_is_remembered_between_depths() -> None:
    class Remembers:
        forgotten = 0

        def score(self, query: Any, documents: Any) -> list[float]:
            return [0.0] * len(documents)

        def forget(self) -> None:
            self.forgotten += 1

    model = Remembers()
    evaluate(first_stage, queries(4), model, depths=(5, 10))
    assert model.forgotten == 8


def test_what_is_not_timed_may_be_remembered_and_scores_the_same() -> None:
    class Remembers:
        def __init__(self) -> None:
            self.known: dict[Any, float] = {}
            self.scored: list[int] = []

        def score(self, query: Any, documents: Any) -> list[float]:
            self.scored.append(sum(each.id not in self.known for each in documents))
            self.known |= {each.id: float(each.id) for each in documents}
            return [self.known[each.id] for each in documents]

        def forget(self) -> None:
            self.known.clear()

    model = Remembers()
    some = evaluate(first_stage, queries(5), model, depths=(5, 10), n_timed=2)
    whole = evaluate(first_stage, queries(5), Remembers(), depths=(5, 10))
    # One answer to warm up, then each query's greatest depth and, of the first and the last, the other anew.
    assert model.scored[1:] == [10, 5, 10, 0, 10, 0, 10, 0, 10, 5]
    assert [each.n_timed for each in some.depths] == [2, 5]
    assert [each.ndcg_after for each in some.depths] == [each.ndcg_after for each in whole.depths]
    assert "at depth 5 are of 2 queries" in page(some)
    assert "Times and pairs" not in page(whole)
    with pytest.raises(InvalidSetting, match="n_timed is 0"):
        evaluate(first_stage, queries(2), model, n_timed=0)


def test_costs_cross_where_the_prices_say() -> None:
    found = evaluate(first_stage, queries(), lambda q, d: [0.0] * len(d), depths=(10,))
    (row,) = costs(found, machine_usd_per_hour=2.0, service_usd_per_1000_pairs=1.0)
    rate = found.depths[0].pairs_per_s * 360
    assert row.own_queries_per_hour == pytest.approx(rate)
    assert row.service_usd_per_1000_queries == pytest.approx(10.0)
    assert row.own_usd_per_1000_queries == pytest.approx(2000 / rate)
    assert row.crossover_queries_per_hour == (pytest.approx(200.0) if rate >= 200 else None)
    (dear,) = costs(found, machine_usd_per_hour=1e12, service_usd_per_1000_pairs=1.0)
    assert dear.crossover_queries_per_hour is None
    assert "never" in page(found, [dear])
    with pytest.raises(InvalidSetting, match="machine_usd_per_hour"):
        costs(found, machine_usd_per_hour=0, service_usd_per_1000_pairs=1.0)


def test_the_picture_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the lab extra: pip install 'vstore[lab]'")
    draw(evaluate(first_stage, queries(), lambda q, d: [0.0] * len(d)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no query"),
        ('{"vector": [1], "text": "a"}', "line 2.*relevant"),
        ('{"vector": ["x"], "text": "a", "relevant": []}', "line 2"),
        ('{"vector": [1], "relevant": {"a": 1}}', "line 2 has neither text nor image"),
    ],
)
def test_a_line_that_is_no_query_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(InvalidInput, match=message):
        read_queries(file)
    file.write_text("\n")
    with pytest.raises(InvalidInput, match="no queries"):
        read_queries(file)


def test_judgments_come_in_three_forms(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    lines: list[dict[str, Any]] = [
        {"vector": [1, 0], "text": "a", "relevant": {"7": 2}},
        {"vector": [1, 0], "image": "a.png", "relevant": [["8", 1]], "filter": {"x": 1}},
        {"id": "z", "vector": [1, 0], "text": "a", "relevant": ["9"]},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = read_queries(file)
    assert [query.relevant for query in found] == [{7: 2.0}, {8: 1.0}, {9: 1.0}]
    assert found[1].document == {"image": tmp_path / "a.png"}
    assert (found[1].filter, found[2].id) == ({"x": 1}, "z")


def test_the_command_writes_json_picture_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    with vstore.connect(str(store)) as db:
        notes = db.create_collection("notes", dim=2)
        texts = [f"note about {word}" for word in ("cats", "dogs", "birds", "fish")]
        notes.upsert([1, 2, 3, 4], [[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]], documents=texts)
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"vector": [1, 0], "text": "birds", "relevant": {"3": 1}}) + "\n")
    arguments = [
        "eval",
        str(store),
        "notes",
        str(file),
        "--blend",
        "0",
        "--depth",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--machine-price", "2", "--service-price", "1", "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    (depth,) = printed["depths"]
    assert (depth["ndcg_before"], depth["ndcg_after"], depth["n_helped"]) == (0.5, 1.0, 1)
    assert printed["costs"][0]["service_usd_per_1000_queries"] == 4.0
    assert "| 4 | 1.000 | 0.500 to 1.000" in (tmp_path / "out" / "results.md").read_text()
