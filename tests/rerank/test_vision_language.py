"""Vision-language re-rankers of the real classes: the published recipe, batches, limits, failures."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import save_bert
from tiny_vision import png, save_adapter, save_remote, save_vision, swatch

from vstore.errors import InvalidInput, InvalidSetting
from vstore.rerank import Rerank, VisionLanguageReranker, apply, as_stages
from vstore.rerank.images import view_of
from vstore.rerank.vision_prompts import FAMILIES, prompt_of
from vstore.rerank.vision_qwen import resized
from vstore.testing.reranker_suite import WORDS, RerankerSuite
from vstore.types import Candidate, Hit

torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install 'vstore[rerank]'")
pytest.importorskip("transformers", reason="needs the rerank extra: pip install 'vstore[rerank]'")

COLORS = ["red", "blue", "green", "yellow", "purple", "orange"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_vision(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


@pytest.fixture(scope="module", params=list(FAMILIES))
def reranker(request: Any, folders: dict[str, Path]) -> VisionLanguageReranker:
    return VisionLanguageReranker(folders[request.param], batch_tokens=400, batch_size=5, cache_scores=0)


@pytest.fixture(scope="module")
def qwen3(folders: dict[str, Path]) -> VisionLanguageReranker:
    return VisionLanguageReranker(folders["qwen3_vl"], cache_scores=0)


def mixed(n: int, seed: int = 0) -> list[Candidate]:
    """Texts, images and both, of many sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        kind = i % 3
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 40)))) if kind != 1 else None
        size = (int(rng.integers(40, 300)), int(rng.integers(40, 300)))
        found.append(
            Candidate(i, text, png(str(rng.choice(COLORS)), *size) if kind else None, {"title": "red"})
        )
    return found


def full_logits(folder: Path, family: str, query: Any, document: Any) -> float:
    """Score one pair the obvious way: the processor's own tensors, one row, the whole vocabulary."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    kind = FAMILIES[family]
    model = getattr(transformers, kind.model_class).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    prompt, images = prompt_of(kind, query, document, kind.instruction or "")
    inputs: dict[str, Any] = {}
    if images:
        inputs = dict(processor(images=images, return_tensors="pt"))
        for count in (inputs["image_grid_thw"].prod(-1) // processor.merge_size**2).tolist():
            prompt = prompt.replace("<|image_pad|>", "<|x|>" * count, 1)
        prompt = prompt.replace("<|x|>", "<|image_pad|>")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    if kind.tail:
        ids = torch.cat([ids, torch.tensor([kind.tail])], 1)
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    inputs |= {"input_ids": ids, "mm_token_type_ids": (ids == pad).int()}
    with torch.no_grad():
        if kind.answers is not None:
            logits = model(**inputs).logits[0, -1]
            yes, no = (tokenizer.convert_tokens_to_ids(word) for word in kind.answers)
            return float(logits[yes] - logits[no])
        from safetensors.torch import load_file

        head = load_file(folder / "model.safetensors")
        hidden = model.model(**inputs).last_hidden_state[0, -1]
        inner = torch.relu(head["score.0.weight"] @ hidden + head["score.0.bias"])
        return float(head["score.2.weight"] @ inner + head["score.2.bias"] - 2.65)


class TestVisionLanguage(RerankerSuite):
    @pytest.fixture
    def reranker(self, reranker: VisionLanguageReranker) -> VisionLanguageReranker:
        return reranker


class TestImages(RerankerSuite):
    query: ClassVar = {"text": "a red circle", "image": swatch("red")}

    @pytest.fixture
    def reranker(self, qwen3: VisionLanguageReranker) -> VisionLanguageReranker:
        return qwen3

    def documents(self, n: int, seed: int = 0) -> list[Candidate]:
        return mixed(n, seed)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_scores_are_the_published_recipe_by_the_plain_model(family: str, folders: dict[str, Path]) -> None:
    model = VisionLanguageReranker(folders[family], cache_scores=0)
    red, blue = swatch("red"), swatch("blue", 160, 96)
    pairs = [
        (("a red circle", None), (None, red)),
        (("a red circle", None), (None, blue)),
        (("a red circle", None), ("a photo of it", red)),
        (("a red circle", None), ("the passage says nothing of it", None)),
        ((None, red), ("a red circle", None)),
        (("which one?", red), (None, blue)),
    ]
    wanted = [full_logits(folders[family], family, *pair) for pair in pairs]
    got = [model.score({"text": q[0], "image": q[1]}, [Candidate(0, d[0], d[1], {})])[0] for q, d in pairs]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    assert np.ptp(wanted) > 0.01


def test_batched_is_one_by_one_mixed_in_any_order_and_bucket(reranker: VisionLanguageReranker) -> None:
    documents = mixed(21, seed=3)
    alone = np.concatenate([reranker.score("a red circle", [each]) for each in documents])
    assert np.isfinite(alone).all()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(documents))
        got = reranker.score("a red circle", [documents[i] for i in order])
        np.testing.assert_allclose(got, alone[order], rtol=1e-3, atol=1e-3)


def test_concurrent_queries_share_batches_and_get_their_own_scores(qwen3: VisionLanguageReranker) -> None:
    queries = [
        "a red circle",
        {"image": swatch("blue")},
        {"text": "green", "image": swatch("green", 64, 80)},
    ] * 3
    wanted = [qwen3.score(query, mixed(7, seed=i)) for i, query in enumerate(queries)]
    with ThreadPoolExecutor(9) as pool:
        got = list(pool.map(lambda i: qwen3.score(queries[i], mixed(7, seed=i)), range(9)))
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_probability_is_the_sigmoid(folders: dict[str, Path]) -> None:
    documents = mixed(6, seed=8)
    raw = VisionLanguageReranker(folders["qwen3_vl"]).score("red", documents)
    probable = VisionLanguageReranker(folders["qwen3_vl"], probability=True).score("red", documents)
    np.testing.assert_allclose(probable, 1 / (1 + np.exp(-raw.astype(np.float64))), rtol=1e-5)


def test_sizes_are_those_of_the_processor() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = rng.integers(10, 3000, 2).tolist()
        if max(height, width) < 200 * min(height, width):
            least, most = int(rng.integers(1, 20)) * 784, int(rng.integers(20, 2000)) * 784
            assert resized(height, width, 28, least, most) == smart_resize(height, width, 28, least, most)


def test_the_pixel_budget_decides_the_tokens(folders: dict[str, Path]) -> None:
    document = (None, png("red", 400, 400))
    counts = []
    for limit in (4 * 1024, 16 * 1024, 64 * 1024):
        model = VisionLanguageReranker(folders["qwen3_vl"], max_pixels=limit, min_pixels=1024)
        n_tokens, pair = model.scorer.measure(("red", None), document)
        decoded = model.scorer.decode(pair)
        assert n_tokens == len(pair.tokens)
        assert sum(grid.prod().item() // 4 for grid in decoded.grids) == pair.tokens.count(model.scorer._pad)
        counts.append(pair.tokens.count(model.scorer._pad))
    assert counts == [4, 16, 64]


@pytest.mark.parametrize("n", [2, 4])
def test_views_are_scored_and_averaged(folders: dict[str, Path], n: int) -> None:
    plain = VisionLanguageReranker(folders["qwen3_vl"], cache_scores=0)
    picture = Image.open(io.BytesIO(png("red", 200, 120))).convert("RGB")
    picture.paste("blue", (0, 0, 60, 120))
    seen = [Candidate(view, "a", view_of(picture, view), {}) for view in range(n)]
    many = VisionLanguageReranker(folders["qwen3_vl"], cache_scores=0, views=n)
    text = Candidate(9, "a red circle", None, {})
    got = many.score("a red circle", [seen[0], text])
    each = plain.score("a red circle", [*seen, text])
    np.testing.assert_allclose(got, [each[:n].mean(), each[n]], atol=1e-4)
    assert np.ptp(each[:n]) > 1e-3
    np.testing.assert_allclose(many.score("a red circle", [text]), each[n:], atol=1e-4)


def test_instruction_changes_what_is_read(folders: dict[str, Path]) -> None:
    documents = mixed(4)
    usual = VisionLanguageReranker(folders["qwen3_vl"]).score("red", documents)
    told = VisionLanguageReranker(folders["qwen3_vl"], instruction="Find the yellow one.").score(
        "red", documents
    )
    assert (usual != told).all()
    with pytest.raises(InvalidSetting, match="reads no instruction"):
        VisionLanguageReranker(folders["jina_m0"], instruction="Find it.")


def test_long_text_is_cut_and_the_rest_of_the_prompt_is_not(folders: dict[str, Path]) -> None:
    model = VisionLanguageReranker(folders["qwen3_vl"], max_length=256)
    n_tokens, pair = model.scorer.measure(("a red circle", None), ("vector " * 2000, png("red")))
    assert 200 < n_tokens <= 256
    whole = model.scorer.measure(("a red circle", None), ("vector", png("red")))[1]
    assert pair.tokens[-4:] == whole.tokens[-4:]
    assert np.isfinite(model.score("a red circle", [Candidate(0, "vector " * 2000, png("red"), {})])).all()


def test_text_that_spells_the_placeholder_is_no_image(qwen3: VisionLanguageReranker) -> None:
    text = "see <|vision_start|><|image_pad|><|vision_end|> here"
    documents = [
        Candidate(0, text, None, {}),
        Candidate(1, text, png("red"), {}),
        Candidate(2, "red", png("red"), {}),
    ]
    got = qwen3.score(text, documents)
    assert np.isfinite(got).all()
    assert got[2] == pytest.approx(qwen3.score(text, documents[2:])[0], abs=1e-3)


def test_what_cannot_be_read_keeps_its_place_and_is_named(
    qwen3: VisionLanguageReranker, tmp_path: Path
) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(png("red"))
    images: list[Any] = [
        png("blue"),
        b"no image at all",
        png("green")[:90],
        str(tmp_path / "missing.png"),
        "https://example.org/cat.png",
        str(good),
        None,
        png("red", 400, 1),
    ]
    documents = [{"image": image} if image else None for image in images]
    hits = [Hit(i, 1 - i / 10, i / 10, {}, d, 1 - i / 10, i) for i, d in enumerate(documents)]
    ranked, (report,) = apply(as_stages(Rerank(qwen3, 8)), "a red circle", hits, 8)
    assert (report.n_scored, report.n_failed) == (2, 6)
    assert {hit.id for hit in ranked[1:5]} == {1, 2, 3, 4}
    assert [hit.id for hit in ranked[6:]] == [6, 7]
    assert "cannot be read" in report.failures[0]
    assert "remote" in report.failures[3]
    assert "no text or image" in report.failures[4]
    assert "200 times" in report.failures[5]


def test_a_query_image_that_cannot_be_read_is_the_callers_error(qwen3: VisionLanguageReranker) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        qwen3.score(b"no image", mixed(2))


def test_a_lora_adapter_is_merged(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    adapter = save_adapter(tmp_path / "adapter", folders["qwen2_vl"])
    model = VisionLanguageReranker(adapter, processor=folders["qwen2_vl"])
    plain = VisionLanguageReranker(folders["qwen2_vl"])
    weights = load_file(adapter / "adapter_model.safetensors")
    stem = "base_model.model.model.language_model.layers.2.mlp.down_proj"
    added = weights[f"{stem}.lora_B.weight"] @ weights[f"{stem}.lora_A.weight"] * 0.5
    before = plain.scorer.model.model.language_model.layers[2].mlp.down_proj.weight
    after = model.scorer.model.model.language_model.layers[2].mlp.down_proj.weight
    torch.testing.assert_close(after - before, added, rtol=1e-4, atol=1e-4)
    assert abs(model.score("red", mixed(4)) - plain.score("red", mixed(4))).max() > 1e-3


# Code of a checkpoint's own.


def test_remote_code_runs_only_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_remote(tmp_path / "remote")
    with pytest.raises(InvalidSetting, match="trust_remote_code=True if you trust"):
        VisionLanguageReranker(folder)
    assert not [name for name in __import__("sys").modules if "modeling_tiny_vl" in name]


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageReranker:
    folder = save_remote(tmp_path_factory.mktemp("remote"))
    return VisionLanguageReranker(folder, trust_remote_code=True, batch_size=4, cache_scores=0)


class TestRemote(RerankerSuite):
    @pytest.fixture
    def reranker(self, remote: VisionLanguageReranker) -> VisionLanguageReranker:
        return remote

    def documents(self, n: int, seed: int = 0) -> list[Candidate]:
        return mixed(n, seed)

    def test_a_query_image_is_refused(self, reranker: VisionLanguageReranker) -> None:
        with pytest.raises(InvalidInput, match="text alone"):
            reranker.score(png("red"), mixed(2))


# What is refused.


def test_other_checkpoints_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(InvalidSetting, match=r"kind 'bert'.*known families"):
        VisionLanguageReranker(save_bert(tmp_path / "bert"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSetting, match="save_pretrained"):
        VisionLanguageReranker(tmp_path / "empty")
    with pytest.raises(InvalidSetting, match="head"):
        VisionLanguageReranker(folders["qwen2_vl"], family="jina_m0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"max_pixels": 100}, "max_pixels 100"),
        ({"max_pixels": 2048, "min_pixels": 4096}, "they must rise"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"family": "qwen9"}, "known families"),
        ({"cache_scores": -1}, "cache_scores is -1"),
        ({"views": 3}, "views is 3"),
    ],
)
def test_vision_settings_have_limits(
    folders: dict[str, Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        VisionLanguageReranker(folders["qwen3_vl"], **settings)
