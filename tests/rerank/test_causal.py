"""Causal re-rankers: the published prompts, one dot product instead of the vocabulary, cutting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import save_causal

from vstore.errors import InvalidSetting
from vstore.rerank import CrossEncoderReranker
from vstore.testing.reranker_suite import RerankerSuite, documents_of
from vstore.types import Candidate

torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")
pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")

MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n",
    "query: {q}", "\n", "document: {d}", "\n",
    "You are a search relevance expert who evaluates how well documents match search queries. For each "
    "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
    "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
    "<|im_end|>\n<|im_start|>assistant\n",
)  # fmt: skip
QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {q}\n"
    "<Document>: {d}",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
KINDS = {"qwen2": (MXBAI, "1", "0"), "qwen3": (QWEN3, "yes", "no")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_causal(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.mark.parametrize("kind", list(KINDS))
def test_scores_are_the_difference_of_two_logits_of_the_plain_model(
    kind: str, folders: dict[str, Path]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pieces, yes, no = KINDS[kind]
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    model = AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (yes, no)]
    documents = documents_of(7, seed=1, longest=20)
    wanted = []
    for document in documents:
        tokens: list[int] = []
        for piece in pieces:
            tokens += tokenizer(piece.format(q="which?", d=document.text), add_special_tokens=False)[
                "input_ids"
            ]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        wanted.append(float(logits[ids[0]] - logits[ids[1]]))
    got = CrossEncoderReranker(folders[kind], max_length=2048).score("which?", documents)
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    assert np.ptp(got) > 0.01


class TestMxbai(RerankerSuite):
    @pytest.fixture(scope="session")
    def loaded(self, tmp_path_factory: pytest.TempPathFactory) -> CrossEncoderReranker:
        folder = save_causal(tmp_path_factory.mktemp("mxbai"), "qwen2")
        return CrossEncoderReranker(folder, max_length=800, batch_size=5, cache_scores=0)

    @pytest.fixture
    def reranker(self, loaded: CrossEncoderReranker) -> CrossEncoderReranker:
        return loaded


def test_instructions_and_limits(folders: dict[str, Path]) -> None:
    documents = documents_of(3)
    for kind in KINDS:
        usual = CrossEncoderReranker(folders[kind], max_length=2048).score("q", documents)
        told = CrossEncoderReranker(folders[kind], max_length=2048, instruction="Find red ones.").score(
            "q", documents
        )
        assert (usual != told).all()
    short = CrossEncoderReranker(folders["qwen3"], max_length=420)
    long_query = short.scorer.encode("circle " * 900, ["square " * 900])[0]["input_ids"]
    assert len(long_query) == 420
    text = short.scorer.tokenizer.decode(long_query)
    assert "circle" in text
    assert "square" in text
    assert text.endswith("</think>\n\n")
    with pytest.raises(InvalidSetting, match="max_length is 8"):
        CrossEncoderReranker(folders["qwen2"], max_length=8)
    assert np.isnan(short.score("q", [Candidate(0, None, b"x", {})])[0])
