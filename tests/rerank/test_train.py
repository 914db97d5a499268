"""Fine-tuning: mined lists, the loss, exact resumption, and folders that the re-ranker's own class loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vstore
from vstore.errors import CorruptData, InvalidInput, InvalidSetting
from vstore.rerank import CrossEncoderReranker, LexicalReranker, VisionLanguageReranker
from vstore.rerank.train import LoRA, PhotoAugment, TrainQuery, TrainResult, TrainSettings, fine_tune, mine
from vstore.rerank.train.batches import Sampler
from vstore.rerank.train.trainable import TextTrainable
from vstore.types import Candidate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_checkpoints import save_bert, save_causal  # noqa: E402
from tiny_vision import png, save_vision  # noqa: E402

COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
QUICK = TrainSettings(
    n_steps=6,
    learning_rate=1e-3,
    batch_queries=2,
    n_negatives=2,
    eval_every=3,
    checkpoint_every=2,
    patience=0,
    guard=None,
)


def shelf(images: bool = False) -> vstore.Collection:
    """Return rows of every colour and shape, three of each; the vectors tell shapes and not colours."""
    random = np.random.default_rng(0)
    made = vstore.connect("memory://").create_collection(
        "shelf", dim=8, metric="cosine", fields={"shape": "str"}
    )
    rows = [(color, shape) for color in COLORS for shape in SHAPES for _ in range(3)]
    vectors = random.normal(size=(len(rows), 8)).astype(np.float32)
    for row, (_, shape) in enumerate(rows):
        vectors[row, SHAPES.index(shape)] += 3
    documents: list[Any] = [f"a {color} {shape} of number {row}" for row, (color, shape) in enumerate(rows)]
    if images:
        documents = [{"image": png(color, 64 + row, 64)} for row, (color, _) in enumerate(rows)]
    made.upsert(
        range(len(rows)), vectors, attributes=[{"shape": shape} for _, shape in rows], documents=documents
    )
    return made


def queries() -> list[TrainQuery]:
    """Return a query for each colour and shape under the shape's filter."""
    found = []
    for place, color in enumerate(COLORS):
        for at, shape in enumerate(SHAPES):
            first = (place * len(SHAPES) + at) * 3
            vector = np.eye(8, dtype=np.float32)[at]
            found.append(TrainQuery(vector, f"a {color} {shape}", range(first, first + 3), {"shape": shape}))
    return found


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    found: dict[str, Any] = load_file(file)
    return found


def candidates(images: bool = False) -> list[Candidate]:
    if images:
        return [Candidate(i, None, png(color), {}) for i, color in enumerate(COLORS)]
    return [Candidate(i, f"a {color} circle", None, {}) for i, color in enumerate(COLORS)]


# Mining.


def test_negatives_are_hits_under_the_filter_without_any_positive() -> None:
    (found,) = mine(shelf(), queries()[:1], depth=50, guard=None)
    assert {each.id for each in found.positives} == {0, 1, 2}
    assert {each.attributes["shape"] for each in found.negatives} == {"circle"}
    assert {each.id for each in found.negatives} == {9, 10, 11, 18, 19, 20, 27, 28, 29}
    hits = shelf().search(queries()[0].vector, k=50, filter={"shape": "circle"})
    assert [each.id for each in found.ranked] == hits.ids
    assert [each.id for each in found.negatives] == [key for key in hits.ids if key > 2]


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_the_guard_drops_what_lies_nearer_than_the_best_positive(metric: str) -> None:
    made = vstore.connect("memory://").create_collection("line", dim=2, metric=metric)
    angles = np.radians([0, 10, 20, 30, 40, 80])
    made.upsert(
        range(6), np.stack([np.cos(angles), np.sin(angles)], axis=1), documents=[f"row {i}" for i in range(6)]
    )
    query = TrainQuery([1.0, 0.0], "row", [2])
    (found,) = mine(made, [query], guard=1.0)
    assert [each.id for each in found.negatives] == [3, 4, 5]
    assert found.doubtful == {0, 1}
    (stricter,) = mine(made, [query], guard=0.8)
    assert [each.id for each in stricter.negatives] == [4, 5]
    (everything,) = mine(made, [query], guard=None)
    assert [each.id for each in everything.negatives] == [0, 1, 3, 4, 5]


def test_a_copy_of_a_positive_is_no_negative() -> None:
    made = vstore.connect("memory://").create_collection("copies", dim=2, metric="l2")
    made.upsert([1, 2, 3], [[0, 0], [0, 1], [0, 2]], documents=["same", "same", "other"])
    (found,) = mine(made, [TrainQuery([0, 0], "q", [1])], guard=None)
    assert [each.id for each in found.negatives] == [3]
    assert found.doubtful == {2}


def test_a_positive_that_is_not_stored_is_named() -> None:
    with pytest.raises(InvalidInput, match="999"):
        mine(shelf(), [dataclasses.replace(queries()[0], positives=[999])])


# The loss.


def test_the_loss_is_cross_entropy_over_each_answer_and_the_wrong_documents() -> None:
    from vstore.rerank.train.batches import Batch, listwise_loss

    logits = torch.randn(9, generator=torch.Generator().manual_seed(0))
    batch = Batch(
        rows=[0, 0, 0, 1, 1, 1, 1, 2, 3], answers=[True, False, False, True, True, False, False, True, False]
    )
    found = listwise_loss(torch, logits, batch, temperature=0.5)
    scaled = (logits / 0.5).tolist()

    def one(answer: int, wrong: list[int]) -> float:
        lot = np.exp([scaled[answer], *(scaled[i] for i in wrong)])
        return float(-np.log(lot[0] / lot.sum()))

    first = one(0, [1, 2])
    second = (one(3, [5, 6]) + one(4, [5, 6])) / 2
    # Rows 2 and 3 have one kind each.
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-5)
    assert listwise_loss(torch, logits[:1], Batch(rows=[0], answers=[True]), 1.0) is None


# Training and going on.


def run(
    base: Path, folder: Path, settings: TrainSettings = QUICK, until: int | None = None, **more: Any
) -> TrainResult:
    images = "image" in more and more.pop("image")
    kind: Callable[..., Any] = VisionLanguageReranker if images else CrossEncoderReranker
    more = {"held_out": 0.25, "progress": None, **more}
    return fine_tune(kind(base), shelf(images), queries(), folder, settings=settings, until=until, **more)


@pytest.mark.parametrize(("lora", "average"), [(None, None), (None, 0.7), (LoRA(rank=2, dropout=0.2), None)])
def test_a_training_that_stopped_ends_with_the_same_weights(
    tmp_path: Path, lora: LoRA | None, average: float | None
) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    base = save_bert(tmp_path / "base")  # BERT has dropout: its random numbers must go on too.
    settings = dataclasses.replace(QUICK, lora=lora, average=average, accumulate=2)
    whole = run(base, tmp_path / "whole", settings)
    for until in (1, 4):
        part = run(base, tmp_path / "parts", settings, until)
        assert not part.finished
        assert part.n_steps == until
    rest = run(base, tmp_path / "parts", settings)
    assert rest.finished
    assert rest.history == whole.history
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_vision_training_with_augmented_images_goes_on_too(tmp_path: Path) -> None:
    base = save_vision(tmp_path / "base", "qwen3_vl")
    settings = dataclasses.replace(QUICK, n_steps=4)
    more = {"image": True, "augment": PhotoAugment(), "held_out": 0}
    run(base, tmp_path / "whole", settings, **more)
    run(base, tmp_path / "parts", settings, 3, **more)
    run(base, tmp_path / "parts", settings, **more)
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    before = weights_of(base)
    assert any(not torch.equal(before[name], one[name]) for name in before)


def test_the_average_is_of_the_weights_of_every_step(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base")
    settings = dataclasses.replace(QUICK, n_steps=4)
    wanted: dict[str, Any] = {}
    for step in (1, 2, 3, 4):
        run(base, tmp_path / "plain", settings, step if step < 4 else None, held_out=0)
        if step < 4:
            held = torch.load(tmp_path / "plain" / "checkpoint.pt", weights_only=True)["weights"]
        else:
            held = weights_of(tmp_path / "plain")
        share = 1 - min(0.3, step / (9 + step))
        for name, weight in held.items():
            wanted[name] = wanted.get(name, weight) * (1 - share) + weight * share
    run(base, tmp_path / "averaged", dataclasses.replace(settings, average=0.3), held_out=0)
    found = weights_of(tmp_path / "averaged")
    assert set(found) == set(wanted)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in found)
    assert any(not torch.allclose(found[name], held[name], atol=1e-6) for name in found)


def test_averaged_weights_are_measured_and_training_goes_on_from_its_own(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base")
    settings = dataclasses.replace(QUICK, average=0.7)
    rare = run(base, tmp_path / "rare", dataclasses.replace(settings, eval_every=6))
    often = run(base, tmp_path / "often", dataclasses.replace(settings, eval_every=1))
    # Measuring at every step leaves the losses, and so the weights, as they are.
    losses = [loss for _, loss, _ in often.history]
    assert float(np.mean(losses)) == pytest.approx(rare.history[-1][1], rel=1e-6)
    assert often.history[-1][2] == rare.history[-1][2]


def test_an_interrupt_leaves_a_checkpoint(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base")
    whole = run(base, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "parts", progress=interrupt)
    assert run(base, tmp_path / "parts").history == whole.history
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_what_the_first_stage_cannot_tell(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = dataclasses.replace(QUICK, n_steps=40, batch_queries=4, eval_every=20)
    result = run(base, tmp_path / "tuned", settings, held_out=queries())
    assert result.finished
    assert result.ndcg_best > result.ndcg_first + 0.2
    (blue,) = [query for query in queries() if query.document == "a blue circle"]
    tuned = CrossEncoderReranker(tmp_path / "tuned")
    hits = shelf().search(
        blue.vector, k=1, filter=blue.filter, rerank=tuned, rerank_depth=12, query_document=blue.document
    )
    assert hits[0].id in blue.positives


def test_it_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base")
    settings = dataclasses.replace(QUICK, n_steps=50, eval_every=1, patience=3, learning_rate=1e-9)
    result = run(base, tmp_path / "tuned", settings)
    # So small a rate changes no order: the first measurement stays the best.
    assert (result.finished, result.n_steps, result.best_step) == (True, 4, 1)


# What is written loads.


@pytest.mark.parametrize("kind", ["bert", "qwen2", "qwen3"])
@pytest.mark.parametrize("lora", [None, LoRA(rank=2), LoRA(rank=2, merge=True)])
def test_a_text_model_loads_and_scores_as_in_memory(tmp_path: Path, kind: str, lora: LoRA | None) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    base = save_bert(tmp_path / "base") if kind == "bert" else save_causal(tmp_path / "base", kind)
    model = CrossEncoderReranker(base)
    before = model.score("a red circle", candidates())
    settings = dataclasses.replace(QUICK, n_steps=2, lora=lora)
    fine_tune(model, shelf(), queries(), tmp_path / "tuned", settings=settings, held_out=0, progress=None)
    after = model.score("a red circle", candidates())
    assert not np.allclose(before, after)
    np.testing.assert_allclose(
        CrossEncoderReranker(tmp_path / "tuned").score("a red circle", candidates()), after, atol=1e-4
    )
    assert (tmp_path / "tuned" / "adapter_config.json").exists() == (lora is not None and not lora.merge)


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("qwen3_vl", None),
        ("qwen2_vl", None),
        ("jina_m0", None),
        ("qwen3_vl", LoRA(rank=2)),
        ("qwen2_vl", LoRA(rank=2)),
    ],
)
def test_a_vision_model_loads_and_scores_as_in_memory(tmp_path: Path, family: str, lora: LoRA | None) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    model = VisionLanguageReranker(save_vision(tmp_path / "base", family), max_pixels=64 * 64)
    before = model.score("a red circle", candidates(images=True))
    settings = dataclasses.replace(QUICK, n_steps=2, lora=lora, precision="bfloat16")
    fine_tune(
        model, shelf(images=True), queries(), tmp_path / "tuned", settings=settings, held_out=0, progress=None
    )
    after = model.score("a red circle", candidates(images=True))
    assert not np.allclose(before, after)
    # The pixel limits of the training were written too.
    loaded = VisionLanguageReranker(tmp_path / "tuned")
    np.testing.assert_allclose(loaded.score("a red circle", candidates(images=True)), after, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_vl", "jina_m0"])
def test_images_seen_once_give_the_same_logits(tmp_path: Path, family: str) -> None:
    from vstore.rerank.train.trainable import trainable_of

    model = VisionLanguageReranker(save_vision(tmp_path, family))
    made = trainable_of(model, QUICK, None)
    documents = [
        *candidates(images=True),
        Candidate(7, "a text", None, {}),
        Candidate(8, "and text", png("red", 64, 128), {}),
    ]
    asked = [
        "a red circle",
        "something blue that takes more words",
        {"image": png("green"), "text": "like it"},
    ]
    pairs = [made.prepare(query, document, 0) for query in asked for document in documents]
    with torch.no_grad():
        once = made.logits(pairs)
        plain = model.scorer.logits(model.scorer.batch(pairs))  # type: ignore[union-attr]
    torch.testing.assert_close(once, plain, atol=1e-4, rtol=1e-4)


def test_frozen_weights_keep_their_values(tmp_path: Path) -> None:
    base = save_vision(tmp_path / "base", "qwen3_vl")
    settings = dataclasses.replace(QUICK, n_steps=2, freeze=("visual.",))
    run(base, tmp_path / "tuned", settings, image=True, held_out=0)
    before, after = weights_of(base), weights_of(tmp_path / "tuned")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "visual" in name]


# What is refused.


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "base")
    run(base, tmp_path / "tuned", until=2)
    with pytest.raises(InvalidSetting, match="another model, other settings"):
        run(base, tmp_path / "tuned", dataclasses.replace(QUICK, learning_rate=1.0))
    (tmp_path / "tuned" / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(CorruptData, match="remove it"):
        run(base, tmp_path / "tuned")


def test_a_finished_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(InvalidInput, match="finished"):
        fine_tune(LexicalReranker(), shelf(), queries(), tmp_path, progress=None)


def test_what_cannot_be_trained_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="LexicalReranker"):
        fine_tune(LexicalReranker(), shelf(), queries(), tmp_path / "a", progress=None)
    half = CrossEncoderReranker(save_bert(tmp_path / "base"), dtype="bfloat16")
    with pytest.raises(InvalidSetting, match="dtype='float32'"):
        fine_tune(half, shelf(), queries(), tmp_path / "b", progress=None)
    with pytest.raises(InvalidInput, match="no positives"):
        fine_tune(
            half, shelf(), [dataclasses.replace(queries()[0], positives=[])], tmp_path / "c", progress=None
        )
    alone = [dataclasses.replace(each, positives=range(36)) for each in queries()]
    with pytest.raises(InvalidInput, match="wrong document"):
        fine_tune(half, shelf(), alone, tmp_path / "d", progress=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_steps": 0},
        {"learning_rate": 0},
        {"guard": 1.5},
        {"precision": "int8"},
        {"warmup": 2},
        {"freeze": "visual"},
        {"average": 1.0},
    ],
)
def test_settings_outside_their_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        TrainSettings(**wrong)
    with pytest.raises(InvalidSetting, match="rank"):
        LoRA(rank=0)


def test_tokens_that_are_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vstore.rerank.train.trainable.KNOWN_PAIRS", 3)
    made = TextTrainable(CrossEncoderReranker(save_bert(tmp_path)))
    documents = [Candidate(i, text, None, {}) for i, text in enumerate(["open", "file", "archive", "of"])]
    first = [made.prepare("open", document, 0) for document in documents]
    assert len(made._known) == 3
    assert made.prepare("open", documents[3], 0) is first[3]
    assert made.prepare("open", documents[0], 0) == first[0], "forgotten, and encoded again"


def test_an_epoch_is_drawn_once_and_a_pass_does_not_depend_on_those_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pairs:
        def prepare(self, query: Any, document: Candidate, version: int) -> Any:
            return query, document.id

    mined = mine(shelf(), queries(), depth=20)
    drawn: list[int] = []
    epoch = Sampler._epoch

    def counted(self: Sampler, number: int) -> list[list[int]]:
        drawn.append(number)
        return epoch(self, number)

    monkeypatch.setattr(Sampler, "_epoch", counted)
    made: Any = Pairs()
    sampler = Sampler(mined, made, QUICK, augmented=False)
    n = sampler.n_in_epoch
    passes = [sampler.batch(number) for number in range(2 * n)]
    assert drawn == [0, 1]
    assert sampler.batch(1) == passes[1]
    assert Sampler(mined, made, QUICK, augmented=False).batch(2 * n - 1) == passes[-1]
