"""sentence-transformers' models, and re-rankers that packages register."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import save_bert

from vstore.errors import InvalidSetting, MissingDependency
from vstore.rerank import (
    CrossEncoderReranker,
    LexicalReranker,
    SentenceTransformersReranker,
    as_stages,
    load_reranker,
    reranker_names,
)
from vstore.testing.reranker_suite import RerankerSuite, documents_of
from vstore.types import Candidate


def test_shipped_re_rankers_have_names() -> None:
    assert {"lexical", "cross-encoder", "passages", "vision-language", "late-interaction", "http"} <= set(
        reranker_names()
    )
    made = load_reranker("lexical", fields=["title"])
    assert isinstance(made, LexicalReranker)
    assert made.fields == ("title",)
    with pytest.raises(InvalidSetting, match="did you mean 'lexical'"):
        load_reranker("lexcal")


def test_a_package_registers_one_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf_order.py").write_text(
        "class Shelf:\n"
        "    def __init__(self, step=1.0):\n"
        "        self.step = step\n"
        "    def score(self, query, documents):\n"
        "        return [self.step * each.id for each in documents]\n"
        "def nothing():\n"
        "    return object()\n"
    )
    described = tmp_path / "shelf_order-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-order\nVersion: 1\n")
    (described / "entry_points.txt").write_text(
        "[vstore.rerankers]\nshelf = shelf_order:Shelf\n"
        "empty = shelf_order:nothing\ngone = shelf_gone:Shelf\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "shelf" in reranker_names()
    reranker = load_reranker("shelf", step=2.0)
    assert list(np.asarray(reranker.score("q", [Candidate(3, None, None, {})]))) == [6.0]
    assert as_stages("shelf")[0].name == "Shelf"
    with pytest.raises(InvalidSetting, match="gave a object"):
        load_reranker("empty")
    with pytest.raises(InvalidSetting, match="cannot be loaded"):
        load_reranker("gone")


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependency, match="pip install sentence-transformers"):
        SentenceTransformersReranker("x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def adapted(folder: Path) -> SentenceTransformersReranker:
    return SentenceTransformersReranker(folder, device="cpu", max_length=128)


class TestSentenceTransformers(RerankerSuite):
    @pytest.fixture
    def reranker(self, adapted: SentenceTransformersReranker) -> SentenceTransformersReranker:
        return adapted


def test_its_scores_are_the_raw_logits(folder: Path, adapted: SentenceTransformersReranker) -> None:
    documents = documents_of(9, seed=1)
    wanted = CrossEncoderReranker(folder).score("open an archive", documents)
    np.testing.assert_allclose(adapted.score("open an archive", documents), wanted, rtol=1e-3, atol=1e-3)


def test_what_it_cannot_open_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot open"):
        SentenceTransformersReranker(tmp_path / "nothing")
    three: Any = save_bert(tmp_path / "three", num_labels=3)
    with pytest.raises(InvalidSetting, match="3 labels"):
        SentenceTransformersReranker(three)
