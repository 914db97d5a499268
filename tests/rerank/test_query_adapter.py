"""The linear adapter on query vectors: least squares of margins, better recall on queries never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vstore
from vstore.errors import CorruptData, DimensionMismatch, InvalidInput, InvalidSetting
from vstore.rerank.train import QueryAdapter, TrainQuery, distill
from vstore.rerank.train import query_adapter as module

DIM = 12


def world(metric: Any = "cosine", n: int = 600) -> tuple[vstore.Collection, np.ndarray]:
    """Rows of which 4 components matter, and 8 louder ones do not."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(n, DIM)).astype(np.float32)
    rows[:, 4:] *= 2
    made = vstore.connect("memory://").create_collection("rows", dim=DIM, metric=metric)
    made.upsert(range(n), rows, documents=[f"row {i}" for i in range(n)])
    return made, rows


class Teacher:
    """Knows which components matter. The query's text is the number of its row."""

    def __init__(self, rows: np.ndarray, asked: np.ndarray) -> None:
        self._rows, self._asked = rows[:, :4], asked[:, :4]

    def score(self, query: str, documents: Any) -> Any:
        at = [document.id for document in documents]
        return 7.0 * self._rows[at] @ self._asked[int(query)] + 100.0


def asked_of(rows: np.ndarray, n: int = 150) -> tuple[np.ndarray, list[TrainQuery]]:
    random = np.random.default_rng(1)
    asked = random.normal(size=(n, DIM)).astype(np.float32)
    asked[:, 4:] *= 2
    found = []
    for i, vector in enumerate(asked):
        best = np.argsort(-(rows[:, :4] @ vector[:4]))[:10]
        found.append(TrainQuery(vector, str(i), best.tolist()))
    return asked, found


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_it_lifts_recall_on_queries_that_it_never_saw(metric: str) -> None:
    made, rows = world(metric)
    asked, queries = asked_of(rows)
    before = [record.vector.copy() for record in made.get(range(20)) if record is not None]
    adapter = distill(Teacher(rows, asked), made, queries, depth=50, held_out=queries[100:], progress=None)
    result = adapter.result
    assert result is not None
    assert result.recall_after > result.recall_before + 0.1
    assert result.margin_mse_after < 0.8 * result.margin_mse_before
    after = [record.vector for record in made.get(range(20)) if record is not None]
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_the_fit_is_the_least_squares_solution() -> None:
    random = np.random.default_rng(2)
    scored = []
    for _ in range(6):
        rows = random.normal(size=(5, 3))
        own, teacher = random.normal(size=5), random.normal(size=5)
        scored.append(
            module._Scored(
                random.normal(size=3), rows - rows.mean(0), teacher - teacher.mean(), own - own.mean()
            )
        )
    ridge = 0.1
    found = module._fit(scored, ridge)
    unit = np.mean([(e.rows**2).sum() / 5 * (e.query**2).sum() for e in scored])
    # The slow twin: one row of the system for each pair, and the ridge below them.
    system = np.concatenate([np.einsum("i,nj->nij", e.query, e.rows).reshape(5, 9) for e in scored])
    wanted = np.concatenate([e.teacher - e.student for e in scored])
    system = np.concatenate([system / np.sqrt(30), np.sqrt(ridge * unit / 3) * np.eye(9)])
    wanted = np.concatenate([wanted / np.sqrt(30), np.zeros(9)])
    expected = np.linalg.lstsq(system, wanted, rcond=None)[0].reshape(3, 3)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_margin_error_is_the_mean_over_all_pairs() -> None:
    random = np.random.default_rng(3)
    rows, own, teacher, query = (random.normal(size=s) for s in ((6, 4), 6, 6, 4))
    matrix = random.normal(size=(4, 4)) * 0.1
    student = own + rows @ (query @ matrix)
    margins = (teacher[:, None] - teacher[None]) - (student[:, None] - student[None])
    scored = module._Scored(query, rows - rows.mean(0), teacher - teacher.mean(), own - own.mean())
    assert module.margin_mse([scored], matrix) == pytest.approx(float((margins**2).mean()))


def test_a_teacher_that_agrees_changes_nothing() -> None:
    made, rows = world("dot")
    asked, queries = asked_of(rows, 20)

    def agree(query: str, documents: Any) -> Any:
        return rows[[document.id for document in documents]] @ asked[int(query)]

    class Agreeing:
        score = staticmethod(agree)

    adapter = distill(Agreeing(), made, queries, progress=None)
    np.testing.assert_allclose(adapter(asked), asked, atol=1e-2)


def test_it_is_kept_as_one_file(tmp_path: Path) -> None:
    made, rows = world()
    asked, queries = asked_of(rows, 30)
    adapter = distill(Teacher(rows, asked), made, queries, progress=None)
    adapter.save(tmp_path / "adapter")
    loaded = QueryAdapter.load(tmp_path / "adapter")
    assert loaded.result == adapter.result
    np.testing.assert_array_equal(loaded(asked), adapter(asked))
    np.testing.assert_allclose(loaded(asked[0]), loaded(asked)[0], rtol=1e-6, atol=1e-6)
    (tmp_path / "adapter").write_bytes(b"nothing")
    with pytest.raises(CorruptData, match="no query adapter"):
        QueryAdapter.load(tmp_path / "adapter")


def test_what_is_refused() -> None:
    made, rows = world(n=40)
    asked, queries = asked_of(rows, 4)
    with pytest.raises(DimensionMismatch, match=r"\(12,\)"):
        QueryAdapter(np.zeros((DIM, DIM)))(np.zeros(3))
    with pytest.raises(InvalidInput, match="square"):
        QueryAdapter(np.zeros((2, 3)))
    with pytest.raises(InvalidSetting, match="depth"):
        distill(Teacher(rows, asked), made, queries, depth=1, progress=None)
    with pytest.raises(InvalidInput, match="no queries"):
        distill(Teacher(rows, asked), made, [], progress=None)

    class Mute:
        def score(self, query: str, documents: Any) -> Any:
            return np.full(len(documents), np.nan)

    with pytest.raises(InvalidInput, match="at least 2"):
        distill(Mute(), made, queries, progress=None)
