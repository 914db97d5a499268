"""MaxSim over vectors that are given or computed, in numba and torch, and the real multi-vector classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from tiny_checkpoints import save_bert, save_colbert
from tiny_vision import png, save_colqwen2, swatch

from vstore.errors import InvalidInput, InvalidSetting, RerankError
from vstore.rerank import ColBertEncoder, ColQwen2Encoder, LateInteractionReranker, apply, as_stages
from vstore.testing.reranker_suite import RerankerSuite, documents_of
from vstore.types import Candidate, Hit

torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")
pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")


class Letters:
    """A vector a letter: one of 26 directions."""

    name = "letters"

    def encode_query(self, query: Any) -> Any:
        return self._vectors(query if isinstance(query, str) else query["text"])

    def encode_documents(self, documents: Any) -> Any:
        return [None if each.text is None else self._vectors(each.text) for each in documents]

    def _vectors(self, text: str) -> Any:
        return np.eye(26, dtype=np.float32)[[ord(c) % 26 for c in text] or [0]]


def candidates(n: int) -> list[Candidate]:
    return [Candidate(i, None, None, {}) for i in range(n)]


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_both_backends_are_the_slow_twin(backend: Any) -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((9, 33), dtype=np.float32)
    rows = [rng.standard_normal((int(n), 33), dtype=np.float32) for n in rng.integers(1, 50, 20)]

    class Given:
        def encode_query(self, query: Any) -> Any:
            return query["text"]

    class Fixed:
        def encode_query(self, asked: Any) -> Any:
            return torch.from_numpy(query)

    model = LateInteractionReranker(Fixed(), vectors=dict(enumerate(rows)), backend=backend, device="cpu")
    got = model.score("q", candidates(21))
    np.testing.assert_allclose(got[:20], naive.max_sim(query, rows), rtol=1e-4, atol=1e-4)
    assert np.isnan(got[20])


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_vectors_may_come_from_a_callable_and_gaps_are_reported(backend: Any) -> None:
    given = {0: [[1.0, 0.0]], 2: [[0.0, 1.0], [1.0, 1.0]], 3: []}

    class Fixed:
        def encode_query(self, asked: Any) -> Any:
            return [[1.0, 2.0]]

    def vectors(document: Candidate) -> Any:
        found = given.get(int(document.id))
        return None if found is None else np.array(found).reshape(-1, 2)

    hits = [Hit(i, 1 - i / 10, i / 10, {}, None, 1 - i / 10, i) for i in range(4)]
    model = LateInteractionReranker(Fixed(), vectors=vectors, backend=backend, device="cpu")
    ranked, (report,) = apply(as_stages(model), "q", hits, 4)
    assert [hit.id for hit in ranked] == [2, 1, 0, 3]
    assert ranked[0].score == 3.0
    assert report.n_failed == 2


class TestLetters(RerankerSuite):
    relevant = ("open an archive and list its members", "zzz")

    @pytest.fixture
    def reranker(self) -> LateInteractionReranker:
        return LateInteractionReranker(Letters())


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> ColBertEncoder:
    return ColBertEncoder(save_colbert(tmp_path_factory.mktemp("colbert")), max_length=100)


@pytest.fixture(scope="module")
def colqwen2(tmp_path_factory: pytest.TempPathFactory) -> ColQwen2Encoder:
    return ColQwen2Encoder(save_colqwen2(tmp_path_factory.mktemp("colqwen2")))


class TestColBert(RerankerSuite):
    @pytest.fixture
    def reranker(self, colbert: ColBertEncoder) -> LateInteractionReranker:
        return LateInteractionReranker(colbert)


class TestColQwen2(RerankerSuite):
    query = "a red circle"

    @pytest.fixture
    def reranker(self, colqwen2: ColQwen2Encoder) -> LateInteractionReranker:
        return LateInteractionReranker(colqwen2)

    def documents(self, n: int, seed: int = 0) -> list[Candidate]:
        texts = documents_of(n, seed, longest=8)
        return [
            Candidate(d.id, d.text if i % 2 else None, None if i % 2 else png("red", 40 + i, 60), {})
            for i, d in enumerate(texts)
        ]


def test_colbert_vectors_are_the_plain_models(colbert: ColBertEncoder) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(colbert.path)
    model = AutoModel.from_pretrained(colbert.path).eval()
    linear = load_file(Path(colbert.path) / "model.safetensors")["linear.weight"]
    ids = tokenizer("open, archive!", add_special_tokens=False)["input_ids"]
    marked = [
        tokenizer.cls_token_id,
        tokenizer.convert_tokens_to_ids("[unused1]"),
        *ids,
        tokenizer.sep_token_id,
    ]
    with torch.no_grad():
        hidden = model(torch.tensor([marked])).last_hidden_state[0] @ linear.T
        wanted = torch.nn.functional.normalize(hidden, dim=-1).numpy()
    (got,) = colbert.encode_documents([Candidate(0, "open, archive!", None, {})])
    kept = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(marked)) if token not in (",", "!")]
    assert len(kept) == len(marked) - 2
    np.testing.assert_allclose(got, wanted[kept], rtol=1e-3, atol=1e-4)
    query = colbert.encode_query("open")
    assert query.shape == (32, 8)
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1.0, rtol=1e-4)


def test_colqwen2_reads_images_text_and_image_queries(colqwen2: ColQwen2Encoder) -> None:
    (image, text, nothing, broken) = colqwen2.encode_documents(
        [
            Candidate(0, None, png("red", 112, 112), {}),
            Candidate(1, "a red circle", None, {}),
            Candidate(2, None, None, {}),
            Candidate(3, None, b"no image", {}),
        ]
    )
    assert image is not None
    assert text is not None
    assert nothing is None
    assert broken is None
    assert len(image) > 16, "an image of 4 x 4 patches and the words around it"
    for vectors in (image, text, colqwen2.encode_query(swatch("red")), colqwen2.encode_query("red")):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-3)


def test_what_late_interaction_refuses(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="encode_query"):
        LateInteractionReranker(object())  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="numpy"):
        LateInteractionReranker(Letters(), backend="numpy")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"linear\.weight"):
        ColBertEncoder(save_bert(tmp_path / "bert"), max_length=64)
    with pytest.raises(InvalidSetting, match="ColQwen2"):
        ColQwen2Encoder(save_bert(tmp_path / "bert2"))
    model = LateInteractionReranker(Letters(), vectors={0: np.ones((2, 3))})
    with pytest.raises(RerankError, match="3 dimensions and the query of 26"):
        model.score("q", candidates(1))
    with pytest.raises(RerankError, match=r"shape \(3,\)"):
        LateInteractionReranker(Letters(), vectors={0: np.ones(3)}).score("q", candidates(1))


def test_a_query_without_text_is_refused(colbert: ColBertEncoder) -> None:
    with pytest.raises(InvalidInput, match="ColBertEncoder reads text"):
        LateInteractionReranker(colbert).score(png("red"), documents_of(2))
