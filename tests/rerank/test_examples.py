"""Queries that changed most: which are shown, in a table, in a picture, and by the command."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import vstore
from vstore.cli.app import main
from vstore.errors import InvalidInput
from vstore.rerank.evaluation import EvalQuery, Evaluation, QueryResult, evaluate, page, read_queries
from vstore.rerank.examples import SHOWN, draw_examples, examples, list_examples
from vstore.types import Hit

PIL = pytest.importorskip("PIL.Image", reason="needs Pillow")


def found_with(gains: list[float]) -> Evaluation:
    queries = tuple(QueryResult(str(i), 0.5, 0.5 + gain, (1, 2), (2, 1)) for i, gain in enumerate(gains))
    return Evaluation("m", 10, len(gains), 0.0, 0.0, (), 10, queries)


@pytest.mark.parametrize(
    ("gains", "n", "expected"),
    [
        ([0.1, 0.0, -0.2, 0.4, -0.1, 0.3], 4, ["3", "5", "4", "2"]),
        ([0.1, 0.2, 0.3], 2, ["2", "1"]),
        ([-0.1, -0.3, 0.0], 4, ["0", "1"]),
        ([0.1, -0.1, -0.2, -0.3], 4, ["0", "1", "2", "3"]),
        ([0.0, 0.0], 4, []),
        ([0.1, -0.1], 0, []),
    ],
)
def test_those_that_changed_most_are_shown(gains: list[float], n: int, expected: list[str]) -> None:
    assert [each.id for each in examples(found_with(gains), n)] == expected


def test_an_evaluation_keeps_the_queries_of_its_best_depth() -> None:
    def first(query: EvalQuery, depth: int) -> list[Hit]:
        return [Hit(i, 1 - i / 9, 0.0, {}, {"text": f"t {i}"}, 1 - i / 9, i) for i in range(min(depth, 9))]

    def backwards(query: Any, documents: Any) -> list[float]:
        return [float(each.id) for each in documents]

    queries = [EvalQuery("a", None, "q", {3: 1.0}), EvalQuery("b", None, "q", {0: 1.0})]
    found = evaluate(first, queries, backwards, k=3, depths=(4, 8))
    assert found.best_depth == 4
    assert [each.id for each in found.queries] == ["a", "b"]
    assert found.queries[0].before == (0, 1, 2)
    assert found.queries[0].after == (3, 2, 1)
    assert (found.queries[0].ndcg_before, found.queries[0].ndcg_after) == (0.0, 1.0)
    assert found.queries[1].ndcg_after == 0.0


def test_a_table_marks_what_is_relevant() -> None:
    each = QueryResult("a", 0.0, 1.0, (1, 2), (2, 1))
    query = EvalQuery("a", None, "wings | flaps", {2: 1.0}, {"year": 1960})
    shown = list_examples([each], {"a": query}, {1: {"text": "one | bar"}, 2: {"text": "long " * 60}})
    lines = shown.splitlines()
    assert lines[0] == "**\"wings | flaps\" where {'year': 1960}**: nDCG 0.00 to 1.00 (+1.00)"
    assert lines[4].startswith("| 1 | 1: one \\| bar | **2: long ")
    assert lines[4].endswith("...** |")
    assert lines[5].startswith("| 2 | **2: long ")
    assert "## Queries that changed most, at depth 10" in page(found_with([0.1]), shown=shown)


def photo(colour: str) -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (20, 20), colour).save(file, "PNG")
    return file.getvalue()


def test_a_picture_needs_a_photo_that_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the lab extra")
    each = QueryResult("a", 0.0, 1.0, (1, 2), (2, 1))
    queries = {"a": EvalQuery("a", None, "red", {2: 1.0})}
    path = tmp_path / "photos.png"
    assert not draw_examples([each], queries, {1: {"image": b"no photo"}, 2: None}, path)
    assert not path.exists()
    assert draw_examples([each], queries, {1: {"image": photo("blue")}, 2: None}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    many = QueryResult("a", 0.0, 1.0, tuple(range(SHOWN + 3)), (2,))
    assert draw_examples([many], queries, {2: {"image": photo("red")}}, path)


def test_ids_of_queries_differ(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    line = json.dumps({"id": "x", "vector": [1, 0], "text": "a", "relevant": ["7"]})
    file.write_text(f"{line}\n{line}\n")
    with pytest.raises(InvalidInput, match="2 queries of id 'x'"):
        read_queries(file)


class Reddest:
    """Reads photos as the stage hands them over, from the store too."""

    name = "reddest"

    def __init__(self, channel: int = 0) -> None:
        self.channel = channel

    def score(self, query: Any, documents: Any) -> list[float]:
        pixels = [PIL.open(io.BytesIO(each.image)).getpixel((0, 0)) for each in documents]
        return [float(each[self.channel] - each[2 - self.channel]) for each in pixels]


def test_the_command_reads_photos_of_the_store_and_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the lab extra")
    monkeypatch.setattr("vstore.rerank.adapters.SHIPPED", {"reddest": Reddest})
    store = tmp_path / "store"
    with vstore.connect(str(store)) as db:
        photos = db.create_collection("photos", dim=2)
        db.store.put("pictures/red.png", photo("red"))
        documents = [{"image": photo("blue")}, {"image": "store://pictures/red.png"}]
        photos.upsert([1, 2], [[1, 0], [1, 0.1]], documents=documents)
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"id": "q", "vector": [1, 0], "text": "red", "relevant": {"2": 1}}) + "\n")
    arguments = ["eval", str(store), "photos", str(file), "--rerank", "reddest", "--depth", "2"]

    def run(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--out", str(tmp_path / "out"), *more])
        return int(ended.value.code or 0)

    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["depths"][0]["n_failed"] == 0
    assert (found["depths"][0]["ndcg_before"], found["depths"][0]["ndcg_after"]) == (
        pytest.approx(0.6309, abs=1e-3),
        1.0,
    )
    assert "](photos.jpg)" in (tmp_path / "out" / "results.md").read_text()
    assert (tmp_path / "out" / "photos.jpg").read_bytes().startswith(b"\xff\xd8")
    assert run("--rerank-settings", '{"channel": 2}') == 0
    assert "0.631 to 0.631" in capsys.readouterr().out
    assert run("--rerank-settings", "[1]") == 2
    assert run("--rerank-settings", "{") == 2
