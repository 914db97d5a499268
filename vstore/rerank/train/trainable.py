"""Models as training drives them: pairs to logits with gradients, and folders that their class loads."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from vstore.errors import InvalidInput, InvalidSetting, MissingDependency
from vstore.rerank.cross_encoder import CrossEncoderReranker
from vstore.rerank.documents import document_text, query_parts, query_text
from vstore.rerank.train.settings import TrainSettings
from vstore.rerank.train.views import Augment, View, Views
from vstore.rerank.vision_language import VisionLanguageReranker
from vstore.rerank.vision_qwen import QwenVisionScorer
from vstore.types import Candidate

CHECKPOINT_BYTES = "200GB"
"""One file a checkpoint: no re-ranker is near it, and a head of one's own joins it."""

KNOWN_PAIRS = 10_000
"""Pairs whose tokens are remembered, those used last; each takes about 40 bytes a token."""


class Trainable(Protocol):
    """One kind of re-ranker in training. `modules` are trained, by the prefix of their weights' names."""

    modules: dict[str, Any]
    device: Any
    path: str

    def prepare(self, query: Any, document: Candidate, version: int) -> Any:
        """Return one pair; raises InvalidInput where it cannot be read."""

    def logits(self, pairs: Sequence[Any]) -> Any:
        """Return a float32 tensor [n] with gradients."""

    def save(self, folder: Path, adapter: Any) -> None:
        """Write the model, or its `adapter` alone, and what else its class needs to load it."""


def trainable_of(reranker: Any, settings: TrainSettings, augment: Augment | None) -> Trainable:
    """Return a re-ranker's side of training.

    Raises:
        InvalidSetting: it is no kind that can be trained, or its weights are not float32.
    """
    if isinstance(reranker, VisionLanguageReranker) and isinstance(reranker.scorer, QwenVisionScorer):
        made: Trainable = VisionTrainable(reranker, settings, augment)
    elif isinstance(reranker, CrossEncoderReranker):
        made = TextTrainable(reranker)
    else:
        raise InvalidSetting(
            f"{reranker!r} cannot be trained; give a CrossEncoderReranker, or a VisionLanguageReranker that "
            "runs no code of its own checkpoint"
        )
    dtypes = {str(weight.dtype) for module in made.modules.values() for weight in module.parameters()}
    if settings.lora is None and dtypes != {"torch.float32"}:
        raise InvalidSetting(
            f"the weights are {', '.join(sorted(dtypes))}, in which small updates vanish; open the re-ranker "
            "with dtype='float32' (precision= still runs it in bfloat16), or train with lora=LoRA()"
        )
    return made


class TextTrainable:
    """A CrossEncoderReranker, classification or causal."""

    def __init__(self, reranker: CrossEncoderReranker) -> None:
        self._reranker = reranker
        self._scorer = reranker.scorer
        self.modules = {"": self._scorer.model}
        self.device, self.path = reranker.device, reranker.path
        self._known: OrderedDict[tuple[str, str], dict[str, list[int]]] = OrderedDict()

    def prepare(self, query: Any, document: Candidate, version: int) -> Any:
        """Return the tokens of a pair."""
        asked = query_text(query, "CrossEncoderReranker")
        text = document_text(document, self._reranker.fields)
        if text is None:
            raise InvalidInput("has no text")
        key = (asked, text)
        if key not in self._known:
            (self._known[key],) = self._scorer.encode(asked, [text])
            if len(self._known) > KNOWN_PAIRS:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def logits(self, pairs: Sequence[Any]) -> Any:
        """Return a float32 tensor [n]."""
        return self._scorer.logits(list(pairs))

    def save(self, folder: Path, adapter: Any) -> None:
        """Write weights and tokenizer."""
        (adapter or self._scorer.model).save_pretrained(folder)
        self._scorer.tokenizer.save_pretrained(folder)


class VisionTrainable:
    """A VisionLanguageReranker on a Qwen-VL trunk. An image that repeats in a batch is seen once."""

    def __init__(
        self, reranker: VisionLanguageReranker, settings: TrainSettings, augment: Augment | None
    ) -> None:
        self._reranker = reranker
        assert isinstance(reranker.scorer, QwenVisionScorer)
        self._scorer = scorer = reranker.scorer
        self.modules = {"": scorer.model}
        if not isinstance(scorer.head, tuple):
            self.modules["score."] = scorer.head
        self.device, self.path = reranker.device, reranker.path
        self._views = Views(reranker.images, self._process, augment, settings.seed)

    def prepare(self, query: Any, document: Candidate, version: int) -> Any:
        """Return a pair with its images' pixels. The query's image is never augmented."""
        text, image = query_parts(query)
        body = document_text(document, self._reranker.fields)
        if body is None and document.image is None:
            raise InvalidInput("has no text or image")
        used: list[View] = []

        def picture(reference: Any, wanted: int) -> Any:
            if reference is None:
                return None
            used.append(self._views.get(reference, wanted))
            return used[-1].picture

        asked = (text, picture(image, 0))
        answer = (body, picture(document.image, version))
        _, pair = self._scorer.measure(asked, answer)
        by_picture = {id(view.picture): view for view in used}
        views = [by_picture[id(each)] for each in pair.images]
        return replace(pair, pixels=[view.pixels for view in views], grids=[view.grid for view in views])

    def logits(self, pairs: Sequence[Any]) -> Any:
        """Return a float32 tensor [n]."""
        return self._scorer.logits_once(list(pairs))

    def save(self, folder: Path, adapter: Any) -> None:
        """Write weights, tokenizer and image processor, whose pixel limits are those of the training."""
        scorer = self._scorer
        (adapter or scorer.model).save_pretrained(
            folder, **({} if adapter else {"max_shard_size": CHECKPOINT_BYTES})
        )
        scorer.tokenizer.save_pretrained(folder)
        scorer.processor.save_pretrained(folder)
        if not isinstance(scorer.head, tuple) and adapter is None:
            _add_head(folder, scorer.head)

    def _process(self, picture: Any) -> tuple[Any, Any]:
        made = self._scorer.processor(images=[picture], return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]


def _add_head(folder: Path, head: Any) -> None:
    """Put jina-reranker-m0's head in the place of the language model's, and its name on the checkpoint."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}
    weights |= {f"score.{name}": tensor.cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "architectures": ["JinaVLForRanking"]}, indent=2)
    )


def with_lora(made: Trainable, settings: TrainSettings) -> Any:
    """Put a LoRA adapter over the model in place, the rest frozen; return peft's model, None without `lora`.

    Raises:
        MissingDependency: peft cannot be imported.
        InvalidSetting: it fits nowhere, or the model has a head beside it, which an adapter cannot hold.
    """
    asked = settings.lora
    if asked is None:
        return None
    try:
        import peft
    except ImportError as error:
        raise MissingDependency(f"LoRA needs peft ({error}); run: pip install 'vstore[train]'") from error
    for module in made.modules.values():
        module.requires_grad_(False)
    targets = asked.targets if isinstance(asked.targets, str) else list(asked.targets)
    config = peft.LoraConfig(
        r=asked.rank, lora_alpha=asked.alpha, lora_dropout=asked.dropout, target_modules=targets
    )
    try:
        adapted = peft.get_peft_model(made.modules[""], config)
    except ValueError as error:
        raise InvalidSetting(f"targets are {asked.targets!r}: {error}") from error
    described = adapted.peft_config["default"]
    described.base_model_name_or_path = (
        str(Path(made.path).resolve()) if Path(made.path).exists() else made.path
    )
    return adapted
