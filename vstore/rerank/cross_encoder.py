"""Text cross-encoders through transformers. torch and transformers are imported on construction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vstore.rerank import work as recorder
from vstore.rerank.documents import document_text, query_text
from vstore.rerank.engine import BatchLimits, Engine, Pair
from vstore.rerank.lora import base_of
from vstore.rerank.pairs import PairReranker, check_fields
from vstore.rerank.score_cache import ScoreCache
from vstore.rerank.text_scorers import CausalScorer, ClassificationScorer, TextScorer
from vstore.rerank.torch_parts import (
    DType,
    check_dtype,
    device_of,
    import_torch,
    is_out_of_memory,
    named_error,
)
from vstore.types import Candidate, Float32s

CPU_BATCH_TOKENS = 2048
"""On a CPU a batch's activations should stay in its caches; much larger ones are slower, not faster."""
GPU_BATCH_TOKENS = 16_384


class CrossEncoderReranker(PairReranker):
    """A text model that reads query and document together.

    Two kinds of checkpoints: sequence classification of one label (ms-marco-MiniLM, bge-reranker), whose
    score is the raw logit, and causal models that answer yes or no (mxbai-rerank-v2, Qwen3-Reranker), whose
    score is the difference of the two logits. Larger is better, any finite number. Pairs of concurrent
    searches share batches of like length; in float32 the scores do not depend on the batches beyond
    rounding. Safe to call from several threads.

    Args:
        name_or_path: a folder written by `save_pretrained` (read without network), or a hub name; also a LoRA
            adapter's folder.
        max_length: tokens of a pair, its special tokens included; the longer of query and document
            is cut to fit. Default: what the model takes, at most 512.
        batch_tokens: tokens of a batch, padding included; a dial for memory. Default: 2,048 for each
            of torch's threads on a CPU, 16,384 on a GPU.
        batch_size: pairs of a batch at most.
        device: "cpu", "cuda", "cuda:1", "mps"; by default a GPU where torch sees one.
        dtype: "float32", "bfloat16" or "float16"; the last two are for GPUs and cost precision.
        fields: attributes of type str or list[str] that are put before the document's text.
        instruction: what a causal model is told to judge by; its published one by default.
        cache_scores: scores that are remembered, by query and document; 0 for none.

    Raises:
        MissingDependency: torch or transformers cannot be imported.
        InvalidSetting: a value outside its limits, or a checkpoint that is no re-ranker of one label.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: DType = "float32",
        fields: Sequence[str] = (),
        instruction: str | None = None,
        cache_scores: int = 10_000,
    ) -> None:
        BatchLimits(tokens=1 if batch_tokens is None else batch_tokens, pairs=batch_size)
        self._cache = ScoreCache(cache_scores)
        self.fields = check_fields(fields)
        check_dtype(dtype)
        torch, transformers = import_torch("CrossEncoderReranker")
        self.path = str(name_or_path)
        self.name = f"cross-encoder {Path(self.path).name}"
        self.device = device_of(torch, device)
        if batch_tokens is None and self.device.type == "cpu":
            batch_tokens = CPU_BATCH_TOKENS * torch.get_num_threads()
        elif batch_tokens is None:
            batch_tokens = GPU_BATCH_TOKENS
        scorer: TextScorer
        if _is_causal(self.path, transformers):
            scorer = CausalScorer(
                self.path,
                torch,
                transformers,
                device=self.device,
                dtype=dtype,
                max_length=max_length,
                instruction=instruction,
            )
        else:
            scorer = ClassificationScorer(
                self.path, torch, transformers, device=self.device, dtype=dtype, max_length=max_length
            )
        self.scorer = scorer
        self.max_length = scorer.max_length
        self._engine = Engine(
            self.name,
            scorer.forward,
            BatchLimits(tokens=batch_tokens, pairs=batch_size, pads=scorer.pads),
            is_out_of_memory=is_out_of_memory,
            n_workers=1 if scorer.pads else 2,
        )

    def __repr__(self) -> str:
        return (
            f"CrossEncoderReranker({self.path!r}, max_length={self.max_length}, device={str(self.device)!r})"
        )

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> Float32s:
        """Return float32[n], the raw score of each (query, document) pair; queries may differ.

        Raises:
            RerankError: the model failed on a pair.
        """
        made: list[Pair] = []
        for query, document in pairs:
            made += self._encoded(query, [document])
        self._engine.run(made, recorder.current())
        for pair in made:
            if pair.error is not None:
                raise pair.error
        return np.array([pair.score for pair in made], dtype=np.float32)

    def _query(self, query: Any) -> tuple[str | None, Any]:
        return query_text(query, "CrossEncoderReranker"), None

    def _parts(self, document: Candidate) -> tuple[str | None, Any]:
        return document_text(document, self.fields), None

    def _pairs(
        self, query: tuple[str | None, Any], parts: Sequence[tuple[str | None, Any]]
    ) -> list[Pair | Exception]:
        return list(self._encoded(query[0] or "", [text or "" for text, _ in parts]))

    def _encoded(self, query: str, documents: Sequence[str]) -> list[Pair]:
        if not documents:
            return []
        return [Pair(len(each["input_ids"]), each) for each in self.scorer.encode(query, documents)]

    def _lacks(self) -> str:
        return "has no text"


def _is_causal(path: str, transformers: Any) -> bool:
    try:
        config = transformers.AutoConfig.from_pretrained(base_of(path))
    except Exception as error:
        raise named_error(path, "a cross-encoder", error) from error
    return any(name.endswith("ForCausalLM") for name in config.architectures or ())
