"""Encoders without padding give the scores of the transformers model, whatever lies together in a batch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import save_bert

from vstore.rerank import CrossEncoderReranker
from vstore.rerank.packed import PackedEncoder
from vstore.rerank.products import Product
from vstore.rerank.torch_parts import alone_library, compute_alone
from vstore.testing.reranker_suite import documents_of

pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")
torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")

KINDS = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}


def tiny(kind: str, **settings: Any) -> Any:
    """Return a random one-label classifier of two layers, its scores well apart."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{KINDS[kind]}Config")(
        vocab_size=90, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        max_position_embeddings=80, num_labels=1, pad_token_id=1, initializer_range=0.4,
        type_vocab_size=2 if kind == "bert" else 1, **settings,
    )  # fmt: skip
    model = getattr(transformers, f"{KINDS[kind]}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.5)
    return model


def pairs_of(kind: str, lengths: list[int]) -> list[dict[str, list[int]]]:
    rng = np.random.default_rng(1)
    pairs = []
    for length in lengths:
        pair = {"input_ids": rng.integers(4, 90, length).tolist()}
        if kind == "bert":
            pair["token_type_ids"] = [0] * (length // 3) + [1] * (length - length // 3)
        pairs.append(pair)
    return pairs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_it_equals_the_plain_model(kind: str, n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = tiny(kind), pairs_of(kind, [70, 40, 40, 40, 17, 3, 3, 2])
    with torch.no_grad():
        wanted = [model(**{n: torch.tensor([v]) for n, v in pair.items()}).logits.item() for pair in pairs]
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        packed = PackedEncoder(torch, model)
    finally:
        torch.set_num_threads(before)
    assert packed.n_threads == n_threads
    assert np.ptp(wanted) > 0.1, "the model is too flat to tell anything"
    np.testing.assert_allclose(packed.forward(pairs), wanted, atol=1e-4)
    # What an earlier, larger batch left in the kept arrays must not show.
    np.testing.assert_allclose(packed.forward(pairs[5:]), wanted[5:], atol=1e-4)
    order = np.random.default_rng(2).permutation(len(pairs)).tolist()
    np.testing.assert_allclose(packed.forward([pairs[i] for i in order]), np.take(wanted, order), atol=1e-4)
    monkeypatch.setattr("vstore.rerank.products.LEAST_ROWS", 2)
    np.testing.assert_allclose(packed.forward(pairs), wanted, atol=1e-4)
    np.testing.assert_allclose(packed.forward(pairs[1:2] + pairs[4:5]), wanted[1:2] + wanted[4:5], atol=1e-4)
    monkeypatch.setattr("vstore.rerank.packed.BLOCK_VALUES", 32)
    small = PackedEncoder(torch, model)
    np.testing.assert_allclose(small.forward(pairs), wanted, atol=1e-4)
    monkeypatch.setattr("vstore.rerank.packed.PART_TOKENS", 50)
    assert len(packed._parts(pairs)) >= 4, "this should take several parts"
    np.testing.assert_allclose(packed.forward(pairs), wanted, atol=1e-4)


def test_sums_of_weights_are_kept_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = tiny("bert"), pairs_of("bert", [40, 30])
    wanted = PackedEncoder(torch, model).forward(pairs)
    monkeypatch.setattr("vstore.rerank.products.LEAST_ROWS", 2)
    made: list[bool] = []
    whole = Product.__init__

    def counted(self: Product, *given: Any, halves: bool) -> None:
        made.append(halves)
        whole(self, *given, halves=halves)

    monkeypatch.setattr(Product, "__init__", counted)
    for most, expected in ((10**6, [True] * 6 + [False] * 2), (1000, [False] * 8)):
        monkeypatch.setattr("vstore.rerank.packed.SUMS_BYTES", most)
        made.clear()
        np.testing.assert_allclose(PackedEncoder(torch, model).forward(pairs), wanted, atol=1e-4)
        assert made == expected


def test_a_model_that_is_trained_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    reranker = CrossEncoderReranker(save_bert(tmp_path), cache_scores=0)
    documents = documents_of(5, seed=1)
    before = reranker.score("open an archive", documents)
    with torch.no_grad():
        for weight in reranker.scorer.model.parameters():
            weight.mul_(0.9)
    pairs = [reranker.scorer.encode("open an archive", [d.text or ""])[0] for d in documents]
    with torch.no_grad():
        wanted = reranker.scorer.logits(pairs).numpy()
    after = reranker.score("open an archive", documents)
    np.testing.assert_allclose(after, wanted, atol=1e-4)
    assert np.abs(after - before).max() > 0.01


def test_other_models_are_left_to_transformers() -> None:
    assert PackedEncoder.supports(tiny("bert"))
    assert not PackedEncoder.supports(tiny("bert", hidden_act="relu"))
    assert not PackedEncoder.supports(tiny("bert").to(torch.bfloat16))
    assert not PackedEncoder.supports(tiny("roberta", is_decoder=True))


def test_a_thread_that_computes_alone_changes_no_other() -> None:
    if alone_library(torch) is None:
        pytest.skip("this torch has no MKL")
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:

        def run() -> None:
            compute_alone(torch)
            seen.append(torch.get_num_threads())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
