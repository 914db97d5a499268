"""Encoders of many vectors a text or image: ColBERT and ColQwen2, through transformers."""

from __future__ import annotations

import string
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vstore.errors import InvalidDocument
from vstore.rerank.documents import document_text, query_parts, query_text
from vstore.rerank.images import ImageLimits, ImageReader
from vstore.rerank.pairs import check_fields, encodable
from vstore.rerank.torch_parts import (
    DType,
    check_dtype,
    check_loaded,
    device_of,
    import_torch,
    named_error,
    read_weights,
)
from vstore.rerank.vision_prompts import IMAGE, IMAGE_PAD
from vstore.settings import require
from vstore.types import Candidate, Float32s

QUERY_TOKENS = 32
"""ColBERT fills a query up to so many tokens with [MASK], each of which asks in its own right."""
_BATCH = 16


class ColBertEncoder:
    """A ColBERT checkpoint: BERT, a linear layer without bias, vectors of length 1 (Khattab & Zaharia 2020).

    Queries are marked [unused0] and filled with [MASK]; documents are marked [unused1], and their
    punctuation is left out.

    Args:
        name_or_path: a folder or hub name with `linear.weight` beside the encoder, as colbertv2.0 has.
        max_length: tokens of a document; the rest is cut.
        fields: attributes that are put before the document's text.
        device, dtype: as for `CrossEncoderReranker`.

    Raises:
        MissingDependency: torch or transformers cannot be imported.
        InvalidSetting: the checkpoint is no ColBERT model.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        max_length: int = 300,
        fields: Sequence[str] = (),
        device: str | None = None,
        dtype: DType = "float32",
    ) -> None:
        check_dtype(dtype)
        self.fields = check_fields(fields)
        torch, transformers = import_torch("ColBertEncoder")
        self._torch = torch
        self.path = str(name_or_path)
        self.name = Path(self.path).name
        self._device = device_of(torch, device)
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.path)
            model, info = transformers.AutoModel.from_pretrained(
                self.path, dtype=getattr(torch, dtype), output_loading_info=True
            )
            # ColBERT never reads the pooled vector.
            check_loaded(self.path, info, ("pooler.dense.weight", "pooler.dense.bias"))
            weights = read_weights(self.path, "linear.")
        except Exception as error:  # Whatever the libraries under transformers raise over bad files.
            raise named_error(self.path, "a ColBERT model", error) from error
        require(
            set(weights) == {"linear.weight"},
            f"{self.path!r} has no linear.weight: it is no ColBERT model",
        )
        self._model = model.eval().to(self._device)
        self._linear = weights["linear.weight"].to(self._device, self._model.dtype)
        positions = int(model.config.max_position_embeddings)
        require(8 <= max_length <= positions, f"max_length is {max_length}; it must be from 8 to {positions}")
        self._max_length = max_length
        convert = self._tokenizer.convert_tokens_to_ids
        self._marks = {True: convert("[unused0]"), False: convert("[unused1]")}
        self._punctuation = {
            self._tokenizer.encode(sign, add_special_tokens=False)[0] for sign in string.punctuation
        }
        self._tokenizing = threading.Lock()

    def encode_query(self, query: Any) -> Float32s:
        """Return float32[32, dim].

        Raises:
            InvalidInput: the query has no text.
        """
        ids = self._ids(query_text(query, "ColBertEncoder"), True, QUERY_TOKENS)
        filled = ids + [self._tokenizer.mask_token_id] * (QUERY_TOKENS - len(ids))
        # [MASK] is not attended to, and attends to the query: query augmentation, section 3.2.
        mask = [1] * len(ids) + [0] * (QUERY_TOKENS - len(ids))
        vectors: Float32s = self._vectors([filled], [mask])[0]
        return vectors

    def encode_documents(self, documents: Sequence[Candidate]) -> list[Float32s | None]:
        """Return float32[tokens, dim] for each document; None for one without text."""
        texts = [document_text(document, self.fields) for document in documents]
        found: list[Float32s | None] = [None] * len(texts)
        ids = {
            i: self._ids(text, False, self._max_length) for i, text in enumerate(texts) if text is not None
        }
        rows = sorted(ids, key=lambda i: -len(ids[i]))
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            longest = len(ids[part[0]])
            pad = self._tokenizer.pad_token_id
            vectors = self._vectors(
                [ids[i] + [pad] * (longest - len(ids[i])) for i in part],
                [[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in part],
            )
            for i, each in zip(part, vectors, strict=True):
                kept = [place for place, token in enumerate(ids[i]) if token not in self._punctuation]
                found[i] = each[kept]
        return found

    def _ids(self, text: str, is_query: bool, limit: int) -> list[int]:
        with self._tokenizing:
            inner = self._tokenizer(encodable(text), add_special_tokens=False)["input_ids"]
        tokenizer = self._tokenizer
        return [tokenizer.cls_token_id, self._marks[is_query], *inner[: limit - 3], tokenizer.sep_token_id]

    def _vectors(self, ids: list[list[int]], mask: list[list[int]]) -> Float32s:
        torch = self._torch
        with torch.inference_mode():
            hidden = self._model(
                input_ids=torch.tensor(ids, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
            ).last_hidden_state
            vectors: Float32s = (
                torch.nn.functional.normalize(hidden @ self._linear.T, dim=-1).float().cpu().numpy()
            )
        return vectors


class ColQwen2Encoder:
    """A ColQwen2 checkpoint (ColPali, Faysse et al. 2024): page images or texts as one vector a token.

    Args:
        name_or_path: a folder or hub name that `ColQwen2ForRetrieval` opens.
        max_pixels: of an image; the checkpoint's own by default.
        images: what image references may be.
        fields: attributes that are put before the document's text, where it has no image.
        device, dtype: as for `VisionLanguageReranker`.

    Raises:
        MissingDependency: torch, transformers or Pillow cannot be imported.
        InvalidSetting: the checkpoint is no ColQwen2 model.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        max_pixels: int | None = None,
        images: ImageLimits | None = None,
        fields: Sequence[str] = (),
        device: str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.fields = check_fields(fields)
        torch, transformers = import_torch("ColQwen2Encoder")
        self._torch = torch
        self.path = str(name_or_path)
        self.name = Path(self.path).name
        self._device = device_of(torch, device)
        chosen = dtype or ("float32" if self._device.type == "cpu" else "bfloat16")
        check_dtype(chosen)
        self._reader = ImageReader(images)
        try:
            from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

            # With another model's config transformers would build the full size at random first.
            kind = transformers.AutoConfig.from_pretrained(self.path).model_type
            require(kind == "colqwen2", f"{self.path!r} is of kind {kind!r}; expected a ColQwen2 model")
            model, info = transformers.ColQwen2ForRetrieval.from_pretrained(
                self.path, dtype=getattr(torch, chosen), output_loading_info=True
            )
            check_loaded(self.path, info)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.path)
            self._processor = Qwen2VLImageProcessorPil.from_pretrained(self.path)
        except Exception as error:  # Whatever the libraries under transformers raise over bad files.
            raise named_error(self.path, "a ColQwen2 model", error) from error
        if max_pixels is not None:
            least = min(int(self._processor.size["shortest_edge"]), max_pixels)
            self._processor.size = {"shortest_edge": least, "longest_edge": max_pixels}
        self._model = model.eval().to(self._device)
        self._pad = self._tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        self._tokenizing = threading.Lock()

    def encode_query(self, query: Any) -> Float32s:
        """Return float32[q, dim]: a text with ten tokens of augmentation behind it, or an image.

        Raises:
            InvalidInput: the query has neither, or its image cannot be read.
        """
        text, image = query_parts(query)
        if image is not None:
            return self._image_vectors(image)
        return self._vectors("Query: " + encodable(text or "") + "<|endoftext|>" * 10, {})

    def encode_documents(self, documents: Sequence[Candidate]) -> list[Float32s | None]:
        """Return float32[tokens, dim] for each document: of its image, else of its text; None for neither."""
        found: list[Float32s | None] = []
        for document in documents:
            text = document_text(document, self.fields)
            try:
                if document.image is not None:
                    found.append(self._image_vectors(document.image))
                else:
                    found.append(None if text is None else self._vectors(encodable(text), {}))
            except InvalidDocument:
                found.append(None)
        return found

    def _image_vectors(self, image: Any) -> Float32s:
        inputs = self._processor(images=[self._reader.decode(image)], return_tensors="pt")
        prompt = f"<|im_start|>user\n{IMAGE}Describe the image.<|im_end|><|endoftext|>"
        return self._vectors(prompt, dict(inputs))

    def _vectors(self, prompt: str, inputs: dict[str, Any]) -> Float32s:
        torch = self._torch
        with self._tokenizing:
            ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        n_image = 0
        if inputs:
            n_image = int(inputs["image_grid_thw"].prod()) // self._processor.merge_size**2
            # This class takes the patches of each image as a row of its own.
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype).unsqueeze(0)
        widened = [token for each in ids for token in [each] * (n_image if each == self._pad else 1)]
        tokens = torch.tensor([widened])
        with torch.inference_mode():
            found = self._model(
                input_ids=tokens.to(self._device),
                attention_mask=torch.ones_like(tokens).to(self._device),
                **{name: tensor.to(self._device) for name, tensor in inputs.items()},
            ).embeddings[0]
        vectors: Float32s = np.ascontiguousarray(found.float().cpu().numpy())
        return vectors
