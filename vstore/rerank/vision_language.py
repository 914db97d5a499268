"""Vision-language re-rankers through transformers: text, images, or both, on either side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vstore.errors import InvalidInput, InvalidSetting
from vstore.rerank.documents import document_text, query_parts
from vstore.rerank.engine import BatchLimits, Engine, Pair
from vstore.rerank.images import ImageLimits, ImageReader
from vstore.rerank.pairs import PairReranker, check_fields
from vstore.rerank.score_cache import ScoreCache
from vstore.rerank.torch_parts import (
    DType,
    check_dtype,
    device_of,
    import_torch,
    is_out_of_memory,
    named_error,
)
from vstore.rerank.vision_qwen import QwenVisionScorer, VisionSettings
from vstore.rerank.vision_remote import RemoteVisionScorer
from vstore.settings import require
from vstore.types import Candidate, Float32s

DEFAULT_MODEL = "Qwen/Qwen3-VL-Reranker-2B"
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 32_768
N_DECODE_THREADS = 4


class VisionLanguageReranker(PairReranker):
    """A vision-language model that reads query and document together; either may be text, image, or both.

    Qwen3-VL-Reranker, jina-reranker-m0 (non-commercial licence) and MonoQwen2-VL are scored natively;
    llama-nemotron-rerank-vl runs code of its own checkpoint and needs `trust_remote_code=True`. Scores are
    raw log-odds, or with `probability=True` their sigmoid, which is what the publishers' own scorers print.
    Pairs of concurrent searches share batches by true token count, which the text and the image's header
    tell; images are decoded on threads while the device works. Safe to call from several threads.

    Args:
        name_or_path: a folder (read without network), or a hub name; also a LoRA adapter's folder.
        family: "qwen3_vl", "jina_m0" or "qwen2_vl", where the checkpoint does not tell.
        processor: the folder or name that has tokenizer and image processor, where the model's has none.
        instruction: what Qwen3-VL-Reranker is told to judge by; its published one by default.
        min_pixels, max_pixels: images are scaled into this range; the main dial for speed (32 x 32 pixels are
            a token of Qwen3-VL, 28 x 28 of the others). Default: the checkpoint's own.
        views: 2 scores each pair as it is and with its images mirrored, 4 also with their middle enlarged,
            and takes the mean, at so many times the cost. For photos; a mirrored page is unreadable.
        max_length: tokens of a pair, its images' included; the document's text is cut to fit.
        probability: answer sigmoid(log-odds).
        images: what image references may be: `ImageLimits`.
        read_store: path -> bytes, for `store://` references outside a search, which brings its own.
        fields: attributes of type str or list[str] that are put before the document's text.
        batch_tokens: tokens of a batch; 2,048 on a CPU and 32,768 on a GPU by default.
        batch_size: pairs of a batch at most.
        device: "cpu", "cuda", "cuda:1"; by default a GPU where torch sees one.
        dtype: default "float32" on a CPU and "bfloat16" elsewhere.
        attention: of transformers: "sdpa", "eager" or "flash_attention_2" where it is installed.
        cache_scores: scores that are remembered, by query and document; 0 for none.
        trust_remote_code: run Python code that the checkpoint brings. Only for a source that you trust.

    Raises:
        MissingDependency: torch, transformers or Pillow cannot be imported.
        InvalidSetting: a value outside its limits, or a checkpoint that is no such model.
    """

    def __init__(
        self,
        name_or_path: str | Path = DEFAULT_MODEL,
        *,
        family: str | None = None,
        processor: str | Path | None = None,
        instruction: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        views: int = 1,
        max_length: int = 8192,
        probability: bool = False,
        images: ImageLimits | None = None,
        read_store: Callable[[str], bytes] | None = None,
        fields: Sequence[str] = (),
        batch_tokens: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: DType | None = None,
        attention: str = "sdpa",
        cache_scores: int = 10_000,
        trust_remote_code: bool = False,
    ) -> None:
        BatchLimits(tokens=1 if batch_tokens is None else batch_tokens, pairs=batch_size)
        for name, value in (
            ("min_pixels", min_pixels),
            ("max_pixels", max_pixels),
            ("max_length", max_length),
        ):
            require(value is None or value >= 1, f"{name} is {value!r}; it must be 1 or more")
        require(views in (1, 2, 4), f"views is {views!r}; it must be 1, 2 or 4")
        self._cache = ScoreCache(cache_scores)
        self.fields = check_fields(fields)
        if dtype is not None:
            check_dtype(dtype)
        torch, transformers = import_torch("VisionLanguageReranker")
        self.path = str(name_or_path)
        self.name = f"vision-language {Path(self.path).name}"
        self.device = device_of(torch, device)
        on_cpu = self.device.type == "cpu"
        settings = VisionSettings(
            family=family,
            processor=None if processor is None else str(processor),
            instruction=instruction,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            max_length=max_length,
            dtype=dtype or ("float32" if on_cpu else "bfloat16"),
            attention=attention,
            trust_remote_code=trust_remote_code,
            views=views,
        )
        self.images = ImageReader(images, read_store)
        self.scorer = self._open(torch, transformers, settings)
        self.probability = probability
        self._engine = Engine(
            self.name,
            self._forward,
            BatchLimits(
                tokens=batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS), pairs=batch_size
            ),
            decode=self.scorer.decode,
            n_decode_threads=N_DECODE_THREADS,
            is_out_of_memory=is_out_of_memory,
        )

    def __repr__(self) -> str:
        return f"VisionLanguageReranker({self.path!r}, device={str(self.device)!r})"

    def _open(
        self, torch: Any, transformers: Any, settings: VisionSettings
    ) -> QwenVisionScorer | RemoteVisionScorer:
        config_json = _config(self.path, transformers)
        remote = "auto_map" in config_json
        known = config_json.get("model_type") in ("qwen3_vl", "qwen2_vl") or settings.family is not None
        if remote and not known:
            require(
                settings.trust_remote_code,
                f"{self.path!r} brings Python code of its own, which is run only on request: read it, and "
                "pass trust_remote_code=True if you trust its source",
            )
            require(
                settings.views == 1,
                f"views is {settings.views}, and code that a checkpoint brings makes no views; use 1",
            )
            return RemoteVisionScorer(
                self.path, torch, transformers, device=self.device, settings=settings, reader=self.images
            )
        base = config_json.get("base_model_name_or_path", self.path)
        try:
            config = transformers.AutoConfig.from_pretrained(base)
        except Exception as error:
            raise named_error(self.path, "a vision-language re-ranker", error) from error
        return QwenVisionScorer(
            self.path, torch, transformers, config, device=self.device, settings=settings, reader=self.images
        )

    def _forward(self, pairs: list[Any]) -> Float32s:
        scores = self.scorer.forward(pairs)
        if self.probability:
            # Past 88 float32's exp overflows, and the answer is 0 or 1 anyway.
            scores = (1.0 / (1.0 + np.exp(-np.clip(scores, -80.0, 80.0)))).astype(np.float32)
        return scores

    def _query(self, query: Any) -> tuple[str | None, Any]:
        text, image = query_parts(query)
        if image is not None and isinstance(self.scorer, RemoteVisionScorer):
            raise InvalidInput(f"{self.name} reads a query's text alone; pass query_document='...'")
        if image is not None:
            # An unreadable query is the caller's fault, and not each document's.
            self.images.open(image)
        return text, image

    def _parts(self, document: Candidate) -> tuple[str | None, Any]:
        return document_text(document, self.fields), document.image

    def _pairs(
        self, query: tuple[str | None, Any], parts: Sequence[tuple[str | None, Any]]
    ) -> list[Pair | Exception]:
        made: list[Pair | Exception] = []
        for document in parts:
            try:
                made.append(Pair(*self.scorer.measure(query, document)))
            except InvalidInput as error:
                made.append(error)
        return made


def _config(path: str, transformers: Any) -> dict[str, Any]:
    """Return config.json, or an adapter's, without running anything."""
    try:
        found, _ = transformers.PretrainedConfig.get_config_dict(path)
    except Exception as error:
        raise named_error(path, "a vision-language re-ranker", error) from error
    if not found:
        import json

        from vstore.rerank.torch_parts import checkpoint_file

        adapter = checkpoint_file(path, "adapter_config.json")
        if adapter is None:
            raise InvalidSetting(
                f"{path!r} has neither config.json nor adapter_config.json; give a folder written by "
                "save_pretrained, or the name of one on the hub"
            )
        found = json.loads(adapter.read_text())
    result: dict[str, Any] = found
    return result
