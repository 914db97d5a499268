"""The text cross-encoder on checkpoints of the real classes, and on a trained one where it was converted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import save_bert

from vstore.errors import InvalidInput, InvalidSetting, MissingDependency
from vstore.rerank import CrossEncoderReranker, Rerank
from vstore.testing.reranker_suite import RerankerSuite, documents_of
from vstore.types import Candidate

pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")
torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")

MINILM = os.environ.get("VSTORE_MINILM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def reranker(folder: Path) -> CrossEncoderReranker:
    return CrossEncoderReranker(folder)


def test_scores_are_the_raw_logits_of_the_plain_model(folder: Path, reranker: CrossEncoderReranker) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    documents = documents_of(12, seed=1)
    wanted = []
    with torch.no_grad():
        for document in documents:
            inputs = tokenizer(
                "open an archive", document.text, truncation=True, max_length=128, return_tensors="pt"
            )
            wanted.append(model(**inputs).logits.item())
    got = reranker.score("open an archive", documents)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert np.ptp(got) > 0.5, "the checkpoint is too flat to tell anything"


@pytest.mark.parametrize(
    ("batch_tokens", "batch_size"), [(1, 64), (300, 64), (8192, 1), (8192, 3), (8192, 64)]
)
def test_batched_is_one_by_one_whatever_the_batches(
    folder: Path, reranker: CrossEncoderReranker, batch_tokens: int, batch_size: int
) -> None:
    documents = documents_of(25, seed=2, longest=150)
    alone = np.concatenate([reranker.score("read a file", [document]) for document in documents])
    other = CrossEncoderReranker(folder, batch_tokens=batch_tokens, batch_size=batch_size)
    np.testing.assert_allclose(other.score("read a file", documents), alone, rtol=1e-3, atol=1e-3)


def test_pairs_may_have_different_queries(reranker: CrossEncoderReranker) -> None:
    documents = documents_of(4, seed=3)
    queries = ["open", "read a list", "vector search index", "open"]
    alone = [reranker.score(q, [d])[0] for q, d in zip(queries, documents, strict=True)]
    pairs = [(q, d.text or "") for q, d in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(reranker.score_pairs(pairs), alone, rtol=1e-3, atol=1e-3)


def test_long_queries_and_documents_are_cut_to_fit(folder: Path, reranker: CrossEncoderReranker) -> None:
    documents = [Candidate(0, "word " * 900, None, {}), Candidate(1, "open", None, {})]
    assert np.isfinite(reranker.score("archive " * 500, documents)).all()
    short = CrossEncoderReranker(folder, max_length=16)
    assert short.max_length == 16
    assert short.score("open", documents)[1] == pytest.approx(reranker.score("open", documents)[1], abs=1e-3)


def test_fields_come_before_the_text(folder: Path) -> None:
    titled = CrossEncoderReranker(folder, fields=["title"])
    document = Candidate(0, "open", None, {"title": "archive"})
    joined = Candidate(1, "archive\nopen", None, {})
    assert titled.score("q", [document])[0] == pytest.approx(titled.score("q", [joined])[0], abs=1e-3)


def test_text_of_no_document_or_query(reranker: CrossEncoderReranker) -> None:
    got = reranker.score("open", [Candidate(0, None, b"png", {}), Candidate(1, "open", None, {})])
    assert np.isnan(got[0])
    assert np.isfinite(got[1])
    with pytest.raises(InvalidInput, match="CrossEncoderReranker reads text"):
        reranker.score(b"png", [])


def test_it_reads_a_folder_with_the_network_off(folder: Path) -> None:
    import subprocess

    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from vstore.rerank import CrossEncoderReranker\n"
        "from vstore.types import Candidate\n"
        "print(CrossEncoderReranker(sys.argv[1]).score('open', [Candidate(0, 'open', None, {})])[0])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    assert np.isfinite(float(done.stdout))


def test_its_name_and_its_stage(folder: Path, reranker: CrossEncoderReranker) -> None:
    assert reranker.name == f"cross-encoder {folder.name}"
    assert str(folder) in repr(reranker)
    assert Rerank(reranker).blend == 0.0


# What is refused.


def test_more_than_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"has 3 labels.*num_labels=1"):
        CrossEncoderReranker(save_bert(tmp_path, num_labels=3))


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"lacks 2 weights \(classifier\.bias, classifier\.weight\)"):
        CrossEncoderReranker(save_bert(tmp_path, headless=True))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="save_pretrained"):
        CrossEncoderReranker(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model", "num_labels": 1}))
    with pytest.raises(InvalidSetting, match="save_pretrained"):
        CrossEncoderReranker(tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    weights = save_bert(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InvalidSetting, match="save_pretrained"):
        CrossEncoderReranker(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    save_bert(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(InvalidSetting, match=r"knows no words.*save_pretrained"):
        CrossEncoderReranker(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 129}, "max_length is 129.*from 8 to 128"),
        ({"max_length": 2}, "max_length is 2"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"device": "abacus"}, "device is 'abacus'.*'cpu'"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
        ({"fields": "title"}, r"\['title'\]"),
    ],
)
def test_settings_have_limits(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        CrossEncoderReranker(folder, **settings)


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_without_the_extra_it_says_what_to_install(
    folder: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=r"pip install 'vstore\[rerank\]'"):
        CrossEncoderReranker(folder)


def test_importing_vstore_imports_no_model_library() -> None:
    import subprocess

    code = "import sys, vstore.rerank; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    vocabulary = save_bert(tmp_path) / "config.json"
    settings = json.loads(vocabulary.read_text())
    vocabulary.write_text(json.dumps({**settings, "vocab_size": 50}))
    with pytest.raises(InvalidSetting, match="172 tokens and the model 50"):
        CrossEncoderReranker(tmp_path)


# A trained one.


@pytest.fixture(scope="module")
def minilm() -> CrossEncoderReranker:
    if not MINILM:
        pytest.skip(
            "needs trained weights: set VSTORE_MINILM to what `python benchmarks/models.py FOLDER` prints"
        )
    return CrossEncoderReranker(MINILM)


if MINILM:

    class TestMiniLM(RerankerSuite):
        relevant = (
            "ZipFile.namelist returns a list of archive members by name.",
            "The capital of France has been Paris since the tenth century.",
        )

        @pytest.fixture
        def reranker(self, minilm: CrossEncoderReranker) -> CrossEncoderReranker:
            return minilm


def test_minilm_knows_what_it_was_published_to_know(minilm: CrossEncoderReranker) -> None:
    documents = [
        Candidate(0, "Berlin has a population of 3,520,031 registered inhabitants.", None, {}),
        Candidate(1, "New York City is famous for the Metropolitan Museum of Art.", None, {}),
    ]
    got = minilm.score("How many people live in Berlin?", documents)
    assert got[0] > 5
    assert got[1] < -5
