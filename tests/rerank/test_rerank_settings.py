"""What the stage's settings do: fields, thresholds, deadlines, early stops, store paths; the report."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import save_bert

import vstore
from vstore.errors import InvalidSetting, ObjectNotFound
from vstore.rerank import CrossEncoderReranker, Rerank, apply, as_stages
from vstore.types import Hit


def hits_of(n: int) -> list[Hit]:
    return [
        Hit(
            i,
            1 - i / 100,
            i / 100,
            {"title": f"t{i}", "tags": ["a", "b"]},
            {"text": f"text {i}"},
            1 - i / 100,
            i,
        )
        for i in range(n)
    ]


def backwards(query: Any, documents: Any) -> list[float]:
    return [float(each.id) for each in documents]


def ids(hits: list[Hit]) -> list[Any]:
    return [hit.id for hit in hits]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_score": "high"}, "min_score is 'high'"),
        ({"min_score": math.nan}, "min_score is nan"),
        ({"deadline_ms": 0}, "deadline_ms is 0.*above 0"),
        ({"deadline_ms": True}, "deadline_ms is True"),
        ({"stop_margin": -1.0}, r"stop_margin is -1\.0"),
        ({"keep": "best"}, "keep is 'best'"),
        ({"fields": "title"}, r"\['title'\]"),
    ],
)
def test_settings_are_checked_when_they_are_made(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Rerank(backwards, **setting)


def test_fields_come_before_the_text_for_any_model() -> None:
    seen: list[Any] = []

    def model(query: Any, documents: Any) -> list[float]:
        seen.extend(each.text for each in documents)
        return [0.0] * len(documents)

    apply(as_stages(Rerank(model, fields=["title", "tags"])), "q", hits_of(2), 2)
    assert seen == ["t0\na b\ntext 0", "t1\na b\ntext 1"]


def test_candidates_know_where_the_vector_stage_had_them() -> None:
    ranked, _ = apply(
        as_stages(lambda q, d: [-each.first_rank - each.first_score for each in d]), "q", hits_of(4), 4
    )
    assert [hit.score for hit in ranked] == [-i - (1 - i / 100) for i in range(4)]


def test_min_score_is_the_models_own_and_drops() -> None:
    ranked, (report,) = apply(as_stages(Rerank(backwards, min_score=2.0)), "q", hits_of(5), 5)
    assert ids(ranked) == [4, 3, 2]
    assert (report.n_scored, report.n_dropped) == (5, 2)
    ranked, (report,) = apply(as_stages(Rerank(backwards, min_score=2.0, blend=0.9)), "q", hits_of(5), 5)
    assert sorted(ids(ranked)) == [2, 3, 4], "a blended score is on another scale"


@pytest.mark.parametrize(("keep", "wanted"), [("all", [4, 1, 3, 2, 0]), ("scored", [4, 3, 2, 0])])
def test_keep_decides_about_what_has_no_score(keep: Any, wanted: list[int]) -> None:
    def model(query: Any, documents: Any) -> list[float]:
        return [math.nan if each.id == 1 else float(each.id) for each in documents]

    ranked, (report,) = apply(as_stages(Rerank(model, keep=keep)), "q", hits_of(5), 5)
    assert ids(ranked) == wanted
    assert (report.n_failed, report.n_dropped) == (1, 5 - len(wanted))


def test_a_passed_deadline_keeps_the_order_and_says_so() -> None:
    let_go = threading.Event()

    def slow(query: Any, documents: Any) -> list[float]:
        let_go.wait(20)
        return backwards(query, documents)

    ranked, (report,) = apply(as_stages(Rerank(slow, deadline_ms=30)), "q", hits_of(5), 5)
    let_go.set()
    assert ranked == hits_of(5)
    assert report.deadline_passed
    assert (report.n_scored, report.n_failed) == (0, 0)
    assert "30 ms" in report.failures[0]
    ranked, (report,) = apply(as_stages(Rerank(backwards, deadline_ms=20_000)), "q", hits_of(5), 5)
    assert ids(ranked) == [4, 3, 2, 1, 0]
    assert not report.deadline_passed


def test_a_cascade_goes_on_from_the_order_that_a_deadline_left() -> None:
    let_go = threading.Event()
    slow = Rerank(lambda query, documents: [float(let_go.wait(20))] * len(documents), 5, deadline_ms=20)
    ranked, reports = apply(as_stages([slow, Rerank(backwards, 3)]), "q", hits_of(5), 2)
    let_go.set()
    assert ids(ranked) == [2, 1]
    assert [report.deadline_passed for report in reports] == [True, False]


def test_errors_pass_through_a_deadline() -> None:
    def explodes(query: Any, documents: Any) -> Any:
        raise RuntimeError("no")

    with pytest.raises(vstore.errors.RerankError, match="RuntimeError: no"):
        apply(as_stages(Rerank(explodes, deadline_ms=10_000)), "q", hits_of(2), 2)


def test_a_cascade_stops_where_the_order_above_k_is_settled() -> None:
    calls: list[int] = []

    def second(query: Any, documents: Any) -> list[float]:
        calls.append(len(documents))
        return backwards(query, documents)

    def run(margin: float | None, k: int) -> tuple[list[Any], bool]:
        stages = as_stages([Rerank(backwards, 6, stop_margin=margin), Rerank(second, 4)])
        ranked, reports = apply(stages, "q", hits_of(6), k)
        return ids(ranked), reports[0].stopped_early

    assert run(1.0, 2) == ([5, 4], True)
    assert calls == []
    assert run(1.5, 2) == ([5, 4], False)
    assert run(None, 2) == ([5, 4], False)
    assert calls == [4, 4]


def test_ties_and_gaps_in_what_was_scored_settle_nothing() -> None:
    for scores in ([1.0, 1.0, 0.0], [3.0, math.nan, 0.0]):
        first = Rerank(lambda q, d, scores=scores: scores, 3, stop_margin=0.5)
        _, reports = apply(as_stages([first, Rerank(backwards, 3)]), "q", hits_of(3), 2)
        assert len(reports) == 2


class Store:
    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.asked: list[str] = []

    def get(self, key: str) -> bytes:
        self.asked.append(key)
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key]


def test_store_paths_are_read_once_and_only_where_needed() -> None:
    store = Store({"photos/0": b"zero", "photos/1": b"one"})
    hits = hits_of(4)
    for i in range(3):
        hits[i].document = {"image": f"store://photos/{i}"}
    seen: list[Any] = []

    def model(query: Any, documents: Any) -> list[float]:
        seen.append([each.image for each in documents])
        return [0.0] * len(documents)

    apply(as_stages([Rerank(model, 4), Rerank(model, 2)]), "q", hits, 2, store)
    assert seen == [[b"zero", b"one", "store://photos/2", None], [b"zero", b"one"]]
    assert sorted(store.asked) == ["photos/0", "photos/1", "photos/2"]
    assert hits[0].document == {"image": "store://photos/0"}
    store.asked.clear()
    apply(as_stages(Rerank(model, needs="text")), "q", hits, 4, store)
    assert store.asked == []


def test_a_search_reads_images_from_its_own_store(tmp_path: Path) -> None:
    with vstore.connect(str(tmp_path / "store")) as db:
        photos = db.create_collection("photos", dim=2)
        photos.upsert(
            [1, 2], [[1, 0], [1, 0.1]], documents=[{"image": "store://a/1"}, {"image": "store://a/2"}]
        )
        photos._engine.store.put("a/2", b"bytes")
        seen: dict[Any, Any] = {}

        def model(query: Any, documents: Any) -> list[float]:
            seen.update({each.id: each.image for each in documents})
            return [0.0] * len(documents)

        photos.search([1, 0], k=2, rerank=model, query_document="q")
        assert seen == {1: "store://a/1", 2: b"bytes"}


def test_the_report_says_what_the_model_did(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")
    model = CrossEncoderReranker(save_bert(tmp_path / "bert"), batch_size=3)
    hits = [*hits_of(7), *hits_of(1)]
    _, (report,) = apply(as_stages(model), "a list", hits, 8)
    assert (report.n_pairs, report.n_cached, report.n_scored) == (7, 1, 8), "equal documents are scored once"
    assert report.n_batches == 3
    assert report.n_tokens > 7 * 5
    assert 0 <= report.padding_share < 0.5
    assert report.n_queries_merged == 1
    assert report.forward_ms > 0
    assert report.wait_ms >= 0
    _, (again,) = apply(as_stages(model), "a list", hits, 8)
    assert (again.n_pairs, again.n_cached, again.n_batches) == (0, 8, 0)
    _, (other,) = apply(as_stages(model), "another", hits, 8)
    assert other.n_pairs == 7
