"""Scoring with Qwen-VL trunks: tokens and image sizes first, pixels on threads, one dot product last.

Tokenizer and image processor are taken by name: AutoProcessor insists on torchvision for videos, which no
re-ranker reads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vstore.errors import InvalidDocument, InvalidSetting
from vstore.rerank.images import ImageReader, view_of
from vstore.rerank.lora import base_of, open_weights
from vstore.rerank.pairs import encodable
from vstore.rerank.torch_parts import named_error, read_weights
from vstore.rerank.vision_prompts import FAMILIES, IMAGE_PAD, JINA_BIAS, Family, Parts, family_of, prompt_of
from vstore.settings import require
from vstore.types import Float32s


@dataclass(frozen=True, slots=True)
class VisionSettings:
    """How a vision-language model is opened and fed."""

    family: str | None
    processor: str | None
    instruction: str | None
    min_pixels: int | None
    max_pixels: int | None
    max_length: int
    dtype: str
    attention: str
    trust_remote_code: bool
    views: int = 1


@dataclass(slots=True)
class VisionPair:
    """One pair before and after its images were decoded. `tokens` has each placeholder widened."""

    tokens: list[int]
    images: list[Any]
    # Of all images in the first view, then of all in the next.
    pixels: list[Any] | None = None
    grids: list[Any] | None = None


class QwenVisionScorer:
    """Qwen3-VL-Reranker, jina-reranker-m0 and MonoQwen2-VL: raw log-odds of "relevant".

    Raises:
        InvalidSetting: the checkpoint is of no known family, lacks weights or files, or cannot be opened.
        MissingDependency: it needs a package that is not installed.
    """

    def __init__(
        self,
        path: str,
        torch: Any,
        transformers: Any,
        config: Any,
        *,
        device: Any,
        settings: VisionSettings,
        reader: ImageReader,
    ) -> None:
        self._torch, self._device, self._reader = torch, device, reader
        self._views = settings.views
        self.family = _family(path, config, settings.family)
        self._instruction = (
            settings.instruction if settings.instruction is not None else self.family.instruction or ""
        )
        require(
            settings.instruction is None or self.family.instruction is not None,
            f"{path!r} is of family {self.family.name}, which reads no instruction; leave instruction out",
        )
        source = settings.processor or path
        try:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

            model = self._load(path, transformers, settings)
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            self.processor = Qwen2VLImageProcessorPil.from_pretrained(source)
        except Exception as error:  # Whatever the libraries under transformers raise over bad files.
            raise named_error(path, "a vision-language re-ranker", error) from error
        self._set_pixels(settings)
        self._pad = _token(self.tokenizer, IMAGE_PAD, path)
        require(
            self._pad == config.image_token_id,
            f"the tokenizer of {source!r} has {IMAGE_PAD} at {self._pad} and the model expects "
            f"{config.image_token_id}: they are of different models",
        )
        self.model = model.eval().to(device)
        self._trunk = self.model.model
        self.head = self._answer_head(path)
        self._fill = self.tokenizer.pad_token_id or 0
        self._tokenizing = threading.Lock()
        limit = int(config.text_config.max_position_embeddings)
        self.max_length = min(settings.max_length, limit)

    # Before the device: tokens and sizes.

    def measure(self, query: Parts, document: Parts) -> tuple[int, VisionPair]:
        """Return the pair's true token count, known from text and image sizes, and the pair.

        Raises:
            InvalidDocument: an image is missing, refused or unreadable, or the pair is too long.
        """
        prompt, images = prompt_of(self.family, query, document, self._instruction)
        counts = [self._n_image_tokens(image) for image in images]
        tokens = self._tokens(prompt, counts)
        if len(tokens) > self.max_length:
            tokens = self._cut(query, document, counts, len(tokens) - self.max_length)
        return len(tokens), VisionPair(tokens, images)

    def _tokens(self, prompt: str, counts: Sequence[int]) -> list[int]:
        with self._tokenizing:
            ids: list[int] = self.tokenizer(encodable(prompt), add_special_tokens=False)["input_ids"]
        widened: list[int] = []
        left = iter(counts)
        for token in ids:
            # A text may spell the placeholder itself: it has no image then.
            widened += [token] * next(left, 0) if token == self._pad else [token]
        return [*widened, *self.family.tail]

    def _cut(self, query: Parts, document: Parts, counts: Sequence[int], excess: int) -> list[int]:
        text = document[0] or ""
        with self._tokenizing:
            ids = self.tokenizer(encodable(text), add_special_tokens=False)["input_ids"]
        for spare in (2, 16, 128):
            if excess + spare >= len(ids):
                break
            shorter = self.tokenizer.decode(ids[: len(ids) - excess - spare])
            prompt, _ = prompt_of(self.family, query, (shorter, document[1]), self._instruction)
            tokens = self._tokens(prompt, counts)
            if len(tokens) <= self.max_length:
                return tokens
        raise InvalidDocument(
            f"the pair has {self.max_length + excess} tokens without its document's text being the cause; "
            f"the limit is max_length={self.max_length}: lower max_pixels, or shorten the query"
        )

    def _n_image_tokens(self, image: Any) -> int:
        width, height = self._reader.open(image).size
        processor = self.processor
        side = processor.patch_size * processor.merge_size
        if max(width, height) > 200 * min(width, height):
            raise InvalidDocument(f"image has {width} x {height} pixels; no side may be 200 times the other")
        high, wide = resized(
            height, width, side, processor.size["shortest_edge"], processor.size["longest_edge"]
        )
        return (high // side) * (wide // side)

    # On decode threads, and on the worker.

    def decode(self, pair: VisionPair) -> VisionPair:
        """Return the pair with the pixels of its images as the model takes them.

        Raises:
            InvalidDocument: an image is damaged.
        """
        if not pair.images:
            return pair
        pictures = [self._reader.decode(image) for image in pair.images]
        inputs = [
            self.processor(images=[view_of(picture, view)], return_tensors="pt")
            for view in range(self._views)
            for picture in pictures
        ]
        return replace(
            pair,
            pixels=[each["pixel_values"] for each in inputs],
            grids=[each["image_grid_thw"] for each in inputs],
        )

    def batch(self, pairs: Sequence[VisionPair], view: int = 0) -> dict[str, Any]:
        """Return a batch's tensors on the device, padded at the left, with one view of its images."""
        torch = self._torch
        longest = max(len(pair.tokens) for pair in pairs)
        ids = np.full((len(pairs), longest), self._fill, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            ids[row, longest - len(pair.tokens) :] = pair.tokens
            mask[row, longest - len(pair.tokens) :] = 1
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "mm_token_type_ids": torch.from_numpy(((ids == self._pad) & (mask == 1)).astype(np.int32)),
        }
        seen = [
            each
            for pair in pairs
            for each in list(zip(pair.pixels or (), pair.grids or (), strict=True))[_of_view(pair, view)]
        ]
        if seen:
            inputs["pixel_values"] = torch.cat([pixels for pixels, _ in seen]).to(self.model.dtype)
            inputs["image_grid_thw"] = torch.cat([grid for _, grid in seen])
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in inputs.items()}

    def forward(self, pairs: list[VisionPair]) -> Float32s:
        """Return float32[n], raw log-odds: the mean over the views."""
        n = self._views if any(pair.images for pair in pairs) else 1
        with self._torch.inference_mode():
            scores: Float32s = sum(self.logits(self.batch(pairs, view)) for view in range(n)).cpu().numpy()
        return scores / np.float32(n)

    def logits(self, inputs: dict[str, Any]) -> Any:
        """Return a float32 tensor [n] of raw log-odds, with gradients where they are on."""
        return self._answer(self._trunk(**inputs, use_cache=False).last_hidden_state[:, -1])

    def logits_once(self, pairs: Sequence[VisionPair]) -> Any:
        """Return what `logits` does; each different image of the batch goes through the vision tower once.

        Images are the same where their `pixels` are one tensor, as in training, where many queries of a batch
        read the same documents.
        """
        torch = self._torch
        images = [each for pair in pairs for each in zip(pair.pixels or (), pair.grids or (), strict=True)]
        if not images:
            return self.logits(self.batch(pairs))
        unique = {id(pixels): (pixels, grid) for pixels, grid in images}
        place = {key: row for row, key in enumerate(unique)}
        inputs = self.batch([replace(pair, pixels=None, grids=None) for pair in pairs])
        pixels = torch.cat([each for each, _ in unique.values()]).to(self._device, self.model.dtype)
        grids = torch.cat([grid for _, grid in unique.values()]).to(self._device)
        seen = self._trunk.get_image_features(pixels, grids, return_dict=True)
        sizes = [len(each) for each in seen.pooler_output]
        order = [place[id(each)] for each, _ in images]
        ids = inputs["input_ids"]
        at = inputs["mm_token_type_ids"] == 1
        embedded = self._trunk.get_input_embeddings()(ids)
        wide = torch.cat([seen.pooler_output[i] for i in order]).to(embedded.dtype)
        embedded = embedded.masked_scatter(at.unsqueeze(-1), wide)
        extra = {}
        levels = getattr(seen, "deepstack_features", None)
        if levels:
            # One tensor a level up to transformers 5.17, one a level and image since.
            split = [each.split(sizes) if isinstance(each, torch.Tensor) else each for each in levels]
            deep = [torch.cat([level[i] for i in order]) for level in split]
            extra = {"visual_pos_masks": at, "deepstack_visual_embeds": deep}
        hidden = self._trunk.language_model(
            inputs_embeds=embedded,
            attention_mask=inputs["attention_mask"],
            position_ids=self._positions(pairs, inputs),
            use_cache=False,
            **extra,
        ).last_hidden_state
        return self._answer(hidden[:, -1])

    def _positions(self, pairs: Sequence[VisionPair], inputs: dict[str, Any]) -> Any:
        """Return int64[3, n, length], the places of a batch's tokens in time, height and width.

        They follow from where a pair's images stand and how large they are. transformers looks at one pair
        after another, which took a fifth of a small model's training step; pairs that are laid out alike are
        looked at once here.
        """
        kinds, shown = (inputs[name].cpu().numpy() for name in ("mm_token_type_ids", "attention_mask"))
        layouts: dict[Any, int] = {}
        like: list[int] = []
        firsts: list[int] = []
        for row, pair in enumerate(pairs):
            sizes = tuple(tuple(grid.flatten().tolist()) for grid in pair.grids or ())
            key = (kinds[row].tobytes(), shown[row].tobytes(), sizes)
            if key not in layouts:
                layouts[key] = len(firsts)
                firsts.append(row)
            like.append(layouts[key])
        positions, _ = self._trunk.get_rope_index(
            inputs["input_ids"][firsts],
            image_grid_thw=self._torch.cat([grid for row in firsts for grid in pairs[row].grids or ()]),
            attention_mask=inputs["attention_mask"][firsts],
            mm_token_type_ids=inputs["mm_token_type_ids"][firsts],
        )
        return positions[:, like]

    def _answer(self, hidden: Any) -> Any:
        if isinstance(self.head, tuple):
            weight = self.model.lm_head.weight
            yes, no = self.head
            return hidden.float() @ (weight[yes].float() - weight[no].float())
        return self.head(hidden).float().squeeze(-1) - JINA_BIAS

    # Opening.

    def _load(self, path: str, transformers: Any, settings: VisionSettings) -> Any:
        kind = getattr(transformers, self.family.model_class)
        torch_dtype = getattr(self._torch, settings.dtype)
        return open_weights(
            path,
            kind,
            allowed=("lm_head.weight",) if self.family.answers is None else (),
            dtype=torch_dtype,
            attn_implementation=settings.attention,
        )

    def _answer_head(self, path: str) -> Any:
        if self.family.answers is not None:
            return tuple(_token(self.tokenizer, word, path) for word in self.family.answers)
        torch = self._torch
        weights = read_weights(base_of(path), "score.")
        expected = {"score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias"}
        require(
            set(weights) == expected, f"{path!r} has the head {sorted(weights)}, expected {sorted(expected)}"
        )
        size = weights["score.0.weight"].shape[1]
        head = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 1))
        head.load_state_dict({name.removeprefix("score."): tensor for name, tensor in weights.items()})
        return head.eval().to(self._device, self.model.dtype)

    def _set_pixels(self, settings: VisionSettings) -> None:
        least, most = (self.processor.size[name] for name in ("shortest_edge", "longest_edge"))
        if self.family.max_pixels is not None:
            most = min(most, self.family.max_pixels)
        most = settings.max_pixels or most
        least = settings.min_pixels or min(least, most)
        side = self.processor.patch_size * self.processor.merge_size
        require(
            side * side <= most and least <= most,
            f"min_pixels is {least} and max_pixels {most}; they must rise, and this model's images have "
            f"at least {side * side} pixels, one token",
        )
        self.processor.size = {"shortest_edge": int(least), "longest_edge": int(most)}


def resized(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """Return the size that the image processor gives an image: multiples of `side` within the pixel limits.

    The arithmetic of Qwen2-VL's smart_resize (Wang et al. 2024, section 2.1), so that token counts are known
    from a header; a test compares it with the processor's own.
    """
    high, wide = round(height / side) * side, round(width / side) * side
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high = max(side, math.floor(height / shrink / side) * side)
        wide = max(side, math.floor(width / shrink / side) * side)
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high, wide = math.ceil(height * grow / side) * side, math.ceil(width * grow / side) * side
    return high, wide


def _of_view(pair: VisionPair, view: int) -> slice:
    return slice(view * len(pair.images), (view + 1) * len(pair.images))


def _family(path: str, config: Any, asked: str | None) -> Family:
    # With another kind's config transformers would build the full size at random first.
    name = (asked or family_of(config)) if config.model_type in ("qwen3_vl", "qwen2_vl") else None
    if name is None or name not in FAMILIES:
        raise InvalidSetting(
            f"{path!r} is of kind {config.model_type!r} "
            f"({', '.join(config.architectures or ['no architecture'])}); "
            f"known families: {', '.join(FAMILIES)} (give family=), and remote code "
            "with trust_remote_code=True"
        )
    return FAMILIES[name]


def _token(tokenizer: Any, word: str, path: str) -> int:
    found = tokenizer(word, add_special_tokens=False)["input_ids"]
    require(len(found) == 1, f"the tokenizer of {path!r} writes {word!r} as {len(found)} tokens, expected 1")
    return int(found[0])
